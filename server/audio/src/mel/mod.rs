//! Mel features of the models: Whisper's log-mel (offline and streaming), the speech tokenizer's, the vocoder's.
//!
//! Owns: the numbers of the features. Must not: cut audio into units (see `chunker`) or read files.

mod streaming;
mod vocoder;
mod whisper;

pub use streaming::{MelChunk, MelInfo, StreamingMel, StreamingParams};
pub use vocoder::{VocoderMelParams, mel24};
pub use whisper::{Floor, MelParams, Whisper, s3};

/// Features over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Mel {
    /// Rows.
    pub n_mels: usize,
    /// Columns.
    pub frames: usize,
    /// `[n_mels, frames]`, row after row.
    pub data: Vec<f32>,
}

impl Mel {
    /// Turns `[frames, n_mels]` into the layout of this type.
    fn from_columns(columns: &[f32], n_mels: usize) -> Self {
        let frames = columns.len() / n_mels;
        let mut data = Vec::with_capacity(columns.len());
        for mel in 0..n_mels {
            data.extend(columns.iter().skip(mel).step_by(n_mels));
        }
        Self { n_mels, frames, data }
    }

    /// Exactly `frames` columns: cut at the end, or the last column repeated (stepaudio2/token2wav.py:124, `replicate`
    /// padding with a positive or negative count).
    ///
    /// # Panics
    /// If there is no column to repeat.
    pub fn fitted(&self, frames: usize) -> Self {
        assert!(self.frames > 0, "a mel without frames cannot be stretched. This is a bug.");
        let data = self
            .data
            .chunks_exact(self.frames)
            .flat_map(|row| (0..frames).map(move |t| row[t.min(self.frames - 1)]))
            .collect();
        Self { n_mels: self.n_mels, frames, data }
    }
}

#[cfg(test)]
mod tests;
