//! Turns pushes of any size into the audio of units.
//!
//! Owns: when a unit is complete, the silence in front of the first unit, the residue that stays behind. Must not:
//! compute features. Reference: modeling_minicpmo_unified.py:4848-4906, processing_minicpmo.py:745-749.
//!
//! ```text
//! received   |<---- chunk ---->|<---- chunk ---->|<---- chunk ---->|
//! stream   0000 ............... | ............... | ...............     560 zeros first, for 1000/1035 ms at 16 kHz
//! units    |<-- unit 0: 16480 -->|<-- unit 1: 16000 -->|                80 samples always stay behind (5 ms)
//! ```

use crate::FeatureError;

/// Numbers of the manifest's `duplex` and `mel` sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkerParams {
    /// Rate of the samples.
    pub sample_rate_hz: u32,
    /// Length of a unit.
    pub chunk_ms: u32,
    /// Length to which the first unit is padded on the left before it is cut to whole mel frames.
    pub first_chunk_ms: u32,
    /// Samples from one mel frame to the next.
    pub hop: usize,
}

impl ChunkerParams {
    /// Samples of every unit but the first.
    pub fn chunk_samples(&self) -> usize {
        self.samples(self.chunk_ms)
    }

    /// Samples of the first unit: whole mel frames.
    pub fn first_unit_samples(&self) -> usize {
        (self.padded_samples() / self.hop) * self.hop
    }

    /// Samples in the stream, padding included, when the first unit is cut.
    fn padded_samples(&self) -> usize {
        self.samples(self.first_chunk_ms)
    }

    fn samples(&self, ms: u32) -> usize {
        (u64::from(ms) * u64::from(self.sample_rate_hz) / 1000) as usize
    }
}

/// Collects samples and hands out units in order. The same samples give the same units however they are split.
#[derive(Debug, Clone)]
pub struct Chunker {
    params: ChunkerParams,
    /// Samples not yet handed out; before the first unit without the padding.
    waiting: Vec<f32>,
    units: u64,
    received: u64,
}

impl Chunker {
    /// An empty stream.
    ///
    /// # Errors
    /// If the first unit would be shorter than a chunk, or a chunk is no whole number of mel frames: no padding could
    /// be right then.
    pub fn new(params: ChunkerParams) -> Result<Self, FeatureError> {
        let refuse = |reason: String| Err(FeatureError::Params { feature: "the chunker", reason });
        let (chunk, hop) = (params.chunk_samples(), params.hop);
        if chunk == 0 || hop == 0 || chunk % hop != 0 {
            return refuse(format!("a chunk of {chunk} samples is no whole number of mel frames of {hop} samples"));
        }
        if params.first_unit_samples() < chunk {
            return refuse(format!("first_chunk_ms {} is below chunk_ms {}", params.first_chunk_ms, params.chunk_ms));
        }
        Ok(Self { params, waiting: Vec::new(), units: 0, received: 0 })
    }

    /// Adds samples.
    pub fn push(&mut self, samples: &[f32]) {
        self.waiting.extend_from_slice(samples);
        self.received += samples.len() as u64;
    }

    /// The next unit's samples, once they are complete: [`ChunkerParams::first_unit_samples`] for unit 0,
    /// [`ChunkerParams::chunk_samples`] for the others.
    pub fn pop(&mut self) -> Option<Vec<f32>> {
        let chunk = self.params.chunk_samples();
        if self.waiting.len() < chunk {
            return None;
        }
        let unit = if self.units == 0 {
            // always counted from one chunk, not from what happens to be buffered: the split of pushes must not matter
            let silence = self.params.padded_samples() - chunk;
            let taken = self.params.first_unit_samples() - silence;
            let mut unit = vec![0.0; silence];
            unit.extend(self.waiting.drain(..taken));
            unit
        } else {
            self.waiting.drain(..chunk).collect()
        };
        self.units += 1;
        Some(unit)
    }

    /// Ends the stream: fills the last chunk with silence, so that [`Chunker::pop`] gives what is left. Nothing is
    /// added when the samples received are whole chunks.
    pub fn finish(&mut self) {
        let chunk = self.params.chunk_samples() as u64;
        let missing = self.received.next_multiple_of(chunk) - self.received;
        self.waiting.resize(self.waiting.len() + missing as usize, 0.0);
        self.received += missing;
    }

    /// Samples received but not yet handed out.
    pub fn waiting_samples(&self) -> usize {
        self.waiting.len()
    }

    /// Units handed out.
    pub fn units(&self) -> u64 {
        self.units
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARAMS: ChunkerParams =
        ChunkerParams { sample_rate_hz: 16_000, chunk_ms: 1000, first_chunk_ms: 1035, hop: 160 };

    fn ramp(count: usize) -> Vec<f32> {
        (1..=count).map(|i| i as f32).collect()
    }

    fn units(samples: &[f32], splits: &[usize]) -> Vec<Vec<f32>> {
        let mut chunker = Chunker::new(PARAMS).expect("valid");
        let mut units = Vec::new();
        let mut rest = samples;
        for &split in splits.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(split.clamp(1, rest.len()));
            chunker.push(now);
            units.extend(std::iter::from_fn(|| chunker.pop()));
            rest = later;
        }
        chunker.finish();
        units.extend(std::iter::from_fn(|| chunker.pop()));
        units
    }

    #[test]
    fn one_second_packets_give_the_reference_units() {
        let samples = ramp(48_000);
        let units = units(&samples, &[16_000]);
        assert_eq!(units.iter().map(Vec::len).collect::<Vec<_>>(), [16_480, 16_000, 16_000]);
        assert!(units[0][..560].iter().all(|&x| x == 0.0));
        assert_eq!(units.concat()[560..], samples[..47_920], "in order, 80 samples stay behind");
    }

    #[test]
    fn the_last_partial_chunk_is_filled_with_silence() {
        for (count, expected) in [(0, 0), (1, 1), (15_999, 1), (16_000, 1), (16_001, 2), (31_930, 2), (32_000, 2)] {
            let units = units(&ramp(count), &[320]);
            assert_eq!(units.len(), expected, "{count} samples");
            let heard = units.concat().iter().filter(|&&x| x != 0.0).count();
            assert!(heard + 80 >= count && heard <= count, "{count} samples, {heard} reached a unit");
        }
    }

    #[test]
    fn nothing_piles_up_over_ten_minutes() {
        let mut chunker = Chunker::new(PARAMS).expect("valid");
        for packet in 0..30_000u64 {
            chunker.push(&[0.5; 320]);
            while chunker.pop().is_some() {}
            assert!(chunker.waiting_samples() < 16_000, "packet {packet}");
        }
        assert_eq!(chunker.units(), 600);
        assert_eq!(chunker.waiting_samples(), 80);
    }

    #[test]
    fn numbers_that_cannot_work_are_refused() {
        let message = |params| Chunker::new(params).expect_err("must be refused").to_string();
        assert!(
            message(ChunkerParams { hop: 161, ..PARAMS }).contains("16000 samples is no whole number of mel frames")
        );
        assert!(
            message(ChunkerParams { first_chunk_ms: 900, ..PARAMS })
                .contains("first_chunk_ms 900 is below chunk_ms 1000")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_split_gives_the_same_units(count in 0usize..70_000, splits in prop::collection::vec(1usize..40_000, 1..20)) {
            let samples = ramp(count);
            prop_assert_eq!(units(&samples, &splits), units(&samples, &[16_000]));
        }
    }
}
