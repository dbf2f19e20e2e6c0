//! Events of the server on the WebSocket and the data channel.

use serde::{Deserialize, Serialize};

use super::{
    client::{Empty, Ping},
    extension::DeltaExtension,
    session::SessionResource,
};
use crate::{
    payload::Base64,
    timeline::Decision,
    wire::{ErrorCode, WireError, read_head},
};

wire_events! {
    /// What the server can say.
    pub enum ServerEvent {
        /// The session runs; audio may be sent.
        "session.started" => SessionStarted(Box<SessionSnapshot>),
        /// Answer to `session.update`.
        "session.updated" => SessionUpdated(Box<SessionSnapshot>),
        /// Last event; the connection closes after it.
        "session.closed" => SessionClosed(Box<SessionClosed>),
        /// Cumulative use.
        "session.usage.updated" => UsageUpdated(UsageUpdated),
        /// Answer to `session.input_audio.mute`.
        "session.input_audio.muted" => InputAudioMuted(Empty),
        /// Answer to `session.input_audio.unmute`.
        "session.input_audio.unmuted" => InputAudioUnmuted(Empty),
        /// Reply audio; not sent over WebRTC.
        "session.output_audio.delta" => OutputAudioDelta(AudioDelta),
        /// A fixture was accepted.
        "session.output_audio.fixture.playing" => FixturePlaying(Empty),
        /// A fixture was sent to its end.
        "session.output_audio.fixture.played" => FixturePlayed(Empty),
        /// Reply text.
        "session.output_transcript.delta" => OutputTranscriptDelta(TranscriptDelta),
        /// Answer to `session.instructions.append`.
        "session.instructions.appended" => InstructionsAppended(ContextAppended),
        /// Answer to `session.thinking.append`.
        "session.thinking.appended" => ThinkingAppended(ContextAppended),
        /// Answer to `session.commentary.append`.
        "session.commentary.appended" => CommentaryAppended(ContextAppended),
        /// Something was refused or failed.
        "error" => Error(ErrorEvent),
        /// Something worth knowing.
        "info" => Info(Info),
        /// The session waits for a free slot.
        "duologue.queued" => Queued(Queued),
        /// One unit was decided.
        "duologue.unit" => Unit(Unit),
        /// One piece of speech was made.
        "duologue.speech" => Speech(Speech),
        /// A turn of the model began or ended.
        "duologue.turn" => Turn(Turn),
        /// Drop what is buffered of older turns.
        "duologue.flush" => Flush(Flush),
        /// What was heard of an interrupted turn is settled.
        "duologue.truncated" => Truncated(Truncated),
        /// The user may be interrupting: stand still, keep what is buffered.
        "duologue.hold" => Hold(Hold),
        /// It was nothing: go on playing.
        "duologue.unhold" => Unhold(Hold),
        /// The user's voice began or ended, as the detector hears it.
        "duologue.voice" => Voice(VoiceActivity),
        /// The clock stands.
        "duologue.paused" => Paused(Paused),
        /// The clock runs again.
        "duologue.resumed" => Resumed(Empty),
        /// Input was lost because the server or the connection was too slow.
        "duologue.dropped" => Dropped(Dropped),
        /// The server shuts down.
        "duologue.draining" => Draining(Draining),
        /// Answer to `duologue.ping`.
        "duologue.pong" => Pong(Ping),
    }
}

impl ServerEvent {
    /// The `error` event of a refusal.
    pub fn refusal(error: &WireError) -> Self {
        Self::Error(ErrorEvent { error: ErrorBody::from(error) })
    }
}

/// A server's event with its ids.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerMessage {
    /// `evt_<n>`, or `evt_<n>.<part>` of what takes several messages, counting up within the session. Missing on
    /// answers to one message, on `duologue.queued`, and on the `session.started` of a resume. OpenAI gives audio no
    /// id; here it has one too, so that a client which comes back can say how far it got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The client's id of the message this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_event_id: Option<String>,
    /// The event.
    #[serde(flatten)]
    pub event: ServerEvent,
}

#[derive(Deserialize)]
struct Answered {
    client_event_id: Option<String>,
}

/// Reads one message of the server, for clients in Rust.
///
/// # Errors
/// As [`super::parse_client`]; a name that is not in the table is [`ErrorCode::UnknownEvent`], which a client may skip.
pub fn parse_server(text: &str, max_bytes: usize) -> Result<ServerMessage, WireError> {
    let head = read_head(text, max_bytes)?;
    let event = ServerEvent::read(&head.kind, text).unwrap_or_else(|| {
        Err(WireError::at(ErrorCode::UnknownEvent, "type", format!("no event is named `{}`", head.kind)))
    })?;
    let Answered { client_event_id } = crate::wire::read_body(text)?;
    Ok(ServerMessage { event_id: head.event_id, client_event_id, event })
}

/// `session.started` and `session.updated`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionSnapshot {
    /// The session.
    pub session: SessionResource,
}

/// `session.closed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionClosed {
    /// Why, in OpenAI's words.
    pub reason: CloseReason,
    /// The session as it was.
    pub session: SessionResource,
    /// Total use.
    pub usage: Usage,
    /// Why, in ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duologue: Option<CloseDetail>,
}

/// Why a session ended, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The client asked, or the server drains.
    CloseRequested,
    /// A time limit of the session.
    Expired,
    /// A safety filter; never used here.
    Content,
    /// The peer hung up; never used here.
    RemoteHangup,
    /// The connection was lost.
    ConnectionLost,
}

/// Why a session ended, in our words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseDetail {
    /// Such as `idle`, `maximum duration reached`, `pause timeout`, `server draining`.
    pub detail: String,
}

/// Cumulative use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds of session.
    pub seconds: f64,
}

/// `session.usage.updated`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageUpdated {
    /// So far.
    pub usage: Usage,
    /// The model's context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<ContextWindow>,
}

/// How full the model's context is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ContextWindow {
    /// 0 to 1.
    pub usage_ratio: f64,
}

/// `session.output_audio.delta`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioDelta {
    /// Raw audio in the session's format.
    pub delta: Base64,
    /// Turn and place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duologue: Option<DeltaExtension>,
}

/// `session.output_transcript.delta`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptDelta {
    /// Text to append.
    pub delta: String,
    /// Start on the session's clock.
    pub start_ms: u64,
    /// End on the session's clock.
    pub end_ms: u64,
    /// Turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duologue: Option<DeltaExtension>,
}

/// `session.{instructions,thinking,commentary}.appended`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextAppended {
    /// Place on the session's clock.
    pub start_ms: u64,
    /// May equal `start_ms`.
    pub end_ms: u64,
}

/// `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEvent {
    /// The error.
    pub error: ErrorBody,
}

/// OpenAI's error object, in events and in HTTP answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Category, see [`ErrorCode::error_type`].
    pub r#type: String,
    /// The code.
    pub code: ErrorCode,
    /// For a person.
    pub message: String,
    /// Path of the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// The client's id of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_event_id: Option<String>,
}

impl From<&WireError> for ErrorBody {
    fn from(error: &WireError) -> Self {
        Self {
            r#type: error.code.error_type().to_owned(),
            code: error.code,
            message: error.message.clone(),
            param: error.param.clone(),
            client_event_id: error.client_event_id.clone(),
        }
    }
}

/// `info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// For a program.
    pub code: String,
    /// For a person.
    pub message: String,
}

/// `duologue.queued`: before `session.started`, on every change and every 3 s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queued {
    /// Place in the queue, from 1.
    pub position: usize,
    /// Guess.
    pub estimated_wait_s: f64,
    /// Sessions waiting.
    pub queue_length: usize,
}

/// `duologue.unit`: one per unit, listening or speaking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Number of the unit, from 0.
    pub unit: u64,
    /// Number of the turn, from 0: the one spoken, or the one that would come next.
    pub turn: u64,
    /// What the model decided.
    pub decision: Decision,
    /// Text of the unit; empty when listening.
    pub text: String,
    /// The model closed its turn.
    pub end_of_turn: bool,
    /// The unit was decided before an interruption; nothing of it is sent, but for what was spoken of it before it was decided
    /// (`speech.first_words`).
    pub stale: bool,
    /// The session's clock when the unit's audio was complete.
    pub ready_ms: f64,
    /// From complete audio to decision, queues included.
    pub unit_ms: f64,
    /// `unit_ms` is longer than the unit.
    pub deadline_missed: bool,
    /// Where the time went.
    pub stages: UnitStages,
    /// Tokens the model made.
    pub tokens: u32,
    /// Cached positions after the unit.
    pub kv_tokens: usize,
}

/// Time of a unit by stage, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct UnitStages {
    /// Log-mel.
    pub mel_ms: f64,
    /// Audio encoder.
    pub apm_ms: f64,
    /// Pictures.
    pub vision_ms: f64,
    /// Prefill.
    pub prefill_ms: f64,
    /// Generate.
    pub llm_ms: f64,
}

/// `duologue.speech`: one per piece of speech the vocoder made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Speech {
    /// Its turn.
    pub turn: u64,
    /// The unit whose text it says.
    pub unit: u64,
    /// Start within the turn's audio.
    pub start_ms: f64,
    /// Samples at the model's output rate.
    pub samples: usize,
    /// Audio tokens of the unit so far.
    pub codes: usize,
    /// Where the time went.
    pub stages: SpeechStages,
    /// First of its turn.
    pub first: bool,
    /// From the complete audio of the unit that began the turn to this piece; `null` unless `first`.
    pub ttfb_ms: Option<f64>,
}

/// Time of a piece of speech by stage, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct SpeechStages {
    /// Audio tokens.
    pub tts_ms: f64,
    /// Flow matching.
    pub flow_ms: f64,
    /// Vocoder.
    pub hift_ms: f64,
}

/// `duologue.turn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The turn.
    pub turn: u64,
    /// What happened to it.
    pub state: TurnState,
}

/// What happened to a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnState {
    /// The model begins to speak.
    Begin,
    /// It finished.
    Done,
    /// It was stopped.
    Interrupted,
}

/// `duologue.flush`: drop at once everything buffered of turns below `turn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flush {
    /// The first turn that stays.
    pub turn: u64,
    /// Who interrupted.
    pub cause: FlushCause,
}

/// `duologue.truncated`: what was heard of an interrupted turn; the model has forgotten the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncated {
    /// The turn.
    pub turn: u64,
    /// Its audio that was heard.
    pub audio_end_ms: u64,
    /// The units that were not heard to their end; all others of the turn were.
    pub units: Vec<TruncatedUnit>,
}

/// A unit that was not heard to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncatedUnit {
    /// Number of the unit.
    pub unit: u64,
    /// What was heard of its text.
    pub text: String,
}

/// `duologue.hold` and `duologue.unhold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The turn that is being played.
    pub turn: u64,
}

/// Who interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlushCause {
    /// The user's voice.
    Voice,
    /// `duologue.interrupt`.
    Client,
    /// The model itself; never used here.
    Model,
}

/// `duologue.voice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoiceActivity {
    /// The user speaks.
    pub speaking: bool,
    /// Since when, on the session's clock.
    pub at_ms: u64,
}

/// `duologue.paused`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paused {
    /// Seconds until the session ends if it is not resumed.
    pub timeout_s: f64,
}

/// `duologue.dropped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// What was lost.
    pub what: DroppedKind,
    /// How many.
    pub count: u64,
}

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DroppedKind {
    /// A whole unit of user audio.
    Unit,
    /// A picture.
    Frame,
    /// A typed question.
    Text,
}

/// `duologue.draining`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Draining {
    /// Seconds this session may still take.
    pub seconds: f64,
}
