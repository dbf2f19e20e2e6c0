//! What a wire tells a session and what it hears from it.
//!
//! Owns no behaviour. `turn` here is the number of the reply, counted from 0, as clients see it; it is not the engine's
//! fence.

use std::sync::Arc;
use std::time::Duration;

use duologue_session::{Frame, PreparedReport, SpeechTimings, UnitTimings};
use tokio::sync::mpsc;

use crate::pacer::Pace;

/// From a wire to a session.
#[derive(Debug)]
pub enum SessionCommand {
    /// User audio at the model's rate, any number of samples.
    Audio(Vec<f32>),
    /// User audio for the voice detector alone; the model hears it when it is due.
    Arrived(Vec<f32>),
    /// User audio for the model alone; the voice detector has heard it.
    Due(Vec<f32>),
    /// A picture for the unit that is being collected.
    Frame(Frame),
    /// A typed question; it stops the reply.
    Text(String),
    /// The next unit must listen.
    ForceListen,
    /// The user wants the reply to stop.
    Interrupt,
    /// The client's play head: how much of a reply was heard.
    Playback {
        /// The reply.
        turn: u32,
        /// Heard so far.
        played: Duration,
    },
    /// Stand still until [`SessionCommand::Resume`], at most this long.
    Pause(Duration),
    /// Go on.
    Resume,
    /// Another connection takes the session over and has handled the events up to `after`.
    Attach {
        /// Where events go from now on.
        output: Output,
        /// The last event that the client has handled; `None` before the first.
        after: Option<u64>,
    },
    /// A second program wants to hear of everything but the sound. One that does not read is forgotten.
    Observe(mpsc::Sender<Sequenced>),
    /// The server stops; the session may go on this long.
    Drain(Duration),
    /// The client leaves.
    Close(CloseCause),
}

/// Where a session's events go.
#[derive(Debug)]
pub struct Output {
    /// The wire.
    pub events: mpsc::Sender<Sequenced>,
    /// How it wants speech; `None` as soon as it is made.
    pub pace: Option<Pace>,
}

/// An event with its number, counted from 0 within the session.
#[derive(Debug, Clone)]
pub struct Sequenced {
    /// Its number.
    pub seq: u64,
    /// The event.
    pub event: SessionEvent,
}

/// From a session to its wire.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// The prompt is read; audio is welcome.
    Ready(PreparedReport),
    /// A unit is finalized.
    Unit(Arc<UnitEvent>),
    /// The vocoder has made a piece of speech; its samples come as [`SessionEvent::Audio`].
    Speech(SpeechEvent),
    /// Play this.
    Audio {
        /// The reply.
        turn: u32,
        /// Number of the first sample within the reply.
        start: u64,
        /// Mono samples at the backend's output rate.
        samples: Arc<[i16]>,
    },
    /// A reply begins.
    TurnBegan {
        /// Which.
        turn: u32,
    },
    /// A reply was said to its end.
    TurnDone {
        /// Which.
        turn: u32,
    },
    /// Throw away what is buffered of replies before `turn`.
    Flush {
        /// The first reply that may be heard again.
        turn: u32,
        /// Who stopped it.
        cause: FlushCause,
    },
    /// What was heard of a stopped reply is settled: the model has forgotten the rest.
    Truncated {
        /// The reply.
        turn: u32,
        /// Its sound that was heard.
        heard: Duration,
        /// The units that were not heard to their end, with the text that was.
        units: Vec<(u32, String)>,
    },
    /// The user may be interrupting: stand still, keep what is buffered.
    Hold {
        /// The reply.
        turn: u32,
    },
    /// It was nothing: go on playing.
    Unhold {
        /// The reply.
        turn: u32,
    },
    /// The user's voice begins or ends.
    Voice {
        /// It begins.
        speaking: bool,
        /// On the session's clock.
        at: Duration,
    },
    /// The session stands still.
    Paused {
        /// For at most this long.
        timeout: Duration,
    },
    /// It goes on.
    Resumed,
    /// The engine is too slow: the oldest waiting second of user audio was dropped.
    UnitDropped,
    /// More pictures came than a unit takes: the oldest was dropped.
    FrameDropped,
    /// A typed question was dropped: too many wait.
    TextDropped,
    /// The server stops within this time.
    Draining(Duration),
    /// Nothing follows.
    Closed(CloseCause),
}

/// Who stopped a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushCause {
    /// The user's voice.
    Voice,
    /// The client asked for it.
    Client,
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseCause {
    /// The client closed it.
    Requested,
    /// The client hung up its transport and did not come back in time.
    ConnectionLost,
    /// No audio came for too long.
    Idle,
    /// It has lasted as long as a session may.
    MaxDuration,
    /// It was paused and not resumed in time.
    PauseTimeout,
    /// The server stops.
    Draining,
    /// The client does not read its events.
    SlowClient,
    /// The backend gave up.
    Failed(String),
}

impl CloseCause {
    /// One phrase, for clients and logs.
    pub fn detail(&self) -> &str {
        match self {
            Self::Requested => "close requested",
            Self::ConnectionLost => "connection lost",
            Self::Idle => "idle",
            Self::MaxDuration => "maximum duration reached",
            Self::PauseTimeout => "pause timeout",
            Self::Draining => "server draining",
            Self::SlowClient => "slow client",
            Self::Failed(message) => message,
        }
    }
}

/// A finalized unit.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitEvent {
    /// Its number, from 0.
    pub unit: u32,
    /// The reply that it belongs to, or that would come next.
    pub turn: u32,
    /// Words of it will be heard.
    pub speaks: bool,
    /// The model decided to listen.
    pub is_listen: bool,
    /// The reply ends with it.
    pub end_of_turn: bool,
    /// Its words.
    pub text: String,
    /// It was interrupted: nothing of it will be heard that was not heard before it was decided.
    pub stale: bool,
    /// When its audio was complete, on the session's clock.
    pub ready_at: Duration,
    /// From then to now.
    pub unit_time: Duration,
    /// It took longer than its audio.
    pub deadline_missed: bool,
    /// Engine time by stage.
    pub timings: UnitTimings,
    /// LLM tokens.
    pub tokens: usize,
    /// LLM cache rows after it.
    pub kv_tokens: usize,
    /// Slices of pictures read with it.
    pub vision_slices: usize,
    /// LLM rows of them.
    pub vision_tokens: usize,
}

/// A piece of speech from the vocoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpeechEvent {
    /// The unit that is spoken.
    pub unit: u32,
    /// The reply.
    pub turn: u32,
    /// Number of its first sample within the reply.
    pub start: u64,
    /// Samples; may be none.
    pub samples: usize,
    /// Audio tokens of the unit so far.
    pub audio_tokens: usize,
    /// No more pieces of this unit.
    pub done: bool,
    /// On a reply's first sound: time since the audio of the unit that made the model speak was complete.
    pub ttfb: Option<Duration>,
    /// Engine time by stage.
    pub timings: SpeechTimings,
}
