//! flow_store.onnx and the caches that it writes: what the estimator of the flow matching keeps between chunks.
//!
//! Owns: the caches' memory, which lies where the graphs run, and which slot holds which frame. Must not: decide what is
//! kept (`token2wav::trim`).

use super::super::{ANY, Graph, Use, dim, io_kind, port};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::manifest::FlowBlock;
use crate::raw::{Block, Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

/// Conditional and unconditional row of classifier-free guidance.
pub(super) const GUIDANCE_ROWS: usize = 2;

/// State of the estimator between chunks: per layer a convolution history and a set of cache slots. The attention knows
/// no positions, so a slot may hold any frame; `order` tells which.
///
/// The caches are by far the largest thing that a voice or a stream owns. At the sizes of MiniCPM-o 4.5 they take 16 layers
/// x keys and values x 5 steps x 2 guidance rows x 8 heads x slots x 64 numbers: 655 kB a slot in float32, half of that in
/// float16 (CUDA bundles, on the device). A stream has as many slots as its prompt has mel frames (50 a second), 100 for the
/// tail and a spare one or two: a prompt of 6 s takes 402 slots, which is 263 MB.
#[derive(Debug)]
pub(crate) struct EstimatorState {
    /// Per layer `[steps, 2, 2 * width, kernel - 1]`.
    pub(super) cnn: Vec<Block>,
    /// Per layer: keys, values; `[steps, 2, heads, slots, head_dim]`.
    pub(super) caches: Vec<[Block; 2]>,
    /// The last one is where frames go that are not kept; like all that are not in use it is read and masked.
    slots: usize,
    /// Slots in use in the order of the reference's cache: newest chunk first, frames of a chunk in time order
    /// (decoder_dit.py:137-143).
    order: Vec<usize>,
}

impl EstimatorState {
    /// Frames held.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }
}

/// Where a frame of the trimmed cache comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheEntry {
    /// Frame of the chunk just computed, in time order.
    New(usize),
    /// Entry of the cache order before it.
    Old(usize),
}

/// Where the frames of a chunk go.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    /// Slot of each frame; the spare one for those that are not kept.
    slot: Vec<i64>,
    /// The cache's order afterwards.
    order: Vec<usize>,
}

impl Places {
    /// `kept` is the new content in cache order, over `frames` new frames and the slots in `order`; what is not listed is
    /// dropped, and its slots may be taken.
    fn of(kept: impl Iterator<Item = CacheEntry> + Clone, frames: usize, order: &[usize], slots: usize) -> Places {
        let spare = slots - 1;
        let mut free = vec![true; spare];
        for entry in kept.clone() {
            if let CacheEntry::Old(index) = entry {
                free[order[index]] = false;
            }
        }
        let mut free = (0..spare).filter(|&slot| free[slot]);
        let mut slot = vec![dim(spare); frames];
        let order = kept
            .map(|entry| match entry {
                CacheEntry::Old(index) => order[index],
                CacheEntry::New(frame) => {
                    let place = free.next().expect("the cache has room for what is kept. This is a bug.");
                    slot[frame] = dim(place);
                    place
                }
            })
            .collect();
        Places { slot, order }
    }
}

/// Keys and values of one chunk, not yet in a cache: per layer `[steps, 2, heads, frames, head_dim]`, where the graphs run.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub(super) parts: Vec<[Block; 2]>,
    frames: usize,
}

/// The graph and the sizes of what it moves.
#[derive(Debug)]
pub(super) struct Store {
    graph: Graph,
    io: Kind,
    flow: FlowBlock,
}

impl Store {
    pub(super) fn load(runtime: &Runtime, bundle: &Bundle, flow: &FlowBlock) -> Result<Self> {
        let io = io_kind(bundle.manifest().io_dtype);
        let cache = cache_shape(flow, ANY);
        let mut inputs = vec![port("slot", Kind::I64, &[ANY])];
        let mut outputs = Vec::new();
        for layer in 0..flow.dit_layers {
            for part in ["key", "value"] {
                inputs.push(port(format!("att_{part}.{layer}"), io, &cache));
                inputs.push(port(format!("new_{part}.{layer}"), io, &cache));
                outputs.push(port(format!("att_{part}_out.{layer}"), io, &cache));
            }
        }
        let graph = Graph::load(runtime, bundle, "flow_store.onnx", Use::Chunk, &inputs, &outputs)?;
        Ok(Store { graph, io, flow: flow.clone() })
    }

    /// A state with room for `frames`. It holds nothing yet, and its numbers are those that the memory had.
    pub(super) fn start(&self, frames: usize) -> Result<EstimatorState> {
        let flow = &self.flow;
        // Products in half precision are slow on a GPU when rows have an odd length.
        let slots = (frames + 1).next_multiple_of(2);
        let caches = (0..flow.dit_layers).map(|_| self.pair(slots)).collect::<Result<_>>()?;
        let size = flow.steps * GUIDANCE_ROWS * 2 * flow.dit_width * flow.cnn_len;
        let cnn = (0..flow.dit_layers).map(|_| self.block(Kind::F32, size)).collect::<Result<_>>()?;
        Ok(EstimatorState { cnn, caches, slots, order: Vec::new() })
    }

    /// Makes room for the keys and values of a chunk.
    pub(super) fn make_room(&self, fresh: &mut Fresh, frames: usize) -> Result<()> {
        if fresh.frames < frames {
            fresh.parts = (0..self.flow.dit_layers).map(|_| self.pair(frames)).collect::<Result<_>>()?;
            fresh.frames = frames;
        }
        Ok(())
    }

    /// Puts `frames` fresh frames into the caches of `state`, so that it holds `kept` (see [`CacheEntry`]). Its content before
    /// is that of `base`, which is then only read, or its own.
    pub(super) fn put(
        &mut self,
        fresh: &Fresh,
        frames: usize,
        base: Option<&EstimatorState>,
        state: &mut EstimatorState,
        kept: impl Iterator<Item = CacheEntry> + Clone,
    ) -> Result<()> {
        let slots = state.slots;
        assert!(base.is_none_or(|base| base.slots == slots), "a voice's streams have its slots. This is a bug.");
        let places = Places::of(kept, frames, &base.unwrap_or(state).order, slots);
        let shape = cache_shape(&self.flow, dim(slots));
        let mut tensors = Vec::with_capacity(2 * state.caches.len());
        match base {
            Some(base) => {
                let pairs = base.caches.iter().flatten().zip(state.caches.iter_mut().flatten());
                tensors.extend(pairs.map(|(from, to)| (from.tensor(&shape), to.tensor_mut(&shape))));
            }
            None => tensors.extend(state.caches.iter_mut().flatten().map(|cache| cache.in_place(&shape))),
        }
        self.run(fresh, frames, &places.slot, tensors)?;
        state.order = places.order;
        Ok(())
    }

    /// As [`Store::put`], but all frames, into caches without any content: `state` as [`Store::start`] made it.
    pub(super) fn put_first(&mut self, fresh: &Fresh, frames: usize, state: &mut EstimatorState) -> Result<()> {
        let places = Places::of((0..frames).map(CacheEntry::New), frames, &[], state.slots);
        let shape = cache_shape(&self.flow, dim(state.slots));
        // Slots that hold nothing are read, too, and masked afterwards: they must hold numbers.
        let zeros = Block::host(WHAT, self.io, state.caches[0][0].len())?;
        let caches = state.caches.iter_mut().flatten();
        let tensors = caches.map(|cache| (zeros.tensor(&shape), cache.tensor_mut(&shape))).collect();
        self.run(fresh, frames, &places.slot, tensors)?;
        state.order = places.order;
        Ok(())
    }

    fn run(
        &mut self,
        fresh: &Fresh,
        frames: usize,
        slot: &[i64],
        caches: Vec<(Tensor<'_>, TensorMut<'_>)>,
    ) -> Result<()> {
        let shape = cache_shape(&self.flow, dim(frames));
        let mut inputs = vec![Tensor::new(slot, &[dim(frames)])];
        let mut outputs = Vec::with_capacity(caches.len());
        for ((cache, out), new) in caches.into_iter().zip(fresh.parts.iter().flatten()) {
            inputs.push(cache);
            inputs.push(new.tensor(&shape));
            outputs.push(out);
        }
        self.graph.run(&inputs, &mut outputs)
    }

    fn pair(&self, slots: usize) -> Result<[Block; 2]> {
        let flow = &self.flow;
        let size = flow.steps * GUIDANCE_ROWS * flow.dit_heads * slots * flow.dit_head_dim;
        Ok([self.block(self.io, size)?, self.block(self.io, size)?])
    }

    fn block(&self, kind: Kind, elements: usize) -> Result<Block> {
        Block::at(WHAT, self.graph.place(), self.graph.session(), kind, elements)
    }
}

/// For messages.
const WHAT: &str = "flow caches";

/// Keys or values of one layer.
pub(super) fn cache_shape(flow: &FlowBlock, slots: i64) -> [i64; 5] {
    [dim(flow.steps), dim(GUIDANCE_ROWS), dim(flow.dit_heads), slots, dim(flow.dit_head_dim)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use CacheEntry::{New, Old};

    #[test]
    fn kept_frames_take_free_slots_and_the_others_the_spare_one() {
        // Five slots and the spare one; 3, 0 and 1 are in use, the entry in 0 is dropped and its slot taken again.
        let kept = [New(1), New(2), Old(0), Old(2), New(3)];
        let places = Places::of(kept.into_iter(), 4, &[3, 0, 1], 6);
        assert_eq!(places, Places { slot: vec![5, 0, 2, 4], order: vec![0, 2, 3, 1, 4] });
    }

    #[test]
    #[should_panic(expected = "room for what is kept")]
    fn more_than_there_are_slots_is_a_bug() {
        Places::of([New(0), New(1)].into_iter(), 2, &[], 2);
    }
}
