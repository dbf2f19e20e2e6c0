//! Messages to a client on `/ws/duplex`. The gateway role sends the queue messages, the worker role never does.

use serde::{Deserialize, Serialize};

use super::client::Empty;
use crate::{
    payload::FloatAudio,
    wire::{ErrorCode, WireError, read_head},
};

wire_events! {
    /// What the server can say.
    pub enum ServerEvent {
        /// No slot is free; gateway role only.
        "queued" => Queued(Queued),
        /// Every 3 s while waiting; gateway role only.
        "queue_update" => QueueUpdate(QueueUpdate),
        /// A slot is free; gateway role only, and always sent, even when nothing waited.
        "queue_done" => QueueDone(Empty),
        /// The session runs.
        "prepared" => Prepared(Prepared),
        /// Exactly one per chunk.
        "result" => Result(Box<StepResult>),
        /// The clock stands.
        "paused" => Paused(TimedPause),
        /// The clock runs again.
        "resumed" => Resumed(Empty),
        /// The pause was too long; the connection closes with 1000.
        "timeout" => Timeout(Timeout),
        /// Answer to the deprecated `interrupt`.
        "interrupted" => Interrupted(Empty),
        /// Answer to `stop`; the connection closes.
        "stopped" => Stopped(Empty),
        /// Something was refused or failed; the connection stays.
        "error" => Error(Error),
    }
}

impl ServerEvent {
    /// The `error` message of a refusal.
    pub fn refusal(error: &WireError) -> Self {
        Self::Error(Error { error: error.message.clone() })
    }
}

/// Reads one message of the server, for clients in Rust.
///
/// # Errors
/// As [`super::parse_client`].
pub fn parse_server(text: &str, max_bytes: usize) -> Result<ServerEvent, WireError> {
    let head = read_head(text, max_bytes)?;
    ServerEvent::read(&head.kind, text).unwrap_or_else(|| {
        Err(WireError::at(ErrorCode::UnknownEvent, "type", format!("Unknown message type: {}", head.kind)))
    })
}

/// `queued`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queued {
    /// Place in the queue, from 1.
    pub position: usize,
    /// Guess.
    pub estimated_wait_s: f64,
    /// Names the place in `GET /api/queue/{ticket_id}`.
    pub ticket_id: String,
    /// Sessions waiting.
    pub queue_length: usize,
}

/// `queue_update`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueUpdate {
    /// Place in the queue, from 1.
    pub position: usize,
    /// Guess.
    pub estimated_wait_s: f64,
    /// Sessions waiting.
    pub queue_length: usize,
}

/// `prepared`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Tokens of the prompt.
    pub prompt_length: usize,
    /// Id of the recording, when one is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recording_session_id: Option<String>,
}

/// `result`: all fields are always there, `null` where the demo has `null` (`DuplexGenerateResult`,
/// core/schemas/duplex.py:406-530, and worker.py:1650-1660).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// The model listened.
    pub is_listen: bool,
    /// Text of the unit; empty when listening.
    pub text: String,
    /// Speech, 24 kHz.
    pub audio_data: Option<FloatAudio>,
    /// The model closed its turn.
    pub end_of_turn: bool,
    /// Number of the chunk, from 1.
    pub current_time: u64,
    /// Time of the language model.
    pub cost_llm_ms: Option<f64>,
    /// Time of preparing the speech condition.
    pub cost_tts_prep_ms: Option<f64>,
    /// Time of the audio tokens.
    pub cost_tts_ms: Option<f64>,
    /// Time of the vocoder.
    pub cost_token2wav_ms: Option<f64>,
    /// Time of the whole generate step.
    pub cost_all_ms: Option<f64>,
    /// Tokens of the language model.
    pub n_tokens: Option<u32>,
    /// Audio tokens.
    pub n_tts_tokens: Option<u32>,
    /// When this was sent, in Unix seconds.
    pub server_send_ts: Option<f64>,
    /// From the arrival of the chunk to this, to 0.1 ms.
    pub wall_clock_ms: f64,
    /// Cached positions after the unit and its window; the demo's page ends the session at 8192.
    pub kv_cache_length: usize,
    /// Pictures and slices fed.
    pub vision_slices: u32,
    /// Tokens of them.
    pub vision_tokens: u32,
}

/// `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimedPause {
    /// Seconds until the session ends if it is not resumed.
    pub timeout: f64,
}

/// `timeout`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeout {
    /// For a person.
    pub reason: String,
}

/// `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// For a person.
    pub error: String,
}
