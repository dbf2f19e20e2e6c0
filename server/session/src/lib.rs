//! The duplex rules of MiniCPM-o as pure state machines: numbers in, decisions out.
//!
//! Owns every rule of the reference's `StreamDecoder` (`utils.py`) and `DuplexCapability`
//! (`modeling_minicpmo_unified.py`) that is not a tensor operation, and the session core that a transport drives.
//! Must not: run a graph, hold a clock, a thread or a socket, or know ONNX Runtime and tokio.
//!
//! Who drives what:
//! - the LLM thread drives one [`Dialogue`] per session, token by token;
//! - the speech thread drives one [`SpeechTurn`] and one [`CodeSampler`] per session;
//! - the transport drives one [`DuplexSession`] per session, which says what the engine shall do next, and one
//!   [`BargeIn`], which says when the user's voice pauses or stops the agent's.
#![forbid(unsafe_code)]

pub mod barge_in;
mod candidates;
pub mod code_sampler;
mod conduct;
pub mod config;
pub mod core;
pub mod dialogue;
mod heard;
pub mod sampler;
pub mod schedule;
pub mod speech;
pub mod tokens;
pub mod window;

pub use barge_in::{Action, BargeIn, BargeInConfig, FrameEvidence, Playing, VoiceFrame};
pub use candidates::SampleError;
pub use code_sampler::{CodeSampler, CodeStep};
pub use conduct::Conduct;
pub use config::{
    CodeFilter, ConfigError, DecodeMode, Duplex, Mode, Sampling, SessionConfig, Speech, SpeechRules, SpeechSampling,
    Window, WindowMode,
};
pub use core::{
    CloseReason, CoreConfig, CoreStats, DuplexSession, Event, FirstPart, Frame, Input, Output, PreparedReport,
    SpeechReport, SpeechTimings, TurnId, UnitId, UnitReport, UnitTimings, Work,
};
pub use dialogue::{Dialogue, EndedBy, Finalized, SpeechOrder, Step, TurnReset, UnitEnd};
pub use heard::{HeardUnit, SpokenUnits, WordCut};
pub use sampler::{Scratch, TextSampler};
pub use schedule::Schedule;
pub use speech::{ChunkEnd, CodePlan, Part, PlanRequest, SpeechError, SpeechTurn, VocoderCall};
pub use tokens::{TextDecoder, TokenIds, Tokens};
pub use window::{CacheEdit, UnitWindow, WindowState};
