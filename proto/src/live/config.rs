//! What a client asks for at the start of a session (`types/live/session_config.py`).

use std::fmt;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::extension::SessionExtension;
use crate::wire::{ErrorCode, Limits, WireError};

/// Most messages of earlier conversation a session may start with.
pub const MAX_INITIAL_ITEMS: usize = 128;

/// Names of OpenAI's own voices. Clients send one by default; it selects the bundle's default voice here.
pub const BUILT_IN_VOICES: [&str; 23] = [
    "alloy", "ash", "ballad", "beacon", "bossa", "cedar", "cinder", "coral", "delta", "echo", "gleam", "marin",
    "meridian", "quartz", "ripple", "sage", "shida", "shimmer", "stone", "tempo", "verse", "vesper", "willow",
];

/// The `session` object of `session.start` and of `POST /v1/live/sessions`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SessionConfig {
    /// Name of the model; echoed. One server has one model, so the name selects nothing and may be missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// System prompt; missing or blank selects the bundle's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Format and voice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioConfig>,
    /// Who does work the model hands on; only `client` is accepted, and the model never hands on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegation: Option<Delegation>,
    /// Earlier conversation, text only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Vec<InitialItem>>,
    /// Consent to keep a recording; the same as `duologue.record`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// What the browser half of a session may send and see.
    #[serde(skip_serializing)]
    pub client: Option<FrontendConfig>,
    /// Transcript triggers of OpenAI's Decisions; not supported unless empty.
    #[serde(skip_serializing)]
    pub triggers: Option<Vec<IgnoredAny>>,
    /// Our extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duologue: Option<SessionExtension>,
}

impl SessionConfig {
    /// The audio format of the WebSocket; OpenAI's default when not named.
    pub fn audio_format(&self) -> AudioFormat {
        self.audio.as_ref().and_then(|audio| audio.format).unwrap_or_default()
    }

    /// The voice asked for.
    pub fn voice(&self) -> Option<&Voice> {
        self.audio.as_ref()?.output.as_ref()?.voice.as_ref()
    }

    /// The client agrees to a recording.
    pub fn wants_recording(&self) -> bool {
        self.store == Some(true) || self.duologue.as_ref().is_some_and(|extension| extension.record == Some(true))
    }

    /// Refuses what can be parsed and not be served. Field paths start with `session`.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), WireError> {
        if let Some(delegation) = &self.delegation {
            delegation.check()?;
        }
        if self.triggers.as_ref().is_some_and(|triggers| !triggers.is_empty()) {
            return Err(WireError::unsupported("session.triggers", "this server has no transcript triggers"));
        }
        if self.client.as_ref().is_some_and(FrontendConfig::restricts) {
            let message = "this server does not restrict the events of a data channel; omit it or say \"all\"";
            return Err(WireError::unsupported("session.client.data_channel", message));
        }
        let items = self.input.as_deref().unwrap_or_default();
        if items.len() > MAX_INITIAL_ITEMS {
            let message = format!("{} messages; at most {MAX_INITIAL_ITEMS} are allowed", items.len());
            return Err(WireError::at(ErrorCode::TooLarge, "session.input", message));
        }
        for (index, item) in items.iter().enumerate() {
            if item.content.len() != 1 {
                let message = format!("{} parts; a message has exactly one text part", item.content.len());
                return Err(WireError::invalid(format!("session.input[{index}].content"), message));
            }
        }
        self.duologue.as_ref().map_or(Ok(()), |extension| extension.check(limits))
    }
}

/// Audio of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AudioConfig {
    /// Format of both directions of the WebSocket; WebRTC negotiates its own and ignores this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<AudioFormat>,
    /// The reply's side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<AudioOutput>,
}

/// The reply's audio.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AudioOutput {
    /// The voice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice: Option<Voice>,
}

/// A voice by name or by id; both name a voice of the bundle here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a voice is a name or an object with a string `id`")]
pub enum Voice {
    /// A name.
    Name(String),
    /// OpenAI's form for a custom voice.
    Custom {
        /// The id.
        id: String,
    },
}

impl Voice {
    /// The name or id.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) | Self::Custom { id: name } => name,
        }
    }
}

/// Raw mono audio on the WebSocket, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "RawFormat", into = "RawFormat")]
pub enum AudioFormat {
    /// s16le at 8 kHz.
    Pcm8k,
    /// s16le at 12 kHz.
    Pcm12k,
    /// s16le at 16 kHz, the rate the model hears.
    Pcm16k,
    /// s16le at 24 kHz, the rate the model speaks; OpenAI's default.
    #[default]
    Pcm24k,
    /// G.711 mu-law at 8 kHz.
    Pcmu,
    /// G.711 A-law at 8 kHz.
    Pcma,
}

impl AudioFormat {
    /// Samples per second.
    pub fn rate(self) -> u32 {
        match self {
            Self::Pcm8k | Self::Pcmu | Self::Pcma => 8_000,
            Self::Pcm12k => 12_000,
            Self::Pcm16k => 16_000,
            Self::Pcm24k => 24_000,
        }
    }

    /// Bytes of one sample.
    pub fn sample_bytes(self) -> usize {
        match self {
            Self::Pcm8k | Self::Pcm12k | Self::Pcm16k | Self::Pcm24k => 2,
            Self::Pcmu | Self::Pcma => 1,
        }
    }

    /// Refuses a payload that ends inside a sample or lasts longer than `max_s` seconds.
    pub(crate) fn check(self, param: &str, bytes: usize, max_s: f64) -> Result<(), WireError> {
        let seconds = bytes as f64 / (f64::from(self.rate()) * self.sample_bytes() as f64);
        if seconds > max_s {
            let message = format!("{seconds:.3} s of audio in one message; at most {max_s} s are allowed");
            return Err(WireError::at(ErrorCode::TooLarge, param, message));
        }
        if !bytes.is_multiple_of(self.sample_bytes()) {
            let message = format!("{bytes} bytes are not whole samples of {} bytes ({self})", self.sample_bytes());
            return Err(WireError::invalid(param, message));
        }
        Ok(())
    }
}

impl fmt::Display for AudioFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} Hz", RawFormat::from(*self).r#type, self.rate())
    }
}

/// [`AudioFormat`] as it is on the wire.
#[derive(Serialize, Deserialize)]
struct RawFormat {
    r#type: String,
    rate: u32,
}

impl From<AudioFormat> for RawFormat {
    fn from(format: AudioFormat) -> Self {
        let name = match format {
            AudioFormat::Pcmu => "audio/pcmu",
            AudioFormat::Pcma => "audio/pcma",
            AudioFormat::Pcm8k | AudioFormat::Pcm12k | AudioFormat::Pcm16k | AudioFormat::Pcm24k => "audio/pcm",
        };
        Self { r#type: name.to_owned(), rate: format.rate() }
    }
}

impl TryFrom<RawFormat> for AudioFormat {
    type Error = String;

    fn try_from(raw: RawFormat) -> Result<Self, String> {
        match (raw.r#type.as_str(), raw.rate) {
            ("audio/pcm", 8_000) => Ok(Self::Pcm8k),
            ("audio/pcm", 12_000) => Ok(Self::Pcm12k),
            ("audio/pcm", 16_000) => Ok(Self::Pcm16k),
            ("audio/pcm", 24_000) => Ok(Self::Pcm24k),
            ("audio/pcmu", 8_000) => Ok(Self::Pcmu),
            ("audio/pcma", 8_000) => Ok(Self::Pcma),
            (name, rate) => Err(format!(
                "no audio format `{name}` at {rate} Hz; audio/pcm has 8000, 12000, 16000 or 24000, audio/pcmu and audio/pcma \
                 have 8000"
            )),
        }
    }
}

/// Who does work the model hands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// The side that does it.
    #[serde(rename = "type")]
    pub kind: DelegationKind,
    /// Wait before a spoken acknowledgement; accepted and without effect, as nothing is handed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledgement_delay_ms: Option<u32>,
}

impl Delegation {
    /// Refuses what needs a second model.
    pub(crate) fn check(&self) -> Result<(), WireError> {
        if self.kind == DelegationKind::Client {
            return Ok(());
        }
        let message = "this server has no delegate; omit `delegation` or use {\"type\": \"client\"}";
        Err(WireError::unsupported("session.delegation.type", message))
    }
}

/// The side that does handed-on work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DelegationKind {
    /// The application.
    Client,
    /// OpenAI's Responses API.
    Responses,
    /// OpenAI's Decisions.
    Decisions,
}

/// What the browser half of a session may send and see; read only to refuse a restriction that would not be kept.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct FrontendConfig {
    /// The data channel.
    pub data_channel: Option<DataChannelConfig>,
}

impl FrontendConfig {
    /// Something other than "everything" is asked for.
    fn restricts(&self) -> bool {
        let restricted = |list: &Option<AllowList>| {
            list.as_ref().is_some_and(|list| !matches!(list, AllowList::Word(word) if word == "all"))
        };
        self.data_channel.as_ref().is_some_and(|channel| {
            restricted(&channel.allowed_client_events) || restricted(&channel.allowed_server_events)
        })
    }
}

/// Events allowed on the data channel.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct DataChannelConfig {
    /// Of the client.
    allowed_client_events: Option<AllowList>,
    /// Of the server.
    allowed_server_events: Option<AllowList>,
}

/// `"all"` or a list.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "allowed events are \"all\" or a list")]
enum AllowList {
    Word(String),
    List(Vec<IgnoredAny>),
}

/// One message of earlier conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialItem {
    /// Always `message`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<MessageKind>,
    /// The author.
    pub role: InitialRole,
    /// Exactly one part.
    pub content: Vec<TextPart>,
}

/// The only kind of history item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// A text message.
    Message,
}

/// Author of a history message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialRole {
    /// The application.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// Text of a history message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPart {
    /// `input_text`, `output_text` or `text`; means nothing beyond the role.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<TextKind>,
    /// The text.
    pub text: String,
}

/// Kind of a text part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextKind {
    /// Of the application or the person.
    InputText,
    /// Of the model.
    OutputText,
    /// Of the model, older name.
    Text,
}
