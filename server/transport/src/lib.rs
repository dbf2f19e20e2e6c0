//! Ways into a session: the driver loop, the session manager, and the wires.
//!
//! ```text
//!  wire (websocket, webrtc, ...)          one task per session            the engine, behind a trait
//!  ──── SessionCommand ──────────► driver: DuplexSession, barge-in, pacer ────── Work ─────►  backend
//!  ◄─── Sequenced<SessionEvent> ── link: replay after a dropped connection ◄──── Input ─────
//!                    manager: slots, queue, resume tokens, drain
//! ```
//!
//! Owns sockets, admission, pacing and everything a client sees. Must not know a tensor or a graph: what computes the
//! units is a [`Backend`], which the server binary implements for the engine and tests implement as a script.
#![forbid(unsafe_code)]

pub mod backend;
pub mod demo;
pub mod driver;
pub mod http;
pub mod live;
pub mod manager;
pub mod pacer;
pub mod picture;
pub mod record;
pub mod rtc;

pub use backend::{
    Backend, BackendError, BackendInfo, BackendSession, BargeInMode, SamplingChoice, SessionRequest, VoiceChoice,
    VoiceDetector, Wake,
};
pub use driver::{
    CloseCause, DriverLimits, FlushCause, Output, Sequenced, SessionCommand, SessionEvent, SpeechEvent, UnitEvent,
};
pub use manager::{
    Admission, Limits, Load, ManagerError, Refusal, SessionId, SessionLink, SessionManager, Sideband, Visitor, Waiting,
    Wire,
};
pub use pacer::ReplyStart;
