//! Loudness as a number.

/// Level given to digital silence.
pub const SILENCE_DBFS: f32 = -120.0;

/// Root mean square level of `samples` (nominally within -1..1) in dB relative to full scale, at least [`SILENCE_DBFS`];
/// not a number if a sample is none. No samples are silence.
pub fn rms_dbfs(samples: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = samples.len();
    if count == 0 {
        return SILENCE_DBFS;
    }
    let mean = samples.map(|sample| sample * sample).sum::<f32>() / count as f32;
    let level = 10.0 * mean.log10();
    // `max` would turn a NaN into silence.
    if level < SILENCE_DBFS { SILENCE_DBFS } else { level }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_known_signals() {
        let level = |samples: &[f32]| rms_dbfs(samples.iter().copied());
        assert_eq!(level(&[]), SILENCE_DBFS);
        assert_eq!(level(&[0.0; 100]), SILENCE_DBFS);
        assert_eq!(level(&[1.0, -1.0]), 0.0);
        assert!((level(&[0.1, -0.1, 0.1]) + 20.0).abs() < 1e-4);
        let sine: Vec<f32> = (0..1600).map(|n| (n as f32 * 0.1 * std::f32::consts::PI).sin()).collect();
        assert!((level(&sine) + 3.01).abs() < 0.01);
        assert!(level(&[0.0, f32::NAN]).is_nan());
        assert_eq!(level(&[f32::INFINITY]), f32::INFINITY);
    }
}
