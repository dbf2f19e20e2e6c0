//! Changes the sample rate of a running stream, 20 ms at a time.
//!
//! Owns the remainder between blocks and the alignment: output sample n stands at the time of input sample
//! `n * from / to`, and a finished stream has `ceil(samples * to / from)` of them. Whole recordings go through
//! [`crate::resample`], which needs no blocks.
//!
//! The filter is rubato's FFT resampler with both sides fixed: flat to 0.85 of the lower Nyquist frequency, aliases
//! below -140 dB, a third of a millisecond per second of audio. It answers 10 ms late on top of the block.

use audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

/// The rates that voice comes in: telephone, half and whole of what a model speaks, its ears, Opus.
pub const RATES_HZ: [u32; 5] = [8_000, 12_000, 16_000, 24_000, 48_000];
/// Blocks in a second: 20 ms each.
const BLOCKS_PER_SECOND: u32 = 50;

/// A rate that no stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream of {rate_hz} Hz cannot be resampled; use 8000, 12000, 16000, 24000 or 48000")]
pub struct RateError {
    /// The rate asked for.
    pub rate_hz: u32,
}

/// One mono stream from one rate to another.
pub struct Resampler {
    from_hz: u32,
    to_hz: u32,
    /// `None` when the rates are equal.
    filter: Option<Fft<f32>>,
    /// Input that does not fill a block yet.
    remainder: Vec<f32>,
    /// Samples of the filter's delay that are still to be dropped.
    delay: usize,
    taken: u64,
    given: u64,
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resampler")
            .field("from_hz", &self.from_hz)
            .field("to_hz", &self.to_hz)
            .field("taken", &self.taken)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl Resampler {
    /// A stream that begins in silence.
    ///
    /// # Errors
    /// For a rate that is not in [`RATES_HZ`].
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, RateError> {
        if let Some(&rate_hz) = [from_hz, to_hz].iter().find(|rate| !RATES_HZ.contains(rate)) {
            return Err(RateError { rate_hz });
        }
        let filter = (from_hz != to_hz).then(|| {
            Fft::new_custom(
                from_hz as usize,
                to_hz as usize,
                (from_hz / BLOCKS_PER_SECOND) as usize,
                1,
                1,
                WindowFunction::BlackmanHarris2,
                FixedSync::Both,
            )
            .expect("the rates are known. This is a bug.")
        });
        let delay = filter.as_ref().map_or(0, rubato::Resampler::output_delay);
        Ok(Self { from_hz, to_hz, filter, remainder: Vec::new(), delay, taken: 0, given: 0 })
    }

    /// Takes any number of samples and gives what is complete: up to 30 ms are kept back.
    pub fn push(&mut self, samples: &[f32]) -> Vec<f32> {
        self.taken += samples.len() as u64;
        let out = self.run(samples);
        self.given += out.len() as u64;
        out
    }

    /// The samples that were kept back.
    pub fn finish(mut self) -> Vec<f32> {
        let total = (self.taken * u64::from(self.to_hz)).div_ceil(u64::from(self.from_hz));
        let missing = (total - self.given) as usize;
        // the block in the remainder and the filter's delay end within two blocks of zeros
        let mut out = self.run(&vec![0.0; 2 * (self.from_hz / BLOCKS_PER_SECOND) as usize]);
        out.truncate(missing);
        out
    }

    fn run(&mut self, samples: &[f32]) -> Vec<f32> {
        let Some(filter) = &mut self.filter else { return samples.to_vec() };
        self.remainder.extend_from_slice(samples);
        let (block, out_block) = (filter.input_frames_next(), filter.output_frames_next());
        let whole = self.remainder.len() / block;
        let mut out = vec![0.0; whole * out_block];
        for (input, output) in self.remainder.chunks_exact(block).zip(out.chunks_exact_mut(out_block)) {
            let input = SequentialSlice::new(input, 1, block).expect("a block has its length. This is a bug.");
            let mut output = SequentialSlice::new_mut(output, 1, out_block).expect("likewise. This is a bug.");
            filter
                .process_into_buffer(&input, &mut output, None)
                .expect("the filter asked for these sizes. This is a bug.");
        }
        self.remainder.drain(..whole * block);
        let dropped = self.delay.min(out.len());
        self.delay -= dropped;
        out.drain(..dropped);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tone(rate_hz: u32, hz: f64, samples: usize) -> Vec<f32> {
        (0..samples).map(|n| (std::f64::consts::TAU * hz * n as f64 / f64::from(rate_hz)).sin() as f32).collect()
    }

    #[test]
    fn a_tone_keeps_its_place_at_every_pair_of_rates() {
        for from_hz in RATES_HZ {
            for to_hz in RATES_HZ {
                let mut stream = Resampler::new(from_hz, to_hz).unwrap();
                let mut got = stream.push(&tone(from_hz, 440.0, from_hz as usize));
                got.extend(stream.finish());
                let want = tone(to_hz, 440.0, to_hz as usize);
                assert_eq!(got.len(), want.len(), "{from_hz} to {to_hz}");
                // 40 ms at either end hear the silence outside the stream
                let edge = to_hz as usize / 25;
                let worst = (edge..want.len() - edge).map(|n| (got[n] - want[n]).abs()).fold(0.0f32, f32::max);
                assert!(worst < 1e-4, "{from_hz} to {to_hz}: off by {worst}");
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        let mut stream = Resampler::new(48_000, 16_000).unwrap();
        let got = stream.push(&tone(48_000, 12_000.0, 48_000));
        let worst = got[640..].iter().fold(0.0f32, |worst, x| worst.max(x.abs()));
        assert!(worst < 1e-5, "alias of {worst}");
    }

    #[test]
    fn other_rates_are_refused() {
        assert_eq!(Resampler::new(44_100, 16_000).unwrap_err(), RateError { rate_hz: 44_100 });
        assert_eq!(Resampler::new(16_000, 0).unwrap_err(), RateError { rate_hz: 0 });
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_samples(
            pieces in prop::collection::vec(0usize..3_000, 1..12),
            (from, to) in (0..RATES_HZ.len(), 0..RATES_HZ.len()),
        ) {
            let (from_hz, to_hz) = (RATES_HZ[from], RATES_HZ[to]);
            let all = tone(from_hz, 300.0, pieces.iter().sum());
            let mut at_once = Resampler::new(from_hz, to_hz).unwrap();
            let mut want = at_once.push(&all);
            want.extend(at_once.finish());
            prop_assert_eq!(want.len(), (all.len() * to_hz as usize).div_ceil(from_hz as usize));

            let mut split = Resampler::new(from_hz, to_hz).unwrap();
            let (mut got, mut at) = (Vec::new(), 0);
            for piece in pieces {
                got.extend(split.push(&all[at..at + piece]));
                at += piece;
            }
            got.extend(split.finish());
            prop_assert_eq!(got, want);
        }
    }
}
