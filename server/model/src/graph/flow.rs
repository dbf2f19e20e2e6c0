//! The flow graphs: speech tokens to mel frames (submodules.md 1.6.3, 1.6.4).
//!
//! Owns: flow_speaker.onnx. The encoder, the flow matching and the cache of its estimator have files of their own.

mod cfm;
mod encoder;
mod estimator;

pub(crate) use cfm::{Cfm, CfmChunk};
pub(crate) use encoder::{EncoderState, FlowEncoder};
pub(crate) use estimator::{CacheEntry, EstimatorState};

use super::{ANY, Graph, Use, dim, port};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::manifest::FlowBlock;
use crate::raw::{Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

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
