//! A transformer decoder with one in-place KV cache per slot: the common part of the LLM and the TTS.
//!
//! Owns: cache buffers, slot lengths, batching. Must not: know tokens or sampling.
//!
//! Cache of a layer: `[slots, kv_heads, capacity, head_dim]`; past and present are bound to the same buffer, so a step
//! writes one row and moves nothing.
//!
//! ```text
//! decode  rows of the active slots -> one batch over the smallest contiguous slot range that covers them
//! prefill rows of one slot         -> batch 1 on that slot's part of the buffers
//! ```
//! Idle slots inside a decode range run a dummy step: it writes the row behind their last one, which the next real row
//! overwrites. For that one row of the capacity always stays free. Everything a step touches is made once: a binding per
//! slot range, and buffers that are overwritten in place.

use std::collections::HashMap;
use std::ops::Range;

use half::f16;

use super::kv_compact::KvCompact;
use super::{ANY, Graph, Port, Use, dim, io_kind, port};
use crate::bundle::Bundle;
use crate::embed::RowMut;
use crate::error::{ModelError, Result};
use crate::manifest::IoType;
use crate::raw::{Arena, Binding, Buffer, Kind, View};
use crate::runtime::Runtime;

/// Longest prefill of one run; longer ones are cut. Bounds the temporary memory of a run and the input buffers.
const PREFILL_ROWS: usize = 512;

/// Sizes of a decoder.
#[derive(Debug, Clone)]
pub(crate) struct DecoderSpec {
    /// For messages: llm or tts.
    pub(crate) name: &'static str,
    pub(crate) file: &'static str,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) capacity: usize,
    /// Width of the logits.
    pub(crate) vocab: usize,
    pub(crate) rope_theta: f64,
    pub(crate) io: IoType,
    /// Whether the graph returns hidden states.
    pub(crate) with_hidden: bool,
}

/// Order of the fixed inputs; the caches follow.
const INPUT_ROWS: usize = 0;
const INPUT_LENGTHS: usize = 1;
const INPUT_TOTAL: usize = 2;
const FIRST_PAST: usize = 3;

#[derive(Debug)]
pub(crate) struct Decoder {
    spec: DecoderSpec,
    graph: Graph,
    arena: Arena,
    slots: usize,
    /// Per layer: keys, values.
    caches: Vec<[Buffer; 2]>,
    rows: Buffer,
    lengths: Buffer,
    total: Buffer,
    logits: Buffer,
    hidden: Option<Buffer>,
    bindings: HashMap<(usize, usize), Prepared>,
    state: Vec<Slot>,
}

/// A binding of one slot range and the rows it is shaped for.
#[derive(Debug)]
struct Prepared {
    binding: Binding,
    rows: usize,
}

/// What is known of a slot.
#[derive(Debug)]
struct Slot {
    len: usize,
    /// Of the last row fed; meaningless while `len` is 0.
    logits: Vec<f32>,
    hidden: Vec<f32>,
}

impl DecoderSpec {
    fn ports(&self) -> (Vec<Port>, Vec<Port>) {
        let io = io_kind(self.io);
        let cache = [ANY, dim(self.kv_heads), ANY, dim(self.head_dim)];
        let mut inputs = vec![
            port("inputs_embeds", io, &[ANY, ANY, dim(self.hidden)]),
            port("seqlens_k", Kind::I32, &[ANY]),
            port("total_sequence_length", Kind::I32, &[]),
        ];
        let mut outputs = vec![port("logits", Kind::F32, &[ANY, dim(self.vocab)])];
        if self.with_hidden {
            outputs.push(port("hidden", Kind::F32, &[ANY, ANY, dim(self.hidden)]));
        }
        for layer in 0..self.layers {
            for part in ["key", "value"] {
                inputs.push(port(format!("past_{part}.{layer}"), io, &cache));
                outputs.push(port(format!("present_{part}.{layer}"), io, &cache));
            }
        }
        (inputs, outputs)
    }

    fn first_present(&self) -> usize {
        1 + usize::from(self.with_hidden)
    }

    /// Elements of one slot's cache of one layer, keys or values.
    fn slot_elements(&self) -> usize {
        self.kv_heads * self.capacity * self.head_dim
    }
}

impl Decoder {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, spec: DecoderSpec, slots: usize) -> Result<Self> {
        if slots == 0 {
            return Err(ModelError::input("slots", "0 slots can hold no session; use at least 1"));
        }
        let (inputs, outputs) = spec.ports();
        let graph = Graph::load(runtime, bundle, spec.file, Use::Step, &inputs, &outputs)?;
        let io = io_kind(spec.io);
        let mut arena = Arena::new();
        let what = format!("{} cache", spec.name);
        let elements = slots * spec.slot_elements();
        let mut caches = Vec::with_capacity(spec.layers);
        for _ in 0..spec.layers {
            let mut half = || arena.at(&what, graph.place(), graph.session(), io, elements);
            caches.push([half()?, half()?]);
        }
        let what = format!("{} buffers", spec.name);
        let most_rows = PREFILL_ROWS.max(slots);
        let rows = arena.host(&what, io, most_rows * spec.hidden)?;
        let lengths = arena.host(&what, Kind::I32, slots)?;
        let total = arena.host(&what, Kind::I32, 1)?;
        let logits = arena.host(&what, Kind::F32, slots * spec.vocab)?;
        let hidden = match spec.with_hidden {
            true => Some(arena.host(&what, Kind::F32, most_rows * spec.hidden)?),
            false => None,
        };
        let hidden_width = if spec.with_hidden { spec.hidden } else { 0 };
        let slot = || Slot { len: 0, logits: vec![0.0; spec.vocab], hidden: vec![0.0; hidden_width] };
        let state = (0..slots).map(|_| slot()).collect();
        Ok(Decoder {
            graph,
            arena,
            slots,
            caches,
            rows,
            lengths,
            total,
            logits,
            hidden,
            bindings: HashMap::new(),
            state,
            spec,
        })
    }

    pub(crate) fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Rows that fit into a slot: one less than the cache has, see the module text.
    pub(crate) fn capacity(&self) -> usize {
        self.spec.capacity - 1
    }

    pub(crate) fn len(&self, slot: usize) -> usize {
        self.state[slot].len
    }

    /// Forgets everything behind row `len`; the logits and hidden state are those of the last row fed all the same.
    pub(crate) fn rewind(&mut self, slot: usize, len: usize) {
        let state = &mut self.state[slot];
        assert!(
            len <= state.len,
            "slot {slot} of {} holds {} rows, cannot rewind to {len}. This is a bug.",
            self.spec.name,
            state.len
        );
        state.len = len;
    }

    /// Rows behind the length that [`Decoder::relocate`] has put there become part of the slot.
    pub(crate) fn extend(&mut self, slot: usize, rows: usize) {
        self.state[slot].len += rows;
        assert!(
            self.state[slot].len <= self.capacity(),
            "slot {slot} was extended beyond its capacity. This is a bug."
        );
    }

    pub(crate) fn logits(&self, slot: usize) -> &[f32] {
        &self.state[slot].logits
    }

    pub(crate) fn hidden(&self, slot: usize) -> &[f32] {
        &self.state[slot].hidden
    }

    /// Feeds `rows` `[n, hidden]` to one slot.
    pub(crate) fn prefill(&mut self, slot: usize, rows: &[f32]) -> Result<()> {
        let width = self.spec.hidden;
        assert!(
            !rows.is_empty() && rows.len().is_multiple_of(width),
            "rows of {width} values each, at least one. This is a bug."
        );
        self.require_room(slot, rows.len() / width)?;
        for piece in rows.chunks(PREFILL_ROWS * width) {
            let count = piece.len() / width;
            match self.spec.io {
                IoType::Float32 => self.arena.slice_mut::<f32>(self.rows)[..piece.len()].copy_from_slice(piece),
                IoType::Float16 => {
                    let buffer = &mut self.arena.slice_mut::<f16>(self.rows)[..piece.len()];
                    buffer.iter_mut().zip(piece).for_each(|(to, &from)| *to = f16::from_f32(from));
                }
            }
            let len = self.state[slot].len + count;
            self.run(slot, 1, count, &[i32_of(len - 1)], len)?;
            self.keep(slot, slot, count - 1);
            self.state[slot].len = len;
        }
        Ok(())
    }

    /// Feeds one row to each of some distinct slots; `fill` writes the row of the step with the given number.
    pub(crate) fn decode(
        &mut self,
        slots: impl Iterator<Item = usize> + Clone,
        mut fill: impl FnMut(usize, RowMut<'_>),
    ) -> Result<()> {
        let Some(first) = slots.clone().min() else { return Ok(()) };
        let last = slots.clone().max().expect("there is a smallest. This is a bug.");
        let count = last - first + 1;
        for (step, slot) in slots.clone().enumerate() {
            assert!(
                !slots.clone().skip(step + 1).any(|other| other == slot),
                "slot {slot} twice in one batch. This is a bug."
            );
            self.require_room(slot, 1)?;
        }
        let width = self.spec.hidden;
        for (step, slot) in slots.clone().enumerate() {
            let place = (slot - first) * width..(slot - first + 1) * width;
            match self.spec.io {
                IoType::Float32 => fill(step, RowMut::F32(&mut self.arena.slice_mut::<f32>(self.rows)[place])),
                IoType::Float16 => fill(step, RowMut::F16(&mut self.arena.slice_mut::<f16>(self.rows)[place])),
            }
        }
        let lengths = self.arena.slice_mut::<i32>(self.lengths);
        let mut longest = 0;
        for (length, slot) in lengths.iter_mut().zip(first..=last) {
            // Length after this call, minus one: the row written by a real and by a dummy step alike.
            *length = i32_of(self.state[slot].len);
            longest = longest.max(self.state[slot].len + 1);
        }
        self.run_prepared(first, count, 1, longest)?;
        for slot in slots {
            self.keep(slot, first, slot - first);
            self.state[slot].len += 1;
        }
        Ok(())
    }

    /// Moves rows `src` of a slot to start at `dst`, turning the keys to their new positions. The length stays; the caller
    /// has made sure that the rows fit and sets it afterwards.
    pub(crate) fn relocate(
        &mut self,
        compact: &mut KvCompact,
        slot: usize,
        src: Range<usize>,
        dst: usize,
    ) -> Result<()> {
        let rows = src.len();
        let fits = src.end <= self.state[slot].len && dst + rows <= self.capacity();
        assert!(fits, "rows {src:?} to {dst} of slot {slot}. This is a bug.");
        if rows == 0 || src.start == dst {
            return Ok(());
        }
        let shape = [self.spec.kv_heads, self.spec.capacity, self.spec.head_dim];
        let offset = slot * self.spec.slot_elements();
        compact.relocate(&mut self.arena, &self.caches, offset, shape, self.spec.rope_theta, src, dst)
    }

    /// Copies keys and values of a layer out, `[kv_heads, len, head_dim]` each; host caches only.
    pub(crate) fn cache_rows(&self, slot: usize, layer: usize) -> [Vec<f32>; 2] {
        let (heads, width) = (self.spec.kv_heads, self.spec.head_dim);
        let len = self.state[slot].len;
        let starts = (0..heads).map(|head| (slot * heads + head) * self.spec.capacity * width);
        self.caches[layer].map(|buffer| match self.spec.io {
            IoType::Float32 => {
                let all = self.arena.slice::<f32>(buffer);
                starts.clone().flat_map(|start| all[start..start + len * width].iter().copied()).collect()
            }
            IoType::Float16 => {
                let all = self.arena.slice::<f16>(buffer);
                starts
                    .clone()
                    .flat_map(|start| all[start..start + len * width].iter().map(|value| value.to_f32()))
                    .collect()
            }
        })
    }

    pub(crate) fn require_room(&self, slot: usize, wanted: usize) -> Result<()> {
        let (len, capacity) = (self.state[slot].len, self.capacity());
        match len + wanted <= capacity {
            true => Ok(()),
            false => Err(ModelError::ContextFull { graph: self.spec.name, slot, len, capacity, wanted }),
        }
    }

    fn run(&mut self, first: usize, count: usize, rows: usize, lengths: &[i32], total: usize) -> Result<()> {
        self.arena.slice_mut::<i32>(self.lengths)[..count].copy_from_slice(lengths);
        self.run_prepared(first, count, rows, total)
    }

    /// Runs a batch over slots `first..first + count`, whose lengths and rows are already in the buffers.
    fn run_prepared(&mut self, first: usize, count: usize, rows: usize, total: usize) -> Result<()> {
        self.arena.slice_mut::<i32>(self.total)[0] = i32_of(total);
        if !self.bindings.contains_key(&(first, count)) {
            let binding = self.prepare(first, count)?;
            self.bindings.insert((first, count), Prepared { binding, rows: 0 });
        }
        let prepared = self.bindings.get_mut(&(first, count)).expect("inserted above. This is a bug.");
        if prepared.rows != rows {
            let shape = [dim(count), dim(rows), dim(self.spec.hidden)];
            let view = View { buffer: self.rows, offset: 0, shape: &shape };
            self.graph.bind_input(&mut prepared.binding, INPUT_ROWS, &self.arena, &view)?;
            if let Some(buffer) = self.hidden {
                self.graph.bind_output(
                    &mut prepared.binding,
                    1,
                    &self.arena,
                    &View { buffer, offset: 0, shape: &shape },
                )?;
            }
            prepared.rows = rows;
        }
        self.graph.run_bound(&mut prepared.binding, &mut self.arena)
    }

    /// Binds everything whose shape does not depend on the number of rows.
    fn prepare(&self, first: usize, count: usize) -> Result<Binding> {
        let (spec, arena) = (&self.spec, &self.arena);
        let mut binding = self.graph.binding(arena)?;
        let batch = [dim(count)];
        self.graph.bind_input(
            &mut binding,
            INPUT_LENGTHS,
            arena,
            &View { buffer: self.lengths, offset: 0, shape: &batch },
        )?;
        self.graph.bind_input(&mut binding, INPUT_TOTAL, arena, &View { buffer: self.total, offset: 0, shape: &[] })?;
        let logits = [dim(count), dim(spec.vocab)];
        self.graph.bind_output(&mut binding, 0, arena, &View { buffer: self.logits, offset: 0, shape: &logits })?;
        let cache = [dim(count), dim(spec.kv_heads), dim(spec.capacity), dim(spec.head_dim)];
        for (number, &buffer) in self.caches.iter().flatten().enumerate() {
            let view = View { buffer, offset: first * spec.slot_elements(), shape: &cache };
            self.graph.bind_input(&mut binding, FIRST_PAST + number, arena, &view)?;
            self.graph.bind_output(&mut binding, spec.first_present() + number, arena, &view)?;
        }
        Ok(binding)
    }

    /// Copies the results of a slot out of the batch buffers, where the next batch would overwrite them: its logits are
    /// row `slot - first`, its hidden state row `row`.
    fn keep(&mut self, slot: usize, first: usize, row: usize) {
        let (vocab, width) = (self.spec.vocab, self.spec.hidden);
        let state = &mut self.state[slot];
        state.logits.copy_from_slice(&self.arena.slice::<f32>(self.logits)[(slot - first) * vocab..][..vocab]);
        if let Some(buffer) = self.hidden {
            state.hidden.copy_from_slice(&self.arena.slice::<f32>(buffer)[row * width..][..width]);
        }
    }
}

/// Cache positions as the graph takes them.
fn i32_of(value: usize) -> i32 {
    i32::try_from(value).expect("caches are far shorter. This is a bug.")
}
