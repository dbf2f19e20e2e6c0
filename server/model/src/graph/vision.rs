//! vision.onnx: picture slices to LLM rows (submodules.md 1.3).
//!
//! Owns: the graph's index inputs. Must not: touch pixels (`image`).

use super::{ANY, Graph, Use, dim, port};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::image::{Slice, VisionParams};
use crate::raw::{Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

/// The vision encoder and resampler. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Vision {
    graph: Graph,
    params: VisionParams,
    queries: usize,
    llm_hidden: usize,
}

impl Vision {
    /// Loads the graph; `None` when the bundle was exported without vision.
    ///
    /// # Errors
    /// As [`crate::ModelError`] says for graphs.
    pub fn load(runtime: &Runtime, bundle: &Bundle) -> Result<Option<Self>> {
        let manifest = bundle.manifest();
        let Some(block) = &manifest.vision else { return Ok(None) };
        let llm_hidden = manifest.llm.hidden;
        let values = 3 * block.patch * block.patch;
        let inputs = [
            port("patches", Kind::F32, &[ANY, ANY, dim(values)]),
            port("pos_ids", Kind::I64, &[ANY, ANY]),
            port("grid_ids", Kind::I64, &[ANY, ANY]),
            port("mask", Kind::F32, &[ANY, ANY]),
        ];
        let outputs = [port("embeds", Kind::F32, &[ANY, dim(block.queries), dim(llm_hidden)])];
        let graph = Graph::load(runtime, bundle, "vision.onnx", Use::Chunk, &inputs, &outputs)?;
        let params = VisionParams {
            patch: block.patch,
            image: block.image,
            grid: block.grid,
            buckets: block.buckets.clone(),
            mean: block.mean,
            std: block.std,
        };
        Ok(Some(Vision { graph, params, queries: block.queries, llm_hidden }))
    }

    /// Numbers for [`crate::image::preprocess`].
    pub fn params(&self) -> &VisionParams {
        &self.params
    }

    /// LLM rows of one slice.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// Encodes slices to `[slices, queries, LLM width]`. Each slice is its own run: slices of a picture differ in size, and
    /// a batch would compute padding.
    ///
    /// # Errors
    /// [`crate::ModelError::GraphRun`].
    pub fn encode(&mut self, slices: &[Slice]) -> Result<Vec<f32>> {
        let values = 3 * self.params.patch * self.params.patch;
        let per_slice = self.queries * self.llm_hidden;
        let mut embeds = vec![0.0f32; slices.len() * per_slice];
        let mut patches = Vec::new();
        for (slice, embeds) in slices.iter().zip(embeds.chunks_exact_mut(per_slice)) {
            let count = slice.h * slice.w;
            patches.clear();
            slice.normalise_into(&self.params, &mut patches);
            let positions = slice.pos_ids(&self.params);
            let cells = slice.grid_ids(&self.params);
            let mask = vec![1.0f32; count];
            let row = [1, dim(count)];
            self.graph.run(
                &[
                    Tensor::new(&patches, &[1, dim(count), dim(values)]),
                    Tensor::new(&positions, &row),
                    Tensor::new(&cells, &row),
                    Tensor::new(&mask, &row),
                ],
                &mut [TensorMut::new(embeds, &[1, dim(self.queries), dim(self.llm_hidden)])],
            )?;
        }
        Ok(embeds)
    }
}

#[cfg(test)]
mod tests;
