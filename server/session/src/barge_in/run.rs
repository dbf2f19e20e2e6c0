//! Counting frames of voice, with hysteresis.

/// One frame after both thresholds and the echo guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sound {
    /// Enough to begin a voice.
    Voice,
    /// Enough to go on with one.
    Unsure,
    /// Neither.
    Silence,
}

/// What a frame changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The voice has lasted long enough to be one.
    Began,
    /// It has been silent long enough to be over.
    Ended,
}

/// The detector's probability outlives a voice by two or three frames. A frame so much quieter than the loudest one of its
/// voice is such an afterglow, or the closure of a consonant: it counts neither as voice nor as silence.
const FADED_DB: f32 = 25.0;

/// Frames of silence that forget a voice which has not begun yet: the closure of the "k" in "be quiet" lasts 100 ms.
const ONSET_GAP: u32 = 4;

/// One stretch of voice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Run {
    /// Frames of voice so far; gaps are not counted.
    voiced: u32,
    /// Frames of silence since the last of them.
    silent: u32,
    began: bool,
    /// Level of its loudest frame, once there is one.
    loudest_dbfs: Option<f32>,
}

impl Run {
    /// Until `onset` frames of [`Sound::Voice`] have come, [`ONSET_GAP`] frames of silence forget them and an unsure frame
    /// does not count; from then on unsure frames count, and `release` frames of silence end it.
    pub(super) fn push(&mut self, sound: Sound, energy_dbfs: f32, onset: u32, release: u32) -> Change {
        let faded = self.loudest_dbfs.is_some_and(|loudest| energy_dbfs < loudest - FADED_DB);
        if faded && sound != Sound::Silence {
            return Change::None;
        }
        match (self.began, sound) {
            (false, Sound::Unsure) => {}
            (false, Sound::Silence) => {
                self.silent += 1;
                if self.silent >= ONSET_GAP {
                    *self = Run::default();
                }
            }
            (_, Sound::Voice) | (true, Sound::Unsure) => {
                self.voiced += 1;
                self.silent = 0;
                self.loudest_dbfs = Some(self.loudest_dbfs.map_or(energy_dbfs, |loudest| loudest.max(energy_dbfs)));
                if !self.began && self.voiced >= onset {
                    self.began = true;
                    return Change::Began;
                }
            }
            (true, Sound::Silence) => {
                self.silent += 1;
                if self.silent >= release {
                    *self = Run::default();
                    return Change::Ended;
                }
            }
        }
        Change::None
    }

    /// Frames of voice so far.
    pub(super) fn voiced(&self) -> u32 {
        self.voiced
    }

    /// At least one frame of voice has come and the run has not ended.
    pub(super) fn running(&self) -> bool {
        self.voiced > 0
    }
}
