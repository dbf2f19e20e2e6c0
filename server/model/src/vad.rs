//! Silero VAD beside the model: whether somebody speaks, 31 times a second.
//!
//! Owns: the network (one for all sessions) and what it remembers between frames (one per stream). Must not: decide what a
//! voice means (`duologue_session::barge_in` does).
//!
//! ```text
//! 16 kHz samples -> frames of 512 -> [64 samples before | frame] -> Silero VAD v5, v6 -> probability
//!                                                    state [2, 1, 128] ^----------------+
//! ```
//! The file comes from the pip package `silero-vad` (MIT licence), `make vad` puts it in place. It runs on the CPU whatever
//! the device of the bundle is: a frame is too little work for a GPU.

mod file;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use duologue_audio::level::rms_dbfs;
use duologue_session::VoiceFrame;
use ort::session::Session;

use crate::error::{ModelError, Result};
use crate::graph::{ANY, Port, check_ports, dim, port};
use crate::raw::{Kind, Tensor, TensorMut, run};
use crate::runtime::{Device, Runtime, SessionSettings};

pub use file::{DETECTOR_VARIABLE, find};

/// Rate of the sound.
pub const RATE_HZ: u32 = 16_000;
/// Samples of a frame.
pub const FRAME_SAMPLES: usize = 512;
/// Samples before the frame that the network sees again (`OnnxWrapper.__call__` of the package).
const CONTEXT: usize = 64;
const STATE: [i64; 3] = [2, 1, 128];
const STATE_LEN: usize = 2 * 128;

/// Frames at or below this level are silence without asking the network: a muted client sends zeros.
const MUTE_DBFS: f32 = -80.0;
/// The network sees this many muted frames before it rests, so that it takes the end of a voice for one.
const MUTED_FRAMES: u32 = 16;

/// The network, shared by all streams.
///
/// Runs take turns: ONNX Runtime's sessions are not for concurrent use, and one frame takes a quarter of a millisecond.
#[derive(Debug, Clone)]
pub struct VoiceDetector {
    network: Arc<Mutex<Network>>,
}

#[derive(Debug)]
struct Network {
    session: Session,
    inputs: [CString; 3],
    outputs: [CString; 2],
}

impl VoiceDetector {
    /// Loads the file found by [`find`].
    ///
    /// # Errors
    /// [`ModelError::Detector`] when it is no Silero VAD of version 5 or 6.
    pub fn load(runtime: &Runtime, path: &Path) -> Result<Self> {
        let refuse = |reason: String| ModelError::Detector { path: path.to_path_buf(), reason };
        if !path.is_file() {
            return Err(refuse("there is no such file".to_owned()));
        }
        let settings = SessionSettings { device: Device::Cpu, memory_pattern: true, cpu_nodes: true, spinning: false };
        // A second thread costs more than it brings with a network this small.
        let session = runtime.with_threads(1).session(path, settings).map_err(|error| match error {
            ModelError::GraphLoad { reason, .. } => refuse(reason),
            other => other,
        })?;
        let inputs = [
            port("input", Kind::F32, &[ANY, ANY]),
            port("state", Kind::F32, &[STATE[0], ANY, STATE[2]]),
            port("sr", Kind::I64, &[]),
        ];
        let outputs = [port("output", Kind::F32, &[ANY, 1]), port("stateN", Kind::F32, &[ANY, ANY, ANY])];
        check_ports("input", session.inputs(), &inputs).map_err(refuse)?;
        check_ports("output", session.outputs(), &outputs).map_err(refuse)?;
        let network = Network {
            session,
            inputs: inputs.each_ref().map(Port::c_name),
            outputs: outputs.each_ref().map(Port::c_name),
        };
        tracing::info!(path = %path.display(), "voice detector loaded");
        Ok(Self { network: Arc::new(Mutex::new(network)) })
    }

    /// A new stream: it remembers nothing.
    pub fn stream(&self) -> VoiceDetectorStream {
        VoiceDetectorStream {
            network: self.network.clone(),
            window: [0.0; CONTEXT + FRAME_SAMPLES],
            filled: 0,
            state: [0.0; STATE_LEN],
            muted: 0,
        }
    }
}

impl Network {
    /// One frame; `state` becomes the next one.
    fn step(&mut self, window: &[f32], state: &mut [f32; STATE_LEN]) -> Result<f32> {
        let failed = |reason: String| ModelError::GraphRun { graph: file::NAME.to_owned(), reason };
        let rate = [i64::from(RATE_HZ)];
        let (mut probability, mut next) = ([0.0f32], [0.0f32; STATE_LEN]);
        run(
            &mut self.session,
            &self.inputs,
            &[Tensor::new(window, &[1, dim(window.len())]), Tensor::new(&state[..], &STATE), Tensor::new(&rate, &[])],
            &self.outputs,
            &mut [TensorMut::new(&mut probability, &[1, 1]), TensorMut::new(&mut next, &STATE)],
        )
        .map_err(failed)?;
        let [probability] = probability;
        if !(0.0..=1.0).contains(&probability) {
            return Err(failed(format!("it returned the probability {probability}")));
        }
        *state = next;
        Ok(probability)
    }
}

/// What the network remembers of one session's sound.
pub struct VoiceDetectorStream {
    network: Arc<Mutex<Network>>,
    /// The context, then the frame as far as it has come.
    window: [f32; CONTEXT + FRAME_SAMPLES],
    filled: usize,
    state: [f32; STATE_LEN],
    /// Muted frames in a row.
    muted: u32,
}

impl VoiceDetectorStream {
    /// Takes sound of [`RATE_HZ`] in pieces of any length and calls `on_frame` for every frame that becomes complete.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a sample that is no finite number, in place of its frame; the sound after it is taken by the
    /// next call as if the frame had not been. [`ModelError::GraphRun`].
    pub fn push(&mut self, mut samples: &[f32], on_frame: &mut dyn FnMut(VoiceFrame)) -> Result<()> {
        while !samples.is_empty() {
            let at = CONTEXT + self.filled;
            let (taken, rest) = samples.split_at(samples.len().min(FRAME_SAMPLES - self.filled));
            self.window[at..at + taken.len()].copy_from_slice(taken);
            self.filled += taken.len();
            samples = rest;
            if self.filled == FRAME_SAMPLES {
                self.filled = 0;
                on_frame(self.frame()?);
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<VoiceFrame> {
        let energy_dbfs = rms_dbfs(self.window[CONTEXT..].iter().copied());
        if !energy_dbfs.is_finite() {
            let problem = "a sample is NaN, infinite or beyond all sense; send finite numbers within -1..1";
            return Err(ModelError::input("voice detector", problem));
        }
        self.muted = if energy_dbfs <= MUTE_DBFS { self.muted.saturating_add(1) } else { 0 };
        let probability = if self.muted > MUTED_FRAMES {
            0.0
        } else {
            let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
            network.step(&self.window, &mut self.state)?
        };
        self.window.copy_within(FRAME_SAMPLES.., 0);
        Ok(VoiceFrame { probability, energy_dbfs })
    }
}

impl fmt::Debug for VoiceDetectorStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VoiceDetectorStream")
            .field("filled", &self.filled)
            .field("muted", &self.muted)
            .finish_non_exhaustive()
    }
}
