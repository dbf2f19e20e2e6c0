//! Whisper's log-mel of a whole recording, with the two floors of the reference.
//!
//! Reference: processing_minicpmo.py:567-708 (feature extractor), s3tokenizer/utils.py:220-266 (the same with 128 mels).

use super::Mel;
use crate::FeatureError;
use crate::filterbank::FilterBank;
use crate::spectrum::{Spectrum, hann_periodic};

/// Smallest mel energy before the logarithm, part of Whisper's definition.
const SMALLEST_ENERGY: f32 = 1e-10;

/// Numbers of the manifest's `mel` section, and the sample rate of its `duplex` section.
#[derive(Debug, Clone, PartialEq)]
pub struct MelParams {
    /// Rate of the samples.
    pub sample_rate_hz: u32,
    /// Length of an analysis frame in samples.
    pub n_fft: usize,
    /// Samples from one frame to the next.
    pub hop: usize,
    /// Mel filters.
    pub n_mels: usize,
    /// Upper end of the filters.
    pub f_max_hz: f64,
    /// Streaming windows shorter than this use [`Floor::Fixed`].
    pub short_buffer_samples: usize,
    /// Value of the fixed floor, log10.
    pub floor_log10: f32,
    /// Distance of the dynamic floor from the loudest value, log10.
    pub dynamic_range: f32,
    /// 30 s: a streaming window this long is cut, and recordings are padded to it before the transform.
    pub window_samples: usize,
    /// What is cut off a full streaming window.
    pub drop_samples: usize,
}

/// The floor under log values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// `MelParams::floor_log10`.
    Fixed,
    /// The loudest value of the whole recording less `MelParams::dynamic_range`.
    Dynamic,
}

impl MelParams {
    /// Frames of a recording: the last one that centring would give is left out.
    pub(super) fn frames(&self, samples: usize) -> usize {
        samples / self.hop
    }

    /// Samples that a frame reaches to either side of its centre.
    pub(super) fn half_frame(&self) -> usize {
        self.n_fft / 2
    }

    /// The floor that the streaming processor uses for a window of this length (processing_minicpmo.py:788-794).
    pub fn streaming_floor(&self, window_samples: usize) -> Floor {
        if window_samples < self.short_buffer_samples { Floor::Fixed } else { Floor::Dynamic }
    }

    /// Log10 value of a floor, given the loudest log value.
    pub(super) fn floor_value(&self, floor: Floor, loudest: f32) -> f32 {
        match floor {
            Floor::Fixed => self.floor_log10,
            Floor::Dynamic => loudest - self.dynamic_range,
        }
    }

    fn check(&self) -> Result<(), FeatureError> {
        let nyquist = f64::from(self.sample_rate_hz) / 2.0;
        let reason = if self.hop == 0 || self.n_mels == 0 || self.n_fft < 2 || !self.n_fft.is_multiple_of(2) {
            format!("n_fft {}, hop {}, n_mels {}", self.n_fft, self.hop, self.n_mels)
        } else if self.f_max_hz <= 0.0 || self.f_max_hz > nyquist {
            format!("f_max_hz {} is not within 0..{nyquist} Hz", self.f_max_hz)
        } else if self.window_samples < self.n_fft {
            format!("window_samples {} is below n_fft {}", self.window_samples, self.n_fft)
        } else {
            return Ok(());
        };
        Err(FeatureError::Params { feature: "the mel", reason })
    }
}

/// Log10 mel columns without floor: what the offline and the streaming form share, so that they agree to the last bit.
#[derive(Debug)]
pub(super) struct LogMel {
    spectrum: Spectrum,
    bank: FilterBank,
    hop: usize,
    half_frame: usize,
}

impl LogMel {
    pub(super) fn new(params: &MelParams) -> Result<Self, FeatureError> {
        params.check()?;
        Ok(Self {
            spectrum: Spectrum::new(params.n_fft, hann_periodic(params.n_fft)),
            bank: FilterBank::slaney(params.n_mels, params.n_fft, params.sample_rate_hz, params.f_max_hz),
            hop: params.hop,
            half_frame: params.half_frame(),
        })
    }

    /// Appends column `frame` of `samples`, `[n_mels]`; returns its largest value.
    pub(super) fn append_column(&mut self, samples: &[f32], frame: usize, columns: &mut Vec<f32>) -> f32 {
        let start = (frame * self.hop) as isize - self.half_frame as isize;
        let power = self.spectrum.power_at(samples, start);
        let before = columns.len();
        columns.extend(self.bank.sums(power).map(|energy| energy.max(SMALLEST_ENERGY).log10()));
        largest(&columns[before..])
    }
}

/// Largest of some values, minus infinity for none.
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Whisper's final scaling of a log value above the floor.
pub(super) fn scaled(log: f32, floor: f32) -> f32 {
    (log.max(floor) + 4.0) / 4.0
}

/// Log-mel of whole recordings.
#[derive(Debug)]
pub struct Whisper {
    params: MelParams,
    engine: LogMel,
}

impl Whisper {
    /// Makes filters and transform plan.
    ///
    /// # Errors
    /// Parameters that contradict each other.
    pub fn new(params: MelParams) -> Result<Self, FeatureError> {
        Ok(Self { engine: LogMel::new(&params)?, params })
    }

    /// `[n_mels, samples / hop]` of a recording as it is, scaled to about -1.5..1.5.
    ///
    /// # Errors
    /// Recordings no longer than half an analysis frame cannot be mirrored at their ends.
    pub fn offline(&mut self, samples: &[f32], floor: Floor) -> Result<Mel, FeatureError> {
        let needed = self.params.half_frame() + 1;
        if samples.len() < needed.max(self.params.hop) {
            return Err(FeatureError::TooShort { feature: "the log-mel", needed, got: samples.len() });
        }
        let frames = self.params.frames(samples.len());
        let mut columns = Vec::with_capacity(frames * self.params.n_mels);
        let mut loudest = f32::NEG_INFINITY;
        for frame in 0..frames {
            loudest = loudest.max(self.engine.append_column(samples, frame, &mut columns));
        }
        let floor = self.params.floor_value(floor, loudest);
        for value in &mut columns {
            *value = scaled(*value, floor);
        }
        Ok(Mel::from_columns(&columns, self.params.n_mels))
    }

    /// Features of reference audio: cut into windows of 30 s, each padded with silence to 30 s before the transform and
    /// cut to `ceil(samples / hop)` frames after it, always with the dynamic floor (processing_minicpmo.py:412-505;
    /// the reference's extractor may still hold the floor of an earlier session, which is not reproduced).
    ///
    /// # Errors
    /// No samples.
    pub fn reference(&mut self, samples: &[f32]) -> Result<Vec<Mel>, FeatureError> {
        if samples.is_empty() {
            return Err(FeatureError::TooShort { feature: "the reference audio", needed: 1, got: 0 });
        }
        samples
            .chunks(self.params.window_samples)
            .map(|piece| {
                let mut padded = piece.to_vec();
                padded.resize(self.params.window_samples, 0.0);
                let whole = self.offline(&padded, Floor::Dynamic)?;
                Ok(whole.fitted(piece.len().div_ceil(self.params.hop)))
            })
            .collect()
    }
}

/// Features for the speech tokenizer: `[s3_mels, samples / hop]` with the dynamic floor over the recording as it is.
/// `params` are those of the session's mel; `s3_mels` is the manifest's `voice.s3_mels`.
///
/// # Errors
/// A recording of less than half a frame, or parameters that cannot work.
pub fn s3(params: &MelParams, s3_mels: usize, samples: &[f32]) -> Result<Mel, FeatureError> {
    Whisper::new(MelParams { n_mels: s3_mels, ..params.clone() })?.offline(samples, Floor::Dynamic)
}
