//! Frames of sound into RTP packets.
//!
//! Owns the encoder, the RTP clock and the talk spurts of one outgoing stream. Must not send, pace or read a clock:
//! each call of [`Talk::frame`] is 20 ms of the stream, and the clock runs through silence as through sound.

use duologue_audio::opus::{ENCODER_FRAME, Encoder, OpusError};

/// RTP ticks of 20 ms: the clock of Opus is 48 kHz whatever the coded rate (RFC 7587 section 4.1).
const FRAME_TICKS: u32 = 960;
/// Silence is sent after sound until the encoder says that it may stop, some 200 ms, and no longer than 500 ms. A
/// decoder that is simply left alone would make up sound where there is none.
const HANGOVER_FRAMES: u32 = 25;

/// One packet to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// First packet after silence (RFC 3551 section 4.1).
    pub marker: bool,
    /// RTP sequence number; only sent packets count.
    pub sequence: u16,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// Opus.
    pub payload: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Talk {
    encoder: Encoder,
    sequence: u16,
    timestamp: u32,
    /// Packets are being sent; `None` while there is silence.
    spurt: Option<Spurt>,
}

#[derive(Debug, Default)]
struct Spurt {
    sent: bool,
    silent_frames: u32,
}

impl Talk {
    /// A stream that starts at the given random numbers (RFC 3550 section 5.1). Its first frames are sent even if they
    /// are silent, so that the client knows early that the stream is there.
    ///
    /// # Errors
    /// When no encoder can be made.
    pub fn new(expected_loss_percent: u8, sequence: u16, timestamp: u32) -> Result<Self, OpusError> {
        Ok(Self { encoder: Encoder::new(expected_loss_percent)?, sequence, timestamp, spurt: Some(Spurt::default()) })
    }

    /// The next 20 ms; `None` is silence. The answer is `None` when nothing needs to be sent.
    ///
    /// # Errors
    /// When libopus fails.
    pub fn frame(&mut self, sound: Option<&[i16; ENCODER_FRAME]>) -> Result<Option<Outgoing>, OpusError> {
        let timestamp = self.timestamp;
        self.timestamp = timestamp.wrapping_add(FRAME_TICKS);
        if sound.is_none() && self.spurt.is_none() {
            return Ok(None);
        }
        let coded = self.encoder.encode(sound.unwrap_or(&[0; ENCODER_FRAME]))?;
        if coded.silence && self.spurt.is_none() {
            return Ok(None);
        }
        let spurt = self.spurt.get_or_insert_default();
        let marker = !std::mem::replace(&mut spurt.sent, true);
        spurt.silent_frames = if sound.is_some() { 0 } else { spurt.silent_frames + 1 };
        if coded.silence || spurt.silent_frames >= HANGOVER_FRAMES {
            self.spurt = None;
        }
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        Ok(Some(Outgoing { marker, sequence, timestamp, payload: coded.packet }))
    }

    /// Lets 20 ms times `frames` pass without a packet.
    pub fn skip(&mut self, frames: u32) {
        self.timestamp = self.timestamp.wrapping_add(frames.wrapping_mul(FRAME_TICKS));
    }
}

#[cfg(test)]
mod tests {
    //! 1. The RTP clock advances 960 per frame through sound and silence; sequence numbers count packets.
    //! 2. The marker is on the first packet of a spurt and nowhere else.
    //! 3. Silence stops packets, the first frames of a stream excepted.

    use super::*;

    fn tone() -> [i16; ENCODER_FRAME] {
        std::array::from_fn(|n| ((n as f32 * 0.13).sin() * 9_000.0) as i16)
    }

    #[test]
    fn clock_marker_and_sequence_follow_the_talk() {
        let start = 0u32.wrapping_sub(960 * 20);
        let mut talk = Talk::new(10, u16::MAX - 5, start).unwrap();
        let mut packets = Vec::new();
        for frame in 0..300u32 {
            let sound = (100..120).contains(&frame) || (200..220).contains(&frame);
            if let Some(packet) = talk.frame(sound.then(tone).as_ref()).unwrap() {
                packets.push((frame, packet));
            }
        }
        for (index, (frame, packet)) in packets.iter().enumerate() {
            assert_eq!(packet.timestamp, start.wrapping_add(frame * 960));
            assert_eq!(packet.sequence, (u16::MAX - 5).wrapping_add(index as u16));
        }
        let marked: Vec<_> = packets.iter().filter(|(_, packet)| packet.marker).map(|(frame, _)| *frame).collect();
        assert_eq!(marked, [0, 100, 200]);
        for quiet in [30..100, 150..200, 250..300] {
            assert!(packets.iter().all(|(frame, _)| !quiet.contains(frame)), "a packet in {quiet:?}");
        }
        for talking in [100..120, 200..220] {
            assert_eq!(packets.iter().filter(|(frame, _)| talking.contains(frame)).count(), 20);
        }
    }

    #[test]
    fn skipped_time_is_on_the_clock() {
        let mut talk = Talk::new(10, 0, 0).unwrap();
        talk.frame(Some(&tone())).unwrap();
        talk.skip(7);
        let packet = talk.frame(Some(&tone())).unwrap().unwrap();
        assert_eq!((packet.timestamp, packet.sequence), (960 * 8, 1));
    }
}
