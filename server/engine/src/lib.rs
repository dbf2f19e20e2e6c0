//! The engine: one owner thread per graph group, fixed slots, bounded queues.
//!
//! ```text
//!             UnitWork            LLM rows             words, hidden states
//!  session ─────────────► front ───────────► llm ──────────────────────────► speech
//!     ▲      mel, apm, vision     prefill, decode batch, window   tts batch, flow, hift
//!     └──────────────────────────── events (bounded, never waited for) ◄────────┘
//! ```
//!
//! Owns threads, slots, scheduling and the turn fence. What a token means is decided by `duologue-session`, what a graph computes
//! by `duologue-model`; neither knows a thread. No network, no async.
#![forbid(unsafe_code)]

mod command;
mod config;
mod conversation;
mod engine;
mod error;
mod events;
mod fence;
mod front;
mod llm;
mod mel;
mod prompts;
mod recordings;
pub mod scheduler;
mod slots;
mod speech;
mod timing;

pub use command::PrepareWork;
pub use config::session_defaults;
pub use conversation::{Conversation, FinishedUnit, UnitInput};
pub use engine::{Engine, EngineOptions, OpenOptions, SessionHandle};
pub use error::EngineError;
pub use events::{EVENT_CAPACITY, EngineEvent, EventStream, Wake};
