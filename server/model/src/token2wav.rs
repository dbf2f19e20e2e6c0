//! Token2wav: speech tokens to 24 kHz sound, chunk by chunk (stepaudio2/token2wav.py, submodules.md 1.6).
//!
//! Owns: the flow and hift graphs and what ties them together. Must not: decide when a chunk is due (crate
//! `duologue-session`) or pace its output.
//!
//! ```text
//! tokens --flow encoder--> mu --flow matching (noise, voice)--> mel --[kept frames, mel]--> hift --join--> samples
//!            kv1, kv2            cache slots                                 source tail      speech tail
//! ```

mod assemble;
mod noise;
mod stream;
pub(crate) mod trim;
mod voice;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bundle::Bundle;
use crate::error::{ModelError, Result};
use crate::graph::flow::{Cfm, CfmChunk, FlowEncoder, FlowSpeaker};
use crate::graph::hift::Hift;
use crate::graph::tts::speech_missing;
use crate::manifest::Token2WavBlock;
use crate::runtime::Runtime;

use assemble::Joiner;
use noise::{NormalTable, read_start_noise};
use stream::Parts;
pub use stream::{Stream, StreamCounters, StreamOptions};
pub use trim::Trim;
use trim::TrimSizes;
pub use voice::{Voice, VoiceFrontEnd, VoicePrompt};

/// The vocoder. Belongs to one thread at a time; serves any number of streams.
#[derive(Debug)]
pub struct Token2Wav {
    speaker: FlowSpeaker,
    encoder: FlowEncoder,
    cfm: Cfm,
    hift: Hift,
    joiner: Joiner,
    rules: Token2WavBlock,
    up: usize,
    mels: usize,
    /// `[mel, columns]`, the fixed start noise of the flow matching.
    start_noise: Vec<f32>,
    noise_columns: usize,
    normals: NormalTable,
    zeros: Vec<f32>,
    source: Vec<f32>,
    speech: Vec<f32>,
}

/// The sound of one chunk.
#[derive(Debug, Clone)]
pub struct SpeechChunk {
    /// Samples at the manifest's token2wav rate.
    pub pcm: Vec<i16>,
    /// Mel `[mel, frames]` of this chunk alone.
    pub mel: Vec<f32>,
    /// Time in the flow graphs.
    pub flow: Duration,
    /// Time in hift and the join.
    pub hift: Duration,
}

impl Token2Wav {
    /// Loads the flow and hift graphs and the start noise.
    ///
    /// # Errors
    /// [`ModelError::PartMissing`] when the bundle has no speech; else as [`ModelError`] says for graphs and files.
    pub fn load(runtime: &Runtime, bundle: &Bundle) -> Result<Self> {
        let manifest = bundle.manifest();
        let (Some(rules), Some(flow), Some(hift)) = (&manifest.token2wav, &manifest.flow, &manifest.hift) else {
            return Err(speech_missing(bundle));
        };
        Ok(Token2Wav {
            speaker: FlowSpeaker::load(runtime, bundle, flow)?,
            encoder: FlowEncoder::load(runtime, bundle, flow, rules.lookahead)?,
            cfm: Cfm::load(runtime, bundle, flow)?,
            hift: Hift::load(runtime, bundle, hift, flow.mel)?,
            joiner: Joiner::new(flow.mel, hift.cache_frames, hift.cache_source_samples),
            rules: rules.clone(),
            up: flow.up,
            mels: flow.mel,
            start_noise: read_start_noise(bundle, flow.mel, flow.noise_frames)?,
            noise_columns: flow.noise_frames,
            normals: NormalTable::new(),
            zeros: Vec::new(),
            source: Vec::new(),
            speech: Vec::new(),
        })
    }

    /// Uses other start noise than the bundle's, `[mel, columns]`: that of a recorded session.
    ///
    /// # Errors
    /// [`ModelError::Input`] when it is no whole number of columns.
    pub fn set_start_noise(&mut self, noise: Vec<f32>) -> Result<()> {
        if noise.is_empty() || !noise.len().is_multiple_of(self.mels) {
            let reason = format!("{} values are not whole columns of {} mel bins", noise.len(), self.mels);
            return Err(ModelError::input("start noise", reason));
        }
        self.noise_columns = noise.len() / self.mels;
        self.start_noise = noise;
        Ok(())
    }

    /// Longest prompt in speech tokens: prompt, tail and a full chunk have to fit into the start noise and the model's
    /// frame limit.
    pub fn longest_prompt(&self) -> usize {
        let chunk = (self.rules.chunk_tokens + self.rules.lookahead) * self.up;
        let frames = self.noise_columns.min(self.rules.max_frames);
        frames.saturating_sub(self.rules.trim_tail_frames + chunk) / self.up
    }

    /// Runs the prompt through both flow graphs and keeps the caches: the base of every turn (token2wav.py:133-157).
    ///
    /// # Errors
    /// [`ModelError::Input`] for a prompt without tokens or longer than [`Token2Wav::longest_prompt`];
    /// [`ModelError::Allocation`] when there is no room for its caches.
    pub fn setup(&mut self, prompt: &VoicePrompt) -> Result<Arc<Voice>> {
        let (tokens, longest) = (prompt.tokens.len(), self.longest_prompt());
        if tokens == 0 || tokens > longest {
            let rate = self.rules.token_rate_hz as usize;
            let reason = format!(
                "{tokens} speech tokens ({:.1} s); use a recording of at most {:.1} s and at least 1 token",
                tokens as f64 / rate as f64,
                longest as f64 / rate as f64
            );
            return Err(ModelError::input("reference voice", reason));
        }
        let frames = tokens * self.up;
        assert_eq!(prompt.mel.len(), frames * self.mels, "the prompt's mel has up * tokens frames. This is a bug.");
        let speaker = self.speaker.run(&prompt.speaker)?;
        // Silence stands for what follows the prompt.
        let mut with_lookahead = prompt.tokens.clone();
        with_lookahead.resize(tokens + self.rules.lookahead, self.rules.silence_token);
        let mut encoder = self.encoder.start();
        let mu = self.encoder.run(&with_lookahead, false, &mut encoder)?;
        let sizes = TrimSizes { prompt: frames, tail: self.rules.trim_tail_frames, up: self.up };
        let noise = self.noise_columns_from(0, frames);
        let chunk = CfmChunk { noise: &noise, mu: &mu, speaker: &speaker, condition: &prompt.mel, frames };
        let (_, estimator) = self.cfm.run_first(&chunk, sizes.most())?;
        Ok(Arc::new(Voice { sizes, speaker, encoder, estimator }))
    }

    /// Speaks one chunk: `tokens` with the look-ahead behind them, or the turn's last tokens without one.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a chunk that is too short or too long; the stream is then as before.
    /// [`ModelError::GraphRun`] and [`ModelError::Allocation`], after which the stream must be reset.
    pub fn push(&mut self, stream: &mut Stream, tokens: &[u32], last: bool) -> Result<SpeechChunk> {
        let begun = Instant::now();
        let frames = self.encoder.frames(tokens.len(), last);
        let offset = stream.counters().estimator_len;
        // A turn's first chunk must be long enough to be held back for the next one's fade.
        let least = if stream.tails.is_empty() && !last { self.joiner.cache_frames() } else { 1 };
        if frames < least || offset + frames > self.noise_columns {
            let (least, most) = (least.div_ceil(self.up), self.noise_columns.saturating_sub(offset) / self.up);
            let reason = format!(
                "{} tokens (last: {last}) speak {}; {least} to {most} tokens are needed beside the look-ahead of {}",
                tokens.len(),
                frames / self.up,
                self.rules.lookahead
            );
            return Err(ModelError::input("speech chunk", reason));
        }
        let noise = self.noise_columns_from(offset, frames);
        let source_noise = stream.noise_offset(self.normals.len());
        let Parts { caches, base, tails, voice, options } = stream.parts(|frames| self.cfm.start(frames))?;
        let mu = self.encoder.run(tokens, last, &mut caches.encoder)?;
        let condition = vec![0.0; self.mels * frames];
        let chunk = CfmChunk { noise: &noise, mu: &mu, speaker: &voice.speaker, condition: &condition, frames };
        let mel = self.cfm.run(&chunk, base, &mut caches.estimator, voice.sizes.estimator(offset, frames))?;
        if let Some(kept) = voice.sizes.tokens(caches.encoder.kv1.len(), options.trim) {
            caches.encoder.kv1.keep(kept);
        }
        if let Some(kept) = voice.sizes.frames(caches.encoder.kv2.len()) {
            caches.encoder.kv2.keep(kept);
        }
        let flow_done = Instant::now();

        let extended = self.joiner.extend_mel(tails, &mel, frames);
        let needed = self.hift.noise_len(extended.len() / self.mels);
        let noise = match source_noise {
            Some(offset) => self.normals.take(offset, needed),
            None => {
                self.zeros.resize(self.zeros.len().max(needed), 0.0);
                &self.zeros[..needed]
            }
        };
        self.hift.run(&extended, &tails.source, noise, &mut self.speech, &mut self.source)?;
        let pcm = self.joiner.join(tails, &extended, &self.source, &mut self.speech, last, options.leading_zeros);
        Ok(SpeechChunk { pcm, mel, flow: flow_done - begun, hift: flow_done.elapsed() })
    }

    /// Columns of the start noise, `[mel, frames]`. A chunk starts at the length of the estimator's cache before it
    /// (flow_matching.py:190), so after trimming every chunk uses the same ones.
    fn noise_columns_from(&self, first: usize, frames: usize) -> Vec<f32> {
        let rows = self.start_noise.chunks_exact(self.noise_columns);
        rows.flat_map(|row| &row[first..first + frames]).copied().collect()
    }
}

#[cfg(test)]
mod tests;
