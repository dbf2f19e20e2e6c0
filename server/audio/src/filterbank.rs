//! Triangular mel filters, kept sparse: a filter touches a few neighbouring bins only.
//!
//! Owns: the two definitions in use (Slaney for Whisper, S3 and the 24 kHz mel; Kaldi for the speaker features).

/// A set of filters over the bins of a spectrum.
#[derive(Debug, Clone)]
pub(crate) struct FilterBank {
    filters: Vec<Filter>,
}

#[derive(Debug, Clone)]
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

impl FilterBank {
    /// Slaney scale and area normalisation from 0 to `f_max_hz` (librosa.filters.mel; transformers'
    /// `mel_filter_bank(norm="slaney", mel_scale="slaney")`): float64 until the last step, as transformers does.
    pub(crate) fn slaney(n_mels: usize, n_fft: usize, rate_hz: u32, f_max_hz: f64) -> Self {
        let top = hz_to_mel(f_max_hz);
        let edges: Vec<f64> = (0..n_mels + 2)
            .map(|i| mel_to_hz(if i == n_mels + 1 { top } else { top / (n_mels + 1) as f64 * i as f64 }))
            .collect();
        let bins = n_fft / 2 + 1;
        let bin_hz = f64::from(rate_hz / 2) / (bins - 1) as f64;
        Self::from_dense(n_mels, bins, |mel, bin| {
            let (left, center, right) = (edges[mel], edges[mel + 1], edges[mel + 2]);
            let hz = bin as f64 * bin_hz;
            let height = ((hz - left) / (center - left)).min((right - hz) / (right - center)).max(0.0);
            (height * (2.0 / (right - left))) as f32
        })
    }

    /// Kaldi's filters from `f_min_hz` to the Nyquist frequency, triangular on the mel axis, no normalisation
    /// (torchaudio.compliance.kaldi.get_mel_banks: float32 tensors). The last bin belongs to no filter.
    pub(crate) fn kaldi(n_mels: usize, n_fft: usize, rate_hz: u32, f_min_hz: f64) -> Self {
        let scale = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
        let low = scale(f_min_hz);
        let delta = (scale(f64::from(rate_hz) / 2.0) - low) / (n_mels + 1) as f64;
        let edge = |i: usize| low as f32 + i as f32 * delta as f32;
        let bin_hz = (f64::from(rate_hz) / n_fft as f64) as f32;
        Self::from_dense(n_mels, n_fft / 2, |mel, bin| {
            let (left, center, right) = (edge(mel), edge(mel + 1), edge(mel + 2));
            let at = 1127.0 * (1.0 + bin_hz * bin as f32 / 700.0).ln();
            ((at - left) / (center - left)).min((right - at) / (right - center)).max(0.0)
        })
    }

    fn from_dense(n_mels: usize, bins: usize, weight: impl Fn(usize, usize) -> f32) -> Self {
        let filters = (0..n_mels)
            .map(|mel| {
                let row: Vec<f32> = (0..bins).map(|bin| weight(mel, bin)).collect();
                let first = row.iter().position(|&w| w > 0.0).unwrap_or(0);
                let end = row.iter().rposition(|&w| w > 0.0).map_or(first, |last| last + 1);
                Filter { first, weights: row[first..end].to_vec() }
            })
            .collect();
        Self { filters }
    }

    /// Number of filters.
    pub(crate) fn len(&self) -> usize {
        self.filters.len()
    }

    /// The weighted sums of a spectrum, filter by filter.
    pub(crate) fn sums<'a>(&'a self, spectrum: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        self.filters.iter().map(|filter| filter.weights.iter().zip(&spectrum[filter.first..]).map(|(w, x)| w * x).sum())
    }
}

/// Mel number at which the Slaney scale turns from linear (200/3 Hz a mel) to logarithmic, and its frequency.
const LOG_START_MEL: f64 = 15.0;
const LOG_START_HZ: f64 = 1000.0;

fn hz_to_mel(hz: f64) -> f64 {
    if hz < LOG_START_HZ { 3.0 * hz / 200.0 } else { LOG_START_MEL + (hz / LOG_START_HZ).ln() * (27.0 / 6.4f64.ln()) }
}

fn mel_to_hz(mel: f64) -> f64 {
    if mel < LOG_START_MEL {
        200.0 * mel / 3.0
    } else {
        LOG_START_HZ * (6.4f64.ln() / 27.0 * (mel - LOG_START_MEL)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn slaney_filters_equal_the_reference_to_the_last_bit() {
        let wanted: ndarray::Array2<f32> = golden::array("modules/module_whisper_mel.npz", "mel_filters");
        let bank = FilterBank::slaney(80, 400, 16_000, 8000.0);
        for (bin, row) in wanted.rows().into_iter().enumerate() {
            let mut impulse = vec![0.0; 201];
            impulse[bin] = 1.0;
            let got: Vec<f32> = bank.sums(&impulse).collect();
            assert_eq!(got, row.to_vec(), "bin {bin}");
        }
    }

    #[test]
    fn every_filter_has_weight() {
        for bank in [
            FilterBank::slaney(80, 400, 16_000, 8000.0),
            FilterBank::slaney(80, 1920, 24_000, 8000.0),
            FilterBank::kaldi(80, 512, 16_000, 20.0),
        ] {
            assert!(bank.filters.iter().all(|f| !f.weights.is_empty() && f.weights.iter().all(|&w| w > 0.0)));
        }
    }
}
