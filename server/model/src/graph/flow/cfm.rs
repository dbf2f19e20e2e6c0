//! flow_cfm.onnx: conditional flow matching, from noise and mu to mel (submodules.md 1.6.4).
//!
//! Owns: one run over all Euler steps of a chunk. Must not: know where frames lie in the cache (`estimator`).

use super::super::{ANY, Graph, Port, Use, dim, io_kind, port};
use super::estimator::{CacheEntry, EstimatorState, Fresh, GUIDANCE_ROWS, Store, cache_shape};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::manifest::FlowBlock;
use crate::raw::{Block, Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

/// Additive mask of a cache slot that holds nothing; exp of it is exactly 0 and it survives float16.
const MASKED: f32 = -1e4;

/// The graph, and the store for what it adds to the estimator's caches.
#[derive(Debug)]
pub(crate) struct Cfm {
    graph: Graph,
    store: Store,
    flow: FlowBlock,
    io: Kind,
    mask: Vec<f32>,
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

/// One layer's part of a run.
struct Layer<'a> {
    cnn: Tensor<'a>,
    cnn_out: TensorMut<'a>,
    keys: Tensor<'a>,
    values: Tensor<'a>,
}

impl Cfm {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, flow: &FlowBlock) -> Result<Self> {
        let io = io_kind(bundle.manifest().io_dtype);
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
            inputs.push(port(format!("att_key.{layer}"), io, &cache));
            inputs.push(port(format!("att_value.{layer}"), io, &cache));
            outputs.push(port(format!("cnn_out.{layer}"), Kind::F32, &cnn));
            outputs.push(port(format!("new_key.{layer}"), io, &cache));
            outputs.push(port(format!("new_value.{layer}"), io, &cache));
        }
        Ok(Cfm {
            graph: Graph::load(runtime, bundle, "flow_cfm.onnx", Use::Chunk, &inputs, &outputs)?,
            store: Store::load(runtime, bundle, flow)?,
            flow: flow.clone(),
            io,
            mask: Vec::new(),
            fresh: Fresh::default(),
        })
    }

    /// A state with room for `frames` that can take over from another one in [`Cfm::run`].
    pub(crate) fn start(&self, frames: usize) -> Result<EstimatorState> {
        self.store.start(frames)
    }

    /// Computes the mel `[mel, frames]` of a prompt, before which there is nothing, and the state behind it, with room for
    /// `room` frames.
    pub(crate) fn run_first(&mut self, chunk: &CfmChunk<'_>, room: usize) -> Result<(Vec<f32>, EstimatorState)> {
        let mut state = self.store.start(room)?;
        let no_history = Block::host("flow start", Kind::F32, state.cnn[0].len())?;
        let nothing = Block::host("flow start", self.io, 0)?;
        let (cnn_shape, cache_shape) = (self.cnn_shape(), cache_shape(&self.flow, 0));
        let layers = state.cnn.iter_mut().map(|cnn| Layer {
            cnn: no_history.tensor(&cnn_shape),
            cnn_out: cnn.tensor_mut(&cnn_shape),
            keys: nothing.tensor(&cache_shape),
            values: nothing.tensor(&cache_shape),
        });
        let layers = layers.collect();
        self.mask.clear();
        let mel = self.integrate(chunk, layers)?;
        // A prompt is much longer than a chunk: its keys and values do not stay around.
        let fresh = std::mem::take(&mut self.fresh);
        self.store.put_first(&fresh, chunk.frames, &mut state)?;
        Ok((mel, state))
    }

    /// Computes the mel `[mel, frames]` of a chunk and moves `state` on: its cache then holds `kept`. What came before the
    /// chunk is in `base`, which is only read, or in `state` itself.
    pub(crate) fn run(
        &mut self,
        chunk: &CfmChunk<'_>,
        base: Option<&EstimatorState>,
        state: &mut EstimatorState,
        kept: impl Iterator<Item = CacheEntry> + Clone,
    ) -> Result<Vec<f32>> {
        let before = base.unwrap_or(state);
        self.mask.clear();
        self.mask.resize(before.slots(), MASKED);
        for &slot in before.order() {
            self.mask[slot] = 0.0;
        }
        let (cnn_shape, cache_shape) = (self.cnn_shape(), cache_shape(&self.flow, dim(before.slots())));
        let caches = base.map_or(&state.caches, |base| &base.caches);
        let mut layers = Vec::with_capacity(caches.len());
        for (layer, (cnn_out, [keys, values])) in state.cnn.iter_mut().zip(caches).enumerate() {
            let (cnn, cnn_out) = match base {
                Some(base) => (base.cnn[layer].tensor(&cnn_shape), cnn_out.tensor_mut(&cnn_shape)),
                None => cnn_out.in_place(&cnn_shape),
            };
            layers.push(Layer { cnn, cnn_out, keys: keys.tensor(&cache_shape), values: values.tensor(&cache_shape) });
        }
        let mel = self.integrate(chunk, layers)?;
        self.store.put(&self.fresh, chunk.frames, base, state, kept)?;
        Ok(mel)
    }

    /// All Euler steps. The mask is that of the cache slots; fresh keys and values lie in `self.fresh` afterwards.
    fn integrate(&mut self, chunk: &CfmChunk<'_>, layers: Vec<Layer<'_>>) -> Result<Vec<f32>> {
        let frames = chunk.frames;
        self.store.make_room(&mut self.fresh, frames)?;
        self.mask.resize(self.mask.len() + frames, 0.0);
        let mel_bins = self.flow.mel;
        let mut mel = vec![0.0f32; mel_bins * frames];
        let mel_shape = [1, dim(mel_bins), dim(frames)];
        let fresh_shape = cache_shape(&self.flow, dim(frames));
        let mut inputs = vec![
            Tensor::new(chunk.noise, &mel_shape),
            Tensor::new(chunk.mu, &mel_shape),
            Tensor::new(chunk.speaker, &[1, dim(mel_bins)]),
            Tensor::new(chunk.condition, &mel_shape),
            Tensor::new(&self.mask, &[1, dim(self.mask.len())]),
        ];
        let mut outputs = vec![TensorMut::new(&mut mel, &mel_shape)];
        for (layer, [new_keys, new_values]) in layers.into_iter().zip(&mut self.fresh.parts) {
            inputs.extend([layer.cnn, layer.keys, layer.values]);
            outputs.extend([layer.cnn_out, new_keys.tensor_mut(&fresh_shape), new_values.tensor_mut(&fresh_shape)]);
        }
        self.graph.run(&inputs, &mut outputs)?;
        drop((inputs, outputs));
        Ok(mel)
    }

    fn cnn_shape(&self) -> [i64; 4] {
        [dim(self.flow.steps), dim(GUIDANCE_ROWS), dim(2 * self.flow.dit_width), dim(self.flow.cnn_len)]
    }
}
