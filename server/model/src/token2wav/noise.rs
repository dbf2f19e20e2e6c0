//! Noise of the synthesis: the flow matching's fixed start noise and the vocoder's excitation noise.
//!
//! Owns: where noise comes from. Must not: draw anything that the golden sessions fix.

use std::f64::consts::TAU;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::bundle::Bundle;
use crate::error::{ModelError, Result};

/// File of the start noise.
const START_NOISE: &str = "cfm_noise.bin";

/// Reads the start noise `[mels, columns]`, float32 little endian.
pub(super) fn read_start_noise(bundle: &Bundle, mels: usize, columns: usize) -> Result<Vec<f32>> {
    let path = bundle.path(START_NOISE);
    let bytes = std::fs::read(&path).map_err(ModelError::io(&path))?;
    if bytes.len() != mels * columns * size_of::<f32>() {
        let reason =
            format!("{} bytes, flow.mel {mels} x flow.noise_frames {columns} float32 have another size", bytes.len());
        return Err(ModelError::BundleFile { path, reason });
    }
    Ok(bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
}

/// A table of standard normal numbers, read from random places: drawing a quarter of a million of them for every second of
/// speech would cost more than the vocoder's own glue.
#[derive(Debug)]
pub(super) struct NormalTable {
    /// The table, then itself again, so that a stretch can run over the end.
    values: Vec<f32>,
}

/// Long enough that a chunk rarely meets itself: at real size a second of speech takes 250 000.
const TABLE: usize = 1 << 19;
/// Any fixed number: the randomness of a stream is in where it reads.
const TABLE_SEED: u64 = 0x0d10_0109;

impl NormalTable {
    pub(super) fn new() -> Self {
        let mut draw = ChaCha8Rng::seed_from_u64(TABLE_SEED);
        let mut values = Vec::with_capacity(2 * TABLE);
        while values.len() < TABLE {
            // Box and Muller: two uniform numbers make two normal ones.
            let radius = (-2.0 * (1.0 - draw.random::<f64>()).ln()).sqrt();
            let (sin, cos) = (TAU * draw.random::<f64>()).sin_cos();
            values.extend([(radius * cos) as f32, (radius * sin) as f32]);
        }
        NormalTable { values }
    }

    /// Number of places to read from.
    pub(super) fn len(&self) -> usize {
        TABLE
    }

    /// `count` numbers from place `offset` on.
    pub(super) fn take(&mut self, offset: usize, count: usize) -> &[f32] {
        while self.values.len() < offset + count {
            self.values.extend_from_within(..TABLE);
        }
        &self.values[offset..offset + count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_standard_normal_and_wraps() {
        let mut table = NormalTable::new();
        let values = table.take(0, TABLE).to_vec();
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / TABLE as f64;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / TABLE as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "mean {mean}, variance {variance}");
        assert_eq!(table.take(TABLE - 3, TABLE)[3..6], values[..3]);
    }
}
