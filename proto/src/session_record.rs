//! Recorded sessions of the official PyTorch code ("golden" sessions) and our replay of them.
//!
//! [`GoldenSession`] reads a golden `session.json`, as far as it steers a replay or judges one; [`ReplayUnit`] is what `duologue replay`
//! writes per unit, in the golden file's own field names, so that one judge can read both. Unknown fields of a golden file are
//! ignored on purpose: it carries many more measurements than a replay needs.

use serde::{Deserialize, Serialize};

/// A golden `session.json`: what steers a replay, and `U` of every unit. Steering needs [`GoldenSteering`], judging
/// [`GoldenUnit`].
#[derive(Debug, Clone, Deserialize)]
pub struct GoldenSession<U = GoldenUnit> {
    /// Name of the session.
    pub session: String,
    /// File name of the user's 16 kHz audio, in the `inputs` folder beside the session.
    pub input_audio: String,
    /// File name of the 16 kHz reference voice, in the same folder.
    pub ref_audio: String,
    /// Prompt texts and their token ids.
    pub prompt: GoldenPrompt,
    /// Arguments of `streaming_generate`.
    pub r#gen: GoldenSampling,
    /// Sliding window.
    pub window: GoldenWindow,
    /// Units that are forced to listen at the start.
    pub force_listen_count: u32,
    /// Steps of the token loop per unit.
    pub max_new_speak_tokens_per_chunk: usize,
    /// TTS sampling temperature.
    pub tts_temperature: f32,
    /// TTS repetition penalty.
    pub tts_repetition_penalty: f32,
    /// Euler steps of the flow matching.
    pub n_timesteps: usize,
    /// Cached positions after the prompt.
    pub kv_after_prepare: usize,
    /// The recorded units.
    pub units: Vec<U>,
}

/// Prompt of a golden session.
#[derive(Debug, Clone, Deserialize)]
pub struct GoldenPrompt {
    /// Text before the reference audio.
    pub prefix: String,
    /// Text after the reference audio.
    pub suffix: String,
    /// Token ids of `prefix`.
    pub prefix_ids: Vec<u32>,
    /// Token ids of `suffix`.
    pub suffix_ids: Vec<u32>,
    /// Text put before the kept context in window mode `context`.
    pub context_previous_marker: String,
}

/// Sampling of a golden session.
#[derive(Debug, Clone, Deserialize)]
pub struct GoldenSampling {
    /// `greedy` or `sampling`.
    pub decode_mode: String,
    /// Temperature of the text sampler.
    pub temperature: f32,
    /// Top-k of the text sampler; 0 = off.
    pub top_k: usize,
    /// Top-p of the text sampler; 0 = off.
    pub top_p: f32,
    /// Factor on the listen logit.
    pub listen_prob_scale: f32,
    /// Keep listening whenever the listen token ranks this high.
    pub listen_top_k: Option<usize>,
    /// Divisor of logits of tokens seen lately.
    pub text_repetition_penalty: f32,
    /// How many tokens "lately" is.
    pub text_repetition_window_size: usize,
    /// Penalty on the end-of-turn token.
    pub length_penalty: f32,
}

/// Sliding window of a golden session.
#[derive(Debug, Clone, Deserialize)]
pub struct GoldenWindow {
    /// `off`, `basic` or `context`.
    pub sliding_window_mode: String,
    /// Basic: cached positions that trigger eviction.
    pub basic_window_high_tokens: usize,
    /// Basic: cached positions to fall back to.
    pub basic_window_low_tokens: usize,
    /// Context: tokens of earlier replies that are kept.
    pub context_previous_max_tokens: usize,
    /// Context: units that are kept.
    pub context_max_units: usize,
}

/// What was done to the model in a recorded unit.
#[derive(Debug, Clone, Deserialize)]
pub struct GoldenSteering {
    /// Barge-in: listen whatever the model wants.
    pub force_listen: bool,
    /// Video frames fed with the unit.
    #[serde(default)]
    pub frames: Vec<GoldenFrame>,
}

/// What came out of a recorded unit.
#[derive(Debug, Clone, Deserialize)]
pub struct GoldenUnit {
    /// Tokens, flags and counters in the form a replay writes.
    #[serde(flatten)]
    pub outcome: ReplayUnit,
    /// Samples of the returned waveform; none when the unit returned no audio.
    pub waveform_samples: Option<usize>,
}

/// A video frame of a golden session.
#[derive(Debug, Clone, Deserialize)]
pub struct GoldenFrame {
    /// PNG in the session's folder.
    pub file: String,
    /// Slices the frame may be cut into.
    pub max_slice_nums: usize,
}

/// One unit as replayed, in the golden file's field names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplayUnit {
    /// Everything appended to the unit's token list, terminator included, `</unit>` not.
    pub tokens: Vec<u32>,
    /// What the sampler chose, before replacements and cuts.
    pub decoded: Vec<u32>,
    /// Why the unit ended: `listen`, `forced_listen`, `chunk_eos`, `max_tokens`, `char_limit` or `chunk_tts_eos`.
    pub ended_by: String,
    /// The model listened.
    pub is_listen: bool,
    /// The last token fed in the unit closed the turn.
    pub end_of_turn: bool,
    /// Text of the unit without special tokens.
    pub text: String,
    /// Audio tokens of the unit.
    #[serde(default)]
    pub tts_tokens: Vec<u32>,
    /// Token fed together with `</unit>`.
    pub terminator: u32,
    /// Cached LLM positions after prefill.
    pub kv_prefill: usize,
    /// Cached LLM positions after generate.
    pub kv_generate: usize,
    /// Cached LLM positions after finalize and window edits.
    pub kv_final: usize,
    /// Cached audio positions before and after the unit.
    pub apm_kv: [usize; 2],
    /// Window bookkeeping after the unit.
    pub window_state: WindowRecord,
}

/// Window bookkeeping as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// Cached positions of each unit still in the cache.
    pub unit_lengths: Vec<usize>,
    /// Positions dropped so far in window mode `basic`; 0 in the other modes.
    pub position_offset: usize,
    /// Positions that are never evicted.
    pub preserve: usize,
    /// Marker and kept tokens of earlier replies.
    pub previous_ids: Vec<u32>,
    /// Text of the kept tokens.
    pub previous_text: String,
    /// Evictions so far.
    pub events: usize,
    /// Units dropped so far.
    pub dropped_units: usize,
}

/// What `duologue replay` writes as `session.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplayRecord {
    /// Name of the golden session.
    pub session: String,
    /// Name of the bundle that ran.
    pub bundle: String,
    /// The units in order.
    pub units: Vec<ReplayUnit>,
}
