//! speech_tokenizer.onnx and campplus.onnx: the two graphs that come ready-made with a checkpoint and run once per voice.
//!
//! Owns: finding their tensors by type, since the names are the checkpoint's. Must not: compute features.

use super::{ANY, Graph, Kind, Port, Use, dim, port};
use crate::bundle::Bundle;
use crate::error::{ModelError, Result};
use crate::manifest::GraphEntry;
use crate::raw::{Tensor, TensorMut};
use crate::runtime::Runtime;

/// Log-mel to speech tokens.
#[derive(Debug)]
pub(crate) struct SpeechTokenizer {
    graph: Graph,
    mels: usize,
}

impl SpeechTokenizer {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, mels: usize) -> Result<Self> {
        let file = "speech_tokenizer.onnx";
        let entry = entry(bundle, file)?;
        let inputs = [
            by_kind(bundle, file, &entry.inputs, Kind::F32, &[ANY, dim(mels), ANY])?,
            by_kind(bundle, file, &entry.inputs, Kind::I32, &[ANY])?,
        ];
        let outputs = [by_kind(bundle, file, &entry.outputs, Kind::I32, &[ANY, ANY])?];
        let graph = Graph::load(runtime, bundle, file, Use::Once, &inputs, &outputs)?;
        Ok(SpeechTokenizer { graph, mels })
    }

    /// `mel` [mels, frames] -> one token per four frames (two convolutions of stride 2).
    pub(crate) fn run(&mut self, mel: &[f32], frames: usize) -> Result<Vec<u32>> {
        let length = [i32::try_from(frames).expect("prompts are far shorter. This is a bug.")];
        let mut tokens = vec![0i32; frames.div_ceil(2).div_ceil(2)];
        let count = dim(tokens.len());
        self.graph.run(
            &[Tensor::new(mel, &[1, dim(self.mels), dim(frames)]), Tensor::new(&length, &[1])],
            &mut [TensorMut::new(&mut tokens, &[1, count])],
        )?;
        let unsigned = |token: i32| u32::try_from(token);
        let tokens: Result<Vec<u32>, _> = tokens.into_iter().map(unsigned).collect();
        tokens.map_err(|_| ModelError::GraphRun {
            graph: "speech_tokenizer.onnx".to_owned(),
            reason: "it returned a negative token".to_owned(),
        })
    }
}

/// Filter bank to speaker vector.
#[derive(Debug)]
pub(crate) struct Campplus {
    graph: Graph,
    mels: usize,
    spk: usize,
}

impl Campplus {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle, mels: usize, spk: usize) -> Result<Self> {
        let file = "campplus.onnx";
        let entry = entry(bundle, file)?;
        let inputs = [by_kind(bundle, file, &entry.inputs, Kind::F32, &[ANY, ANY, dim(mels)])?];
        let outputs = [by_kind(bundle, file, &entry.outputs, Kind::F32, &[ANY, dim(spk)])?];
        let graph = Graph::load(runtime, bundle, file, Use::Once, &inputs, &outputs)?;
        Ok(Campplus { graph, mels, spk })
    }

    /// `fbank` [frames, mels], mean over time removed -> `[spk]`.
    pub(crate) fn run(&mut self, fbank: &[f32]) -> Result<Vec<f32>> {
        let frames = fbank.len() / self.mels;
        let mut speaker = vec![0.0f32; self.spk];
        self.graph.run(
            &[Tensor::new(fbank, &[1, dim(frames), dim(self.mels)])],
            &mut [TensorMut::new(&mut speaker, &[1, dim(self.spk)])],
        )?;
        Ok(speaker)
    }
}

fn entry<'b>(bundle: &'b Bundle, file: &str) -> Result<&'b GraphEntry> {
    bundle.manifest().graphs.get(file).ok_or_else(|| ModelError::GraphContract {
        path: bundle.path(file),
        reason: "the manifest has no entry under graphs".to_owned(),
    })
}

/// The one tensor of a type; these graphs have one of each.
fn by_kind(
    bundle: &Bundle,
    file: &str,
    side: &std::collections::BTreeMap<String, String>,
    kind: Kind,
    shape: &[i64],
) -> Result<Port> {
    let mut names = side.iter().filter(|(_, dtype)| *dtype == kind.name()).map(|(name, _)| name);
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(port(name.as_str(), kind, shape)),
        _ => Err(ModelError::GraphContract {
            path: bundle.path(file),
            reason: format!("expected exactly one {} among {:?}", kind.name(), side),
        }),
    }
}
