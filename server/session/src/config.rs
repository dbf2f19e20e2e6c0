//! Settings of one session: the manifest blocks that the duplex rules read, and what a caller may choose on top.
//!
//! Must not contain a model number as a default: defaults live in the bundle's manifest.

use serde::{Deserialize, Serialize};

use crate::conduct::Conduct;
use crate::schedule::Schedule;

/// A setting that cannot work, by name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting {setting}: {problem}")]
pub struct ConfigError {
    /// Dotted name of the setting, as in the manifest where it comes from there.
    pub setting: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }
}

pub(crate) fn require(holds: bool, setting: &str, problem: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::new(setting, problem())) }
}

/// Whether the reference's partition and defects are reproduced, or the right thing is done for a listener; [`Conduct`] has each
/// difference by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Exactly the reference, defects included.
    Fidelity,
    /// Early first audio, no artificial silence, barge-in resets all turn state.
    Live,
}

/// How a token is chosen from its scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecodeMode {
    /// Highest score; the lowest id wins ties.
    Greedy,
    /// A draw after temperature, top-k and top-p.
    Sampling,
}

/// The manifest's `sampling` block: rules of text sampling (`StreamDecoder.decode`, utils.py:2090-2200).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Greedy or sampling.
    pub decode_mode: DecodeMode,
    /// Divides the scores before top-k; sampling only.
    pub temperature: f32,
    /// Keeps scores not below the k-th best; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of best tokens whose mass exceeds this; 0 keeps all.
    pub top_p: f32,
    /// Multiplies the score of the tokenizer's eos token (not of `<|listen|>`, see [`crate::TokenIds::eos`]).
    pub listen_prob_scale: f32,
    /// Returns the eos token at once when fewer than this many scores exceed its own.
    pub listen_top_k: Option<usize>,
    /// Divides the score of every token among the last `repetition_window` choices, whatever its sign.
    pub repetition_penalty: f32,
    /// Choices remembered for the penalty, over the whole session.
    pub repetition_window: usize,
    /// Makes `<|turn_eos|>` less likely when above 1.
    pub length_penalty: f32,
}

impl Sampling {
    /// # Errors
    /// [`ConfigError`] naming the setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = |name: &str, value: f32| {
            require(value.is_finite() && value > 0.0, &format!("sampling.{name}"), || {
                format!("{value} is not a positive number")
            })
        };
        positive("temperature", self.temperature)?;
        positive("repetition_penalty", self.repetition_penalty)?;
        positive("length_penalty", self.length_penalty)?;
        require((0.0..=1.0).contains(&self.top_p), "sampling.top_p", || format!("{} is not in 0..=1", self.top_p))?;
        require(
            self.listen_prob_scale.is_finite() && self.listen_prob_scale >= 0.0,
            "sampling.listen_prob_scale",
            || format!("{} is not zero or a positive number", self.listen_prob_scale),
        )?;
        require(self.repetition_window > 0, "sampling.repetition_window", || {
            "must be at least 1; use repetition_penalty 1.0 to switch the penalty off".into()
        })
    }
}

/// Which part of a long conversation stays in the LLM cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowMode {
    /// Nothing is dropped; the session ends when the cache is full.
    Off,
    /// Above the high mark the oldest units go until the low mark is reached.
    Basic,
    /// A fixed number of units stays; what the dropped ones said is kept as text behind the prompt.
    Context,
}

/// The manifest's `window` block (`DuplexWindowConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Which rule.
    pub mode: WindowMode,
    /// Basic: cache length above which units are dropped.
    pub basic_high_tokens: usize,
    /// Basic: cache length at which dropping stops.
    pub basic_low_tokens: usize,
    /// Context: most ids kept of what dropped units said, marker not counted.
    pub context_previous_max_tokens: usize,
    /// Context: units kept.
    pub context_max_units: usize,
}

impl Window {
    /// # Errors
    /// [`ConfigError`] naming the setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require(self.basic_low_tokens <= self.basic_high_tokens, "window.basic_low_tokens", || {
            format!("{} is above basic_high_tokens {}", self.basic_low_tokens, self.basic_high_tokens)
        })?;
        require(self.context_max_units > 0, "window.context_max_units", || "must be at least 1".into())
    }
}

/// The manifest's `duplex` block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Duplex {
    /// Rate of the user audio.
    pub sample_rate_hz: u32,
    /// User audio of one unit.
    pub chunk_ms: u32,
    /// The first unit's audio, zeros in front included.
    pub first_chunk_ms: u32,
    /// Audio given again on both sides of a chunk for the encoder's convolutions.
    pub cnn_redundancy_ms: u32,
    /// Steps of one unit; the last one is never decoded, so one token less comes out (modeling_minicpmo_unified.py:5027).
    pub max_new_speak_tokens: usize,
    /// A unit's text stays below this many characters (modeling_minicpmo_unified.py:5084-5095).
    pub max_chars_per_unit: usize,
    /// Units at the start of a session that must listen.
    pub force_listen_count: u32,
}

/// How TTS codes are chosen: numbers of the manifest's `tts` block and the caller's choice of the draw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechSampling {
    /// Width of the TTS logits.
    pub codes: usize,
    /// The code that ends a chunk; never played.
    pub eos: u32,
    /// Highest score instead of a draw (the golden sessions).
    pub greedy: bool,
    /// Divides the scores.
    pub temperature: f32,
    /// Per occurrence among the last `repetition_window` codes of the chunk.
    pub repetition_penalty: f32,
    /// Codes of the current chunk looked back at.
    pub repetition_window: usize,
    /// Most codes of one unit.
    pub codes_per_unit: usize,
    /// Most codes of a turn's first unit with [`Conduct::long_first_unit`]: more than of the others if the model begins ahead of
    /// the units.
    pub first_unit_codes: usize,
    /// Restricts the draw; the reference's duplex mode draws from the full distribution (`None`).
    pub filter: Option<CodeFilter>,
}

/// Top-p, then top-k, in the order of the reference's chat mode (`gen_logits`, modeling_minicpmo_unified.py:6979;
/// its values are top-p 0.85, top-k 25 and at least 3, utils.py:455).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeFilter {
    /// Nucleus mass in (0, 1].
    pub top_p: f32,
    /// Best codes kept.
    pub top_k: usize,
    /// Codes kept whatever the two say.
    pub min_keep: usize,
}

impl SpeechSampling {
    /// # Errors
    /// [`ConfigError`] naming the setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require((self.eos as usize) < self.codes, "tts.eos", || {
            format!("{} is not below the number of codes {}", self.eos, self.codes)
        })?;
        require(self.temperature.is_finite() && self.temperature > 0.0, "tts.temperature", || {
            format!("{} is not a positive number", self.temperature)
        })?;
        require(
            self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
            "tts.repetition_penalty",
            || format!("{} is not a positive number", self.repetition_penalty),
        )?;
        require(self.codes_per_unit > 0, "tts.codes_per_unit", || "must be at least 1".into())?;
        require(self.first_unit_codes >= self.codes_per_unit, "tts.first_unit_codes", || {
            format!("{} is less than the {} of the other units", self.first_unit_codes, self.codes_per_unit)
        })?;
        if let Some(filter) = &self.filter {
            require(filter.top_p > 0.0 && filter.top_p <= 1.0, "tts.filter.top_p", || {
                format!("{} is not in (0, 1]", filter.top_p)
            })?;
            require(filter.top_k > 0, "tts.filter.top_k", || "must be at least 1".into())?;
        }
        Ok(())
    }
}

/// How codes are cut into token2wav calls: numbers of the manifest's `token2wav`, `flow` and `hift` blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechRules {
    /// The code put in front of a turn.
    pub silence_token: u32,
    /// How many of them (modeling_minicpmo_unified.py:4410).
    pub silence_prefix: usize,
    /// Codes that a call needs beyond those it turns into audio.
    pub lookahead: usize,
    /// Codes turned into audio by a full call.
    pub chunk_tokens: usize,
    /// Fewest codes worth a call at the end of a unit.
    pub flush_tokens: usize,
    /// Output samples of one code (`flow.up` x `hift.samples_per_frame`).
    pub samples_per_code: usize,
    /// Samples that a turn's first output lacks because the next one is faded into them (`hift.cache_source_samples`).
    pub held_back_samples: usize,
}

impl SpeechRules {
    /// # Errors
    /// [`ConfigError`] naming the setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require(self.chunk_tokens > 0, "token2wav.chunk_tokens", || "must be at least 1".into())?;
        require((1..=self.chunk_tokens).contains(&self.flush_tokens), "token2wav.flush_tokens", || {
            format!("{} is not in 1..={}", self.flush_tokens, self.chunk_tokens)
        })
    }
}

/// The speaking side of a session; absent when the bundle has no TTS.
#[derive(Debug, Clone, PartialEq)]
pub struct Speech {
    /// How codes are chosen.
    pub sampling: SpeechSampling,
    /// How codes become token2wav calls.
    pub rules: SpeechRules,
}

/// Everything that one session's rules depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionConfig {
    /// Where it differs from the official code.
    pub conduct: Conduct,
    /// Text sampling.
    pub sampling: Sampling,
    /// LLM cache window.
    pub window: Window,
    /// Text put in front of what dropped units said (manifest `prompt.previous_marker`).
    pub previous_marker: String,
    /// Units at the start that must listen.
    pub force_listen_count: u32,
    /// Steps of one unit (see [`Duplex::max_new_speak_tokens`]).
    pub max_new_speak_tokens: usize,
    /// A unit's text stays below this many characters.
    pub max_chars: usize,
    /// Speech settings; `None` for a text-only session.
    pub speech: Option<Speech>,
    /// Seed of the text and the code draws.
    pub seed: u64,
    /// When to listen and to speak, in place of the model; measurements only. `force_listen_count` and `max_chars` then count
    /// for nothing.
    pub schedule: Option<Schedule>,
}

impl SessionConfig {
    /// Checks every block; [`crate::Dialogue::new`] and [`crate::SpeechTurn::new`] rely on it.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.conduct.validate()?;
        self.sampling.validate()?;
        self.window.validate()?;
        require(self.max_new_speak_tokens >= 2, "duplex.max_new_speak_tokens", || {
            format!("{} leaves no step that decodes; must be at least 2", self.max_new_speak_tokens)
        })?;
        require(self.max_chars > 0, "duplex.max_chars_per_unit", || "must be at least 1".into())?;
        if let Some(speech) = &self.speech {
            speech.sampling.validate()?;
            speech.rules.validate()?;
        }
        let codes_per_unit = self.speech.as_ref().map(|speech| speech.sampling.codes_per_unit);
        if let Some(schedule) = &self.schedule {
            schedule.validate(self.max_new_speak_tokens, codes_per_unit)?;
        }
        let codes = codes_per_unit.map(|codes| self.schedule.map_or(codes, |schedule| schedule.codes));
        require(self.conduct.first_words == 0 || codes.is_none_or(|codes| codes >= 2), "conduct.first_words", || {
            "a unit of one code cannot be spoken in two parts".into()
        })?;
        Ok(())
    }
}
