//! Whisper's log-mel of a running stream: each push costs one chunk, the result is that of the whole window.
//!
//! Owns: the window of samples and its columns. The reference recomputes the whole window at every push
//! (processing_minicpmo.py:710-930); here only what changed is computed, with the same operations, so the values are
//! equal to [`Whisper::offline`](super::Whisper::offline) of the window to the last bit:
//!
//! ```text
//! columns of the window   | left edge | unchanged since the last push ...... | new stable | unstable |
//!                           mirrored    kept without floor; loudest kept in    computed     mirrored; used for
//!                           after slide a monotonic queue                      now          the loudest value only
//! ```

use std::collections::VecDeque;

use super::whisper::{LogMel, largest, scaled};
use super::{Floor, Mel, MelParams};
use crate::FeatureError;

/// What the streaming form needs beside [`MelParams`]; from the manifest's `duplex` section.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamingParams {
    /// The feature's own numbers.
    pub mel: MelParams,
    /// Length of a unit.
    pub chunk_ms: u32,
    /// Extra audio on both sides of a unit, for the convolutions of the audio encoder.
    pub cnn_redundancy_ms: u32,
}

/// The counters of the reference's processor after a push (`mel_info` of the golden sessions).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MelInfo {
    /// Pushes so far.
    pub chunk_number: usize,
    /// Stable frames of the window.
    pub stable_frames: usize,
    /// Frames of the window.
    pub window_frames: usize,
    /// Frames that slid out on the left: number of the window's first frame in the stream.
    pub base_frame: usize,
    /// Samples in the window.
    pub window_samples: usize,
    /// Samples that slid out.
    pub dropped_samples: usize,
    /// First frame of this push's core in the stream.
    pub core_start: usize,
    /// One past the last frame of the core.
    pub core_end: usize,
}

/// The frames of one unit: the core and its neighbours.
#[derive(Debug, Clone, PartialEq)]
pub struct MelChunk {
    /// Features; no frames if the window does not hold the whole core yet.
    pub mel: Mel,
    /// Frames in front of the core: 0 in the first unit.
    pub prefix: usize,
    /// Frames behind the core.
    pub suffix: usize,
    /// Counters, for comparison and for logs.
    pub info: MelInfo,
}

/// Streaming log-mel of one session. Not reset: a new session makes a new one.
#[derive(Debug)]
pub struct StreamingMel {
    params: MelParams,
    chunk_frames: usize,
    redundancy_frames: usize,
    engine: LogMel,
    /// Samples of the window.
    samples: Vec<f32>,
    /// `[stable frames, n_mels]`, log10 without floor.
    columns: Vec<f32>,
    /// (frame in the stream, largest value) of the columns behind the left edge: only those that no later column
    /// exceeds, so the front is the loudest.
    peaks: VecDeque<(usize, f32)>,
    base_frame: usize,
    next_core: usize,
    pushes: usize,
}

impl StreamingMel {
    /// An empty stream.
    ///
    /// # Errors
    /// Numbers that cannot work: units or slides that are no whole frames, or a slide that would lose frames not yet
    /// given out.
    pub fn new(params: StreamingParams) -> Result<Self, FeatureError> {
        let StreamingParams { mel, chunk_ms, cnn_redundancy_ms } = params;
        let samples = |ms: u32| (u64::from(ms) * u64::from(mel.sample_rate_hz) / 1000) as usize;
        let engine = LogMel::new(&mel)?;
        let chunk = samples(chunk_ms);
        let refuse = |reason: String| Err(FeatureError::Params { feature: "the streaming mel", reason });
        if chunk == 0 || chunk % mel.hop != 0 || mel.drop_samples % mel.hop != 0 {
            return refuse(format!(
                "a chunk of {chunk} and a drop of {} samples must be frames of {}",
                mel.drop_samples, mel.hop
            ));
        }
        // the reference keeps at least one second after a slide (processing_minicpmo.py:838-846); with numbers that
        // would need that rule the kept columns would not be the window's
        if mel.drop_samples + mel.sample_rate_hz as usize + 2 * chunk > mel.window_samples {
            return refuse(format!(
                "drop_samples {} leaves too little of window_samples {}",
                mel.drop_samples, mel.window_samples
            ));
        }
        Ok(Self {
            chunk_frames: chunk / mel.hop,
            redundancy_frames: samples(cnn_redundancy_ms) / mel.hop,
            engine,
            samples: Vec::with_capacity(mel.window_samples + chunk),
            columns: Vec::with_capacity((mel.window_samples + chunk) / mel.hop * mel.n_mels),
            peaks: VecDeque::new(),
            base_frame: 0,
            next_core: 0,
            pushes: 0,
            params: mel,
        })
    }

    /// Adds the samples of one unit and gives its frames.
    pub fn push(&mut self, samples: &[f32]) -> MelChunk {
        self.pushes += 1;
        self.samples.extend_from_slice(samples);
        if self.samples.len() >= self.params.window_samples {
            self.slide();
        }
        self.extend_stable();

        let window_frames = self.params.frames(self.samples.len());
        let stable_frames = self.columns.len() / self.params.n_mels;
        let (core_start, core_end) = (self.next_core, self.next_core + self.chunk_frames);
        let info = MelInfo {
            chunk_number: self.pushes,
            stable_frames,
            window_frames,
            base_frame: self.base_frame,
            window_samples: self.samples.len(),
            dropped_samples: self.base_frame * self.params.hop,
            core_start,
            core_end,
        };
        let last = core_end + self.redundancy_frames;
        if self.base_frame + stable_frames < last {
            let mel = Mel { n_mels: self.params.n_mels, frames: 0, data: Vec::new() };
            return MelChunk { mel, prefix: 0, suffix: 0, info };
        }
        self.next_core = core_end;
        let first = core_start.saturating_sub(self.redundancy_frames).max(self.base_frame);
        let mel = self.emit(first - self.base_frame..last - self.base_frame, window_frames);
        MelChunk { mel, prefix: core_start - first, suffix: self.redundancy_frames, info }
    }

    /// Numbers for which this stream holds memory; constant once the window has filled.
    pub fn held_values(&self) -> usize {
        self.samples.capacity() + self.columns.capacity() + 2 * self.peaks.capacity()
    }

    /// Columns at the window's left end that see mirrored samples.
    fn left_edge(&self) -> usize {
        self.params.half_frame().div_ceil(self.params.hop)
    }

    /// Drops the oldest samples; the columns that are now at the left end see other (mirrored) samples than before.
    fn slide(&mut self) {
        let frames = self.params.drop_samples / self.params.hop;
        self.samples.drain(..self.params.drop_samples);
        self.columns.drain(..frames * self.params.n_mels);
        self.base_frame += frames;
        let interior = self.base_frame + self.left_edge();
        while self.peaks.front().is_some_and(|&(frame, _)| frame < interior) {
            self.peaks.pop_front();
        }
        let mut edge = Vec::new();
        for frame in 0..self.left_edge() {
            self.engine.append_column(&self.samples, frame, &mut edge);
        }
        self.columns[..edge.len()].copy_from_slice(&edge);
    }

    /// Computes the columns that have become independent of what follows: centre plus half a frame is in the window.
    fn extend_stable(&mut self) {
        let (length, half) = (self.samples.len(), self.params.half_frame());
        // with less than one frame the reference cannot compute at all
        let stable = if length < self.params.n_fft {
            0
        } else {
            ((length - half) / self.params.hop + 1).min(self.params.frames(length))
        };
        for frame in self.columns.len() / self.params.n_mels..stable {
            let peak = self.engine.append_column(&self.samples, frame, &mut self.columns);
            if frame >= self.left_edge() {
                while self.peaks.back().is_some_and(|&(_, lower)| lower <= peak) {
                    self.peaks.pop_back();
                }
                self.peaks.push_back((self.base_frame + frame, peak));
            }
        }
    }

    /// Largest log value of the whole window, the unstable frames at its right end included.
    fn loudest(&mut self, window_frames: usize) -> f32 {
        let stable = self.columns.len() / self.params.n_mels;
        let mut loudest = largest(&self.columns[..self.left_edge().min(stable) * self.params.n_mels]);
        loudest = loudest.max(self.peaks.front().map_or(f32::NEG_INFINITY, |&(_, peak)| peak));
        let mut unstable = Vec::with_capacity(self.params.n_mels);
        for frame in stable..window_frames {
            unstable.clear();
            loudest = loudest.max(self.engine.append_column(&self.samples, frame, &mut unstable));
        }
        loudest
    }

    fn emit(&mut self, frames: std::ops::Range<usize>, window_frames: usize) -> Mel {
        let floor = match self.params.streaming_floor(self.samples.len()) {
            Floor::Fixed => self.params.floor_value(Floor::Fixed, f32::NEG_INFINITY),
            Floor::Dynamic => {
                let loudest = self.loudest(window_frames);
                self.params.floor_value(Floor::Dynamic, loudest)
            }
        };
        let n_mels = self.params.n_mels;
        let columns: Vec<f32> =
            self.columns[frames.start * n_mels..frames.end * n_mels].iter().map(|&log| scaled(log, floor)).collect();
        Mel::from_columns(&columns, n_mels)
    }
}
