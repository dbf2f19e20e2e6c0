//! The sound of the replies in the format of a client's WebSocket.
//!
//! Owns the resampler of the reply that sounds. It keeps up to 30 ms back, which belong to the reply and come with its end.

use duologue_audio::g711::Law;
use duologue_audio::stream::Resampler;
use duologue_proto::live::AudioFormat;
use duologue_proto::payload::encode_s16le;

/// Sound of one reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub turn: u32,
    /// Where it begins in the reply.
    pub start_ms: u64,
    /// In the wire's format.
    pub bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Output {
    from_hz: u32,
    format: AudioFormat,
    reply: Option<Reply>,
}

#[derive(Debug)]
struct Reply {
    turn: u32,
    /// Where the resampler's stream begins in the reply, in samples of the model.
    start: u64,
    resampler: Resampler,
    /// Samples of the wire that were given.
    given: u64,
}

impl Output {
    /// `from_hz`: rate of the model's voice.
    pub(super) fn new(from_hz: u32, format: AudioFormat) -> Self {
        Self { from_hz, format, reply: None }
    }

    /// A packet whose first sample is number `start` of its reply. Behind what another reply before it still kept back.
    pub(super) fn push(&mut self, turn: u32, start: u64, samples: &[i16]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if self.reply.as_ref().is_some_and(|reply| reply.turn != turn) {
            pieces.extend(self.finish());
        }
        let (from_hz, format) = (self.from_hz, self.format);
        let reply = self.reply.get_or_insert_with(|| Reply {
            turn,
            start,
            resampler: resampler(from_hz, format.rate()),
            given: 0,
        });
        let out = reply.resampler.push(&to_float(samples));
        if !out.is_empty() {
            pieces.push(reply.piece(from_hz, format, &out));
        }
        pieces
    }

    /// What the reply that sounds has kept back; it has no more packets.
    pub(super) fn finish(&mut self) -> Option<Piece> {
        let mut reply = self.reply.take()?;
        let resampler = std::mem::replace(&mut reply.resampler, resampler(self.from_hz, self.format.rate()));
        let rest = resampler.finish();
        (!rest.is_empty()).then(|| reply.piece(self.from_hz, self.format, &rest))
    }

    /// The reply was stopped: what it kept back is not heard.
    pub(super) fn drop_reply(&mut self) {
        self.reply = None;
    }
}

impl Reply {
    fn piece(&mut self, from_hz: u32, format: AudioFormat, samples: &[f32]) -> Piece {
        let start_ms = self.start * 1000 / u64::from(from_hz) + self.given * 1000 / u64::from(format.rate());
        self.given += samples.len() as u64;
        Piece { turn: self.turn, start_ms, bytes: encode(format, samples) }
    }
}

pub(super) fn to_float(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|&sample| f32::from(sample) / 32768.0).collect()
}

pub(super) fn resampler(from_hz: u32, to_hz: u32) -> Resampler {
    Resampler::new(from_hz, to_hz)
        .expect("the wire's formats and the bundle's rates are rates of the resampler. This is a bug.")
}

fn encode(format: AudioFormat, samples: &[f32]) -> Vec<u8> {
    let bytes = encode_s16le(samples);
    let Some(law) = law(format) else { return bytes };
    let samples: Vec<i16> = bytes.as_chunks::<2>().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect();
    law.encode(&samples)
}

/// The companding of a format; `None` for linear samples.
pub(super) fn law(format: AudioFormat) -> Option<Law> {
    match format {
        AudioFormat::Pcm8k | AudioFormat::Pcm12k | AudioFormat::Pcm16k | AudioFormat::Pcm24k => None,
        AudioFormat::Pcmu => Some(Law::Mu),
        AudioFormat::Pcma => Some(Law::A),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [AudioFormat; 5] =
        [AudioFormat::Pcm8k, AudioFormat::Pcm12k, AudioFormat::Pcm16k, AudioFormat::Pcm24k, AudioFormat::Pcmu];

    /// Packets of 20 ms of two replies; the first one is told to be over, or not.
    fn speak(format: AudioFormat, told: bool) -> Vec<Piece> {
        let mut output = Output::new(24_000, format);
        let packet = [1000i16; 480];
        let mut pieces: Vec<Piece> = (0..10).flat_map(|n| output.push(0, n * 480, &packet)).collect();
        if told {
            pieces.extend(output.finish());
        }
        pieces.extend((0..5).flat_map(|n| output.push(1, n * 480, &packet)));
        pieces.extend(output.finish());
        pieces
    }

    #[test]
    fn every_format_has_all_of_every_reply_in_order() {
        for (format, told) in FORMATS.into_iter().flat_map(|format| [(format, true), (format, false)]) {
            let pieces = speak(format, told);
            for (turn, ms) in [(0, 200), (1, 100)] {
                let mut next_ms = 0;
                for piece in pieces.iter().filter(|piece| piece.turn == turn) {
                    assert_eq!(piece.start_ms, next_ms, "{format:?}");
                    let samples = piece.bytes.len() / format.sample_bytes();
                    next_ms += samples as u64 * 1000 / u64::from(format.rate());
                }
                assert_eq!(next_ms, ms, "{format:?}: all of reply {turn}");
            }
            assert!(pieces.is_sorted_by_key(|piece| piece.turn), "{format:?}");
        }
    }

    #[test]
    fn a_stopped_reply_leaves_nothing_behind() {
        let mut output = Output::new(24_000, AudioFormat::Pcm8k);
        output.push(0, 0, &[1000; 480]);
        output.drop_reply();
        assert_eq!(output.finish(), None);
        assert!(output.push(1, 0, &[1000; 480]).iter().all(|piece| piece.turn == 1));
    }
}
