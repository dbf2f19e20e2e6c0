//! `manifest.json` as types; `models/BUNDLE.md` is the normative description.
//!
//! Owns: field names and the checks that need no other file. Must not: open graphs, or hold a model number as a default.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use duologue_audio::mel::MelParams;
use duologue_session::{Duplex, Sampling, Tokens, Window};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// What `format` must say.
pub const FORMAT: &str = "duologue-bundle";
/// The only `format_version` this program reads.
pub const FORMAT_VERSION: u32 = 3;

/// The whole manifest. Unknown fields are refused: they would be rules this program does not follow.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Version of the exporter that wrote the bundle.
    pub exporter_version: String,
    /// RFC 3339 time of the export.
    pub created: String,
    /// Name for logs and reports.
    pub name: String,
    /// Whether the weights mean anything.
    pub weights: Weights,
    /// fp32, fp16, int8 or int4: of the weights, except where `kept_precision` says otherwise.
    pub precision: String,
    /// Device the graphs were made for.
    pub target: Target,
    /// Type of the tensors that BUNDLE.md marks "io".
    pub io_dtype: IoType,
    /// Graphs left above `precision`, by file name.
    pub kept_precision: BTreeMap<String, String>,
    /// Every file but the manifest.
    pub files: BTreeMap<String, FileEntry>,
    /// Inputs and outputs of every graph.
    pub graphs: BTreeMap<String, GraphEntry>,
    /// Token ids and the vocabulary size.
    pub tokenizer: Tokens,
    /// Text around the reference audio.
    pub prompt: Prompt,
    /// Unit and chunk sizes.
    pub duplex: Duplex,
    /// Text sampling defaults.
    pub sampling: Sampling,
    /// Sliding window defaults.
    pub window: Window,
    /// The audio encoder's log-mel.
    pub mel: Mel,
    /// The language model.
    pub llm: LlmBlock,
    /// The audio encoder; absent when exported without it.
    pub apm: Option<ApmBlock>,
    /// The vision encoder; absent when exported without it.
    pub vision: Option<VisionBlock>,
    /// The speech token model; absent when exported without speech.
    pub tts: Option<TtsBlock>,
    /// Rules of the vocoder stream; present with `tts`.
    pub token2wav: Option<Token2WavBlock>,
    /// Speech tokens to mel; present with `tts`.
    pub flow: Option<FlowBlock>,
    /// Mel to waveform; present with `tts`.
    pub hift: Option<HiftBlock>,
    /// Front ends of the voice prompt; present with `tts`.
    pub voice: Option<VoiceBlock>,
    /// Reference voices shipped with the bundle.
    pub voices: Vec<VoiceEntry>,
    /// Questions that the model can answer, for a page to suggest.
    #[serde(default)]
    pub suggestions: Vec<String>,
}

/// Whether the weights come from training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Made up: the speech is noise.
    Random,
    /// From a real checkpoint.
    Trained,
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Weights::Random => "random",
            Weights::Trained => "trained",
        })
    }
}

/// Device family of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Runs on the CPU provider.
    Cpu,
    /// Needs the CUDA provider.
    Cuda,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Cpu => "cpu",
            Target::Cuda => "cuda",
        })
    }
}

/// Type of the tensors marked "io".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoType {
    /// CPU bundles.
    Float32,
    /// CUDA bundles.
    Float16,
}

/// Type of an embedding table file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableType {
    /// 4 bytes a value.
    Float32,
    /// 2 bytes a value.
    Float16,
}

/// Size and checksum of one file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Exact size.
    pub bytes: u64,
    /// Lower-case hexadecimal sha256.
    pub sha256: String,
}

/// Inputs and outputs of one graph, name to numpy type name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphEntry {
    /// ONNX opset of the default domain.
    pub opset: u32,
    /// Input types.
    pub inputs: BTreeMap<String, String>,
    /// Output types.
    pub outputs: BTreeMap<String, String>,
}

/// Text around the reference audio of the system prompt.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// In front of it; `{system_prompt}` is replaced.
    pub prefix: String,
    /// Behind it.
    pub suffix: String,
    /// Used when the caller gives none.
    pub default_system_prompt: String,
    /// In front of the text kept by the context window.
    pub previous_marker: String,
    /// How a typed question is written behind a unit's audio; absent when the model was not taught to read one.
    #[serde(default)]
    pub typed: Option<TypedText>,
}

/// Form of a typed question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypedText {
    /// As it was typed.
    AsIs,
    /// In lower case.
    LowerCase,
}

impl TypedText {
    /// The text in this form, with the blank in front that a byte-level vocabulary has before words.
    pub fn write(self, text: &str) -> String {
        let text = text.trim();
        match self {
            TypedText::AsIs => format!(" {text}"),
            TypedText::LowerCase => format!(" {}", text.to_lowercase()),
        }
    }
}

/// The streaming log-mel in front of the audio encoder (processing_minicpmo.py:567-930).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mel {
    /// Window and transform length in samples.
    pub n_fft: usize,
    /// Samples between frames.
    pub hop: usize,
    /// Filter bank size.
    pub n_mels: usize,
    /// Upper edge of the filter bank.
    pub f_max_hz: f64,
    /// Below this many buffered samples the floor is fixed.
    pub short_buffer_samples: usize,
    /// That fixed floor.
    pub floor_log10: f32,
    /// Otherwise the floor is the loudest value minus this.
    pub dynamic_range: f32,
    /// Buffer length at which old audio is dropped.
    pub window_samples: usize,
    /// How much is dropped.
    pub drop_samples: usize,
}

impl Mel {
    /// The same numbers as the audio crate takes them; the rate is the manifest's `duplex.sample_rate_hz`.
    pub fn params(&self, sample_rate_hz: u32) -> MelParams {
        MelParams {
            sample_rate_hz,
            n_fft: self.n_fft,
            hop: self.hop,
            n_mels: self.n_mels,
            f_max_hz: self.f_max_hz,
            short_buffer_samples: self.short_buffer_samples,
            floor_log10: self.floor_log10,
            dynamic_range: self.dynamic_range,
            window_samples: self.window_samples,
            drop_samples: self.drop_samples,
        }
    }
}

/// The language model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmBlock {
    /// Width.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Rows of the cache of a slot.
    pub kv_capacity: usize,
    /// Type of llm_embed.bin.
    pub embed_dtype: TableType,
}

/// The audio encoder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApmBlock {
    /// Width.
    pub hidden: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the position table.
    pub max_positions: usize,
    /// Encoder frames averaged into one embedding.
    pub pool: usize,
    /// Block of the block-causal mask of offline audio, in encoder frames.
    pub mask_frames: usize,
}

/// The vision encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionBlock {
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the square whose area a slice is scaled to.
    pub image: usize,
    /// Most slices of one picture.
    pub max_slices: usize,
    /// Embeddings of one slice.
    pub queries: usize,
    /// Side of the position tables.
    pub grid: usize,
    /// `buckets[n - 1][i]`: position row of patch i of n, for i below n.
    #[serde(deserialize_with = "bucket_rows")]
    pub buckets: Vec<Vec<u32>>,
    /// Subtracted from values scaled to 0..1.
    pub mean: f32,
    /// Divisor after that.
    pub std: f32,
}

/// Reads the square table of the manifest, whose unused places hold -1, as rows of 1, 2, 3 ... entries.
fn bucket_rows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u32>>, D::Error> {
    let table = Vec::<Vec<i64>>::deserialize(deserializer)?;
    let side = i64::try_from(table.len()).unwrap_or(i64::MAX);
    let rows = table.into_iter().enumerate().map(|(row, entries)| {
        let used =
            entries.get(..=row).ok_or_else(|| D::Error::custom(format!("vision.buckets row {row} is too short")))?;
        let place = |&entry: &i64| u32::try_from(entry).ok().filter(|_| entry < side);
        let places: Option<Vec<u32>> = used.iter().map(place).collect();
        places.ok_or_else(|| D::Error::custom(format!("vision.buckets row {row} names a place outside the grid")))
    });
    rows.collect()
}

/// The speech token model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtsBlock {
    /// Width.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Width of the logits.
    pub codes: usize,
    /// The code that ends a chunk.
    pub eos: u32,
    /// Rows of the cache of a slot.
    pub kv_capacity: usize,
    /// Type of tts_embed.bin.
    pub embed_dtype: TableType,
    /// Sampling default.
    pub temperature: f32,
    /// Sampling default.
    pub repetition_penalty: f32,
    /// Codes looked back at.
    pub repetition_window: usize,
    /// Most codes of one unit.
    pub codes_per_unit: usize,
    /// Most codes of a turn's first unit.
    pub first_unit_codes: usize,
}

/// Rules of the vocoder stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token2WavBlock {
    /// Speech tokens per second.
    pub token_rate_hz: u32,
    /// Rate of the waveform.
    pub sample_rate_hz: u32,
    /// Token of silence.
    pub silence_token: u32,
    /// Silence tokens in front of a turn.
    pub silence_prefix: usize,
    /// Tokens a chunk sees ahead.
    pub lookahead: usize,
    /// Tokens spoken by a full chunk.
    pub chunk_tokens: usize,
    /// Fewest tokens spoken by a chunk.
    pub flush_tokens: usize,
    /// Frames kept behind the prompt when caches are trimmed.
    pub trim_tail_frames: usize,
    /// Most mel frames of prompt and chunk together.
    pub max_frames: usize,
}

/// Speech tokens to mel: encoder and conditional flow matching.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowBlock {
    /// Mel bins.
    pub mel: usize,
    /// Mel frames per token.
    pub up: usize,
    /// Width of the encoder.
    pub width: usize,
    /// Frames of the first convolution's history.
    pub conv1_len: usize,
    /// Frames of the second convolution's history.
    pub conv2_len: usize,
    /// Encoder layers before the up-sampling.
    pub layers1: usize,
    /// Encoder layers after it.
    pub layers2: usize,
    /// Heads of the encoder.
    pub heads: usize,
    /// Width of such a head.
    pub head_dim: usize,
    /// Euler steps.
    pub steps: usize,
    /// Transformer blocks of the estimator.
    pub dit_layers: usize,
    /// Its heads.
    pub dit_heads: usize,
    /// Width of such a head.
    pub dit_head_dim: usize,
    /// Its width.
    pub dit_width: usize,
    /// Frames of its convolutions' history.
    pub cnn_len: usize,
    /// Columns of cfm_noise.bin.
    pub noise_frames: usize,
    /// Length of the speaker vector.
    pub spk: usize,
}

/// Mel to waveform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiftBlock {
    /// Samples of one mel frame.
    pub samples_per_frame: usize,
    /// Overtones of the source.
    pub harmonics: usize,
    /// Mel frames vocoded again by the next chunk.
    pub cache_frames: usize,
    /// Samples of source and speech kept for it.
    pub cache_source_samples: usize,
    /// Shape of the cross-fade.
    pub fade: Fade,
}

/// Shape of the cross-fade between chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fade {
    /// `np.hamming`, symmetric.
    Hamming,
}

/// Front ends of the voice prompt.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoiceBlock {
    /// Mel bins of the speech tokenizer.
    pub s3_mels: usize,
    /// Filter bank of the speaker model.
    pub fbank_mels: usize,
    /// The vocoder's mel.
    pub mel24: Mel24,
    /// The bundle speaks with one voice, whatever reference it is given: other recordings are refused, and no reference
    /// is put in front of the LLM, which was not trained on one.
    #[serde(default)]
    pub fixed: bool,
}

/// Mel of the vocoder, at its sample rate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mel24 {
    /// Window and transform length in samples.
    pub n_fft: usize,
    /// Samples between frames.
    pub hop: usize,
    /// Filter bank size.
    pub n_mels: usize,
    /// Upper edge of the filter bank.
    pub f_max_hz: f64,
}

/// A reference voice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoiceEntry {
    /// As the caller names it.
    pub name: String,
    /// Its wav, relative to the bundle.
    pub file: String,
}

impl Manifest {
    /// Whether the bundle speaks with the voice of a reference recording.
    pub fn clones_voices(&self) -> bool {
        self.voice.as_ref().is_some_and(|voice| !voice.fixed)
    }

    /// Whether the reference recording is put in front of the LLM too.
    pub fn hears_reference(&self) -> bool {
        self.apm.is_some() && self.voice.as_ref().is_none_or(|voice| !voice.fixed)
    }

    /// Sound of a reply that comes only when the codes behind it are there: the vocoder's look-ahead and what is kept
    /// for the next chunk's cross-fade.
    pub fn held_back(&self) -> Duration {
        let (Some(token2wav), Some(hift)) = (&self.token2wav, &self.hift) else { return Duration::ZERO };
        let lookahead = token2wav.lookahead as f64 / f64::from(token2wav.token_rate_hz);
        let kept = hift.cache_source_samples as f64 / f64::from(token2wav.sample_rate_hz);
        Duration::from_secs_f64(lookahead + kept)
    }

    /// By how much the first unit of a reply says more than a unit's worth.
    pub fn ahead(&self) -> Duration {
        let (Some(tts), Some(token2wav)) = (&self.tts, &self.token2wav) else { return Duration::ZERO };
        let codes = tts.first_unit_codes - tts.codes_per_unit;
        Duration::from_secs_f64(codes as f64 / f64::from(token2wav.token_rate_hz))
    }

    /// Rules between fields.
    ///
    /// # Errors
    /// A sentence naming the field.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.tokenizer.validate().map_err(|error| error.to_string())?;
        self.sampling.validate().map_err(|error| error.to_string())?;
        self.window.validate().map_err(|error| error.to_string())?;
        let speech = [
            ("tts", self.tts.is_some()),
            ("token2wav", self.token2wav.is_some()),
            ("flow", self.flow.is_some()),
            ("hift", self.hift.is_some()),
            ("voice", self.voice.is_some()),
        ];
        if let Some((missing, _)) = speech.iter().find(|(_, present)| *present != self.tts.is_some()) {
            return Err(format!("field {missing} must be present exactly when tts is"));
        }
        if let Some(tts) = self.tts.as_ref().filter(|tts| tts.first_unit_codes < tts.codes_per_unit) {
            return Err(format!(
                "field tts.first_unit_codes is {}, less than the {} of tts.codes_per_unit",
                tts.first_unit_codes, tts.codes_per_unit
            ));
        }
        if self.llm.kv_capacity < 2 {
            return Err(format!("field llm.kv_capacity is {}, at least 2 rows are needed", self.llm.kv_capacity));
        }
        let mut wanted = vec!["llm.onnx", "llm_embed.bin", "kv_compact.onnx", "tokenizer.json"];
        if self.apm.is_some() {
            wanted.push("apm.onnx");
        }
        if self.vision.is_some() {
            wanted.push("vision.onnx");
        }
        if self.tts.is_some() {
            wanted.extend(["tts_condition.onnx", "tts.onnx", "tts_embed.bin"]);
            wanted.extend([
                "flow_encoder.onnx",
                "flow_cfm.onnx",
                "flow_store.onnx",
                "flow_speaker.onnx",
                "hift.onnx",
                "cfm_noise.bin",
                "campplus.onnx",
                "speech_tokenizer.onnx",
            ]);
        }
        wanted.extend(self.voices.iter().map(|voice| voice.file.as_str()));
        if let Some(file) = wanted.iter().find(|file| !self.files.contains_key(**file)) {
            return Err(format!("file {file} is needed but not listed under files"));
        }
        if let Some(bad) =
            self.files.keys().find(|name| name.starts_with('/') || name.split('/').any(|part| part == ".."))
        {
            return Err(format!("file {bad} lies outside the bundle"));
        }
        Ok(())
    }
}
