//! Events of a client on the WebSocket and the data channel.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::config::{AudioFormat, Delegation, SessionConfig};
use crate::{
    payload::Base64,
    wire::{ErrorCode, Limits, WireError, at_most, read_head, within},
};

/// Events of OpenAI's API that need what this server does not have; refused with `unsupported` instead of `unknown_event`.
pub const UNSUPPORTED_EVENTS: [&str; 6] = [
    "decision.create",
    "decision.item.create",
    "decision.item.delete",
    "response.create",
    "response.item.create",
    "transport.dtmf.send",
];

/// Longest fixture `session.output_audio.fixture.play` may carry (OpenAI's own limit), 24 kHz s16le.
const MAX_FIXTURE_S: f64 = 30.0;

/// Longest text id of a ping, in bytes; it is echoed.
const MAX_PING_ID_LENGTH: usize = 64;
/// A typed question: some sentences.
const MAX_TYPED_BYTES: usize = 500;

wire_events! {
    /// What a client can say.
    pub enum ClientEvent {
        /// First message of a WebSocket, once; not sent over WebRTC.
        "session.start" => SessionStart(Box<SessionStart>),
        /// Changes settings of the running session.
        "session.update" => SessionUpdate(SessionUpdate),
        /// User audio; never acknowledged.
        "session.input_audio.append" => InputAudioAppend(InputAudioAppend),
        /// From now on the model hears silence.
        "session.input_audio.mute" => InputAudioMute(Empty),
        /// The model hears the user again.
        "session.input_audio.unmute" => InputAudioUnmute(Empty),
        /// Plays the given audio as if the model had said it.
        "session.output_audio.fixture.play" => FixturePlay(FixturePlay),
        /// More instructions.
        "session.instructions.append" => InstructionsAppend(ContextAppend),
        /// Something to know and not to say.
        "session.thinking.append" => ThinkingAppend(ContextAppend),
        /// Something to say.
        "session.commentary.append" => CommentaryAppend(ContextAppend),
        /// Ends the session.
        "session.close" => SessionClose(Empty),
        /// The next unit listens.
        "duologue.force_listen" => ForceListen(Empty),
        /// The user pressed stop: as if they had interrupted by voice.
        "duologue.interrupt" => Interrupt(Empty),
        /// Stops the clock.
        "duologue.pause" => Pause(Pause),
        /// Starts the clock again.
        "duologue.resume" => Resume(Empty),
        /// How far the user has heard.
        "duologue.playback" => Playback(Playback),
        /// Asks for a `duologue.pong`.
        "duologue.ping" => Ping(Ping),
        /// A picture for the current unit.
        "duologue.input_frame.append" => InputFrameAppend(InputFrameAppend),
        /// A typed question.
        "duologue.input_text.append" => InputTextAppend(InputTextAppend),
    }
}

/// A client's event with the client's own id of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientMessage {
    /// Comes back as `client_event_id` in acknowledgements and errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The event.
    #[serde(flatten)]
    pub event: ClientEvent,
}

/// Reads one message of a client. `format` is the session's audio format (the default one before it started); appended
/// audio is checked against it.
///
/// # Errors
/// [`ErrorCode::TooLarge`], [`ErrorCode::InvalidJson`], [`ErrorCode::UnknownEvent`], [`ErrorCode::Unsupported`],
/// [`ErrorCode::MissingField`] or [`ErrorCode::InvalidValue`], with the path of the field.
pub fn parse_client(text: &str, limits: &Limits, format: AudioFormat) -> Result<ClientMessage, WireError> {
    let head = read_head(text, limits.max_message_bytes)?;
    read_event(&head.kind, text, limits, format)
        .map_err(|error| error.for_event(head.event_id.as_deref()))
        .map(|event| ClientMessage { event_id: head.event_id, event })
}

fn read_event(kind: &str, text: &str, limits: &Limits, format: AudioFormat) -> Result<ClientEvent, WireError> {
    let Some(event) = ClientEvent::read(kind, text) else {
        if UNSUPPORTED_EVENTS.contains(&kind) {
            return Err(WireError::unsupported("type", format!("this server does not do `{kind}`")));
        }
        return Err(WireError::at(ErrorCode::UnknownEvent, "type", format!("no event is named `{kind}`")));
    };
    let event = event?;
    event.check(limits, format)?;
    Ok(event)
}

impl ClientEvent {
    /// Refuses values that parse and cannot be meant.
    fn check(&self, limits: &Limits, format: AudioFormat) -> Result<(), WireError> {
        match self {
            Self::SessionStart(start) => start.session.check(limits),
            Self::SessionUpdate(update) => update.session.check(),
            Self::InputAudioAppend(append) => format.check("audio", append.audio.0.len(), limits.max_audio_s),
            Self::FixturePlay(play) => AudioFormat::Pcm24k.check("audio", play.audio.0.len(), MAX_FIXTURE_S),
            Self::InstructionsAppend(append) | Self::ThinkingAppend(append) | Self::CommentaryAppend(append) => {
                append.check()
            }
            Self::Pause(pause) => within("timeout_s", pause.timeout_s, 0.0..),
            Self::Playback(playback) => {
                within("played_ms", Some(playback.played_ms), 0.0..)?;
                within("buffered_ms", Some(playback.buffered_ms), 0.0..)
            }
            Self::Ping(ping) => ping.check(),
            Self::InputFrameAppend(frame) => at_most("image", "an image", frame.image.0.len(), limits.max_image_bytes),
            Self::InputTextAppend(typed) => typed.check(),
            Self::InputAudioMute(_)
            | Self::InputAudioUnmute(_)
            | Self::SessionClose(_)
            | Self::ForceListen(_)
            | Self::Interrupt(_)
            | Self::Resume(_) => Ok(()),
        }
    }
}

/// An event without fields of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// `session.start`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStart {
    /// The session asked for.
    pub session: SessionConfig,
}

/// `session.update`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionUpdate {
    /// The changes.
    pub session: SessionUpdateConfig,
}

/// What OpenAI's API lets a client change while a session runs; none of it has an effect here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SessionUpdateConfig {
    /// Must stay `client`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegation: Option<Delegation>,
    /// Not supported unless empty.
    #[serde(skip_serializing)]
    pub triggers: Option<Vec<IgnoredAny>>,
}

impl SessionUpdateConfig {
    fn check(&self) -> Result<(), WireError> {
        let unchanged = SessionConfig {
            delegation: self.delegation.clone(),
            triggers: self.triggers.clone(),
            ..SessionConfig::default()
        };
        unchanged.check(&Limits::default())
    }
}

/// `session.input_audio.append`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputAudioAppend {
    /// Raw audio in the session's format, no header.
    pub audio: Base64,
}

/// `session.output_audio.fixture.play`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixturePlay {
    /// s16le at 24 kHz whatever the session's format, at most 30 s.
    pub audio: Base64,
}

/// `session.{instructions,thinking,commentary}.append`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextAppend {
    /// The text.
    pub content: String,
    /// `null`: this server hands nothing on, so there is no delegation to name. On the wire even when `null`.
    pub delegation_id: Option<String>,
}

impl ContextAppend {
    fn check(&self) -> Result<(), WireError> {
        match &self.delegation_id {
            Some(id) => Err(WireError::invalid("delegation_id", format!("there is no delegation `{id}`"))),
            None => Ok(()),
        }
    }
}

/// `duologue.pause`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// Seconds until the session ends if it is not resumed; the server's own when missing, and never more than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
}

/// `duologue.playback`: the client's play head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Playback {
    /// The turn being played.
    pub turn: u64,
    /// How much of the turn's audio the user has heard.
    pub played_ms: f64,
    /// How much more of it the client holds.
    pub buffered_ms: f64,
}

/// `duologue.ping` and `duologue.pong`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The client's id of the ping.
    pub id: PingId,
    /// The client's time, echoed as it is.
    pub t: serde_json::Number,
}

impl Ping {
    fn check(&self) -> Result<(), WireError> {
        match &self.id {
            PingId::Text(text) if text.len() > MAX_PING_ID_LENGTH => {
                Err(WireError::invalid("id", format!("{} bytes; at most {MAX_PING_ID_LENGTH} are allowed", text.len())))
            }
            _ => Ok(()),
        }
    }
}

/// A ping's id: a number or a short text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "an id is a number or a text")]
pub enum PingId {
    /// A number.
    Number(serde_json::Number),
    /// A text.
    Text(String),
}

/// `duologue.input_frame.append`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFrameAppend {
    /// JPEG or PNG file.
    pub image: Base64,
}

/// `duologue.input_text.append`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputTextAppend {
    /// What the user typed.
    pub text: String,
}

impl InputTextAppend {
    fn check(&self) -> Result<(), WireError> {
        if self.text.trim().is_empty() {
            return Err(WireError::invalid("text", "nothing is typed"));
        }
        at_most("text", "a typed question", self.text.len(), MAX_TYPED_BYTES)
    }
}
