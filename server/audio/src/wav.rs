//! Reads and writes wav files.
//!
//! Owns: the checks on files that users give us, the conversion to mono float, atomic writing. Must not: resample.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};

use crate::Pcm;

/// Sample rates accepted from files, in Hz.
pub const RATES_HZ: std::ops::RangeInclusive<u32> = 8_000..=192_000;
/// Channel counts accepted from files.
pub const CHANNELS: std::ops::RangeInclusive<u16> = 1..=8;

/// Length that the caller accepts. The two ends are inclusive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Shortest accepted length in seconds.
    pub min_seconds: f64,
    /// Longest accepted length in seconds.
    pub max_seconds: f64,
}

/// A wav file that could not be read or written; every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// The operating system refused: missing file, no permission, disk full.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// File concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Zero bytes.
    #[error("{path}: the file is empty (0 bytes); give a PCM wav file", path = path.display())]
    EmptyFile {
        /// File concerned.
        path: PathBuf,
    },
    /// Something else than RIFF/WAVE.
    #[error("{path}: not a wav file (no RIFF/WAVE header); convert it to PCM wav first", path = path.display())]
    NotWav {
        /// File concerned.
        path: PathBuf,
    },
    /// The header ends early or contradicts itself.
    #[error("{path}: the wav header is broken or cut off ({reason}); record or convert the file again", path = path.display())]
    BrokenHeader {
        /// File concerned.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// Fewer samples than the header promises.
    #[error("{path}: the wav file is truncated: its header promises {promised} samples per channel, the file ends after {found}", path = path.display())]
    Truncated {
        /// File concerned.
        path: PathBuf,
        /// Samples per channel in the header.
        promised: u32,
        /// Complete samples per channel in the file.
        found: u32,
    },
    /// A header without sound.
    #[error("{path}: the wav file holds 0 samples", path = path.display())]
    NoSamples {
        /// File concerned.
        path: PathBuf,
    },
    /// Compressed or otherwise unusual coding.
    #[error("{path}: unsupported wav coding ({what}); use 8, 16, 24 or 32 bit integer PCM or 32 bit float", path = path.display())]
    Coding {
        /// File concerned.
        path: PathBuf,
        /// The coding found.
        what: String,
    },
    /// Rate outside [`RATES_HZ`].
    #[error("{path}: sample rate {rate_hz} Hz; {min} to {max} Hz are accepted", path = path.display(), min = RATES_HZ.start(), max = RATES_HZ.end())]
    Rate {
        /// File concerned.
        path: PathBuf,
        /// Rate found.
        rate_hz: u32,
    },
    /// Channel count outside [`CHANNELS`].
    #[error("{path}: {channels} channels; {min} to {max} are accepted", path = path.display(), min = CHANNELS.start(), max = CHANNELS.end())]
    Channels {
        /// File concerned.
        path: PathBuf,
        /// Channels found.
        channels: u16,
    },
    /// NaN or infinity in a float file.
    #[error("{path}: sample {index} of channel {channel} is {value}, not a finite number; the recording is damaged", path = path.display())]
    NotFinite {
        /// File concerned.
        path: PathBuf,
        /// Position of the first bad sample within its channel.
        index: u32,
        /// Channel of that sample, from 0.
        channel: u16,
        /// Its value.
        value: f32,
    },
    /// Shorter than the caller accepts.
    #[error("{path}: {seconds:.2} s of sound; at least {min:.2} s are needed", path = path.display())]
    TooShort {
        /// File concerned.
        path: PathBuf,
        /// Length found.
        seconds: f64,
        /// Limit.
        min: f64,
    },
    /// Longer than the caller accepts.
    #[error("{path}: {seconds:.2} s of sound; at most {max:.2} s are accepted, cut the recording", path = path.display())]
    TooLong {
        /// File concerned.
        path: PathBuf,
        /// Length found.
        seconds: f64,
        /// Limit.
        max: f64,
    },
}

/// Reads a wav file as mono: the mean of its channels, integers scaled to -1..1 as torchaudio and soundfile do
/// (16 bit: divided by 32768).
///
/// # Errors
/// See [`WavError`]; the length is checked before the samples are read, so a huge file costs nothing.
pub fn read_mono(path: &Path, limits: Limits) -> Result<Pcm, WavError> {
    let file = File::open(path).map_err(|source| WavError::Io { path: path.into(), source })?;
    read(path, BufReader::new(file), limits)
}

/// Reads a wav file that is in memory, as [`read_mono`] does; `name` stands for its path in errors.
///
/// # Errors
/// See [`read_mono`].
pub fn parse_mono(name: &str, bytes: &[u8], limits: Limits) -> Result<Pcm, WavError> {
    read(Path::new(name), bytes, limits)
}

fn read(path: &Path, mut file: impl Read, limits: Limits) -> Result<Pcm, WavError> {
    let io = |source| WavError::Io { path: path.into(), source };
    let mut head = Vec::with_capacity(12);
    file.by_ref().take(12).read_to_end(&mut head).map_err(io)?;
    check_magic(path, &head)?;
    let reader = WavReader::new(head.as_slice().chain(file)).map_err(|error| header_error(path, error))?;

    let WavSpec { channels, sample_rate: rate_hz, bits_per_sample, sample_format } = reader.spec();
    if !RATES_HZ.contains(&rate_hz) {
        return Err(WavError::Rate { path: path.into(), rate_hz });
    }
    if !CHANNELS.contains(&channels) {
        return Err(WavError::Channels { path: path.into(), channels });
    }
    let frames = reader.duration();
    if frames == 0 {
        return Err(WavError::NoSamples { path: path.into() });
    }
    let seconds = f64::from(frames) / f64::from(rate_hz);
    if seconds < limits.min_seconds {
        return Err(WavError::TooShort { path: path.into(), seconds, min: limits.min_seconds });
    }
    if seconds > limits.max_seconds {
        return Err(WavError::TooLong { path: path.into(), seconds, max: limits.max_seconds });
    }

    let samples = match (sample_format, bits_per_sample) {
        (SampleFormat::Int, 8 | 16 | 24 | 32) => {
            let scale = 1.0 / (1u64 << (bits_per_sample - 1)) as f32;
            mix(path, channels, frames, reader.into_samples::<i32>().map(|s| s.map(|value| value as f32 * scale)))?
        }
        (SampleFormat::Float, 32) => mix(path, channels, frames, reader.into_samples::<f32>())?,
        (format, bits) => {
            return Err(WavError::Coding { path: path.into(), what: format!("{bits} bit {format:?}").to_lowercase() });
        }
    };
    Ok(Pcm { rate_hz, samples })
}

/// Tells the two commonest mistakes apart before the parser gives its own words.
fn check_magic(path: &Path, head: &[u8]) -> Result<(), WavError> {
    if head.is_empty() {
        return Err(WavError::EmptyFile { path: path.into() });
    }
    let agrees = |at: usize, magic: &[u8]| head.iter().skip(at).zip(magic).all(|(a, b)| a == b);
    if !agrees(0, b"RIFF") || !agrees(8, b"WAVE") {
        return Err(WavError::NotWav { path: path.into() });
    }
    Ok(())
}

fn header_error(path: &Path, error: hound::Error) -> WavError {
    let path = path.into();
    match error {
        hound::Error::Unsupported => WavError::Coding { path, what: "compressed, or not plain PCM".into() },
        // hound reports a header that ends early as a failed read
        other => WavError::BrokenHeader { path, reason: other.to_string() },
    }
}

/// Averages interleaved channels; counts what it reads, so that a cut file is told with both numbers.
fn mix(
    path: &Path,
    channels: u16,
    frames: u32,
    samples: impl Iterator<Item = hound::Result<f32>>,
) -> Result<Vec<f32>, WavError> {
    let mut mono = Vec::new();
    // The sum of two finite numbers need not be one, unless it has more room than they.
    let (mut sum, mut channel, mut found) = (0.0f64, 0u16, 0u32);
    for sample in samples {
        let Ok(value) = sample else {
            return Err(WavError::Truncated { path: path.into(), promised: frames, found });
        };
        if !value.is_finite() {
            return Err(WavError::NotFinite { path: path.into(), index: found, channel, value });
        }
        sum += f64::from(value);
        channel += 1;
        if channel == channels {
            mono.push((sum / f64::from(channels)) as f32);
            (sum, channel, found) = (0.0, 0, found + 1);
        }
    }
    if found < frames {
        return Err(WavError::Truncated { path: path.into(), promised: frames, found });
    }
    Ok(mono)
}

/// Writes 16-bit mono PCM. The file appears whole or not at all: written beside its place, synced, then renamed. What is there
/// and no regular file (a device, a pipe) is written to as it is.
///
/// # Errors
/// [`WavError::Io`] with the path when the folder is missing, not writable or the disk is full.
pub fn write_mono_i16(path: &Path, rate_hz: u32, samples: &[i16]) -> Result<(), WavError> {
    let failed = |source| WavError::Io { path: path.into(), source };
    let bytes = encode_mono_i16(rate_hz, samples);
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return File::options().write(true).open(path).and_then(|mut file| file.write_all(&bytes)).map_err(failed);
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = File::create(&partial)
        .and_then(|mut file| write_and_sync(&mut file, &bytes))
        .and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|source| {
        // the first error is the one to tell; the leftover may not even exist
        let _ = std::fs::remove_file(&partial);
        failed(source)
    })
}

fn write_and_sync(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    // some file systems tell a full disk only here
    file.sync_all()
}

/// The bytes of a 16-bit mono PCM wav file.
pub fn encode_mono_i16(rate_hz: u32, samples: &[i16]) -> Vec<u8> {
    const REASON: &str = "a wav file in memory cannot fail to be written. This is a bug.";
    let spec = WavSpec { channels: 1, sample_rate: rate_hz, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut bytes, spec).expect(REASON);
    for &sample in samples {
        writer.write_sample(sample).expect(REASON);
    }
    writer.finalize().expect(REASON);
    bytes.into_inner()
}

#[cfg(test)]
mod tests;
