//! Spectrum of one analysis frame: window, real FFT with a kept plan, mirrored edges.
//!
//! Owns: the buffers of the transform. Must not: know mel scales or logarithms.
//! The transform runs in float64 on float32 samples and windows. The reference's float32 transform leaves rounding noise
//! in quiet frames; a second float32 transform would add its own, different noise and double the distance.

use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftDirection, FftPlannerAvx, FftPlannerScalar};

/// Transforms frames of a fixed, even length.
///
/// A real frame is packed as half as many complex numbers (even samples real, odd ones imaginary), transformed, and the
/// two halves are told apart by symmetry. The crate `realfft` does the same through rustfft's general planner, whose
/// generics took minutes to compile here; of its parts only AVX is faster than the scalar one at these lengths.
pub(crate) struct Spectrum {
    fft: Arc<dyn Fft<f64>>,
    window: Vec<f32>,
    /// Samples of a frame that reaches over an end, kept for its memory.
    mirrored: Vec<f32>,
    frame: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    /// `exp(-2 pi i k / n_fft)` for the lower half of the bins.
    twiddles: Vec<Complex<f64>>,
    power: Vec<f32>,
}

impl std::fmt::Debug for Spectrum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spectrum").field("bins", &self.power.len()).field("window", &self.window.len()).finish()
    }
}

impl Spectrum {
    /// `window` may be shorter than `n_fft`: the rest of the frame is zero.
    ///
    /// # Panics
    /// If `n_fft` is odd or below 2; the features check their parameters first.
    pub(crate) fn new(n_fft: usize, window: Vec<f32>) -> Self {
        assert!(n_fft >= 2 && n_fft.is_multiple_of(2), "n_fft {n_fft} must be even. This is a bug.");
        let half = n_fft / 2;
        let fft = match FftPlannerAvx::new() {
            Ok(mut planner) => planner.plan_fft(half, FftDirection::Forward),
            Err(()) => FftPlannerScalar::new().plan_fft(half, FftDirection::Forward),
        };
        let angle = |k: usize| -std::f64::consts::TAU * k as f64 / n_fft as f64;
        Self {
            mirrored: Vec::with_capacity(window.len()),
            window,
            frame: vec![Complex::ZERO; half],
            scratch: vec![Complex::ZERO; fft.get_inplace_scratch_len()],
            twiddles: (0..=half / 2).map(|k| Complex::new(angle(k).cos(), angle(k).sin())).collect(),
            power: vec![0.0; half + 1],
            fft,
        }
    }

    /// `|X|^2` of the frame that starts at `start` (may be negative) of `samples`; beyond both ends the samples are
    /// mirrored about the first and the last one. `[n_fft / 2 + 1]`.
    pub(crate) fn power_at(&mut self, samples: &[f32], start: isize) -> &[f32] {
        let length = self.window.len();
        if let Some(inside) = usize::try_from(start).ok().and_then(|start| samples.get(start..start + length)) {
            return self.power_of(inside);
        }
        let mut frame = std::mem::take(&mut self.mirrored);
        frame.clear();
        frame.extend((start..start + length as isize).map(|at| samples[mirrored(at, samples.len())]));
        self.transform(&frame);
        self.mirrored = frame;
        &self.power
    }

    /// `|X|^2` of a frame whose samples the caller has prepared (as many as the window has), window not yet applied.
    pub(crate) fn power_of(&mut self, prepared: &[f32]) -> &[f32] {
        self.transform(prepared);
        &self.power
    }

    fn transform(&mut self, samples: &[f32]) {
        let windowed = |(&x, &w): (&f32, &f32)| f64::from(x * w);
        let (pairs, last) = samples.as_chunks::<2>();
        let (weights, last_weight) = self.window.as_chunks::<2>();
        for (packed, ([x0, x1], [w0, w1])) in self.frame.iter_mut().zip(pairs.iter().zip(weights)) {
            *packed = Complex::new(windowed((x0, w0)), windowed((x1, w1)));
        }
        self.frame[pairs.len()..].fill(Complex::ZERO);
        if let Some(odd_one) = last.iter().zip(last_weight).map(windowed).next() {
            self.frame[pairs.len()].re = odd_one;
        }
        self.fft.process_with_scratch(&mut self.frame, &mut self.scratch);

        // bins 0 and n_fft / 2 are the sum and the difference of the two halves' sums
        let half = self.frame.len();
        let Complex { re: even, im: odd } = self.frame[0];
        self.power[0] = (even + odd).powi(2) as f32;
        self.power[half] = (even - odd).powi(2) as f32;
        for (k, twiddle) in self.twiddles.iter().enumerate().skip(1) {
            let (z, mirror) = (self.frame[k], self.frame[half - k].conj());
            let (sum, difference) = (z + mirror, z - mirror);
            // multiplied by -i: (a + bi)(-i) = b - ai
            let odd = Complex::new(difference.im, -difference.re) * twiddle;
            self.power[k] = (0.25 * (sum + odd).norm_sqr()) as f32;
            self.power[half - k] = (0.25 * (sum - odd).norm_sqr()) as f32;
        }
    }
}

/// Index of the sample that stands at `position` when the ends are mirrored (torch's `reflect` padding).
fn mirrored(position: isize, length: usize) -> usize {
    let last = length as isize - 1;
    let position = position.abs();
    (if position > last { 2 * last - position } else { position }) as usize
}

/// `torch.hann_window(length)`: the periodic form, float32 arithmetic.
pub(crate) fn hann_periodic(length: usize) -> Vec<f32> {
    hann(length, length)
}

/// `torch.hann_window(length, periodic=False).pow(0.85)`: Kaldi's "povey" window.
pub(crate) fn povey(length: usize) -> Vec<f32> {
    hann(length, length - 1).into_iter().map(|w| w.powf(0.85)).collect()
}

fn hann(length: usize, period: usize) -> Vec<f32> {
    let step = (std::f64::consts::TAU / period as f64) as f32;
    (0..length).map(|n| 0.5 - 0.5 * (n as f32 * step).cos()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_repeats_neither_end() {
        let row: Vec<usize> = (-3..7).map(|i| mirrored(i, 4)).collect();
        assert_eq!(row, [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
    }

    #[test]
    fn power_equals_the_plain_sum_for_padded_and_odd_windows() {
        let samples: Vec<f32> = (0..600).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        for (n_fft, length) in [(400, 400), (512, 400), (48, 31)] {
            let window = hann_periodic(length);
            let mut spectrum = Spectrum::new(n_fft, window.clone());
            // twice: the second call must not see the first one's leftovers
            spectrum.power_at(&samples, 100);
            let got = spectrum.power_at(&samples, 50).to_vec();
            for (bin, &power) in got.iter().enumerate() {
                let (mut re, mut im) = (0.0f64, 0.0f64);
                for (n, &w) in window.iter().enumerate() {
                    let angle = std::f64::consts::TAU * (bin * n) as f64 / n_fft as f64;
                    let x = f64::from(samples[50 + n] * w);
                    (re, im) = (re + x * angle.cos(), im - x * angle.sin());
                }
                assert!((f64::from(power) - (re * re + im * im)).abs() < 1e-3, "{n_fft} {length} bin {bin}");
            }
        }
    }
}
