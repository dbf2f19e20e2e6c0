//! What goes into and comes out of a [`super::DuplexSession`].
//!
//! Owns no behaviour.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Duplex;
use crate::dialogue::UnitEnd;
use crate::heard::{HeardUnit, WordCut};
use crate::window::WindowState;

/// Waiting units before the oldest goes: two seconds of stall are caught up, more would only be heard late.
const BACKLOG_UNITS: usize = 4;
/// Frames of one unit before the oldest goes.
const FRAMES_PER_UNIT: usize = 4;
/// Typed text that may wait: some sentences. Every byte is a token at the worst.
const TEXT_BYTES: usize = 600;

/// Number of a unit in its session, from 0, counting dispatched units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitId(pub u32);

/// The barge-in fence: it grows with every interruption, and what carries an older one is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TurnId(pub u32);

/// Sizes and limits of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreConfig {
    /// User samples of one unit.
    pub unit_samples: usize,
    /// Unit time from which on [`Event::DeadlineMissed`] comes.
    pub unit_deadline: Duration,
    /// Rate of the speech samples.
    pub output_rate_hz: u32,
    /// Units that may wait.
    pub backlog_units: usize,
    /// Frames that may come with one unit.
    pub frames_per_unit: usize,
    /// Bytes of typed text that may wait for a unit.
    pub text_bytes: usize,
    /// After an interruption the model forgets what was not heard.
    pub cut_unheard: bool,
}

impl CoreConfig {
    /// The manifest's numbers with the standard limits; nothing is forgotten. `output_rate_hz` is `token2wav.sample_rate_hz`.
    pub fn new(duplex: &Duplex, output_rate_hz: u32) -> Self {
        let chunk = Duration::from_millis(u64::from(duplex.chunk_ms));
        Self {
            unit_samples: (u64::from(duplex.sample_rate_hz) * u64::from(duplex.chunk_ms) / 1000) as usize,
            unit_deadline: chunk,
            output_rate_hz,
            backlog_units: BACKLOG_UNITS,
            frames_per_unit: FRAMES_PER_UNIT,
            text_bytes: TEXT_BYTES,
            cut_unheard: false,
        }
    }
}

/// One video frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]` RGB.
    pub rgb: Vec<u8>,
    /// Most slices that it may be cut into (1: none).
    pub max_slices: u32,
}

impl fmt::Debug for Frame {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Frame({}x{}, max_slices {})", self.width, self.height, self.max_slices)
    }
}

/// The prompt is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreparedReport {
    /// LLM cache rows of the prompt.
    pub kv_len: usize,
    /// They were still there from an earlier session and not computed again.
    pub from_cache: bool,
    /// Time the engine spent.
    pub took: Duration,
}

/// Engine time of a unit by stage; waiting in queues is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnitTimings {
    /// Log-mel.
    pub mel: Duration,
    /// Audio encoder and projector.
    pub apm: Duration,
    /// Image preprocessing and vision encoder.
    pub vision: Duration,
    /// LLM prefill.
    pub prefill: Duration,
    /// LLM decode steps and sampling.
    pub generate: Duration,
    /// Terminator, `</unit>` and the window.
    pub finalize: Duration,
}

/// Engine time of a piece of speech by stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpeechTimings {
    /// TTS codes.
    pub tts: Duration,
    /// Codes to mel.
    pub flow: Duration,
    /// Mel to samples.
    pub hift: Duration,
}

/// A unit is finalized on the LLM side; its speech may still be in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitReport {
    /// Which unit.
    pub unit: UnitId,
    /// The fence under which it was dispatched.
    pub turn: TurnId,
    /// What it decided.
    pub end: UnitEnd,
    /// LLM cache rows after prefill.
    pub kv_prefill: usize,
    /// After generate.
    pub kv_generate: usize,
    /// After finalize and the window.
    pub kv_final: usize,
    /// Audio encoder cache rows before and after the unit.
    pub apm_kv: [usize; 2],
    /// Slices of pictures that were read with it, overviews included.
    pub vision_slices: usize,
    /// LLM rows of them.
    pub vision_tokens: usize,
    /// The window's bookkeeping, when the engine was asked to record it.
    pub window: Option<WindowState>,
    /// Engine time.
    pub timings: UnitTimings,
}

/// The first part of a unit's speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPart {
    /// Words of it.
    pub words: usize,
    /// Their sound.
    pub samples: usize,
}

/// A piece of speech.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeechReport {
    /// The unit that is spoken.
    pub unit: UnitId,
    /// The fence under which that unit was dispatched.
    pub turn: TurnId,
    /// Samples to play; may be empty.
    pub samples: Vec<i16>,
    /// The unit's TTS codes so far.
    pub codes: Vec<u32>,
    /// Samples that all codes of the unit come to; until `done` as many as a unit may have. `samples` lags behind.
    pub sound_samples: usize,
    /// Where a unit that is spoken in two parts goes over from one to the other ([`crate::Conduct::first_words`]).
    pub first_part: Option<FirstPart>,
    /// No more pieces of this unit. Comes exactly once for a unit whose [`UnitEnd::speech`] is not `None`, before or
    /// after its [`UnitReport`], and for one that was aborted when its first words were spoken already.
    pub done: bool,
    /// Engine time of this piece.
    pub timings: SpeechTimings,
}

/// What a driver feeds in.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time passed; due at every [`Output::Timeout`].
    Tick,
    /// User samples at the model's rate, any number.
    Audio(Vec<f32>),
    /// A video frame for the unit whose audio is being collected.
    Frame(Frame),
    /// Typed by the user. It stops what is being spoken, as a voice would, and goes behind the audio of the next unit that
    /// is not forced to listen.
    Text(String),
    /// The next unit must listen (it closes an open turn); speech already made is played on.
    ForceListen,
    /// Barge-in: speech stops now and the next unit must listen. No effect while nothing is spoken, which includes
    /// the time from one barge-in to the report of the unit that it forced to listen.
    Interrupt,
    /// Playback of what was said so far was stopped, after the first so many samples of all speech of the session. It
    /// replaces the clock's word of an [`Input::Interrupt`], or the word before, until the next unit is dispatched.
    Heard(u64),
    /// Answer to [`Work::Prepare`].
    Prepared(PreparedReport),
    /// Answer to [`Work::Unit`].
    Unit(Box<UnitReport>),
    /// Speech of a unit.
    Speech(SpeechReport),
    /// The engine cannot go on with this session.
    Failed(String),
    /// The user leaves. Audio that fills no unit is dropped; a driver that wants it pads it with zeros first.
    Close,
}

/// What a driver gets out.
#[derive(Debug, Clone)]
pub enum Output {
    /// Hand this to the engine.
    Work(Work),
    /// Tell the transport.
    Event(Event),
    /// Nothing more now: wait for input, but call `handle(Input::Tick)` at this time.
    Timeout(Duration),
    /// Nothing more now: wait for input.
    Idle,
}

/// Work for the engine.
#[derive(Debug, Clone)]
pub enum Work {
    /// Read the prompt. Comes once, first.
    Prepare,
    /// Compute a unit. The next one comes after this one's report.
    Unit {
        /// Which unit.
        unit: UnitId,
        /// The fence to put on its results.
        turn: TurnId,
        /// `[unit_samples]` user audio.
        audio: Vec<f32>,
        /// Frames, oldest first.
        frames: Vec<Frame>,
        /// What the user typed; empty if nothing.
        text: String,
        /// It must listen.
        force_listen: bool,
        /// What leaves the cache before it.
        cuts: Vec<WordCut>,
        /// When its audio was complete, on the driver's clock. Its deadline counts from here, not from the dispatch:
        /// a unit that waited in the backlog has used up part of its time.
        ready_at: Duration,
    },
    /// What carries a fence older than this is stale: abort its generation and speech as soon as possible.
    Fence {
        /// The new fence.
        turn: TurnId,
    },
    /// Give the slot back. Comes once, last.
    Release,
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// [`Input::Close`].
    Requested,
    /// [`Input::Failed`], with its message.
    Failed(String),
}

/// News for the transport.
#[derive(Debug, Clone)]
pub enum Event {
    /// The prompt is read.
    Ready(PreparedReport),
    /// A unit is finalized.
    Unit {
        /// Its report.
        report: Box<UnitReport>,
        /// From its last sample's arrival to the report: the published "unit time".
        unit_time: Duration,
        /// It was interrupted: nothing of it will be heard that was not heard before it was decided.
        stale: bool,
    },
    /// Play this.
    Speech(SpeechReport),
    /// Throw away all speech that is not played yet.
    Flush {
        /// The new fence.
        turn: TurnId,
        /// Samples that were still to be played, by the clock.
        unplayed_samples: u64,
    },
    /// What was heard of interrupted speech is settled: the rest leaves the model's history.
    Truncated {
        /// Samples of all speech of the session that were heard.
        heard_samples: u64,
        /// The units that were not heard to their end, oldest first.
        units: Vec<HeardUnit>,
    },
    /// All speech received so far is played, by the clock.
    PlayoutEnded {
        /// The turn goes on: the listener hears a gap.
        gap: bool,
    },
    /// The oldest waiting unit was dropped: the engine is too slow.
    UnitDropped,
    /// The oldest frame of the unit being collected was dropped: too many.
    FrameDropped,
    /// Typed text was dropped: too much is waiting.
    TextDropped,
    /// A unit is not finished in time.
    DeadlineMissed {
        /// Which one.
        unit: UnitId,
    },
    /// The session is over; nothing follows.
    Closed(CloseReason),
}

/// Counters of one session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CoreStats {
    /// Finalized units.
    pub units: u64,
    /// Units dropped from the backlog.
    pub units_dropped: u64,
    /// Frames dropped.
    pub frames_dropped: u64,
    /// Interruptions that stopped speech.
    pub interrupts: u64,
    /// Speech samples that came too late to be played.
    pub stale_samples: u64,
    /// Units over their deadline.
    pub deadlines_missed: u64,
    /// Times that playback ran dry inside a turn.
    pub gaps: u64,
}
