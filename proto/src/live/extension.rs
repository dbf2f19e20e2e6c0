//! The `duologue` objects inside OpenAI's own objects.

use serde::{Deserialize, Serialize};

use crate::{
    forced_schedule::ForcedSchedule,
    payload::Base64,
    wire::{ErrorCode, Limits, WireError, at_most, within},
};

/// `session.duologue` of a client: everything optional.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SessionExtension {
    /// Continues the dropped session this token was given for; every other field of the session is ignored then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
    /// With `resume_token`: the last server event that the client has handled; what came after it is sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_id: Option<String>,
    /// A WAV file of 0.5 to 16.9 s whose voice the reply takes, instead of `audio.output.voice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice_reference: Option<Base64>,
    /// Changes to the bundle's sampling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingOverrides>,
    /// What stays of a long conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowMode>,
    /// Units at the start that listen whatever the model wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_listen_units: Option<u32>,
    /// Who decides that the user interrupts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub barge_in: Option<BargeIn>,
    /// Consent to keep a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<bool>,
    /// Send `duologue.*` events; the default is yes for a client that sends this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<bool>,
    /// Measurements only: when the model listens and speaks. Refused unless the server allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced_schedule: Option<ForcedSchedule>,
}

impl SessionExtension {
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), WireError> {
        if let Some(voice) = &self.voice_reference {
            at_most("session.duologue.voice_reference", "a voice", voice.0.len(), limits.max_voice_bytes)?;
        }
        if self.resume_token.as_ref().is_some_and(|token| token.len() > 256) {
            return Err(WireError::at(
                ErrorCode::TooLarge,
                "session.duologue.resume_token",
                "not a token of this server",
            ));
        }
        if self.last_event_id.as_ref().is_some_and(|id| id.len() > 64) {
            let message = "not an event id of this server";
            return Err(WireError::at(ErrorCode::TooLarge, "session.duologue.last_event_id", message));
        }
        self.sampling.as_ref().map_or(Ok(()), SamplingOverrides::check)
    }
}

/// Changes to the bundle's sampling; what is missing stays.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SamplingOverrides {
    /// Where the other fields start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<SamplingPreset>,
    /// Above 0, at most 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// 0 to 1; 0 keeps all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// 0 keeps all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// 1 to 2; 1 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// 0.1 to 5; above 1 makes turns longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f64>,
    /// 0 to 10; above 1 makes the model listen more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_prob_scale: Option<f64>,
    /// Always the best token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greedy: Option<bool>,
    /// Seed of the draws; a client in JavaScript can say seeds up to 2^53.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl SamplingOverrides {
    fn check(&self) -> Result<(), WireError> {
        let at = |name: &str| format!("session.duologue.sampling.{name}");
        if self.temperature == Some(0.0) {
            return Err(WireError::invalid(at("temperature"), "0 is not a temperature; say \"greedy\": true"));
        }
        within(&at("temperature"), self.temperature, 0.0..=2.0)?;
        within(&at("top_p"), self.top_p, 0.0..=1.0)?;
        within(&at("repetition_penalty"), self.repetition_penalty, 1.0..=2.0)?;
        within(&at("length_penalty"), self.length_penalty, 0.1..=5.0)?;
        within(&at("listen_prob_scale"), self.listen_prob_scale, 0.0..=10.0)
    }
}

/// A set of sampling values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingPreset {
    /// The bundle's own, which are those of the reference (default).
    Reference,
    /// Fewer surprises: temperature 0.3, top-p 0.85, top-k 30, repetition penalty 1.1.
    Focused,
}

/// What stays of a long conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowMode {
    /// Everything; the session ends when the cache is full.
    Off,
    /// The newest units.
    Basic,
    /// The newest units and the text of earlier replies.
    Context,
}

/// Who decides that the user interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BargeIn {
    /// The decider.
    pub mode: BargeInMode,
}

/// Who decides that the user interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BargeInMode {
    /// A voice detector beside the model (default).
    Vad,
    /// The model alone.
    Model,
}

/// `session.duologue` of the server, in `session.started`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartedExtension {
    /// Continues this session after a lost connection.
    pub resume_token: String,
    /// Seconds after a lost connection in which that works.
    pub resume_window_s: f64,
    /// This session continues an earlier one.
    pub resumed: bool,
    /// Length of one unit.
    pub unit_ms: u32,
    /// Rate the model hears, in Hz.
    pub input_rate: u32,
    /// Rate the model speaks, in Hz.
    pub output_rate: u32,
    /// The model.
    pub bundle: BundleInfo,
    /// Id of the recording; `null` when none is made.
    pub recording_id: Option<String>,
    /// Names of the bundle's voices.
    pub voices: Vec<String>,
    /// Ends of the session.
    pub limits: SessionLimits,
    /// The pattern that is forced on the model; missing when it chooses freely.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced_schedule: Option<ForcedSchedule>,
}

/// Which model answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleInfo {
    /// Name of the bundle.
    pub name: String,
    /// Precision, such as `fp32`.
    pub precision: String,
    /// Hash of the bundle's manifest, in hex.
    pub sha256: String,
    /// The weights are random: speech is noise.
    pub random_weights: bool,
    /// The model reads typed questions.
    pub typed: bool,
}

/// When a session ends by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionLimits {
    /// Seconds from start to end.
    pub max_session_s: f64,
    /// Seconds without audio from the client.
    pub idle_s: f64,
}

/// `duologue` of an audio or transcript delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaExtension {
    /// The turn it belongs to.
    pub turn: u64,
    /// Start within the turn's audio; in audio deltas only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
}
