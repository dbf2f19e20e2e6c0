//! What the engine's threads hand each other: a session's parts when it opens, then its work. Every message names its slot; work
//! carries its unit, turn and deadline.

use std::sync::Arc;
use std::time::Instant;

use duologue_audio::Pcm;
use duologue_audio::chunker::Chunker;
use duologue_audio::mel::StreamingMel;
use duologue_model::{ApmCache, StreamOptions};
use duologue_session::{
    CodeSampler, Conduct, Dialogue, Frame, Part, SpeechOrder, SpeechTurn, TurnId, TurnReset, UnitId, UnitTimings,
    WordCut,
};

use crate::events::EventSink;
use crate::fence::TurnFence;
use crate::prompts::PromptRows;

/// The front side of one session.
#[derive(Debug)]
pub(crate) struct FrontSession {
    pub chunker: Chunker,
    pub mel: StreamingMel,
    pub cache: ApmCache,
    pub events: EventSink,
}

/// The LLM side of one session.
#[derive(Debug)]
pub(crate) struct LlmSession {
    pub dialogue: Dialogue,
    pub events: EventSink,
    pub fence: TurnFence,
    /// Put the window's bookkeeping into every report.
    pub record_window: bool,
}

/// The speech side of one session.
#[derive(Debug)]
pub(crate) struct SpeechSession {
    pub turn: SpeechTurn,
    pub sampler: CodeSampler,
    pub conduct: Conduct,
    pub options: StreamOptions,
    pub events: EventSink,
    pub fence: TurnFence,
}

/// To the front thread.
pub(crate) enum FrontCommand {
    /// A session takes the slot; the parts for the threads behind travel along, so that order is kept.
    Open {
        slot: usize,
        front: Box<FrontSession>,
        llm: Box<LlmSession>,
        speech: Option<Box<SpeechSession>>,
    },
    Prepare {
        slot: usize,
        work: PrepareWork,
    },
    Unit {
        slot: usize,
        work: UnitWork,
    },
    Close {
        slot: usize,
    },
}

/// Prompt of a session.
#[derive(Debug, Clone)]
pub struct PrepareWork {
    /// Token ids before the reference audio.
    pub prefix: Vec<u32>,
    /// Token ids after it.
    pub suffix: Vec<u32>,
    /// Reference audio heard by the LLM, at the rate of the user audio.
    pub reference: Option<Arc<Pcm>>,
    /// Reference audio of the voice the reply is spoken with.
    pub voice: Option<Arc<Pcm>>,
}

/// Input of one unit.
#[derive(Debug, Clone)]
pub struct UnitWork {
    /// The unit.
    pub unit: UnitId,
    /// Its turn number for the fence.
    pub turn: TurnId,
    /// 16 kHz mono, as long as the mel processor asks for.
    pub audio: Vec<f32>,
    /// Video frames.
    pub frames: Vec<Frame>,
    /// What the user typed, in the form that the model reads; empty if nothing.
    pub text: String,
    /// Listen whatever the model wants.
    pub force_listen: bool,
    /// Words that leave the LLM cache before it.
    pub cuts: Vec<WordCut>,
    /// When the unit must be finalized.
    pub deadline: Instant,
}

/// To the LLM thread.
pub(crate) enum LlmCommand {
    Open { slot: usize, session: Box<LlmSession>, speech: Option<Box<SpeechSession>> },
    Prompt { slot: usize, prompt: Prompt },
    Unit { slot: usize, input: Box<UnitInput> },
    Close { slot: usize },
}

pub(crate) struct Prompt {
    pub rows: PromptRows,
    pub voice: Option<Arc<Pcm>>,
    /// When the session asked for it.
    pub asked: Instant,
}

pub(crate) struct UnitInput {
    pub unit: UnitId,
    pub turn: TurnId,
    pub deadline: Instant,
    pub force_listen: bool,
    pub cuts: Vec<WordCut>,
    /// Per picture its slices, each [queries, hidden].
    pub images: Vec<Vec<Vec<f32>>>,
    /// [n, hidden]
    pub audio: Vec<f32>,
    pub text: String,
    pub apm_kv: [usize; 2],
    /// Front stages so far.
    pub timings: UnitTimings,
}

/// To the speech thread.
pub(crate) enum SpeechCommand {
    Open { slot: usize, session: Box<SpeechSession> },
    Voice { slot: usize, order: VoiceOrder },
    Speak { slot: usize, order: SpeakOrder },
    Close { slot: usize },
}

pub(crate) struct VoiceOrder {
    pub pcm: Arc<Pcm>,
    /// Passed on to the session when the voice stands.
    pub kv_len: usize,
    pub from_cache: bool,
    /// When the session asked for its preparation.
    pub asked: Instant,
}

pub(crate) struct SpeakOrder {
    pub unit: UnitId,
    pub turn: TurnId,
    pub deadline: Instant,
    pub reset: TurnReset,
    pub speech: SpeechOrder,
    /// A first part is followed by the order of the rest, or by that of an interruption.
    pub part: Part,
    pub ids: Vec<u32>,
    /// [ids, hidden]
    pub hidden: Vec<f32>,
}
