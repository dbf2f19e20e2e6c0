//! flow_encoder.onnx, flow_cfm.onnx, flow_speaker.onnx: speech tokens to mel frames (submodules.md 1.6.3, 1.6.4).
//!
//! Owns: tensor layouts of the stream's caches. Must not: decide what a cache keeps (`token2wav::trim`).

mod cells;

use super::{ANY, Graph, Port, Use, dim, io_kind, port};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::manifest::{FlowBlock, IoType};
use crate::raw::{Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

use cells::{Cells, Run};

/// Additive mask of a cache slot that holds nothing; exp of it is exactly 0 and it survives float16.
const MASKED: f32 = -1e4;
/// Conditional and unconditional row of classifier-free guidance.
const GUIDANCE_ROWS: usize = 2;

/// Speaker vector to its mel-wide projection.
#[derive(Debug)]
pub(crate) struct FlowSpeaker {
    graph: Graph,
    spk: usize,
    mel: usize,
}

impl FlowSpeaker {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, flow: &FlowBlock) -> Result<Self> {
        let inputs = [port("embedding", Kind::F32, &[ANY, dim(flow.spk)])];
        let outputs = [port("spk", Kind::F32, &[ANY, dim(flow.mel)])];
        let graph = Graph::load(runtime, bundle, "flow_speaker.onnx", Use::Once, &inputs, &outputs)?;
        Ok(FlowSpeaker { graph, spk: flow.spk, mel: flow.mel })
    }

    /// `[spk]` -> `[mel]`.
    pub(crate) fn run(&mut self, embedding: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0f32; self.mel];
        self.graph.run(
            &[Tensor::new(embedding, &[1, dim(self.spk)])],
            &mut [TensorMut::new(&mut out, &[1, dim(self.mel)])],
        )?;
        Ok(out)
    }
}

/// Rows of `width` values, oldest first, in memory that only grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    data: Vec<f32>,
    len: usize,
    width: usize,
}

impl Rows {
    fn new(width: usize) -> Self {
        Rows { data: Vec::new(), len: 0, width }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(crate) fn values(&self) -> &[f32] {
        &self.data[..self.len * self.width]
    }

    /// The rows so far, and room for `new` more right behind them.
    fn split(&mut self, new: usize) -> (&[f32], &mut [f32]) {
        let end = (self.len + new) * self.width;
        if self.data.len() < end {
            self.data.resize(end, 0.0);
        }
        let (past, room) = self.data[..end].split_at_mut(self.len * self.width);
        (past, room)
    }

    /// Keeps the rows at `kept`, in that order; a row may be kept twice.
    pub(crate) fn keep(&mut self, kept: impl Iterator<Item = usize> + Clone) {
        // Usually rows only move to the front, and nothing is read after it was overwritten.
        let forward = kept.clone().enumerate().all(|(to, from)| from >= to);
        let copy = if forward { Vec::new() } else { self.data.clone() };
        let mut len = 0;
        for row in kept {
            assert!(row < self.len, "a row that is not there. This is a bug.");
            let (from, to) = (row * self.width, len * self.width);
            if forward {
                self.data.copy_within(from..from + self.width, to);
            } else {
                self.data[to..to + self.width].copy_from_slice(&copy[from..from + self.width]);
            }
            len += 1;
        }
        self.len = len;
    }

    fn copy_from(&mut self, other: &Rows) {
        let used = other.len * other.width;
        self.data.clear();
        self.data.extend_from_slice(&other.data[..used]);
        (self.len, self.width) = (other.len, other.width);
    }
}

/// State of the encoder between chunks.
#[derive(Debug, Clone)]
pub(crate) struct EncoderState {
    conv1: Vec<f32>,
    conv2: Vec<f32>,
    /// One row per token: keys and values of the layers before the up-sampling.
    pub(crate) kv1: Rows,
    /// One row per mel frame: those after it.
    pub(crate) kv2: Rows,
}

impl EncoderState {
    pub(crate) fn copy_from(&mut self, other: &EncoderState) {
        self.conv1.copy_from_slice(&other.conv1);
        self.conv2.copy_from_slice(&other.conv2);
        self.kv1.copy_from(&other.kv1);
        self.kv2.copy_from(&other.kv2);
    }
}

/// Tokens to mu, the mean that the flow matching starts from.
#[derive(Debug)]
pub(crate) struct FlowEncoder {
    graph: Graph,
    flow: FlowBlock,
    lookahead: usize,
    tokens: Vec<i64>,
    valid: Vec<f32>,
    conv1: Vec<f32>,
    conv2: Vec<f32>,
}

impl FlowEncoder {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, flow: &FlowBlock, lookahead: usize) -> Result<Self> {
        let kv = |layers: usize| [ANY, dim(layers), ANY, dim(flow.heads), dim(2 * flow.head_dim)];
        let conv = |len: usize| [ANY, dim(flow.width), dim(len)];
        let inputs = [
            port("token", Kind::I64, &[ANY, ANY]),
            port("valid", Kind::F32, &[ANY, ANY, 1]),
            port("conv1", Kind::F32, &conv(flow.conv1_len)),
            port("conv2", Kind::F32, &conv(flow.conv2_len)),
            port("kv1", Kind::F32, &kv(flow.layers1)),
            port("kv2", Kind::F32, &kv(flow.layers2)),
        ];
        let outputs = [
            port("mu", Kind::F32, &[ANY, dim(flow.mel), ANY]),
            port("conv1_out", Kind::F32, &conv(flow.conv1_len)),
            port("conv2_out", Kind::F32, &conv(flow.conv2_len)),
            port("new_kv1", Kind::F32, &kv(flow.layers1)),
            port("new_kv2", Kind::F32, &kv(flow.layers2)),
        ];
        let graph = Graph::load(runtime, bundle, "flow_encoder.onnx", Use::Chunk, &inputs, &outputs)?;
        Ok(FlowEncoder {
            graph,
            lookahead,
            tokens: Vec::new(),
            valid: Vec::new(),
            conv1: vec![0.0; flow.width * flow.conv1_len],
            conv2: vec![0.0; flow.width * flow.conv2_len],
            flow: flow.clone(),
        })
    }

    /// The state in front of everything.
    pub(crate) fn start(&self) -> EncoderState {
        let width = self.flow.heads * 2 * self.flow.head_dim;
        EncoderState {
            conv1: vec![0.0; self.conv1.len()],
            conv2: vec![0.0; self.conv2.len()],
            kv1: Rows::new(self.flow.layers1 * width),
            kv2: Rows::new(self.flow.layers2 * width),
        }
    }

    /// Mel frames that `tokens` tokens give: all but the look-ahead, unless they are the last ones.
    pub(crate) fn frames(&self, tokens: usize, last: bool) -> usize {
        let spoken = if last { tokens } else { tokens.saturating_sub(self.lookahead) };
        spoken * self.flow.up
    }

    /// Encodes tokens, of which the last `lookahead` are only looked at unless `last`. Returns mu `[mel, frames]`.
    pub(crate) fn run(&mut self, tokens: &[u32], last: bool, state: &mut EncoderState) -> Result<Vec<f32>> {
        let frames = self.frames(tokens.len(), last);
        assert!(frames > 0, "a chunk speaks at least one token. This is a bug.");
        let spoken = frames / self.flow.up;
        self.tokens.clear();
        self.tokens.extend(tokens.iter().map(|&token| i64::from(token)));
        self.valid.clear();
        self.valid.resize(tokens.len(), 1.0);
        if last {
            // Nothing follows: the look-ahead is padding that the graph blanks out (upsample_encoder_v2.py:430).
            self.tokens.resize(spoken + self.lookahead, 0);
            self.valid.resize(spoken + self.lookahead, 0.0);
        }
        let flow = &self.flow;
        let kv = |rows: usize, layers: usize| [dim(rows), dim(layers), 1, dim(flow.heads), dim(2 * flow.head_dim)];
        let conv1_shape = [1, dim(flow.width), dim(flow.conv1_len)];
        let conv2_shape = [1, dim(flow.width), dim(flow.conv2_len)];
        let (len1, len2) = (state.kv1.len, state.kv2.len);
        let (past1, new1) = state.kv1.split(spoken);
        let (past2, new2) = state.kv2.split(frames);
        let mut mu = vec![0.0f32; flow.mel * frames];
        let count = dim(self.tokens.len());
        self.graph.run(
            &[
                Tensor::new(&self.tokens, &[1, count]),
                Tensor::new(&self.valid, &[1, count, 1]),
                Tensor::new(&state.conv1, &conv1_shape),
                Tensor::new(&state.conv2, &conv2_shape),
                Tensor::new(past1, &kv(len1, flow.layers1)),
                Tensor::new(past2, &kv(len2, flow.layers2)),
            ],
            &mut [
                TensorMut::new(&mut mu, &[1, dim(flow.mel), dim(frames)]),
                TensorMut::new(&mut self.conv1, &conv1_shape),
                TensorMut::new(&mut self.conv2, &conv2_shape),
                TensorMut::new(new1, &kv(spoken, flow.layers1)),
                TensorMut::new(new2, &kv(frames, flow.layers2)),
            ],
        )?;
        std::mem::swap(&mut state.conv1, &mut self.conv1);
        std::mem::swap(&mut state.conv2, &mut self.conv2);
        state.kv1.len += spoken;
        state.kv2.len += frames;
        Ok(mu)
    }
}

/// State of the estimator between chunks: per layer a convolution history and a set of cache slots. The attention knows
/// no positions, so a slot may hold any frame; `order` tells which.
///
/// The caches are by far the largest thing that a voice or a stream owns. At the sizes of MiniCPM-o 4.5 they take 16 layers
/// x keys and values x 5 steps x 2 guidance rows x 8 heads x slots x 64 numbers: 655 kB a slot in float32, half of that in
/// float16 (CUDA bundles). A stream has as many slots as its prompt has mel frames (50 a second), and 100 for the tail: a
/// prompt of 6 s takes 400 slots, which is 262 MB.
#[derive(Debug, Clone)]
pub(crate) struct EstimatorState {
    cnn: Vec<Vec<f32>>,
    /// Per layer: keys, values; `[steps, 2, heads, slots, head_dim]`.
    caches: Vec<[Cells; 2]>,
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

    pub(crate) fn copy_from(&mut self, other: &EstimatorState) {
        for (to, from) in self.cnn.iter_mut().zip(&other.cnn) {
            to.copy_from_slice(from);
        }
        for (to, from) in self.caches.iter_mut().flatten().zip(other.caches.iter().flatten()) {
            to.copy_from(from);
        }
        self.slots = other.slots;
        self.order.clone_from(&other.order);
    }
}

/// Keys and values of the frames of one chunk, not yet in a cache: per layer `[steps, 2, heads, frames, head_dim]`.
#[derive(Debug)]
struct Fresh {
    parts: Vec<[Cells; 2]>,
    frames: usize,
}

/// Conditional flow matching: noise and mu to mel.
#[derive(Debug)]
pub(crate) struct Cfm {
    graph: Graph,
    flow: FlowBlock,
    io: IoType,
    mask: Vec<f32>,
    cnn: Vec<Vec<f32>>,
    fresh: Fresh,
}

/// Inputs of one chunk, each `[mel, frames]` but the speaker `[mel]`.
#[derive(Debug)]
pub(crate) struct CfmChunk<'a> {
    pub(crate) noise: &'a [f32],
    pub(crate) mu: &'a [f32],
    pub(crate) speaker: &'a [f32],
    pub(crate) condition: &'a [f32],
    pub(crate) frames: usize,
}

impl Cfm {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, flow: &FlowBlock) -> Result<Self> {
        let io = bundle.manifest().io_dtype;
        let mel = [ANY, dim(flow.mel), ANY];
        let cnn = [dim(flow.steps), ANY, dim(2 * flow.dit_width), dim(flow.cnn_len)];
        let cache = [dim(flow.steps), ANY, dim(flow.dit_heads), ANY, dim(flow.dit_head_dim)];
        let mut inputs: Vec<Port> = vec![
            port("z", Kind::F32, &mel),
            port("mu", Kind::F32, &mel),
            port("spk", Kind::F32, &[ANY, dim(flow.mel)]),
            port("cond", Kind::F32, &mel),
            port("mask", Kind::F32, &[ANY, ANY]),
        ];
        let mut outputs: Vec<Port> = vec![port("mel", Kind::F32, &mel)];
        for layer in 0..flow.dit_layers {
            inputs.push(port(format!("cnn.{layer}"), Kind::F32, &cnn));
            inputs.push(port(format!("att_key.{layer}"), io_kind(io), &cache));
            inputs.push(port(format!("att_value.{layer}"), io_kind(io), &cache));
            outputs.push(port(format!("cnn_out.{layer}"), Kind::F32, &cnn));
            outputs.push(port(format!("new_key.{layer}"), io_kind(io), &cache));
            outputs.push(port(format!("new_value.{layer}"), io_kind(io), &cache));
        }
        let graph = Graph::load(runtime, bundle, "flow_cfm.onnx", Use::Chunk, &inputs, &outputs)?;
        let cnn_size = flow.steps * GUIDANCE_ROWS * 2 * flow.dit_width * flow.cnn_len;
        let nothing = || [Cells::zeroed(io, 0), Cells::zeroed(io, 0)];
        Ok(Cfm {
            graph,
            io,
            mask: Vec::new(),
            cnn: vec![vec![0.0; cnn_size]; flow.dit_layers],
            fresh: Fresh { parts: (0..flow.dit_layers).map(|_| nothing()).collect(), frames: 0 },
            flow: flow.clone(),
        })
    }

    /// An empty state with room for `slots` frames.
    pub(crate) fn start(&self, slots: usize) -> EstimatorState {
        let size = self.lanes() * slots * self.flow.dit_head_dim;
        let empty = || [Cells::zeroed(self.io, size), Cells::zeroed(self.io, size)];
        EstimatorState {
            cnn: vec![vec![0.0; self.cnn[0].len()]; self.flow.dit_layers],
            caches: (0..self.flow.dit_layers).map(|_| empty()).collect(),
            slots,
            order: Vec::new(),
        }
    }

    /// Computes the mel `[mel, frames]` of a chunk. The convolution histories of `state` move on; its cache is as before
    /// until [`Cfm::store`].
    pub(crate) fn run(&mut self, chunk: &CfmChunk<'_>, state: &mut EstimatorState) -> Result<Vec<f32>> {
        let flow = &self.flow;
        let frames = chunk.frames;
        self.mask.clear();
        self.mask.resize(state.slots, MASKED);
        for &slot in &state.order {
            self.mask[slot] = 0.0;
        }
        self.mask.resize(state.slots + frames, 0.0);
        let lanes = flow.steps * GUIDANCE_ROWS * flow.dit_heads;
        let size = lanes * frames * flow.dit_head_dim;
        self.fresh.frames = frames;
        self.fresh.parts.iter_mut().flatten().for_each(|part| part.resize(size));
        let mut mel = vec![0.0f32; flow.mel * frames];

        let mel_shape = [1, dim(flow.mel), dim(frames)];
        let cnn_shape = [dim(flow.steps), dim(GUIDANCE_ROWS), dim(2 * flow.dit_width), dim(flow.cnn_len)];
        let cache_shape = |slots: usize| {
            [dim(flow.steps), dim(GUIDANCE_ROWS), dim(flow.dit_heads), dim(slots), dim(flow.dit_head_dim)]
        };
        let mut inputs = vec![
            Tensor::new(chunk.noise, &mel_shape),
            Tensor::new(chunk.mu, &mel_shape),
            Tensor::new(chunk.speaker, &[1, dim(flow.mel)]),
            Tensor::new(chunk.condition, &mel_shape),
            Tensor::new(&self.mask, &[1, dim(self.mask.len())]),
        ];
        let mut outputs = vec![TensorMut::new(&mut mel, &mel_shape)];
        for (cnn, [keys, values]) in state.cnn.iter().zip(&state.caches) {
            inputs.push(Tensor::new(cnn, &cnn_shape));
            inputs.push(keys.tensor(&cache_shape(state.slots)));
            inputs.push(values.tensor(&cache_shape(state.slots)));
        }
        for (cnn, [keys, values]) in self.cnn.iter_mut().zip(&mut self.fresh.parts) {
            outputs.push(TensorMut::new(cnn, &cnn_shape));
            outputs.push(keys.tensor_mut(&cache_shape(frames)));
            outputs.push(values.tensor_mut(&cache_shape(frames)));
        }
        self.graph.run(&inputs, &mut outputs)?;
        drop((inputs, outputs));
        std::mem::swap(&mut state.cnn, &mut self.cnn);
        Ok(mel)
    }

    /// Puts the frames of the last [`Cfm::run`] into the cache of `state`. `kept` is the new content in cache order: either
    /// a frame of the chunk or an entry of the old order. What is not listed is dropped.
    pub(crate) fn store(&self, state: &mut EstimatorState, kept: impl Iterator<Item = CacheEntry> + Clone) {
        let mut free = vec![true; state.slots];
        for entry in kept.clone() {
            if let CacheEntry::Old(index) = entry {
                free[state.order[index]] = false;
            }
        }
        let mut free = (0..state.slots).filter(|&slot| free[slot]);
        // Neighbouring frames mostly go to neighbouring slots.
        let mut runs: Vec<Run> = Vec::new();
        let order = kept
            .map(|entry| match entry {
                CacheEntry::Old(index) => state.order[index],
                CacheEntry::New(frame) => {
                    let slot = free.next().expect("the cache has room for what is kept. This is a bug.");
                    match runs.last_mut() {
                        Some(run) if run.frame + run.count == frame && run.slot + run.count == slot => run.count += 1,
                        _ => runs.push(Run { frame, slot, count: 1 }),
                    }
                    slot
                }
            })
            .collect();
        state.order = order;
        let (width, frames, slots) = (self.flow.dit_head_dim, self.fresh.frames, state.slots);
        let parts = self.fresh.parts.iter().flatten();
        for (cache, fresh) in state.caches.iter_mut().flatten().zip(parts) {
            cache.put(slots, fresh, frames, width, &runs);
        }
    }

    /// The state after a first [`Cfm::run`] on an empty one, moved to a cache of `slots` that holds all frames of that run.
    pub(crate) fn settle(&self, ran: EstimatorState, slots: usize) -> EstimatorState {
        let mut state = EstimatorState { cnn: ran.cnn, ..self.start(slots) };
        self.store(&mut state, (0..self.fresh.frames).map(CacheEntry::New));
        state
    }

    /// Independent attention lanes of a layer: each has its own row of cache slots.
    fn lanes(&self) -> usize {
        self.flow.steps * GUIDANCE_ROWS * self.flow.dit_heads
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
