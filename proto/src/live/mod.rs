//! The OpenAI Live API with our extension; `proto/LIVE.md` is the normative text.
//!
//! Field names and which are required follow openai-python 3.52.0 (`types/live`). Everything of our own is an event whose type
//! starts with `duologue.` or a field named `duologue`; a client that ignores both works. Unknown fields of clients are ignored,
//! unknown event types are refused by name.

mod client;
mod config;
mod extension;
mod server;
mod session;

pub mod rest;

pub use client::{
    ClientEvent, ClientMessage, ContextAppend, Empty, FixturePlay, InputAudioAppend, InputFrameAppend, Pause, Ping,
    PingId, Playback, SessionStart, SessionUpdate, SessionUpdateConfig, UNSUPPORTED_EVENTS, parse_client,
};
pub use config::{
    AudioConfig, AudioFormat, AudioOutput, BUILT_IN_VOICES, Delegation, DelegationKind, FrontendConfig, InitialItem,
    InitialRole, MAX_INITIAL_ITEMS, SessionConfig, TextPart, Voice,
};
pub use extension::{
    BargeIn, BargeInMode, BundleInfo, DeltaExtension, SamplingOverrides, SamplingPreset, SessionExtension,
    SessionLimits, StartedExtension, WindowMode,
};
pub use server::{
    AudioDelta, CloseDetail, CloseReason, ContextAppended, ContextWindow, Draining, Dropped, DroppedKind, ErrorBody,
    ErrorEvent, Flush, FlushCause, Hold, Info, Paused, Queued, ServerEvent, ServerMessage, SessionClosed,
    SessionSnapshot, Speech, SpeechStages, TranscriptDelta, Truncated, TruncatedUnit, Turn, TurnState, Unit,
    UnitStages, Usage, UsageUpdated, VoiceActivity, parse_server,
};
pub use session::{SessionResource, SessionStatus};
