//! A stereo wav whose two sides arrive at their own times.

use std::collections::VecDeque;
use std::io::{self, Seek, Write};
use std::time::Duration;

use duologue_audio::stream::Resampler;
use hound::{SampleFormat, WavSpec, WavWriter};

/// Silence is put in where a side's clock has fallen back by more than this (a pause, a lost connection); less is jitter.
const SLACK: Duration = Duration::from_millis(300);
/// How long a side may still be added to or taken back before it is written.
const OPEN: Duration = Duration::from_secs(3);

/// Two sides of a conversation on the way to a file.
pub struct StereoTrack<W: Write + Seek> {
    writer: WavWriter<W>,
    rate_hz: u32,
    upsampler: Resampler,
    written: u64,
    left: VecDeque<i16>,
    right: VecDeque<i16>,
}

impl<W: Write + Seek> StereoTrack<W> {
    pub fn new(file: W, user_rate_hz: u32, rate_hz: u32) -> io::Result<Self> {
        let spec = WavSpec { channels: 2, sample_rate: rate_hz, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let writer = WavWriter::new(file, spec).map_err(io::Error::other)?;
        let upsampler = Resampler::new(user_rate_hz, rate_hz).map_err(io::Error::other)?;
        Ok(Self { writer, rate_hz, upsampler, written: 0, left: VecDeque::new(), right: VecDeque::new() })
    }

    /// User audio that ended at `until`.
    pub fn user(&mut self, until: Duration, samples: &[f32]) -> io::Result<()> {
        let samples = self.upsampler.push(samples);
        let wanted = self.place(until).saturating_sub(samples.len() as u64);
        if wanted > self.written + self.left.len() as u64 + self.place(SLACK) {
            pad(&mut self.left, wanted - self.written);
        }
        // A client may send faster than it speaks; what is so far ahead of its time has no place in a conversation.
        let room = self.place(until + OPEN).saturating_sub(self.written + self.left.len() as u64) as usize;
        self.left.extend(samples.iter().take(room).map(|x| (x * 32768.0).round() as i16));
        self.write_until(self.place(until.saturating_sub(OPEN)))
    }

    /// Speech that is played from `from` on.
    pub fn reply(&mut self, from: Duration, samples: &[i16]) -> io::Result<()> {
        let wanted = self.place(from);
        if wanted > self.written + self.right.len() as u64 {
            pad(&mut self.right, wanted - self.written);
        }
        self.right.extend(samples);
        self.write_until(self.place(from.saturating_sub(OPEN)))
    }

    /// Nothing of the reply is heard after `at`.
    pub fn stopped(&mut self, at: Duration) {
        let keep = self.place(at).saturating_sub(self.written) as usize;
        self.right.truncate(keep);
    }

    fn place(&self, time: Duration) -> u64 {
        time.as_nanos() as u64 * u64::from(self.rate_hz) / 1_000_000_000
    }

    fn write_until(&mut self, end: u64) -> io::Result<()> {
        while self.written < end {
            let (left, right) = (self.left.pop_front().unwrap_or(0), self.right.pop_front().unwrap_or(0));
            for sample in [left, right] {
                self.writer.write_sample(sample).map_err(io::Error::other)?;
            }
            self.written += 1;
        }
        Ok(())
    }

    /// Writes the rest; returns the length in ms.
    pub fn finish(mut self) -> io::Result<u64> {
        let end = self.written + self.left.len().max(self.right.len()) as u64;
        self.write_until(end)?;
        self.writer.finalize().map_err(io::Error::other)?;
        Ok(end * 1000 / u64::from(self.rate_hz))
    }
}

/// Silence up to the given length.
fn pad(side: &mut VecDeque<i16>, length: u64) {
    side.resize(side.len().max(length as usize), 0);
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Both sides of what was written, as one level per 100 ms.
    fn levels(run: impl FnOnce(&mut StereoTrack<&mut Cursor<Vec<u8>>>)) -> (Vec<u16>, Vec<u16>) {
        let mut file = Cursor::new(Vec::new());
        let mut track = StereoTrack::new(&mut file, 16_000, 24_000).unwrap();
        run(&mut track);
        track.finish().unwrap();
        let mut reader = hound::WavReader::new(Cursor::new(file.into_inner())).unwrap();
        let samples: Vec<i16> = reader.samples::<i16>().map(|sample| sample.unwrap()).collect();
        let side = |channel: usize| {
            let side: Vec<i16> = samples.iter().skip(channel).step_by(2).copied().collect();
            side.chunks(2400).map(|chunk| chunk.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0)).collect()
        };
        (side(0), side(1))
    }

    #[test]
    fn both_sides_stand_where_they_were_heard() {
        let (left, right) = levels(|track| {
            for packet in 1..=10 {
                track.user(ms(packet * 100), &[0.25; 1600]).unwrap();
            }
            track.reply(ms(500), &[1000; 4800]).unwrap();
        });
        assert_eq!(right, [0, 0, 0, 0, 0, 1000, 1000, 0, 0, 0]);
        assert!(left[1..9].iter().all(|level| (8000..8400).contains(level)), "{left:?}");
    }

    #[test]
    fn a_client_that_sends_faster_than_time_goes_by_is_cut() {
        let (left, _) = levels(|track| {
            for second in 1..=5 {
                track.user(ms(second * 100), &vec![0.25; 16_000 * 60]).unwrap();
                assert!(track.left.len() <= 24_000 * 4, "{} samples wait", track.left.len());
            }
        });
        assert!(left.len() <= 36, "half a second, and what may be ahead of it: {}", left.len());
    }

    #[test]
    fn a_pause_of_the_user_becomes_silence_and_jitter_does_not() {
        let (left, _) = levels(|track| {
            track.user(ms(100), &[0.25; 1600]).unwrap();
            track.user(ms(260), &[0.25; 1600]).unwrap();
            track.user(ms(1000), &[0.25; 1600]).unwrap();
        });
        let loud = left.iter().filter(|level| **level > 4000).count();
        assert!((3..=4).contains(&loud) && left.len() >= 9, "{left:?}");
        assert!(left[0] > 4000 && left[1] > 4000 && left[5] < 400, "{left:?}");
    }

    #[test]
    fn what_was_not_heard_is_not_in_the_recording() {
        let (_, right) = levels(|track| {
            track.reply(ms(0), &[1000; 24_000]).unwrap();
            track.stopped(ms(300));
            track.reply(ms(600), &[500; 2400]).unwrap();
        });
        assert_eq!(right, [1000, 1000, 1000, 0, 0, 0, 500]);
    }
}
