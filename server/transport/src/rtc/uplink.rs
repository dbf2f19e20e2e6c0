//! The user's voice: RTP packets in, 20 ms frames at 16 kHz out, and for the voice detector each packet at once.
//!
//! Owns the jitter buffer and the decoders of one stream. Must not read a clock: whoever calls [`Uplink::tick`] every
//! 20 ms gets exactly one frame each time, whatever the network does, so that the session's clock runs on.

use std::collections::VecDeque;
use std::time::Duration;

use duologue_audio::opus::{DECODER_FRAME, Decoder, OpusError, packet_samples};

use super::jitter::{Counts, JitterBuffer, Packet, Pull};
use super::metronome::FRAME;

/// Concealment goes on for this many samples (100 ms); after that libopus would only hum, so silence follows.
const CONCEAL_LONGEST: usize = 1_600;
/// The ear is this far ahead of real time at most. A burst after a stall is shorter; who sends more floods the server.
const EAR_AHEAD: Duration = Duration::from_millis(500);

/// What happened on the way up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UplinkStats {
    /// Packets received.
    pub received: u64,
    /// Packets whose time passed without them, lost or late.
    pub missed: u64,
    /// Packets that came too late to be played.
    pub late: u64,
    /// Packets that were not Opus.
    pub corrupt: u64,
    /// Milliseconds restored from the copy in the following packet.
    pub restored_ms: u64,
    /// Milliseconds made up.
    pub concealed_ms: u64,
    /// Milliseconds of silence in place of sound, the pauses of a sender with DTX included.
    pub silent_ms: u64,
    /// Frames that the application did not take in time.
    pub dropped_frames: u64,
    /// How long packets wait at present.
    pub depth_ms: f32,
    /// How unevenly they arrive.
    pub jitter_ms: f32,
}

/// See the module.
#[derive(Debug)]
pub struct Uplink {
    buffer: JitterBuffer,
    decoder: Decoder,
    /// For [`Self::push`]: a decoder cannot go back to a packet that was decoded before its turn.
    ear: Decoder,
    /// When the ear would have heard what it has, had it listened without a pause.
    ear_until: Duration,
    ready: VecDeque<f32>,
    source: Option<u32>,
    /// Samples concealed since the last packet.
    concealed: usize,
    stats: UplinkStats,
}

impl Uplink {
    /// A stream of which nothing has come yet.
    ///
    /// # Errors
    /// When no decoder can be made.
    pub fn new() -> Result<Self, OpusError> {
        Ok(Self {
            buffer: JitterBuffer::default(),
            decoder: Decoder::new()?,
            ear: Decoder::new()?,
            ear_until: Duration::ZERO,
            ready: VecDeque::new(),
            source: None,
            concealed: 0,
            stats: UplinkStats::default(),
        })
    }

    /// A packet of stream `source` (the SSRC) arrived at `now` -> its sound for a voice detector, which bears gaps and
    /// pieces in the wrong order but no delay; [`Self::tick`] gives the same sound when it is due. Empty for a packet
    /// that is not Opus, and for one of a flood.
    pub fn push(&mut self, now: Duration, source: u32, sequence: u16, timestamp: u32, payload: &[u8]) -> Vec<f32> {
        let Ok(samples) = packet_samples(payload) else {
            self.stats.corrupt += 1;
            return Vec::new();
        };
        if self.source.replace(source).is_some_and(|before| before != source) {
            self.buffer.restart();
        }
        self.buffer.push(now, Packet { sequence, timestamp, samples, payload: payload.to_vec() });
        self.ear_until = self.ear_until.max(now);
        if self.ear_until > now + EAR_AHEAD {
            return Vec::new();
        }
        self.ear_until += FRAME * samples as u32 / DECODER_FRAME as u32;
        self.ear.decode(payload).unwrap_or_default()
    }

    /// The next 20 ms, [`DECODER_FRAME`] samples within -1..1.
    pub fn tick(&mut self) -> Vec<f32> {
        while self.ready.len() < DECODER_FRAME {
            let samples = self.next();
            self.ready.extend(samples);
        }
        self.ready.drain(..DECODER_FRAME).collect()
    }

    /// The application was too slow for a frame.
    pub fn frame_dropped(&mut self) {
        self.stats.dropped_frames += 1;
    }

    /// What happened so far.
    pub fn stats(&self) -> UplinkStats {
        let Counts { received, missed, late, .. } = self.buffer.counts();
        UplinkStats {
            received,
            missed,
            late,
            depth_ms: self.buffer.depth().as_secs_f32() * 1e3,
            jitter_ms: self.buffer.jitter().as_secs_f32() * 1e3,
            ..self.stats
        }
    }

    /// The jitter buffer's own counts.
    pub fn counts(&self) -> Counts {
        self.buffer.counts()
    }

    /// The sound of one pull; never empty.
    fn next(&mut self) -> Vec<f32> {
        let length = self.buffer.packet_samples();
        match self.buffer.pull() {
            Pull::Packet(packet) => self.decode(&packet),
            Pull::Squeeze(first, second) => {
                let (first, second) = (self.decode(&first), self.decode(&second));
                crossfade(&first, &second)
            }
            Pull::Missing { next: Some(next) } => match self.decoder.decode_fec(&next, length) {
                Ok(samples) => {
                    self.stats.restored_ms += milliseconds(length);
                    samples
                }
                Err(_) => self.conceal(length),
            },
            Pull::Missing { next: None } => self.conceal(length),
        }
    }

    fn decode(&mut self, packet: &Packet) -> Vec<f32> {
        match self.decoder.decode(&packet.payload) {
            Ok(samples) => {
                self.concealed = 0;
                samples
            }
            Err(_) => {
                self.stats.corrupt += 1;
                self.conceal(packet.samples)
            }
        }
    }

    fn conceal(&mut self, length: usize) -> Vec<f32> {
        self.concealed += length;
        if self.concealed <= CONCEAL_LONGEST
            && self.source.is_some()
            && let Ok(samples) = self.decoder.conceal(length)
        {
            self.stats.concealed_ms += milliseconds(length);
            return samples;
        }
        self.stats.silent_ms += milliseconds(length);
        vec![0.0; length]
    }
}

fn milliseconds(samples: usize) -> u64 {
    (samples * 20 / DECODER_FRAME) as u64
}

/// Goes over from `first` to `second` within the length of the shorter one; the rest of the longer one is cut.
fn crossfade(first: &[f32], second: &[f32]) -> Vec<f32> {
    let length = first.len().min(second.len());
    first
        .iter()
        .zip(second)
        .enumerate()
        .map(|(index, (a, b))| {
            let share = index as f32 / length as f32;
            a * (1.0 - share) + b * share
        })
        .collect()
}

#[cfg(test)]
mod tests;
