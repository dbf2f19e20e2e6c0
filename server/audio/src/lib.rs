//! Sound in and out of the models, as plain numbers: wav files, resampling, one-second units, mel features, and the
//! codecs of the wires.
//!
//! Owns every computation between a PCM buffer and the first or after the last ONNX graph. Must not: run graphs, know
//! sessions, do network or async work. All parameters come from the caller, who reads them from the bundle's manifest.
#![forbid(unsafe_code)]

pub mod chunker;
pub mod fbank;
mod filterbank;
pub mod g711;
pub mod level;
pub mod mel;
pub mod opus;
pub mod resample;
mod spectrum;
pub mod stream;
pub mod wav;

/// Mono sound at a stated rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Pcm {
    /// Samples per second.
    pub rate_hz: u32,
    /// Samples, nominally within -1..1.
    pub samples: Vec<f32>,
}

impl Pcm {
    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate_hz)
    }
}

/// Why features could not be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// Fewer samples than the first analysis window needs.
    #[error("{feature} needs at least {needed} samples, got {got}; give a longer recording")]
    TooShort {
        /// Name of the feature.
        feature: &'static str,
        /// Least number of samples.
        needed: usize,
        /// Samples given.
        got: usize,
    },
    /// Parameters that contradict each other; they come from a bundle's manifest.
    #[error("the bundle's numbers for {feature} cannot work: {reason}; export the bundle again")]
    Params {
        /// Name of the feature.
        feature: &'static str,
        /// The contradiction.
        reason: String,
    },
}

#[cfg(test)]
mod golden;
