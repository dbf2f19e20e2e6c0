//! From vocoded chunks to one waveform: overlap, cross-fade, hold-back, 16-bit samples (stepaudio2/token2wav.py:206-246).
//!
//! Owns: the tails kept between chunks. Must not: run graphs.

use std::f64::consts::PI;

/// What one stream keeps of its last vocoded chunk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tails {
    /// `[mel, cache_frames]` as bins of frames.
    pub(crate) mel: Vec<f32>,
    /// Excitation of those frames.
    pub(crate) source: Vec<f32>,
    /// Speech of those frames, held back for the next fade.
    speech: Vec<f32>,
}

impl Tails {
    /// Forgets the last chunk: a turn starts.
    pub(crate) fn clear(&mut self) {
        self.mel.clear();
        self.source.clear();
        self.speech.clear();
    }

    /// Whether a chunk came before in this turn.
    pub(crate) fn is_empty(&self) -> bool {
        self.speech.is_empty()
    }
}

/// Sizes and the window of the join.
#[derive(Debug)]
pub(crate) struct Joiner {
    mels: usize,
    cache_frames: usize,
    overlap: usize,
    /// Rising half, then falling half.
    window: Vec<f64>,
}

impl Joiner {
    pub(crate) fn new(mels: usize, cache_frames: usize, overlap: usize) -> Self {
        Joiner { mels, cache_frames, overlap, window: hamming(2 * overlap) }
    }

    /// Frames that are vocoded again with the next chunk.
    pub(crate) fn cache_frames(&self) -> usize {
        self.cache_frames
    }

    /// Puts the kept frames in front of a new chunk: `[mel, kept + frames]`.
    pub(crate) fn extend_mel(&self, tails: &Tails, mel: &[f32], frames: usize) -> Vec<f32> {
        let kept = tails.mel.len() / self.mels;
        if kept == 0 {
            return mel.to_vec();
        }
        let rows = tails.mel.chunks_exact(kept).zip(mel.chunks_exact(frames));
        rows.flat_map(|(old, new)| old.iter().chain(new).copied()).collect()
    }

    /// Joins a vocoded chunk (`mel` [mel, frames] with the kept frames in front, its `source` and `speech`) to what came
    /// before, keeps new tails and returns the samples to play.
    pub(crate) fn join(
        &self,
        tails: &mut Tails,
        mel: &[f32],
        source: &[f32],
        speech: &mut [f32],
        last: bool,
        leading_zeros: bool,
    ) -> Vec<i16> {
        let first = tails.is_empty();
        if !first {
            let (rise, fall) = self.window.split_at(self.overlap);
            let old = &tails.speech[tails.speech.len() - self.overlap..];
            for (((new, &old), rise), fall) in speech.iter_mut().zip(old).zip(rise).zip(fall) {
                // torch multiplies a float32 sample by a float64 window in float64 and stores float32.
                *new = (f64::from(*new) * rise + f64::from(old) * fall) as f32;
            }
        }
        let frames = mel.len() / self.mels;
        let kept = self.cache_frames.min(frames);
        tails.mel.clear();
        tails.mel.extend(mel.chunks_exact(frames).flat_map(|row| &row[frames - kept..]));
        let held = self.overlap.min(speech.len());
        let end = speech.len() - held;
        tails.source.clear();
        tails.source.extend_from_slice(&source[end..]);
        tails.speech.clear();
        tails.speech.extend_from_slice(&speech[end..]);
        let played = if last { &speech[..] } else { &speech[..end] };
        let zeros = if first && !last && leading_zeros { self.overlap } else { 0 };
        std::iter::repeat_n(0, zeros).chain(played.iter().map(|&sample| pcm16(sample))).collect()
    }
}

/// One sample as the reference writes it: clipped, scaled by 32767 in float32, truncated toward zero.
fn pcm16(sample: f32) -> i16 {
    (sample.clamp(-1.0, 1.0) * 32767.0) as i16
}

/// `np.hamming(len)`, symmetric. Its two halves add up to 1.08 and not 1: every join is 0.67 dB louder, as in the reference.
fn hamming(len: usize) -> Vec<f64> {
    let step = 2.0 * PI / (len - 1) as f64;
    (0..len).map(|n| 0.54 - 0.46 * (step * n as f64).cos()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MELS: usize = 2;

    fn joiner() -> Joiner {
        // 2 cached frames of 4 samples.
        Joiner::new(MELS, 2, 8)
    }

    #[test]
    fn first_chunk_is_led_by_zeros_and_holds_its_end_back() {
        let (mut tails, mut speech) = (Tails::default(), vec![0.5f32; 20]);
        let pcm = joiner().join(&mut tails, &[0.0; 10], &[0.0; 20], &mut speech, false, true);
        assert_eq!(pcm.len(), 20, "as many samples as frames");
        assert_eq!(pcm[..8], [0; 8]);
        assert_eq!(pcm[8..], [16383; 12], "truncated, not rounded");
        let mut tails = Tails::default();
        let pcm = joiner().join(&mut tails, &[0.0; 10], &[0.0; 20], &mut speech, false, false);
        assert_eq!(pcm, [16383; 12]);
    }

    #[test]
    fn joins_are_louder_by_the_sum_of_the_window_halves() {
        let (mut tails, joiner) = (Tails::default(), Joiner::new(MELS, 2, 800));
        joiner.join(&mut tails, &[0.0; 10], &[0.0; 2000], &mut [0.5f32; 2000], false, true);
        let pcm = joiner.join(&mut tails, &[0.0; 10], &[0.0; 2000], &mut [0.5f32; 2000], true, true);
        assert_eq!(pcm.len(), 2000, "a last chunk holds nothing back");
        let expected = (0.5 * 1.08 * 32767.0) as i16;
        assert!(pcm[..800].iter().all(|&sample| (sample - expected).abs() < 20), "{:?}", &pcm[..800]);
        assert_eq!(pcm[800..], [16383; 1200]);
    }

    #[test]
    fn a_single_last_chunk_has_no_zeros() {
        let pcm = joiner().join(&mut Tails::default(), &[0.0; 10], &[0.0; 20], &mut [2.0f32; 20], true, true);
        assert_eq!(pcm, [32767; 20]);
    }

    #[test]
    fn kept_frames_come_back_in_front() {
        let (mut tails, joiner) = (Tails::default(), joiner());
        let mel: Vec<f32> = (0..10u8).map(f32::from).collect();
        joiner.join(&mut tails, &mel, &[0.0; 20], &mut [0.0f32; 20], false, true);
        assert_eq!(joiner.extend_mel(&tails, &[50.0, 51.0], 1), [3.0, 4.0, 50.0, 8.0, 9.0, 51.0]);
    }
}
