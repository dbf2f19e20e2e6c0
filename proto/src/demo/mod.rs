//! The protocol of MiniCPM-o-Demo, the model's official demo, for both of its roles: towards browsers (its `gateway.py`) and
//! behind its gateway (its `worker.py`). `proto/DEMO.md` is the normative text.
//!
//! Where the demo's documents and its code differ, its code wins; the documented names `audio`, `prefix_system_prompt` and
//! `video_frame` are understood too. Audio is base64 of raw little-endian f32, mono, 16 kHz from and 24 kHz to the client.

mod client;
mod config;
mod server;

pub mod recording;
pub mod rest;

pub use client::{AudioChunk, ClientEvent, Empty, Pause, Prepare, VideoFrame, parse_client};
pub use config::{DecodeMode, DuplexConfig, INPUT_RATE};
pub use server::{Error, Prepared, QueueUpdate, Queued, ServerEvent, StepResult, TimedPause, Timeout, parse_server};

use serde::{Deserialize, Serialize};

/// Which page of the demo a session belongs to, by the prefix of its id (gateway.py:585).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplexKind {
    /// Audio only: ids that start with `adx_`.
    AudioDuplex,
    /// Audio and video: all others.
    OmniDuplex,
}

impl DuplexKind {
    /// The kind of the session named `session_id`.
    pub fn of(session_id: &str) -> Self {
        if session_id.starts_with("adx_") { Self::AudioDuplex } else { Self::OmniDuplex }
    }
}

/// A session id with every character outside `[A-Za-z0-9_-]` made `_`, as the gateway does before it names files by it
/// (gateway.py:69).
pub fn sanitize_session_id(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect()
}
