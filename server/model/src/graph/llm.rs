//! llm.onnx: the language model over slots (submodules.md 1.4).
//!
//! Owns: the cache of every session's dialogue. Must not: sample (crate `duologue-session`).

use std::ops::Range;

use super::decoder::{Decoder, DecoderSpec};
use super::kv_compact::KvCompact;
use crate::bundle::Bundle;
use crate::embed::{EmbedTable, RowMut};
use crate::error::Result;
use crate::runtime::Runtime;

/// The language model. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Llm {
    decoder: Decoder,
    table: EmbedTable,
    compact: KvCompact,
}

impl Llm {
    /// Loads the graph, the embedding table and `slots` caches.
    ///
    /// # Errors
    /// As [`crate::ModelError`] says for graphs and files; [`crate::ModelError::Allocation`] when the caches do not fit.
    pub fn load(runtime: &Runtime, bundle: &Bundle, slots: usize) -> Result<Self> {
        let manifest = bundle.manifest();
        let block = &manifest.llm;
        let vocab = manifest.tokenizer.vocab;
        let spec = DecoderSpec {
            name: "llm",
            file: "llm.onnx",
            hidden: block.hidden,
            layers: block.layers,
            kv_heads: block.kv_heads,
            head_dim: block.head_dim,
            capacity: block.kv_capacity,
            vocab,
            rope_theta: block.rope_theta,
            io: manifest.io_dtype,
            with_hidden: true,
        };
        Ok(Llm {
            decoder: Decoder::load(runtime, bundle, spec, slots)?,
            table: EmbedTable::open(bundle, "llm_embed.bin", block.embed_dtype, vocab, block.hidden)?,
            compact: KvCompact::load(runtime, bundle)?,
        })
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.decoder.slots()
    }

    /// Values of a row.
    pub fn hidden_size(&self) -> usize {
        self.decoder.spec().hidden
    }

    /// Width of the logits.
    pub fn vocab(&self) -> usize {
        self.decoder.spec().vocab
    }

    /// Rows that fit into a slot (the manifest's capacity minus the one row kept free for idle steps).
    pub fn capacity(&self) -> usize {
        self.decoder.capacity()
    }

    /// Appends the embedding rows of `ids` to `out`.
    ///
    /// # Errors
    /// [`crate::ModelError::TokenRange`]; `out` is then unchanged.
    pub fn embed(&self, ids: &[u32], out: &mut Vec<f32>) -> Result<()> {
        self.table.check(ids.iter().copied())?;
        for &id in ids {
            let start = out.len();
            out.resize(start + self.table.width(), 0.0);
            self.table.copy(id, RowMut::F32(&mut out[start..]));
        }
        Ok(())
    }

    /// Rows in a slot's cache.
    pub fn len(&self, slot: usize) -> usize {
        self.decoder.len(slot)
    }

    /// Forgets everything behind row `len` of a slot, which must have so many.
    pub fn rewind(&mut self, slot: usize, len: usize) {
        self.decoder.rewind(slot, len);
    }

    /// Feeds rows `[n, hidden]`, n at least 1, to one slot at positions `len(slot)` and on.
    ///
    /// # Errors
    /// [`crate::ModelError::ContextFull`], in which case nothing was fed.
    pub fn prefill(&mut self, slot: usize, rows: &[f32]) -> Result<()> {
        self.decoder.prefill(slot, rows)
    }

    /// Feeds one token to each of some distinct slots as one batch.
    ///
    /// # Errors
    /// [`crate::ModelError::ContextFull`] or [`crate::ModelError::TokenRange`], in which case nothing was fed to any slot.
    pub fn decode(&mut self, steps: &[(usize, u32)]) -> Result<()> {
        self.table.check(steps.iter().map(|&(_, id)| id))?;
        let table = &self.table;
        self.decoder.decode(steps.iter().map(|&(slot, _)| slot), |step, row| table.copy(steps[step].1, row))
    }

    /// Logits `[vocab]` after the last row fed to this slot.
    pub fn logits(&self, slot: usize) -> &[f32] {
        self.decoder.logits(slot)
    }

    /// Hidden state `[hidden]` after the final norm of the last row fed to this slot (utils.py:2083).
    pub fn hidden(&self, slot: usize) -> &[f32] {
        self.decoder.hidden(slot)
    }

    /// Takes rows out of the middle of a slot; the rows behind move down and their keys are turned to the new positions
    /// (utils.py:1024, `drop_tokens_from_cache`).
    ///
    /// # Errors
    /// [`crate::ModelError::GraphRun`], [`crate::ModelError::Allocation`].
    pub fn remove(&mut self, slot: usize, rows: Range<usize>) -> Result<()> {
        let (len, removed) = (self.len(slot), rows.len());
        self.decoder.relocate(&mut self.compact, slot, rows.end..len, rows.start)?;
        self.decoder.rewind(slot, len - removed);
        Ok(())
    }

    /// Rebuilds a slot as its first `keep` rows, then `ids` computed on top of them, then its last `tail` rows with their
    /// keys turned to the new positions (utils.py:1546, `_rebuild_cache_with_previous`). `ids` do not see the tail.
    ///
    /// # Errors
    /// [`crate::ModelError::ContextFull`] when the result does not fit, or [`crate::ModelError::TokenRange`], in which
    /// case nothing changed; [`crate::ModelError::GraphRun`], [`crate::ModelError::Allocation`].
    pub fn splice(&mut self, slot: usize, keep: usize, ids: &[u32], tail: usize) -> Result<()> {
        let len = self.len(slot);
        assert!(keep + tail <= len, "{keep} rows and {tail} at the end, of {len}. This is a bug.");
        let grows = (keep + ids.len() + tail).saturating_sub(len);
        self.decoder.require_room(slot, grows)?;
        let mut rows = Vec::with_capacity(ids.len() * self.hidden_size());
        self.embed(ids, &mut rows)?;
        // The tail goes first: its new place may overlap the old one, and the new rows may cover where it was.
        self.decoder.relocate(&mut self.compact, slot, len - tail..len, keep + ids.len())?;
        self.decoder.rewind(slot, keep);
        if !rows.is_empty() {
            self.decoder.prefill(slot, &rows)?;
        }
        self.decoder.extend(slot, tail);
        Ok(())
    }

    /// Copies of the cached keys and values of a layer, `[kv_heads, len, head_dim]` each; for tests and reports on the CPU.
    pub fn cache_rows(&self, slot: usize, layer: usize) -> [Vec<f32>; 2] {
        self.decoder.cache_rows(slot, layer)
    }
}

#[cfg(test)]
mod tests;
