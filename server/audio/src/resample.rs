//! Changes the sample rate of whole recordings, exactly aligned: output sample n stands at the time of input sample
//! `n * from / to`.
//!
//! Owns one algorithm, a windowed sinc with one filter per output phase, with two filters: [`to_rate`] for what users say
//! (long and steep) and [`torchaudio`] for the voice prompt, where the reference's own short filter must be met to 1e-5.
//! The crate `rubato` was tried for the first: its FFT resampler compiled for minutes and its sinc resampler answers one
//! output sample (and a fraction) early. With the reference's filter needed anyway, a second set of numbers costs less.

use crate::Pcm;

/// A windowed sinc, in torchaudio's terms.
struct Filter {
    /// Half width of the kernel in zero crossings (`lowpass_filter_width`).
    zero_crossings: f64,
    /// Cut-off as a share of the lower Nyquist frequency (`rolloff`).
    rolloff: f64,
    window: Window,
}

enum Window {
    /// `sinc_interp_hann`.
    Hann,
    /// `sinc_interp_kaiser` with this beta.
    Kaiser(f64),
}

/// torchaudio's defaults.
const VOICE_PROMPT: Filter = Filter { zero_crossings: 6.0, rolloff: 0.99, window: Window::Hann };
/// What torchaudio's documentation names "kaiser_best": 0.3 % off at 0.9 of Nyquist, aliases below -90 dB.
const USER_AUDIO: Filter =
    Filter { zero_crossings: 64.0, rolloff: 0.947_593_716_739_959_6, window: Window::Kaiser(14.769_656_459_379_492) };

/// Resamples user audio; the output has `ceil(samples * rate_hz / pcm.rate_hz)` samples.
///
/// # Panics
/// If a rate is 0 (files are checked when read).
pub fn to_rate(pcm: &Pcm, rate_hz: u32) -> Pcm {
    let length = (pcm.samples.len() as u64 * u64::from(rate_hz)).div_ceil(u64::from(pcm.rate_hz)) as usize;
    Pcm { rate_hz, samples: resample(&pcm.samples, pcm.rate_hz, rate_hz, length, &USER_AUDIO) }
}

/// `torchaudio.transforms.Resample(from_hz, to_hz)` with its defaults (`sinc_interp_hann`); used by the reference for
/// voice prompts (stepaudio2/token2wav.py:119, s3tokenizer/utils.py:195).
///
/// # Panics
/// If a rate is 0.
pub fn torchaudio(samples: &[f32], from_hz: u32, to_hz: u32) -> Vec<f32> {
    let divisor = gcd(from_hz, to_hz);
    let (from, to) = (u64::from(from_hz / divisor), u64::from(to_hz / divisor));
    // the reference rounds the length to float32 before it rounds up
    let length = ((to * samples.len() as u64) as f64 / from as f64) as f32;
    resample(samples, from_hz, to_hz, length.ceil() as usize, &VOICE_PROMPT)
}

fn resample(samples: &[f32], from_hz: u32, to_hz: u32, length: usize, filter: &Filter) -> Vec<f32> {
    if from_hz == to_hz {
        return samples.to_vec();
    }
    let divisor = gcd(from_hz, to_hz);
    let (from, to) = ((from_hz / divisor) as usize, (to_hz / divisor) as usize);
    let kernels = filter.kernels(from, to);
    (0..length)
        .map(|index| {
            let kernel = &kernels[index % to];
            let start = (index / to * from) as isize + kernel.first;
            // outside the recording is silence
            let skipped = (-start).max(0) as usize;
            let inside = samples.get(start.max(0) as usize..).unwrap_or_default();
            dot(kernel.taps.get(skipped..).unwrap_or_default(), inside)
        })
        .collect()
}

/// Sum of products over the shorter length, in eight lanes so that the compiler can use vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let ((a8, a1), (b8, b1)) = (a[..length].as_chunks::<8>(), b[..length].as_chunks::<8>());
    let mut lanes = [0.0f32; 8];
    for (x, y) in a8.iter().zip(b8) {
        for (lane, (p, q)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += p * q;
        }
    }
    lanes.iter().sum::<f32>() + a1.iter().zip(b1).map(|(p, q)| p * q).sum::<f32>()
}

/// The filter of one output phase.
struct Kernel {
    /// Position of the first tap relative to the block's first input sample.
    first: isize,
    taps: Vec<f32>,
}

impl Filter {
    /// One kernel per output phase (torchaudio.functional `_get_sinc_resample_kernel`). torchaudio holds
    /// `2 * half + from` taps for each, nearly all of them zero when the rates have no large common divisor (gigabytes
    /// for 44101 Hz); the zeros are left out here.
    fn kernels(&self, from: usize, to: usize) -> Vec<Kernel> {
        let cutoff = from.min(to) as f64 * self.rolloff;
        let half = (self.zero_crossings * from as f64 / cutoff).ceil() as isize;
        (0..to)
            .map(|phase| {
                // the phase is a float32 in the reference, everything after it a float64
                let phase = f64::from(-(phase as f32) / to as f32);
                let centre = (-phase * from as f64) as isize;
                let tap = |at: isize| {
                    (self.value((phase + at as f64 / from as f64) * cutoff) * (cutoff / from as f64)) as f32
                };
                // torchaudio's range, and within it only what lies inside the window
                let first = (centre - half).max(-half);
                let end = (centre + half + 2).min(half + from as isize);
                Kernel { first, taps: (first..end).map(tap).collect() }
            })
            .collect()
    }

    /// The windowed sinc at `t` zero crossings from its centre.
    fn value(&self, t: f64) -> f64 {
        let t = t.clamp(-self.zero_crossings, self.zero_crossings);
        let share = t / self.zero_crossings;
        let window = match self.window {
            Window::Hann => (share * std::f64::consts::PI / 2.0).cos().powi(2),
            Window::Kaiser(beta) => bessel_i0(beta * (1.0 - share * share).sqrt()) / bessel_i0(beta),
        };
        let t = t * std::f64::consts::PI;
        window * if t == 0.0 { 1.0 } else { t.sin() / t }
    }
}

/// Modified Bessel function of the first kind, order 0, by its power series (all terms positive, no cancellation).
fn bessel_i0(x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..100 {
        term *= (x / 2.0 / f64::from(k)).powi(2);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate_hz: u32, hz: f64, seconds: f64) -> Vec<f32> {
        let count = (f64::from(rate_hz) * seconds) as usize;
        (0..count).map(|i| (0.5 * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate_hz)).sin()) as f32).collect()
    }

    /// Largest difference away from the ends, where a finite signal has no exact answer.
    fn worst_inside(a: &[f32], b: &[f32], rim: usize) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).skip(rim).take(a.len() - 2 * rim).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_tone_keeps_time_pitch_and_level_at_every_usual_rate() {
        for rate_hz in [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000] {
            let pcm = Pcm { rate_hz, samples: tone(rate_hz, 440.0, 1.0) };
            let wanted = tone(16_000, 440.0, 1.0);
            let got = to_rate(&pcm, 16_000);
            assert_eq!(got.rate_hz, 16_000);
            let worst = worst_inside(&got.samples, &wanted, 800);
            assert!(worst < 1e-5, "from {rate_hz}: {worst}");
            let got = torchaudio(&pcm.samples, rate_hz, 16_000);
            let worst = worst_inside(&got, &wanted, 800);
            assert!(worst < 5e-3, "torchaudio from {rate_hz}: {worst}");
        }
    }

    #[test]
    fn equal_rates_and_silence_pass_unchanged() {
        let pcm = Pcm { rate_hz: 16_000, samples: tone(16_000, 100.0, 0.1) };
        assert_eq!(to_rate(&pcm, 16_000), pcm);
        assert_eq!(torchaudio(&pcm.samples, 16_000, 16_000), pcm.samples);
        assert!(to_rate(&Pcm { rate_hz: 48_000, samples: vec![] }, 16_000).samples.is_empty());
        assert!(torchaudio(&[0.0; 4410], 44_100, 24_000).iter().all(|&x| x == 0.0));
    }

    #[test]
    fn lengths_follow_the_ratio_for_any_input_length() {
        for count in [1, 2, 7, 159, 160, 441, 1000, 4411] {
            let samples = vec![0.25; count];
            assert_eq!(torchaudio(&samples, 16_000, 24_000).len(), (count * 3).div_ceil(2));
            assert_eq!(torchaudio(&samples, 44_100, 16_000).len(), (count * 160).div_ceil(441));
            let pcm = Pcm { rate_hz: 44_100, samples };
            assert_eq!(to_rate(&pcm, 16_000).samples.len(), (count * 160).div_ceil(441));
        }
    }

    #[test]
    fn rates_without_a_common_divisor_stay_small() {
        let kernels = VOICE_PROMPT.kernels(44_101, 16_000);
        assert!(kernels.iter().all(|kernel| kernel.taps.len() < 40));
        let worst =
            worst_inside(&torchaudio(&tone(44_101, 440.0, 0.5), 44_101, 16_000), &tone(16_000, 440.0, 0.5), 800);
        assert!(worst < 5e-3, "{worst}");
    }

    #[test]
    fn what_the_lower_rate_can_hold_is_kept_and_the_rest_removed() {
        let pcm = Pcm { rate_hz: 48_000, samples: tone(48_000, 7_200.0, 1.0) };
        let worst = worst_inside(&to_rate(&pcm, 16_000).samples, &tone(16_000, 7_200.0, 1.0), 800);
        assert!(worst < 2e-3, "0.9 of Nyquist: {worst}");
        let pcm = Pcm { rate_hz: 48_000, samples: tone(48_000, 11_000.0, 1.0) };
        let loudest = to_rate(&pcm, 16_000).samples[800..15_200].iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(loudest < 1e-5, "11 kHz folded to {loudest}");
    }
}
