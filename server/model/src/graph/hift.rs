//! hift.onnx: mel frames to waveform (submodules.md 1.6.6).
//!
//! Owns: nothing between calls. Must not: join chunks (`token2wav::assemble`).

use super::{ANY, Graph, Use, dim, port};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::manifest::HiftBlock;
use crate::raw::{Kind, Tensor, TensorMut};
use crate::runtime::Runtime;

#[derive(Debug)]
pub(crate) struct Hift {
    graph: Graph,
    mels: usize,
    samples_per_frame: usize,
    channels: usize,
    f0: Vec<f32>,
}

impl Hift {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, hift: &HiftBlock, mels: usize) -> Result<Self> {
        let channels = hift.harmonics + 1;
        let inputs = [
            port("mel", Kind::F32, &[ANY, dim(mels), ANY]),
            port("cache_source", Kind::F32, &[ANY, 1, ANY]),
            port("noise", Kind::F32, &[ANY, ANY, dim(channels)]),
        ];
        let outputs = [
            port("speech", Kind::F32, &[ANY, ANY]),
            port("source", Kind::F32, &[ANY, 1, ANY]),
            port("f0", Kind::F32, &[ANY, ANY]),
        ];
        let graph = Graph::load(runtime, bundle, "hift.onnx", Use::Chunk, &inputs, &outputs)?;
        Ok(Hift { graph, mels, samples_per_frame: hift.samples_per_frame, channels, f0: Vec::new() })
    }

    /// Values of noise for `frames` frames.
    pub(crate) fn noise_len(&self, frames: usize) -> usize {
        frames * self.samples_per_frame * self.channels
    }

    /// `mel` [mel bins, frames], `cache_source` (may be empty), `noise` [samples, harmonics + 1]; fills `speech` and `source`
    /// with one value per sample.
    pub(crate) fn run(
        &mut self,
        mel: &[f32],
        cache_source: &[f32],
        noise: &[f32],
        speech: &mut Vec<f32>,
        source: &mut Vec<f32>,
    ) -> Result<()> {
        let frames = mel.len() / self.mels;
        let samples = frames * self.samples_per_frame;
        speech.resize(samples, 0.0);
        source.resize(samples, 0.0);
        self.f0.resize(frames, 0.0);
        self.graph.run(
            &[
                Tensor::new(mel, &[1, dim(self.mels), dim(frames)]),
                Tensor::new(cache_source, &[1, 1, dim(cache_source.len())]),
                Tensor::new(noise, &[1, dim(samples), dim(self.channels)]),
            ],
            &mut [
                TensorMut::new(speech, &[1, dim(samples)]),
                TensorMut::new(source, &[1, 1, dim(samples)]),
                TensorMut::new(&mut self.f0, &[1, dim(frames)]),
            ],
        )
    }
}

#[cfg(test)]
mod tests;
