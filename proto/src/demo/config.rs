//! `config` of a `prepare` message.

use serde::{Deserialize, Serialize};

use crate::wire::{WireError, within};

/// Rate of the client's audio, in Hz.
pub const INPUT_RATE: u32 = 16_000;

/// Settings of a duplex session: names, defaults and ranges of the demo's `DuplexConfig` (core/schemas/duplex.py:147-281).
/// Missing keys take the default, unknown keys are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DuplexConfig {
    /// Make speech, not only text.
    pub generate_audio: bool,
    /// `explicit` or `implicit`; the demo never reads it.
    pub ls_mode: String,
    /// Units at the start that listen whatever the model wants.
    pub force_listen_count: u32,
    /// Tokens of one unit, at least 1.
    pub max_new_speak_tokens_per_chunk: u32,
    /// `sampling` or `greedy`.
    pub decode_mode: DecodeMode,
    /// 0 to 2.
    pub temperature: f64,
    /// 0 keeps all tokens.
    pub top_k: u32,
    /// 0 to 1.
    pub top_p: f64,
    /// At least 1; 1 is off.
    pub text_repetition_penalty: f64,
    /// Tokens the penalty looks back, at least 1.
    pub text_repetition_window_size: u32,
    /// 0.1 to 5; above 1 makes turns longer.
    pub length_penalty: f64,
    /// At least 0; above 1 makes the model listen more.
    pub listen_prob_scale: f64,
    /// Listen whenever the listen token ranks this high.
    pub listen_top_k: Option<u32>,
    /// Temperature of the audio tokens, 0 to 2.
    pub tts_temperature: f64,
    /// Length of one chunk, at least 100.
    pub chunk_ms: u32,
    /// Must be 16000.
    pub sample_rate: u32,
    /// Slices a picture may be cut into; a neighbour of the demo's config in the same object (worker.py:1492).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_slice_nums: Option<u32>,
}

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecodeMode {
    /// A draw.
    Sampling,
    /// The best one.
    Greedy,
}

impl Default for DuplexConfig {
    fn default() -> Self {
        Self {
            generate_audio: true,
            ls_mode: "explicit".to_owned(),
            force_listen_count: 3,
            max_new_speak_tokens_per_chunk: 20,
            decode_mode: DecodeMode::Sampling,
            temperature: 0.7,
            top_k: 20,
            top_p: 0.8,
            text_repetition_penalty: 1.05,
            text_repetition_window_size: 512,
            length_penalty: 1.1,
            listen_prob_scale: 1.0,
            listen_top_k: None,
            tts_temperature: 0.8,
            chunk_ms: 1000,
            sample_rate: INPUT_RATE,
            max_slice_nums: None,
        }
    }
}

impl DuplexConfig {
    /// Refuses what the demo's own schema refuses, and a sample rate it would silently misread.
    pub(crate) fn check(&self) -> Result<(), WireError> {
        let from = |name: &str, value: u32, min: u32| {
            within(&format!("config.{name}"), Some(f64::from(value)), f64::from(min)..)
        };
        from("max_new_speak_tokens_per_chunk", self.max_new_speak_tokens_per_chunk, 1)?;
        from("text_repetition_window_size", self.text_repetition_window_size, 1)?;
        from("chunk_ms", self.chunk_ms, 100)?;
        within("config.temperature", Some(self.temperature), 0.0..=2.0)?;
        within("config.top_p", Some(self.top_p), 0.0..=1.0)?;
        within("config.text_repetition_penalty", Some(self.text_repetition_penalty), 1.0..)?;
        within("config.length_penalty", Some(self.length_penalty), 0.1..=5.0)?;
        within("config.listen_prob_scale", Some(self.listen_prob_scale), 0.0..)?;
        within("config.tts_temperature", Some(self.tts_temperature), 0.0..=2.0)?;
        if self.sample_rate != INPUT_RATE {
            let message = format!("{} Hz; the input is always {INPUT_RATE} Hz", self.sample_rate);
            return Err(WireError::invalid("config.sample_rate", message));
        }
        Ok(())
    }
}
