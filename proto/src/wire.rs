//! What both wires share: limits on a message, the refusal of a message, and reading JSON so that a refusal can say where.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest text of a refusal, in bytes. serde quotes offending values, which may be as long as the message.
const MAX_MESSAGE_LENGTH: usize = 300;

/// Longest `event_id` a client may choose, in bytes; it is echoed.
const MAX_EVENT_ID_LENGTH: usize = 512;

/// What one message of a client may hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of the JSON text.
    pub max_message_bytes: usize,
    /// Seconds of user audio in one message.
    pub max_audio_s: f64,
    /// Bytes of one image (JPEG or PNG), decoded from base64.
    pub max_image_bytes: usize,
    /// Images in one message.
    pub max_images: usize,
    /// Bytes of a reference voice, decoded from base64.
    pub max_voice_bytes: usize,
}

impl Default for Limits {
    /// 10 s of float audio, or the longest reference voice as 48 kHz stereo WAV, fit with room.
    fn default() -> Self {
        Self {
            max_message_bytes: 8 << 20,
            max_audio_s: 10.0,
            max_image_bytes: 4 << 20,
            max_images: 8,
            max_voice_bytes: 5 << 20,
        }
    }
}

/// Why a message or a session is refused. The names are the codes of the Live API's `error` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it; proto/LIVE.md has the table")]
pub enum ErrorCode {
    InvalidJson,
    UnknownEvent,
    InvalidValue,
    MissingField,
    AudioBeforeStart,
    AlreadyStarted,
    Unsupported,
    TooLarge,
    RateLimited,
    ServerBusy,
    QueueFull,
    Unauthorized,
    ResumeExpired,
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 14] = [
        Self::InvalidJson,
        Self::UnknownEvent,
        Self::InvalidValue,
        Self::MissingField,
        Self::AudioBeforeStart,
        Self::AlreadyStarted,
        Self::Unsupported,
        Self::TooLarge,
        Self::RateLimited,
        Self::ServerBusy,
        Self::QueueFull,
        Self::Unauthorized,
        Self::ResumeExpired,
        Self::Internal,
    ];

    /// The code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::UnknownEvent => "unknown_event",
            Self::InvalidValue => "invalid_value",
            Self::MissingField => "missing_field",
            Self::AudioBeforeStart => "audio_before_start",
            Self::AlreadyStarted => "already_started",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::ServerBusy => "server_busy",
            Self::QueueFull => "queue_full",
            Self::Unauthorized => "unauthorized",
            Self::ResumeExpired => "resume_expired",
            Self::Internal => "internal",
        }
    }

    /// The category OpenAI's error object carries beside the code.
    pub fn error_type(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limit_error",
            Self::Unauthorized => "authentication_error",
            Self::ServerBusy | Self::QueueFull | Self::Internal => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused message, in terms both wires can turn into their own error message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct WireError {
    /// The kind of refusal.
    pub code: ErrorCode,
    /// What was wrong, for a person.
    pub message: String,
    /// Where: the path of the field, such as `session.audio.format.rate`.
    pub param: Option<String>,
    /// The client's own id of the refused message, when it could be read.
    pub client_event_id: Option<String>,
}

impl WireError {
    /// A refusal that concerns no single field. Long texts are cut.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: cut(message.into(), MAX_MESSAGE_LENGTH), param: None, client_event_id: None }
    }

    /// A refusal of the field `param`.
    pub fn at(code: ErrorCode, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(cut(param.into(), MAX_MESSAGE_LENGTH)), ..Self::new(code, message) }
    }

    /// A field whose value cannot be used.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::at(ErrorCode::InvalidValue, param, message)
    }

    /// Something of the protocol that this server does not do.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::at(ErrorCode::Unsupported, param, message)
    }

    /// The same refusal with the client's id of the message.
    #[must_use]
    pub fn for_event(self, client_event_id: Option<&str>) -> Self {
        Self { client_event_id: client_event_id.map(str::to_owned), ..self }
    }
}

/// `text` cut to at most `max` bytes at a character boundary, with a mark where it was cut.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What every message starts with.
#[derive(Deserialize)]
struct RawHead {
    r#type: Option<String>,
    event_id: Option<String>,
}

/// Name and id of a message.
pub(crate) struct Head {
    pub(crate) kind: String,
    pub(crate) event_id: Option<String>,
}

/// Reads `type` and `event_id` of a message and skips the rest without storing it.
pub(crate) fn read_head(text: &str, max_bytes: usize) -> Result<Head, WireError> {
    let raw: RawHead = read_document(text, max_bytes)?;
    let event_id = raw.event_id;
    if let Some(id) = &event_id
        && id.len() > MAX_EVENT_ID_LENGTH
    {
        let message = format!("{} bytes; at most {MAX_EVENT_ID_LENGTH} are allowed", id.len());
        return Err(WireError::invalid("event_id", message));
    }
    match raw.r#type {
        Some(kind) => Ok(Head { kind, event_id }),
        None => {
            Err(WireError::at(ErrorCode::MissingField, "type", "the message has no `type`")
                .for_event(event_id.as_deref()))
        }
    }
}

/// Reads a JSON object of at most `max_bytes`.
pub(crate) fn read_document<T: DeserializeOwned>(text: &str, max_bytes: usize) -> Result<T, WireError> {
    if text.len() > max_bytes {
        let message = format!("the message has {} bytes; at most {max_bytes} are allowed", text.len());
        return Err(WireError::new(ErrorCode::TooLarge, message));
    }
    // serde reads a JSON array into a struct field by field, which no wire here means.
    if !text.trim_start().starts_with('{') {
        return Err(WireError::new(ErrorCode::InvalidJson, "a message is one JSON object"));
    }
    read_body(text)
}

/// Reads the payload of a message whose size was checked.
pub(crate) fn read_body<T: DeserializeOwned>(text: &str) -> Result<T, WireError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        describe(&path, error.inner())
    })?;
    reader.end().map_err(|error| describe(".", &error))?;
    Ok(value)
}

/// A serde error in the terms of the wire.
fn describe(path: &str, error: &serde_json::Error) -> WireError {
    if !error.is_data() {
        return WireError::new(ErrorCode::InvalidJson, format!("not valid JSON: {error}"));
    }
    let parent = if path == "." { "" } else { path };
    let text = error.to_string();
    match text.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        Some((field, _)) => {
            let param = if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") };
            WireError::at(ErrorCode::MissingField, param.clone(), format!("`{param}` is missing"))
        }
        None if parent.is_empty() => WireError::new(ErrorCode::InvalidValue, text),
        None => WireError::invalid(parent, text),
    }
}

/// Refuses a payload above its limit.
pub(crate) fn at_most(param: &str, what: &str, bytes: usize, max: usize) -> Result<(), WireError> {
    if bytes <= max {
        return Ok(());
    }
    Err(WireError::at(ErrorCode::TooLarge, param, format!("{what} of {bytes} bytes; at most {max} are allowed")))
}

/// Refuses a number outside `range`.
pub(crate) fn within(
    param: &str,
    value: Option<f64>,
    range: impl std::ops::RangeBounds<f64> + fmt::Debug,
) -> Result<(), WireError> {
    match value {
        Some(number) if !range.contains(&number) => {
            Err(WireError::invalid(param, format!("{number} is not in {range:?}")))
        }
        _ => Ok(()),
    }
}
