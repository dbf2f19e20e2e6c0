//! flow_encoder.onnx: tokens to mu, the mean that the flow matching starts from (submodules.md 1.6.3).
//!
//! Owns: the encoder's caches, which are short and stay on the host. Must not: decide what they keep (`token2wav::trim`).

use super::super::{ANY, Graph, Use, dim, port};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::manifest::FlowBlock;
use crate::raw::{Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

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
