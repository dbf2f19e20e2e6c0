//! A browser's receiver of RTP: jitter buffer, decoder, and which reply the sound belongs to.
//!
//! RTP knows no turns; sound belongs to the newest turn that began on the data channel. A pause in the packets may be
//! silence that is not sent (DTX), so gaps are taken from the server's `duologue.speech` events instead: a piece that was
//! made after everything before it had been heard.

use std::time::Duration;

use duologue_audio::opus::{DECODER_RATE_HZ, OpusError};
use duologue_proto::live::{ServerEvent, Speech, TurnState};
use duologue_transport::rtc::client::Heard;
use duologue_transport::rtc::uplink::Uplink;

use super::{AUDIBLE, Sounds};

const TICK: Duration = Duration::from_millis(20);
/// A voice is still sounding so long after its last audible sample.
const PAUSE: Duration = Duration::from_millis(400);

/// See the module.
#[derive(Debug)]
pub struct Media {
    uplink: Uplink,
    ticks: u32,
    /// The newest turn that began, and whether sound of it was made already.
    turn: Option<(u64, bool)>,
    /// Nothing more of the turn is played: it was flushed.
    closed: bool,
    /// It stands still since then.
    held_at: Option<Duration>,
    /// For how long it has stood still before.
    held: Duration,
    sounds: Sounds,
    now: Duration,
}

impl Media {
    /// A receiver that has heard nothing.
    ///
    /// # Errors
    /// When no decoder can be made.
    pub fn new() -> Result<Self, OpusError> {
        let uplink = Uplink::new()?;
        Ok(Self {
            uplink,
            ticks: 0,
            turn: None,
            closed: false,
            held_at: None,
            held: Duration::ZERO,
            sounds: Sounds::new(),
            now: Duration::ZERO,
        })
    }

    /// A packet arrived.
    pub fn packet(&mut self, now: Duration, packet: &Heard) {
        self.advance(now);
        // One stream for the whole session: its number does not matter.
        self.uplink.push(now, 0, packet.sequence, packet.timestamp, &packet.payload);
        if let Some((turn, true)) = self.turn {
            self.sounds.entry(turn).or_default().arrived_at.get_or_insert(now);
        }
    }

    /// An event arrived.
    pub fn event(&mut self, now: Duration, event: &ServerEvent) {
        self.advance(now);
        match event {
            ServerEvent::Turn(turn) if turn.state == TurnState::Begin => {
                self.turn = Some((turn.turn, false));
                (self.closed, self.held_at, self.held) = (false, None, Duration::ZERO);
            }
            ServerEvent::Speech(speech) => self.speech(now, speech),
            ServerEvent::Flush(_) => self.closed = true,
            ServerEvent::Hold(_) => self.held_at = self.held_at.or(Some(now)),
            ServerEvent::Unhold(_) => self.held += self.held_at.take().map_or(Duration::ZERO, |since| now - since),
            _ => {}
        }
    }

    /// Plays up to `now`.
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
        while TICK * (self.ticks + 1) <= now {
            self.ticks += 1;
            let began = TICK * self.ticks;
            let samples = self.uplink.tick();
            let loud = |sample: &f32| sample.abs() > AUDIBLE;
            let Some((turn, _)) = self.turn else { continue };
            let Some((first, last)) = samples.iter().position(loud).zip(samples.iter().rposition(loud)) else {
                continue;
            };
            let at = |sample: usize| began + Duration::from_secs_f64(sample as f64 / f64::from(DECODER_RATE_HZ));
            let sound = self.sounds.entry(turn).or_default();
            sound.played_at.get_or_insert(began);
            sound.audible_at.get_or_insert(at(first));
            sound.silent_at = Some(at(last + 1));
        }
    }

    /// A reply sounds.
    pub fn sounding(&self) -> bool {
        let newest = self.turn.and_then(|(turn, _)| self.sounds.get(&turn));
        newest.and_then(|sound| sound.silent_at).is_some_and(|at| self.now.saturating_sub(at) < PAUSE)
    }

    /// What was heard so far.
    pub fn sounds(&self) -> &Sounds {
        &self.sounds
    }

    fn speech(&mut self, now: Duration, speech: &Speech) {
        if speech.samples == 0 {
            return;
        }
        if let Some((turn, made)) = &mut self.turn {
            *made |= *turn == speech.turn;
        }
        let sound = self.sounds.entry(speech.turn).or_default();
        // What is made while the reply stands still is in time.
        let Some(arrived_at) = sound.arrived_at.filter(|_| !self.closed && self.held_at.is_none()) else { return };
        let paused: Duration = sound.gaps.iter().sum();
        let due = arrived_at + paused + self.held + Duration::from_secs_f64(speech.start_ms / 1e3);
        if now > due {
            sound.gaps.push(now - due);
        }
    }
}
