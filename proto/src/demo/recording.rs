//! Files of a recorded session in the demo's layout (session_recorder.py:150-480).
//!
//! A session's folder holds `meta.json`, `recording.json`, `user_audio/000.wav` (16 kHz), `ai_audio/turn_0_chunk_000.wav`
//! (24 kHz), `user_frames/000.jpg`, `merged_replay.wav` (16 kHz, left the user, right the model) and, from the page,
//! `frontend_replay.*` and `comment.txt`. All WAV files are 16-bit PCM.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::DuplexKind;

/// `meta.json`, also the answer to `GET /api/sessions/{id}`. The last three change when the session ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// The session.
    pub session_id: String,
    /// Page it belongs to.
    pub app_type: DuplexKind,
    /// ISO 8601 with offset.
    pub created_at: String,
    /// ISO 8601 with offset.
    pub ended_at: Option<String>,
    /// Seconds, to 0.1.
    pub duration_s: Option<f64>,
    /// Device number.
    pub worker_id: u32,
    /// Shown.
    pub title: String,
    /// `system_prompt`, `ref_audio`, `deferred_finalize`, `max_slice_nums` and the keys of the client's `config`.
    pub config: Map<String, Value>,
}

/// `recording.json`, also the answer to `GET /api/sessions/{id}/recording`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// The session.
    pub session_id: String,
    /// `duplex`.
    pub mode: String,
    /// Device number.
    pub worker_id: u32,
    /// ISO 8601 with offset.
    pub start_ts: String,
    /// As in [`Meta`].
    pub config: Map<String, Value>,
    /// Each chunk.
    pub chunks: Vec<Chunk>,
    /// The stereo file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged_replay: Option<String>,
}

/// One chunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// From 0.
    pub index: usize,
    /// Arrival since `prepared`, to 0.1 ms.
    pub receive_ts_ms: f64,
    /// File of the user's audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_audio: Option<String>,
    /// File of the picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_frame: Option<String>,
    /// What came of it.
    pub result: ChunkResult,
}

/// What came of a chunk. All but the first two only when the model spoke.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkResult {
    /// What the model decided.
    pub mode: ChunkMode,
    /// What it cost.
    pub timing: ChunkTiming,
    /// Text of the unit, when there is some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// File of the speech.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ai_audio: Option<String>,
    /// Its length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ai_audio_duration_ms: Option<u64>,
    /// `true` when the model closed its turn, else missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_turn: Option<bool>,
}

/// What the model decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ChunkMode {
    /// It listened.
    Listen,
    /// It spoke.
    Speak,
}

/// Times in ms, to 0.1, and counts of a chunk: those of its `result`, `cost_` left out of the names.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ChunkTiming {
    /// Prefill.
    pub prefill_ms: f64,
    /// Language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm_ms: Option<f64>,
    /// Speech condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tts_prep_ms: Option<f64>,
    /// Audio tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tts_ms: Option<f64>,
    /// Vocoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token2wav_ms: Option<f64>,
    /// The whole generate step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_ms: Option<f64>,
    /// From the arrival of the chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_clock_ms: Option<f64>,
    /// Tokens of the language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_tokens: Option<u32>,
    /// Audio tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_tts_tokens: Option<u32>,
    /// Cached positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache_length: Option<usize>,
    /// Pictures and slices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_slices: Option<u32>,
    /// Tokens of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_tokens: Option<u32>,
}
