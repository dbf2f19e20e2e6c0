//! Kaldi's log filter-bank energies for the speaker embedding of a voice prompt.
//!
//! Reference: torchaudio.compliance.kaldi.fbank as called in stepaudio2/token2wav.py:110 (no dither).

use crate::FeatureError;
use crate::filterbank::FilterBank;
use crate::spectrum::{Spectrum, povey};

/// Settings of the analysis.
#[derive(Debug, Clone, PartialEq)]
pub struct FbankParams {
    /// Rate of the samples.
    pub sample_rate_hz: u32,
    /// Mel filters (the manifest's `voice.fbank_mels`).
    pub n_mels: usize,
    /// Length of a frame.
    pub frame_ms: u32,
    /// Time from one frame to the next.
    pub shift_ms: u32,
    /// Share of the previous sample that is subtracted from each one.
    pub preemphasis: f32,
    /// Lower end of the filters; the upper end is the Nyquist frequency.
    pub f_min_hz: f64,
}

impl FbankParams {
    /// The defaults of torchaudio.compliance.kaldi.fbank.
    pub fn torchaudio_defaults(sample_rate_hz: u32, n_mels: usize) -> Self {
        Self { sample_rate_hz, n_mels, frame_ms: 25, shift_ms: 10, preemphasis: 0.97, f_min_hz: 20.0 }
    }

    fn samples(&self, ms: u32) -> usize {
        (u64::from(ms) * u64::from(self.sample_rate_hz) / 1000) as usize
    }
}

/// Features over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Fbank {
    /// Rows.
    pub frames: usize,
    /// Columns.
    pub n_mels: usize,
    /// `[frames, n_mels]`, row after row.
    pub data: Vec<f32>,
}

impl Fbank {
    /// The features less their mean over time, as the speaker model takes them.
    pub fn centered(&self) -> Self {
        let mut means = vec![0.0f64; self.n_mels];
        for row in self.data.chunks_exact(self.n_mels) {
            for (mean, &value) in means.iter_mut().zip(row) {
                *mean += f64::from(value) / self.frames as f64;
            }
        }
        let data = self
            .data
            .chunks_exact(self.n_mels)
            .flat_map(|row| row.iter().zip(&means).map(|(&v, &m)| v - m as f32))
            .collect();
        Self { frames: self.frames, n_mels: self.n_mels, data }
    }
}

/// Log energies of the frames that fit completely (Kaldi's `snip_edges`): offset removed, pre-emphasis, "povey"
/// window, zero-padded to a power of two.
///
/// # Errors
/// A recording shorter than one frame, or parameters that cannot work.
pub fn kaldi(params: &FbankParams, samples: &[f32]) -> Result<Fbank, FeatureError> {
    let (length, shift) = (params.samples(params.frame_ms), params.samples(params.shift_ms));
    if length < 2 || shift == 0 || params.n_mels == 0 {
        let reason = format!("frames of {length} samples every {shift}, {} mels", params.n_mels);
        return Err(FeatureError::Params { feature: "the filter bank", reason });
    }
    if samples.len() < length {
        return Err(FeatureError::TooShort { feature: "the filter bank", needed: length, got: samples.len() });
    }
    let n_fft = length.next_power_of_two();
    let bank = FilterBank::kaldi(params.n_mels, n_fft, params.sample_rate_hz, params.f_min_hz);
    let mut spectrum = Spectrum::new(n_fft, povey(length));
    let frames = (samples.len() - length) / shift + 1;
    let mut data = Vec::with_capacity(frames * bank.len());
    let mut prepared = Vec::with_capacity(length);
    for frame in samples.windows(length).step_by(shift) {
        let offset = frame.iter().sum::<f32>() / length as f32;
        prepared.clear();
        // the first sample stands in for the one before it
        let mut previous = frame[0] - offset;
        for &sample in frame {
            let value = sample - offset;
            prepared.push(value - params.preemphasis * previous);
            previous = value;
        }
        data.extend(bank.sums(spectrum.power_of(&prepared)).map(|energy| energy.max(f32::EPSILON).ln()));
    }
    Ok(Fbank { frames, n_mels: bank.len(), data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;
    use crate::wav::{Limits, read_mono};

    fn correlation(a: &[f32], b: &[f32]) -> f64 {
        let mean = |x: &[f32]| x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let dot = |x: &[f32], mx: f64, y: &[f32], my: f64| {
            x.iter().zip(y).map(|(&p, &q)| (f64::from(p) - mx) * (f64::from(q) - my)).sum::<f64>()
        };
        dot(a, ma, b, mb) / (dot(a, ma, a, ma) * dot(b, mb, b, mb)).sqrt()
    }

    #[test]
    fn golden_voice_prompt() {
        const FILE: &str = "modules/module_frontend.npz";
        let limits = Limits { min_seconds: 1.0, max_seconds: 60.0 };
        let audio = read_mono(&golden::path("inputs/ref_public.wav"), limits).expect("golden input");
        let fbank = kaldi(&FbankParams::torchaudio_defaults(16_000, 80), &audio.samples).expect("long enough");
        for (name, got) in [("kaldi_fbank", fbank.data.clone()), ("kaldi_fbank_centered", fbank.centered().data)] {
            let wanted: ndarray::Array2<f32> = golden::array(FILE, name);
            assert_eq!(wanted.shape(), [fbank.frames, fbank.n_mels]);
            let (max, p99) = golden::difference(&got, &wanted);
            let pcc = correlation(&got, wanted.as_slice().expect("row-major"));
            eprintln!("{name}: max {max:e}, p99 {p99:e}, 1 - PCC {:e}", 1.0 - pcc);
            assert!(pcc > 0.99999 && max < 2e-3 && p99 < 1e-4, "{name}: PCC {pcc}, max {max}, p99 {p99}");
        }
    }

    #[test]
    fn short_and_silent_input() {
        let params = FbankParams::torchaudio_defaults(16_000, 80);
        let error = kaldi(&params, &[0.0; 399]).expect_err("one sample short").to_string();
        assert!(error.contains("needs at least 400 samples, got 399"), "{error}");
        let silence = kaldi(&params, &[0.0; 400]).expect("one frame");
        assert_eq!((silence.frames, silence.data.len()), (1, 80));
        assert!(silence.data.iter().all(|&v| v == f32::EPSILON.ln()));
        assert!(silence.centered().data.iter().all(|&v| v.abs() < 1e-6));
    }
}
