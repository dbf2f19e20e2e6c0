//! tts.onnx and tts_condition.onnx: the speech token model over slots (submodules.md 1.5).
//!
//! Owns: the cache of every session's current turn. Must not: sample codes (crate `duologue-session`).

use super::decoder::{Decoder, DecoderSpec};
use super::tts_condition::TtsCondition;
use crate::bundle::Bundle;
use crate::embed::EmbedTable;
use crate::error::{ModelError, Result};
use crate::runtime::Runtime;

/// The speech token model. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Tts {
    decoder: Decoder,
    table: EmbedTable,
    condition: TtsCondition,
}

impl Tts {
    /// Loads both graphs, the code table and `slots` caches.
    ///
    /// # Errors
    /// [`ModelError::PartMissing`] when the bundle has no speech; else as [`crate::Llm::load`].
    pub fn load(runtime: &Runtime, bundle: &Bundle, slots: usize) -> Result<Self> {
        let manifest = bundle.manifest();
        let block = manifest.tts.as_ref().ok_or_else(|| speech_missing(bundle))?;
        let spec = DecoderSpec {
            name: "tts",
            file: "tts.onnx",
            hidden: block.hidden,
            layers: block.layers,
            kv_heads: block.kv_heads,
            head_dim: block.head_dim,
            capacity: block.kv_capacity,
            vocab: block.codes,
            rope_theta: block.rope_theta,
            io: manifest.io_dtype,
            with_hidden: false,
        };
        Ok(Tts {
            decoder: Decoder::load(runtime, bundle, spec, slots)?,
            table: EmbedTable::open(bundle, "tts_embed.bin", block.embed_dtype, block.codes, block.hidden)?,
            condition: TtsCondition::load(runtime, bundle, block.hidden)?,
        })
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.decoder.slots()
    }

    /// Rows that fit into a slot.
    pub fn capacity(&self) -> usize {
        self.decoder.capacity()
    }

    /// Values of a condition row.
    pub fn hidden_size(&self) -> usize {
        self.decoder.spec().hidden
    }

    /// Condition rows of one unit: text token `ids` `[m]` with their LLM hidden states `hidden` `[m, LLM width]` become
    /// `[m + 1, width]`; the last row is the audio_bos token (modeling_minicpmo_unified.py:5411-5446). m may be 0.
    ///
    /// # Errors
    /// [`ModelError::GraphRun`], also for ids outside the TTS text table.
    pub fn condition(&mut self, ids: &[u32], hidden: &[f32]) -> Result<Vec<f32>> {
        self.condition.run(ids, hidden)
    }

    /// Rows in a slot's cache: the position of the next row.
    pub fn len(&self, slot: usize) -> usize {
        self.decoder.len(slot)
    }

    /// Forgets a slot: the end of a turn.
    pub fn clear(&mut self, slot: usize) {
        self.decoder.rewind(slot, 0);
    }

    /// Feeds condition rows `[n, width]` to one slot.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`], in which case nothing was fed.
    pub fn prefill(&mut self, slot: usize, rows: &[f32]) -> Result<()> {
        self.decoder.prefill(slot, rows)
    }

    /// Feeds one code to each of some distinct slots as one batch.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`] or [`ModelError::TokenRange`], in which case nothing was fed to any slot.
    pub fn decode(&mut self, steps: &[(usize, u32)]) -> Result<()> {
        self.table.check(steps.iter().map(|&(_, code)| code))?;
        let table = &self.table;
        self.decoder.decode(steps.iter().map(|&(slot, _)| slot), |step, row| table.copy(steps[step].1, row))
    }

    /// Logits `[codes]` after the last row fed to this slot, before any temperature.
    pub fn logits(&self, slot: usize) -> &[f32] {
        self.decoder.logits(slot)
    }

    /// Copies of the cached keys and values of a layer, `[kv_heads, len, head_dim]` each; for tests and reports on the CPU.
    pub fn cache_rows(&self, slot: usize, layer: usize) -> [Vec<f32>; 2] {
        self.decoder.cache_rows(slot, layer)
    }
}

/// The error of every speech graph in a bundle without speech.
pub(crate) fn speech_missing(bundle: &Bundle) -> ModelError {
    ModelError::PartMissing { path: bundle.dir().to_path_buf(), part: "tts", switch: "--no-tts" }
}

#[cfg(test)]
mod tests;
