//! apm.onnx: the audio encoder with its streaming cache (submodules.md 1.2).
//!
//! Owns: the cache layout and the reference's restart rule. Must not: compute mel frames (crate `duologue-audio`).
//!
//! One graph serves the stream and offline audio: the reference encodes reference audio with a block-causal mask of
//! `mask_frames` encoder frames and unlimited left context, which is what stepping through it block by block with the
//! cache computes. Each block is given two mel frames more on both sides, so that the convolutions see what they would
//! see in one piece; the encoder frames made of them are dropped.

use super::{ANY, Graph, Use, dim, port};
use crate::bundle::{Bundle, MANIFEST};
use crate::error::{ModelError, Result};
use crate::manifest::ApmBlock;
use crate::raw::{Block, Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

/// Mel frames of redundancy on an inner edge of an offline block.
const EDGE_FRAMES: usize = 2;
/// Mel frames of one encoder frame (the second convolution's stride).
const STRIDE: usize = 2;

/// The audio encoder. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Apm {
    graph: Graph,
    block: ApmBlock,
    n_mels: usize,
    llm_hidden: usize,
    frame_index: Vec<i64>,
    positions: Vec<i64>,
}

/// Keys and values of one session's audio, time first: a step reads the rows so far and writes its own right behind. They lie
/// where the graph runs: at full size the encoder's 1500 positions are 295 MB (24 layers x keys and values x 1024 numbers in
/// float32), taken at the first step. Main memory is only used as it fills.
#[derive(Debug, Default)]
pub struct ApmCache {
    /// Keys, values.
    rows: Option<[Block; 2]>,
    len: usize,
}

impl ApmCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Encoder frames held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything; the memory stays for the next frames.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Apm {
    /// Loads the graph; `None` when the bundle was exported without audio.
    ///
    /// # Errors
    /// As [`crate::ModelError`] says for graphs.
    pub fn load(runtime: &Runtime, bundle: &Bundle) -> Result<Option<Self>> {
        let manifest = bundle.manifest();
        let Some(block) = manifest.apm.clone() else { return Ok(None) };
        if block.pool == 0 || block.mask_frames == 0 || !block.mask_frames.is_multiple_of(block.pool) {
            let reason = format!("apm.mask_frames {} is not a multiple of apm.pool {}", block.mask_frames, block.pool);
            return Err(ModelError::Manifest { path: bundle.path(MANIFEST), reason });
        }
        let n_mels = manifest.mel.n_mels;
        let llm_hidden = manifest.llm.hidden;
        let cache = [ANY, dim(block.layers), dim(block.heads), dim(block.head_dim)];
        let inputs = [
            port("mel", Kind::F32, &[1, dim(n_mels), ANY]),
            port("frame_idx", Kind::I64, &[ANY]),
            port("pos_ids", Kind::I64, &[ANY]),
            port("past_key", Kind::F32, &cache),
            port("past_value", Kind::F32, &cache),
        ];
        let outputs = [
            port("embeds", Kind::F32, &[ANY, dim(llm_hidden)]),
            port("new_key", Kind::F32, &cache),
            port("new_value", Kind::F32, &cache),
        ];
        let graph = Graph::load(runtime, bundle, "apm.onnx", Use::Chunk, &inputs, &outputs)?;
        Ok(Some(Apm { graph, block, n_mels, llm_hidden, frame_index: Vec::new(), positions: Vec::new() }))
    }

    /// Encodes one streaming chunk: `mel` is `[n_mels, frames]`, of which `prefix` and `suffix` frames are redundant
    /// (0 or 2 and 2 in duplex, modeling_minicpmo_unified.py:4876). Returns `[frames kept / pool, LLM width]`.
    ///
    /// The cache starts anew before a chunk that would reach the last position (modeling_minicpmo_unified.py:1490-1497);
    /// as in the reference the test counts the redundant frames too.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a chunk that is empty without its redundancy or longer than the position table;
    /// [`ModelError::Allocation`] when there is no room for the cache.
    pub fn step(
        &mut self,
        mel: &[f32],
        frames: usize,
        prefix: usize,
        suffix: usize,
        cache: &mut ApmCache,
    ) -> Result<Vec<f32>> {
        if cache.len + encoder_frames(frames) >= self.block.max_positions {
            cache.clear();
        }
        if cache.rows.is_none() {
            cache.rows = Some(self.rows(self.block.max_positions)?);
        }
        self.encode(mel, frames, prefix.div_ceil(STRIDE), suffix.div_ceil(STRIDE), cache)
    }

    /// Encodes one piece of offline audio, `mel` `[n_mels, frames]` of at most the position table's length (30 s).
    /// Returns `[encoder frames / pool, LLM width]`.
    ///
    /// # Errors
    /// [`ModelError::Input`] for an empty or too long piece; [`ModelError::Allocation`].
    pub fn encode_reference(&mut self, mel: &[f32], frames: usize) -> Result<Vec<f32>> {
        let total = encoder_frames(frames);
        if frames == 0 || total > self.block.max_positions {
            let most = self.block.max_positions * STRIDE;
            return Err(ModelError::input(
                "reference audio",
                format!("{frames} mel frames; give 1 to {most} at a time"),
            ));
        }
        assert_eq!(mel.len(), frames * self.n_mels, "mel is [n_mels, frames]. This is a bug.");
        let mut cache = ApmCache { rows: Some(self.rows(total)?), len: 0 };
        let mut embeds = Vec::new();
        let mut piece = Vec::new();
        for first in (0..total).step_by(self.block.mask_frames) {
            let last = (first + self.block.mask_frames).min(total);
            let start = (first * STRIDE).saturating_sub(EDGE_FRAMES);
            let end = frames.min(last * STRIDE + EDGE_FRAMES);
            piece.clear();
            piece.extend(mel.chunks_exact(frames).flat_map(|row| &row[start..end]));
            let drop_prefix = usize::from(first > 0);
            let drop_suffix = encoder_frames(end - start) - drop_prefix - (last - first);
            embeds.extend(self.encode(&piece, end - start, drop_prefix, drop_suffix, &mut cache)?);
        }
        Ok(embeds)
    }

    fn encode(
        &mut self,
        mel: &[f32],
        frames: usize,
        drop_prefix: usize,
        drop_suffix: usize,
        cache: &mut ApmCache,
    ) -> Result<Vec<f32>> {
        assert_eq!(mel.len(), frames * self.n_mels, "mel is [n_mels, frames]. This is a bug.");
        let made = if frames == 0 { 0 } else { encoder_frames(frames) };
        let kept = made.saturating_sub(drop_prefix + drop_suffix);
        let end = cache.len + kept;
        if kept == 0 || end > self.block.max_positions {
            let most = self.block.max_positions;
            let reason =
                format!("{frames} mel frames give {kept} encoder frames behind {}; 1 to {most} fit", cache.len);
            return Err(ModelError::input("audio chunk", reason));
        }
        self.frame_index.clear();
        self.frame_index.extend((drop_prefix..drop_prefix + kept).map(dim));
        self.positions.clear();
        self.positions.extend((cache.len..end).map(dim));
        let [keys, values] = cache.rows.as_mut().expect("the callers make room. This is a bug.");
        let rows = |n: usize| [dim(n), dim(self.block.layers), dim(self.block.heads), dim(self.block.head_dim)];
        let (past_keys, new_keys) = keys.append(&rows(cache.len), &rows(kept));
        let (past_values, new_values) = values.append(&rows(cache.len), &rows(kept));
        let embeddings = kept / self.block.pool;
        let mut embeds = vec![0.0f32; embeddings * self.llm_hidden];
        self.graph.run(
            &[
                Tensor::new(mel, &[1, dim(self.n_mels), dim(frames)]),
                Tensor::new(&self.frame_index, &[dim(kept)]),
                Tensor::new(&self.positions, &[dim(kept)]),
                past_keys,
                past_values,
            ],
            &mut [TensorMut::new(&mut embeds, &[dim(embeddings), dim(self.llm_hidden)]), new_keys, new_values],
        )?;
        cache.len = end;
        Ok(embeds)
    }

    /// Memory for the keys and values of so many positions.
    fn rows(&self, positions: usize) -> Result<[Block; 2]> {
        let elements = positions * self.block.layers * self.block.heads * self.block.head_dim;
        let half = || Block::at("apm cache", self.graph.place(), self.graph.session(), Kind::F32, elements);
        Ok([half()?, half()?])
    }
}

/// Frames after the second convolution (kernel 3, stride 2, padding 1).
fn encoder_frames(mel_frames: usize) -> usize {
    mel_frames.saturating_sub(1) / STRIDE + 1
}

#[cfg(test)]
mod tests;
