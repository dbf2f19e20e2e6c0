//! What a transport needs from whatever computes the units.
//!
//! Owns no behaviour: the traits, and the wishes a client may have, free of any wire's spelling.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use duologue_audio::Pcm;
use duologue_session::barge_in::VoiceFrame;
use duologue_session::{Duplex, Input, Mode, Schedule, WindowMode, Work};

use crate::pacer::ReplyStart;

/// Called from any thread when a session has news; must be cheap and must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Opens sessions.
pub trait Backend: Send + Sync + 'static {
    /// What is served.
    fn info(&self) -> &BackendInfo;

    /// Takes a slot. Nothing runs before the session gets [`Work::Prepare`]; `wake` is called whenever
    /// [`BackendSession::next_input`] has something new.
    ///
    /// # Errors
    /// [`BackendError::Refused`] for a wish that cannot be met, [`BackendError::Failed`] when the backend is broken.
    fn open(&self, request: &SessionRequest, wake: Wake) -> Result<Box<dyn BackendSession>, BackendError>;

    /// What a named voice sounds like, at the rate of the user audio; `None` for another name.
    fn voice(&self, name: &str) -> Option<Arc<Pcm>>;

    /// A fresh detector of the user's voice; `None` when the server runs without one.
    fn voice_detector(&self) -> Option<Box<dyn VoiceDetector>>;
}

/// One session's hold on the backend; dropping it ends the session.
pub trait BackendSession: Send {
    /// Hands on what the session core asks for; `clock_zero` is when the core's clock stood at zero.
    ///
    /// # Errors
    /// [`BackendError::Failed`]: the session is over.
    fn perform(&mut self, work: Work, clock_zero: Instant) -> Result<(), BackendError>;

    /// The next answer, if there is one.
    ///
    /// # Errors
    /// [`BackendError::Failed`]: the session is over.
    fn next_input(&mut self) -> Result<Option<Input>, BackendError>;
}

/// Finds the user's voice in 16 kHz audio, frame by frame.
pub trait VoiceDetector: Send {
    /// Takes samples at the rate of the user audio and calls `on_frame` for each frame that they complete.
    ///
    /// # Errors
    /// [`BackendError::Failed`] when the detector's graph fails.
    fn push(&mut self, samples: &[f32], on_frame: &mut dyn FnMut(VoiceFrame)) -> Result<(), BackendError>;
}

/// Why a session cannot be opened or go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The client asked for something that cannot be had; the text says what to change.
    #[error("{message}")]
    Refused {
        /// The session field, in the spelling of [`SessionRequest`].
        field: &'static str,
        /// What is wrong with it and what would be right.
        message: String,
    },
    /// Not the client's fault.
    #[error("{0}")]
    Failed(String),
}

/// What is served, for clients that ask.
#[derive(Debug, Clone)]
pub struct BackendInfo {
    /// Name of the bundle.
    pub name: String,
    /// Its precision.
    pub precision: String,
    /// Hash of its manifest.
    pub sha256: String,
    /// What it says is noise.
    pub random_weights: bool,
    /// Sessions at the same time.
    pub slots: usize,
    /// Rates and chunk length of the duplex loop.
    pub duplex: Duplex,
    /// Rate of the speech samples.
    pub output_rate_hz: u32,
    /// What a reply's first unit lacks, and what it has beyond a unit.
    pub reply_start: ReplyStart,
    /// Named voices, the default one first.
    pub voices: Vec<String>,
    /// Seconds of reference audio from which a voice can be made; `None` when the bundle has voices of its own only.
    pub cloning: Option<RangeInclusive<f64>>,
    /// Pictures are understood.
    pub vision: bool,
    /// Typed questions are understood.
    pub typed: bool,
    /// Questions that the model can answer.
    pub suggestions: Vec<String>,
    /// Prompt of a session that brings none.
    pub default_instructions: String,
    /// Length of the LLM cache.
    pub context_tokens: usize,
    /// Clients may force a schedule on the model, for measurements.
    pub forced_schedules: bool,
}

/// Who decides that the model stops speaking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BargeInMode {
    /// A voice detector beside the model.
    #[default]
    Voice,
    /// The model alone.
    Model,
}

/// The reply's voice.
#[derive(Clone, Default, PartialEq)]
pub enum VoiceChoice {
    /// The bundle's first voice.
    #[default]
    Default,
    /// A voice of the bundle.
    Named(String),
    /// The voice heard in this recording.
    Reference(Arc<Pcm>),
}

impl fmt::Debug for VoiceChoice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("Default"),
            Self::Named(name) => write!(out, "Named({name})"),
            Self::Reference(pcm) => write!(out, "Reference({} samples)", pcm.samples.len()),
        }
    }
}

/// Sampling settings that a client may choose; `None` keeps the bundle's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingChoice {
    /// Highest score instead of a draw.
    pub greedy: Option<bool>,
    /// See [`duologue_session::Sampling`] for these.
    pub temperature: Option<f32>,
    /// Best tokens kept.
    pub top_k: Option<usize>,
    /// Nucleus mass.
    pub top_p: Option<f32>,
    /// Penalty of repeated tokens.
    pub repetition_penalty: Option<f32>,
    /// Above 1 the model talks longer.
    pub length_penalty: Option<f32>,
    /// Scale of the eos token's score.
    pub listen_prob_scale: Option<f32>,
    /// Seed of all draws; drawn at random when absent.
    pub seed: Option<u64>,
}

impl SamplingChoice {
    /// Few surprises, for tasks rather than talk: what is likely becomes likelier, words are not repeated.
    pub fn focused() -> Self {
        Self {
            temperature: Some(0.3),
            top_p: Some(0.85),
            top_k: Some(30),
            repetition_penalty: Some(1.1),
            ..Self::default()
        }
    }
}

/// What a client wants of its session.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    /// Live for people, fidelity for comparisons with the reference.
    pub mode: Mode,
    /// System prompt; the bundle's when absent.
    pub instructions: Option<String>,
    /// The reply's voice.
    pub voice: VoiceChoice,
    /// Reference audio for the LLM's prompt where it differs from the voice (the demo protocol has two).
    pub prompt_reference: Option<Arc<Pcm>>,
    /// Sampling.
    pub sampling: SamplingChoice,
    /// Sliding window; the bundle's when absent.
    pub window: Option<WindowMode>,
    /// Units at the start that must listen; the bundle's when absent.
    pub force_listen_units: Option<u32>,
    /// Who stops speech.
    pub barge_in: BargeInMode,
    /// When the model listens and speaks, in its place; only where [`BackendInfo::forced_schedules`] says so.
    pub schedule: Option<Schedule>,
}

impl Default for SessionRequest {
    fn default() -> Self {
        Self {
            mode: Mode::Live,
            instructions: None,
            voice: VoiceChoice::Default,
            prompt_reference: None,
            sampling: SamplingChoice::default(),
            window: None,
            force_listen_units: None,
            barge_in: BargeInMode::Voice,
            schedule: None,
        }
    }
}
