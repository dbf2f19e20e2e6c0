//! The 24 kHz mel of a voice prompt, as the vocoder's training used it.
//!
//! Reference: stepaudio2/flashcosyvoice/utils/audio.py:44-83 (`center=False`, padding by mirroring first).

use super::Mel;
use crate::FeatureError;
use crate::filterbank::FilterBank;
use crate::spectrum::{Spectrum, hann_periodic};

/// Added to the power before the root, and smallest value before the logarithm: part of the definition.
const POWER_OFFSET: f32 = 1e-9;
const SMALLEST_VALUE: f32 = 1e-5;

/// Numbers of the manifest's `voice.mel24` section, and `token2wav.sample_rate_hz`.
#[derive(Debug, Clone, PartialEq)]
pub struct VocoderMelParams {
    /// Rate of the samples.
    pub sample_rate_hz: u32,
    /// Length of an analysis frame (and of its window) in samples.
    pub n_fft: usize,
    /// Samples from one frame to the next.
    pub hop: usize,
    /// Mel filters.
    pub n_mels: usize,
    /// Upper end of the filters.
    pub f_max_hz: f64,
}

/// `[n_mels, samples / hop]`: natural logarithm of mel-weighted magnitudes.
///
/// # Errors
/// A recording too short to be mirrored at its ends.
pub fn mel24(params: &VocoderMelParams, samples: &[f32]) -> Result<Mel, FeatureError> {
    let &VocoderMelParams { sample_rate_hz, n_fft, hop, n_mels, f_max_hz } = params;
    if hop == 0 || n_mels == 0 || n_fft < hop || !n_fft.is_multiple_of(2) {
        let reason = format!("n_fft {n_fft}, hop {hop}, n_mels {n_mels}");
        return Err(FeatureError::Params { feature: "the vocoder mel", reason });
    }
    let padding = (n_fft - hop) / 2;
    let needed = (padding + 1).max(n_fft - 2 * padding);
    if samples.len() < needed {
        return Err(FeatureError::TooShort { feature: "the vocoder mel", needed, got: samples.len() });
    }
    let frames = (samples.len() + 2 * padding - n_fft) / hop + 1;
    let bank = FilterBank::slaney(n_mels, n_fft, sample_rate_hz, f_max_hz);
    let mut spectrum = Spectrum::new(n_fft, hann_periodic(n_fft));
    let mut magnitudes = Vec::new();
    let mut columns = Vec::with_capacity(frames * n_mels);
    for frame in 0..frames {
        let power = spectrum.power_at(samples, (frame * hop) as isize - padding as isize);
        magnitudes.clear();
        magnitudes.extend(power.iter().map(|p| (p + POWER_OFFSET).sqrt()));
        columns.extend(bank.sums(&magnitudes).map(|value| value.max(SMALLEST_VALUE).ln()));
    }
    Ok(Mel::from_columns(&columns, n_mels))
}
