//! What the user says, as samples: a clip of a recording, where its voice begins and ends, and the telephone.

use std::ops::Range;
use std::path::Path;

use duologue_audio::g711::{self, Law};
use duologue_audio::{Pcm, level, resample, wav};
use serde::{Deserialize, Serialize};

/// Samples per second of what the user says: the rate of the page's WebSocket, and what Opus is coded from.
pub const WIRE_RATE_HZ: u32 = 24_000;
/// Samples of a packet: 20 ms.
pub const PACKET: usize = 480;
/// Samples over which a level is taken: 10 ms.
const WINDOW: usize = 240;
/// A window this much below the loudest one is no longer voice.
const BELOW_PEAK_DB: f32 = 30.0;
/// Nor is one below this level, however quiet the recording.
const FLOOR_DBFS: f32 = -55.0;
/// Recordings that can be read.
const LIMITS: wav::Limits = wav::Limits { min_seconds: 0.01, max_seconds: 3_600.0 };

/// The telephone's companding law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phone {
    /// North America and Japan.
    MuLaw,
    /// Elsewhere.
    ALaw,
}

impl Phone {
    /// What codes its samples.
    pub fn law(self) -> Law {
        match self {
            Self::MuLaw => Law::Mu,
            Self::ALaw => Law::A,
        }
    }
}

/// Something to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Mono at [`WIRE_RATE_HZ`].
    pub samples: Vec<i16>,
    /// From the first voiced sample to behind the last one.
    pub voiced: Range<usize>,
}

impl Line {
    /// Reads a clip of a recording.
    ///
    /// # Errors
    /// A file that is no wav, a clip outside it, or one without a voice.
    pub fn read(path: &Path, clip: Range<Option<f64>>, phone: Option<Phone>) -> Result<Self, String> {
        let pcm = wav::read_mono(path, LIMITS).map_err(|error| format!("user audio: {error}"))?;
        let seconds = pcm.seconds();
        let (from, to) = (clip.start.unwrap_or(0.0), clip.end.unwrap_or(seconds));
        if !(from < to && to <= seconds + 1e-3) {
            return Err(format!("{} has {seconds:.2} s, no clip from {from} to {to} s", path.display()));
        }
        let at = |second: f64| ((second * f64::from(pcm.rate_hz)) as usize).min(pcm.samples.len());
        let clip = Pcm { rate_hz: pcm.rate_hz, samples: pcm.samples[at(from)..at(to)].to_vec() };
        Self::new(&clip, phone).ok_or_else(|| format!("{}: nothing is said from {from} to {to} s", path.display()))
    }

    /// `None` when there is no voice.
    pub fn new(clip: &Pcm, phone: Option<Phone>) -> Option<Self> {
        let heard = match phone {
            Some(law) => telephone(clip, law),
            None => clip.clone(),
        };
        let samples = to_i16(&resample::to_rate(&heard, WIRE_RATE_HZ).samples);
        let voiced = voiced(&samples)?;
        Some(Self { samples, voiced })
    }

    /// Its length.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(WIRE_RATE_HZ)
    }
}

/// What is left of a voice behind a telephone line.
fn telephone(clip: &Pcm, phone: Phone) -> Pcm {
    let law = phone.law();
    let narrow = to_i16(&resample::to_rate(clip, g711::RATE_HZ).samples);
    let samples = law.decode(&law.encode(&narrow)).into_iter().map(to_float).collect();
    Pcm { rate_hz: g711::RATE_HZ, samples }
}

/// Where the voice begins and ends, by level: from the first to the last window of 10 ms within 30 dB of the loudest one,
/// and in those to the sample that is louder than the threshold. `None` when all is quieter than -55 dBFS.
pub fn voiced(samples: &[i16]) -> Option<Range<usize>> {
    let level = |window: &[i16]| level::rms_dbfs(window.iter().copied().map(to_float));
    let peak = samples.chunks(WINDOW).map(level).fold(level::SILENCE_DBFS, f32::max);
    let threshold = (peak - BELOW_PEAK_DB).max(FLOOR_DBFS);
    let loud = |window: &&[i16]| level(window) >= threshold;
    let first = samples.chunks(WINDOW).position(|window| loud(&window))?;
    let last = samples.chunks(WINDOW).rposition(|window| loud(&window))?;
    // A little lower: the level was rounded.
    let amplitude = 10f32.powf((threshold - 0.1) / 20.0);
    let sounds = |sample: &i16| to_float(*sample).abs() >= amplitude;
    let from = first * WINDOW;
    let to = samples.len().min((last + 1) * WINDOW);
    // A loud window has a sample that reaches its root mean square.
    let start = from + samples[from..to].iter().position(sounds)?;
    let end = from + samples[from..to].iter().rposition(sounds)? + 1;
    Some(start..end)
}

fn to_float(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

/// `as` saturates, which is the clipping.
fn to_i16(samples: &[f32]) -> Vec<i16> {
    samples.iter().map(|sample| (sample * 32_768.0).round() as i16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(count: usize, amplitude: f32) -> impl Iterator<Item = f32> {
        (0..count).map(move |n| amplitude * (n as f32 * 440.0 * std::f32::consts::TAU / WIRE_RATE_HZ as f32).sin())
    }

    fn clip(samples: impl Iterator<Item = f32>) -> Vec<i16> {
        to_i16(&samples.collect::<Vec<_>>())
    }

    /// A period of the tone: a sine begins and ends quietly.
    const PERIOD: usize = WIRE_RATE_HZ as usize / 440 + 1;

    #[test]
    fn the_voice_is_found_between_silences_at_any_level() {
        for amplitude in [0.9, 0.1, 0.01] {
            let noise = amplitude * 0.005;
            for (before, voice, after) in [(0, 4_800, 0), (1_000, 2_400, 7), (12_345, 24_000, 9_999), (1, 300, 5_000)] {
                let sound = tone(before, noise).chain(tone(voice, amplitude)).chain(tone(after, noise));
                let found = voiced(&clip(sound)).unwrap();
                let (start, end) = (before, before + voice);
                assert!((start..start + PERIOD).contains(&found.start), "{start}: {found:?}");
                assert!((end - PERIOD..=end).contains(&found.end), "{end}: {found:?}");
            }
        }
    }

    #[test]
    fn a_pause_inside_belongs_to_the_voice() {
        let sound = tone(2_400, 0.5).chain(tone(24_000, 0.0)).chain(tone(2_400, 0.2));
        let found = voiced(&clip(sound)).unwrap();
        assert!(found.start < PERIOD && found.end > 28_800 - PERIOD, "{found:?}");
    }

    #[test]
    fn silence_and_hiss_are_no_voice() {
        assert_eq!(voiced(&[]), None);
        assert_eq!(voiced(&[0; 10_000]), None);
        assert_eq!(voiced(&clip(tone(10_000, 0.001))), None);
    }

    #[test]
    fn a_telephone_takes_what_is_above_4_khz_and_keeps_time() {
        // It swells and fades: an edge has all frequencies.
        let swell = |n: i32| (n as f32 * std::f32::consts::PI / 16_000.0).sin();
        let tone = |n: i32, hz: f32| 0.5 * (n as f32 * hz * std::f32::consts::TAU / 16_000.0).sin();
        let at = |hz| Pcm { rate_hz: 16_000, samples: (0..16_000).map(|n| swell(n) * tone(n, hz)).collect() };
        assert!(Line::new(&at(6_000.0), None).is_some() && Line::new(&at(6_000.0), Some(Phone::MuLaw)).is_none());
        for phone in [None, Some(Phone::MuLaw), Some(Phone::ALaw)] {
            let line = Line::new(&at(1_000.0), phone).unwrap();
            assert_eq!(line.samples.len(), 24_000);
            let middle = line.voiced.start + line.voiced.len() / 2;
            assert!(line.voiced.len() > 22_000 && middle.abs_diff(12_000) < 100, "{phone:?}: {:?}", line.voiced);
        }
    }
}
