//! tts_condition.onnx: text tokens and their LLM hidden states to TTS input rows (submodules.md 1.5).
//!
//! Owns: nothing between calls. Must not: choose which tokens are spoken.

use super::{ANY, Graph, Use, dim, port};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::raw::{Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

#[derive(Debug)]
pub(crate) struct TtsCondition {
    graph: Graph,
    llm_hidden: usize,
    tts_hidden: usize,
}

impl TtsCondition {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, tts_hidden: usize) -> Result<Self> {
        let llm_hidden = bundle.manifest().llm.hidden;
        let inputs = [port("ids", Kind::I64, &[ANY]), port("hidden", Kind::F32, &[ANY, dim(llm_hidden)])];
        let outputs = [port("condition", Kind::F32, &[ANY, dim(tts_hidden)])];
        let graph = Graph::load(runtime, bundle, "tts_condition.onnx", Use::Chunk, &inputs, &outputs)?;
        Ok(TtsCondition { graph, llm_hidden, tts_hidden })
    }

    /// `ids` [m], `hidden` [m, LLM width] -> [m + 1, TTS width].
    pub(crate) fn run(&mut self, ids: &[u32], hidden: &[f32]) -> Result<Vec<f32>> {
        assert_eq!(hidden.len(), ids.len() * self.llm_hidden, "one hidden state per token. This is a bug.");
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let mut condition = vec![0.0f32; (ids.len() + 1) * self.tts_hidden];
        let rows = dim(ids.len());
        self.graph.run(
            &[Tensor::new(&ids, &[rows]), Tensor::new(hidden, &[rows, dim(self.llm_hidden)])],
            &mut [TensorMut::new(&mut condition, &[rows + 1, dim(self.tts_hidden)])],
        )?;
        Ok(condition)
    }
}
