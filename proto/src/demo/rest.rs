//! HTTP bodies the demo's audio page, its test scripts and its gateway use (gateway.py, gateway_modules/models.py, worker.py).
//! Times are ISO 8601 texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    payload::FloatAudio,
    wire::{ErrorCode, Limits, WireError, read_document},
};

/// Most characters of a comment on a session (gateway.py:1251).
pub const MAX_COMMENT_CHARS: usize = 2000;

/// `GET /health` of the gateway role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `healthy`.
    pub status: String,
    /// Now.
    pub timestamp: String,
}

/// `GET /health` of the worker role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerHealth {
    /// `healthy`, `initializing` or `error`.
    pub status: String,
    /// What it does.
    pub worker_status: WorkerStatus,
    /// Device number.
    pub gpu_id: u32,
    /// The model can answer.
    pub model_loaded: bool,
    /// The running session.
    pub current_session_id: Option<String>,
    /// So far.
    pub total_requests: u64,
    /// Mean.
    pub avg_inference_time_ms: f64,
    /// Cached positions of the running session.
    pub kv_cache_length: usize,
}

/// `GET /health` of a server that stands for both: [`WorkerHealth`] with the gateway's `timestamp`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthOfBoth {
    /// Now.
    pub timestamp: String,
    /// The worker's fields; `status` is the gateway's too.
    #[serde(flatten)]
    pub worker: WorkerHealth,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerStatus {
    /// Loads the model.
    Loading,
    /// Waits for a session.
    Idle,
    /// Text chat.
    BusyChat,
    /// Half duplex.
    BusyHalfDuplex,
    /// In a session.
    DuplexActive,
    /// In a session that pauses.
    DuplexPaused,
    /// Broken.
    Error,
    /// Not reached by its gateway.
    Offline,
}

/// `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Always `true`.
    pub gateway_healthy: bool,
    /// Slots.
    pub total_workers: usize,
    /// Free ones.
    pub idle_workers: usize,
    /// Taken ones.
    pub busy_workers: usize,
    /// Of those, in a duplex session.
    pub duplex_workers: usize,
    /// Loading.
    pub loading_workers: usize,
    /// Broken.
    pub error_workers: usize,
    /// Not reached.
    pub offline_workers: usize,
    /// Sessions waiting.
    pub queue_length: usize,
    /// Most that may wait.
    pub max_queue_size: usize,
    /// Running sessions.
    pub running_tasks: Vec<RunningTask>,
}

/// One running session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningTask {
    /// The slot.
    pub worker_id: String,
    /// `audio_duplex` or `omni_duplex`.
    pub request_type: String,
    /// Since when.
    pub started_at: String,
    /// Since how long.
    pub elapsed_s: f64,
    /// Guess.
    pub estimated_remaining_s: f64,
}

/// `GET /workers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    /// Slots.
    pub total: usize,
    /// Each slot as a worker.
    pub workers: Vec<WorkerInfo>,
}

/// One slot as the gateway shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Name.
    pub worker_id: String,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Device number.
    pub gpu_id: u32,
    /// What it does.
    pub status: WorkerStatus,
    /// The running session.
    pub current_session_id: Option<String>,
    /// So far.
    pub total_requests: u64,
    /// Mean.
    pub avg_inference_time_ms: f64,
    /// Last sign of life.
    pub last_heartbeat: Option<String>,
    /// `audio_duplex` or `omni_duplex`.
    pub current_request_type: Option<String>,
    /// Since when.
    pub task_started_at: Option<String>,
}

/// `GET /cache`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheList {
    /// Each slot.
    pub workers: Vec<CacheEntry>,
}

/// One slot's cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Name.
    pub worker_id: String,
    /// What it does.
    pub status: WorkerStatus,
}

/// `GET /api/apps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apps {
    /// Pages that work.
    pub apps: Vec<App>,
}

/// One page of the demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Such as `audio_duplex`.
    pub app_id: String,
    /// Shown.
    pub name: String,
    /// Such as `/audio_duplex`.
    pub route: String,
}

/// `GET /api/admin/apps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminApps {
    /// All pages.
    pub apps: Vec<AdminApp>,
}

/// One page of the demo and whether sessions of it are let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminApp {
    /// The page.
    #[serde(flatten)]
    pub app: App,
    /// Sessions of it are let in.
    pub enabled: bool,
}

/// `PUT /api/admin/apps/{app_id}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSwitch {
    /// Let sessions of it in.
    pub enabled: bool,
}

/// Answer to [`AppSwitch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSwitched {
    /// It did.
    pub success: bool,
    /// The page now.
    pub app: AdminApp,
}

/// `GET /api/config/eta`: how long sessions last, by kind. The kinds that a server has not are missing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EtaStatus {
    /// In seconds.
    pub config: EtaConfig,
}

/// Lengths of sessions in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EtaConfig {
    /// Audio only.
    pub eta_audio_duplex_s: f64,
    /// With video.
    pub eta_omni_duplex_s: f64,
}

/// `GET /api/frontend_defaults`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendDefaults {
    /// Wait before a turn is played.
    pub playback_delay_ms: u32,
    /// `en` or `zh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_lang: Option<String>,
}

/// `GET /api/presets`: presets by mode, such as `audio_duplex`.
pub type Presets = BTreeMap<String, Vec<Preset>>;

/// One prepared prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preset {
    /// Name in addresses.
    pub id: String,
    /// Shown.
    pub name: String,
    /// Shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Place in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// The prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// The voice, without its audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_audio: Option<PresetVoice>,
}

/// A preset's voice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresetVoice {
    /// The audio, 16 kHz; `null` in the list, where only the description is sent.
    pub data: Option<FloatAudio>,
    /// File of the demo, in the list only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Shown.
    pub name: String,
    /// Seconds, to 0.1.
    pub duration: f64,
}

/// `GET /api/presets/{mode}/{id}/audio`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PresetAudio {
    /// The voice with its audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_audio: Option<PresetVoice>,
}

/// `GET /api/default_ref_audio`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefaultRefAudio {
    /// Shown.
    pub name: String,
    /// Seconds, to 0.1.
    pub duration: f64,
    /// 16000.
    pub sample_rate: u32,
    /// Samples.
    pub samples: usize,
    /// The audio.
    pub base64: FloatAudio,
}

/// `GET /api/queue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Sessions waiting.
    pub queue_length: usize,
    /// Most that may wait.
    pub max_queue_size: usize,
    /// Each of them.
    pub items: Vec<QueueItem>,
    /// Running sessions.
    pub running_tasks: Vec<RunningTask>,
}

/// One waiting session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueItem {
    /// As in `queued`.
    pub ticket_id: String,
    /// `audio_duplex` or `omni_duplex`.
    pub request_type: String,
    /// The session.
    pub session_id: Option<String>,
    /// Place, from 1.
    pub position: usize,
    /// Guess.
    pub estimated_wait_s: f64,
    /// Since when.
    pub enqueued_at: String,
    /// Since how long.
    pub wait_elapsed_s: f64,
}

/// `GET /api/queue/{ticket_id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TicketStatus {
    /// It still waits.
    pub found: bool,
    /// The place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// For a person, when not found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A place in the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    /// As in `queued`.
    pub ticket_id: String,
    /// `audio_duplex` or `omni_duplex`.
    pub request_type: String,
    /// The session.
    pub session_id: Option<String>,
    /// Since when.
    pub enqueued_at: String,
    /// Place, from 1.
    pub position: usize,
    /// Guess.
    pub estimated_wait_s: f64,
    /// Given up.
    pub cancelled: bool,
}

/// Answer of requests that only succeed or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// It did.
    pub success: bool,
}

/// `GET /api/assets/ref_audio`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefAudioList {
    /// How many.
    pub total: usize,
    /// Each.
    pub ref_audios: Vec<RefAudioInfo>,
}

/// One stored voice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefAudioInfo {
    /// Id.
    pub id: String,
    /// Shown.
    pub name: String,
    /// File.
    pub filename: String,
    /// `upload`.
    pub source_type: String,
    /// Length.
    pub duration_ms: Option<u64>,
    /// 16000.
    pub sample_rate: u32,
    /// When.
    pub created_at: String,
}

/// `POST /api/assets/ref_audio`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefAudioUpload {
    /// Shown.
    pub name: String,
    /// A WAV file.
    pub audio_base64: crate::payload::Base64,
}

/// Answer to changes of stored voices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefAudioChange {
    /// It did.
    pub success: bool,
    /// Id.
    pub id: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// For a person.
    pub message: String,
}

/// Answer to `POST /api/sessions/{id}/upload-recording`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingUploaded {
    /// `ok`.
    pub status: String,
    /// `frontend_replay.` and the type's ending.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// `POST` body and `GET` answer of `/api/sessions/{id}/comment`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Comment {
    /// The text; empty removes it.
    #[serde(default)]
    pub comment: Option<String>,
}

/// Answer to `POST /api/sessions/{id}/comment`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommentSaved {
    /// `ok`.
    pub status: String,
    /// Characters.
    pub len: usize,
}

/// Body of an HTTP answer that is an error (FastAPI's shape).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// For a person.
    pub detail: String,
}

/// Reads a comment, without white space around it.
///
/// # Errors
/// [`ErrorCode::TooLarge`] above [`MAX_COMMENT_CHARS`]; else as [`super::parse_client`].
pub fn parse_comment(text: &str, limits: &Limits) -> Result<String, WireError> {
    let body: Comment = read_document(text, limits.max_message_bytes)?;
    let comment = body.comment.unwrap_or_default().trim().to_owned();
    if comment.chars().count() > MAX_COMMENT_CHARS {
        let message = format!("Comment too long (max {MAX_COMMENT_CHARS} chars)");
        return Err(WireError::at(ErrorCode::TooLarge, "comment", message));
    }
    Ok(comment)
}

/// Reads the switch of a page.
///
/// # Errors
/// As [`super::parse_client`].
pub fn parse_app_switch(text: &str, limits: &Limits) -> Result<AppSwitch, WireError> {
    read_document(text, limits.max_message_bytes)
}

/// Reads an uploaded voice.
///
/// # Errors
/// [`ErrorCode::TooLarge`] above the limit for voices; else as [`super::parse_client`].
pub fn parse_ref_audio_upload(text: &str, limits: &Limits) -> Result<RefAudioUpload, WireError> {
    let upload: RefAudioUpload = read_document(text, limits.max_message_bytes)?;
    crate::wire::at_most("audio_base64", "a voice", upload.audio_base64.0.len(), limits.max_voice_bytes)?;
    Ok(upload)
}
