//! HTTP bodies beside the WebSocket.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    config::SessionConfig,
    extension::BundleInfo,
    server::{ErrorBody, ServerEvent},
};
use crate::wire::{Limits, WireError, at_most, read_document, within};

/// Longest SDP offer, in bytes. A browser's audio offer has 2 to 6 KiB.
pub const MAX_SDP_BYTES: usize = 64 << 10;

/// Longest ICE candidate line, in bytes.
pub const MAX_CANDIDATE_BYTES: usize = 1 << 10;

/// Body of `POST /v1/live/sessions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The session asked for; `audio.format` is ignored, WebRTC negotiates its own.
    pub session: SessionConfig,
    /// The offer.
    pub transport: SdpTransport,
}

/// An SDP offer or answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SdpTransport {
    /// Always `webrtc`.
    pub r#type: TransportKind,
    /// The SDP.
    pub sdp: String,
}

/// The only transport that is made over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportKind {
    /// WebRTC.
    Webrtc,
}

/// Answer to `POST /v1/live/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateResponse {
    /// The session.
    pub session: CreatedSession,
    /// The answer.
    pub transport: SdpTransport,
}

/// The new session's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedSession {
    /// For hang-up, trickle, sideband and recording.
    pub id: String,
}

/// Body of `POST /v1/live/sessions/{id}/ice`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceRequest {
    /// The candidate line as the browser gives it; empty = there are no more.
    pub candidate: String,
    /// Its media section by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdp_mid: Option<String>,
    /// Its media section by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdp_m_line_index: Option<u16>,
}

/// Body of `POST /v1/live/client_secrets`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClientSecretRequest {
    /// Life of the secret; 600 s when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<ExpiresAfter>,
    /// OpenAI's Realtime lets a session be bound to a secret; not supported.
    #[serde(skip_serializing)]
    pub session: Option<IgnoredAny>,
}

impl ClientSecretRequest {
    /// Life of the secret in seconds.
    pub fn seconds(&self) -> u32 {
        self.expires_after.as_ref().and_then(|after| after.seconds).unwrap_or(600)
    }
}

/// Life of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiresAfter {
    /// Always `created_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<ExpiryAnchor>,
    /// 10 to 7200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
}

/// What a secret's life is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiryAnchor {
    /// Its creation.
    CreatedAt,
}

/// Answer to `POST /v1/live/client_secrets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSecretResponse {
    /// `ek_...`.
    pub value: String,
    /// Unix seconds.
    pub expires_at: u64,
}

/// Body of every HTTP answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// The error.
    pub error: ErrorBody,
}

/// Answer to `GET /v1/duologue/config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigResponse {
    /// For `RTCPeerConnection`.
    pub ice_servers: Vec<IceServer>,
    /// `webrtc`, `websocket`, best first.
    pub transports: Vec<Transport>,
    /// The model.
    pub bundle: BundleInfo,
    /// Names of the bundle's voices.
    pub voices: Vec<String>,
    /// Questions that the model can answer.
    pub suggestions: Vec<String>,
    /// Most bytes of an uploaded voice.
    pub max_upload_bytes: usize,
    /// Recording.
    pub recording: RecordingConfig,
    /// A key is needed.
    pub auth_required: bool,
    /// Length of one unit.
    pub unit_ms: u32,
}

/// A transport a client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// WebRTC with a data channel.
    Webrtc,
    /// Everything over one WebSocket.
    Websocket,
}

/// An ICE server in the browser's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:` and `turn:` addresses.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// Whether sessions can be recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordingConfig {
    /// The server records sessions whose client agrees.
    pub available: bool,
    /// Days a recording is kept.
    pub retention_days: f64,
}

/// Answer to `GET /v1/duologue/recordings/{id}/timeline`: what happened, beside the stereo audio (left the user, right the
/// model) on the same clock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordingTimeline {
    /// Id of the recording.
    pub id: String,
    /// Unix seconds of its first sample.
    pub started_at: f64,
    /// Length of the audio.
    pub duration_ms: u64,
    /// Rate of the audio file, in Hz.
    pub sample_rate: u32,
    /// Length of one unit.
    pub unit_ms: u32,
    /// The model.
    pub bundle: BundleInfo,
    /// Events of the server as they were sent, audio left out, in order of time.
    pub events: Vec<RecordedEvent>,
}

/// One event of a recording.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordedEvent {
    /// When it was sent, on the recording's clock.
    pub at_ms: u64,
    /// The event.
    pub event: ServerEvent,
}

/// Reads the body of `POST /v1/live/sessions`.
///
/// # Errors
/// As [`super::parse_client`].
pub fn parse_create(text: &str, limits: &Limits) -> Result<CreateRequest, WireError> {
    let request: CreateRequest = read_document(text, limits.max_message_bytes)?;
    at_most("transport.sdp", "an offer", request.transport.sdp.len(), MAX_SDP_BYTES)?;
    request.session.check(limits)?;
    Ok(request)
}

/// Reads the body of `POST /v1/live/sessions/{id}/ice`.
///
/// # Errors
/// As [`super::parse_client`].
pub fn parse_ice(text: &str, limits: &Limits) -> Result<IceRequest, WireError> {
    let request: IceRequest = read_document(text, limits.max_message_bytes)?;
    at_most("candidate", "a candidate", request.candidate.len(), MAX_CANDIDATE_BYTES)?;
    if request.candidate.contains(['\r', '\n']) {
        return Err(WireError::invalid("candidate", "a candidate is one line"));
    }
    Ok(request)
}

/// Reads the body of `POST /v1/live/client_secrets`.
///
/// # Errors
/// As [`super::parse_client`].
pub fn parse_client_secret(text: &str, limits: &Limits) -> Result<ClientSecretRequest, WireError> {
    let request: ClientSecretRequest = read_document(text, limits.max_message_bytes)?;
    if request.session.is_some() {
        return Err(WireError::unsupported("session", "a secret of this server is not bound to a session's settings"));
    }
    within("expires_after.seconds", Some(f64::from(request.seconds())), 10.0..=7200.0)?;
    Ok(request)
}
