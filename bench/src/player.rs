//! What the client hears of the replies, and when: a loudspeaker without a sound card.
//!
//! Owns two models. Over WebSocket the page's own jitter buffer (`web-client/src/audio/jitter-buffer.ts`): its start
//! delay, its fence, its fades. Over WebRTC a browser's buffer, for which the server's own stands in (`rtc::uplink`, the
//! same task on the other side). Pure: time comes in with everything that arrives.

mod buffer;
mod media;

use std::collections::BTreeMap;
use std::time::Duration;

use duologue_proto::live::{Playback, ServerEvent, TurnState};
use duologue_transport::rtc::client::Heard;

pub use buffer::Buffer;
pub use media::Media;

/// -50 dBFS: quieter is not heard as speech.
pub const AUDIBLE: f32 = 0.003;

/// How one reply was heard, on the conversation's clock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sound {
    /// Its first audio arrived.
    pub arrived_at: Option<Duration>,
    /// Its first sample was played.
    pub played_at: Option<Duration>,
    /// Its first audible sample was played.
    pub audible_at: Option<Duration>,
    /// Its last audible sample so far was played.
    pub silent_at: Option<Duration>,
    /// Times that playback ran dry before the reply's end.
    pub gaps: Vec<Duration>,
}

/// All replies by their turn.
pub type Sounds = BTreeMap<u64, Sound>;

/// The client's loudspeaker.
#[derive(Debug)]
pub enum Player {
    /// Over WebSocket.
    Buffer(Buffer),
    /// Over WebRTC.
    Media(Box<Media>),
}

impl Player {
    /// Audio of a turn as an event brought it, mono at the wire's rate.
    pub fn delta(&mut self, now: Duration, turn: u64, start_ms: u64, samples: Vec<i16>) {
        if let Self::Buffer(buffer) = self {
            buffer.push(now, turn, start_ms, samples);
        }
    }

    /// A packet of audio.
    pub fn packet(&mut self, now: Duration, packet: &Heard) {
        if let Self::Media(media) = self {
            media.packet(now, packet);
        }
    }

    /// What an event means for the sound.
    pub fn event(&mut self, now: Duration, event: &ServerEvent) {
        match self {
            Self::Buffer(buffer) => match event {
                ServerEvent::Turn(turn) if turn.state == TurnState::Done => buffer.done(now, turn.turn),
                ServerEvent::Flush(flush) => buffer.flush(now, flush.turn),
                ServerEvent::Hold(hold) => buffer.hold(now, hold.turn),
                ServerEvent::Unhold(_) => buffer.unhold(now),
                _ => {}
            },
            Self::Media(media) => media.event(now, event),
        }
    }

    /// Plays up to this moment.
    pub fn advance(&mut self, now: Duration) {
        match self {
            Self::Buffer(buffer) => buffer.advance(now),
            Self::Media(media) => media.advance(now),
        }
    }

    /// For how long the reply that sounds now has been heard.
    pub fn heard_for(&self, now: Duration) -> Option<Duration> {
        let sounds = self.sounds();
        let (turn, sound) = sounds.iter().next_back()?;
        let sounding = match self {
            Self::Buffer(buffer) => buffer.playing() == Some(*turn),
            Self::Media(media) => media.sounding(),
        };
        Some(now.saturating_sub(sound.audible_at?)).filter(|_| sounding)
    }

    /// The play head as clients report it; over WebRTC the server knows it itself.
    pub fn head(&self) -> Option<Playback> {
        match self {
            Self::Buffer(buffer) => buffer.head(),
            Self::Media(_) => None,
        }
    }

    /// What was heard so far.
    pub fn sounds(&self) -> &Sounds {
        match self {
            Self::Buffer(buffer) => buffer.sounds(),
            Self::Media(media) => media.sounds(),
        }
    }
}
