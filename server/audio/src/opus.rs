//! Opus frames (RFC 6716): what the model says in packets of 20 ms, what the user says out of them.
//!
//! Owns the codec's settings. Must not know RTP or decide what to do about a lost packet. libopus codes 24 kHz and
//! decodes to 16 kHz by itself, so neither direction needs a resampler.

use opus::{Application, Bitrate, Channels, Signal};

/// Rate of the samples that [`Encoder`] takes: the rate of the model's voice.
pub const ENCODER_RATE_HZ: u32 = 24_000;
/// Samples in a frame of [`Encoder`]: 20 ms.
pub const ENCODER_FRAME: usize = 480;
/// Rate of the samples that [`Decoder`] gives: the rate the model hears.
pub const DECODER_RATE_HZ: u32 = 16_000;
/// Samples in 20 ms at [`DECODER_RATE_HZ`].
pub const DECODER_FRAME: usize = 320;
/// Longest packet that Opus allows, 120 ms, in samples at [`DECODER_RATE_HZ`] (RFC 6716 section 3.2.5).
pub const DECODER_LONGEST: usize = 1_920;
/// libopus conceals in steps of 2.5 ms.
const CONCEAL_STEP: usize = 40;
/// Enough for 20 ms at any voice bit rate; more than this would not fit one UDP packet anyway.
const PACKET_BYTES: usize = 1_275;
/// Transparent for one voice, with in-band FEC included.
const VOICE_BITS: i32 = 32_000;
/// 1 % of a slow core per session; 10 costs three times that for a difference that speech does not show.
const COMPLEXITY: i32 = 5;
/// A packet this short only says that the silence goes on, and need not be sent (RFC 6716 section 2.1.9).
const DTX_BYTES: usize = 2;

/// Why a frame could not be coded.
#[derive(Debug, thiserror::Error)]
pub enum OpusError {
    /// libopus refused; for a decoder this means a corrupt packet.
    #[error("opus cannot {doing}: {source}")]
    Codec {
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        source: opus::Error,
    },
    /// Not a frame of 20 ms.
    #[error("an opus frame takes {ENCODER_FRAME} samples (20 ms at {ENCODER_RATE_HZ} Hz), got {got}")]
    Frame {
        /// Samples given.
        got: usize,
    },
    /// Nothing can be decoded from an empty packet.
    #[error("an opus packet of 0 bytes")]
    Empty,
    /// Concealment must be a multiple of 2.5 ms, at most 120 ms.
    #[error(
        "cannot conceal {got} samples: it must be a multiple of {CONCEAL_STEP}, {CONCEAL_STEP} to {DECODER_LONGEST}"
    )]
    Conceal {
        /// Samples asked for.
        got: usize,
    },
}

fn codec(doing: &'static str) -> impl FnOnce(opus::Error) -> OpusError {
    move |source| OpusError::Codec { doing, source }
}

/// A coded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coded {
    /// The packet.
    pub packet: Vec<u8>,
    /// It says no more than "silence goes on": a sender may leave it out (discontinuous transmission).
    pub silence: bool,
}

/// Codes one voice, 24 kHz mono, at 32 kbit/s with in-band FEC and DTX.
pub struct Encoder {
    inner: opus::Encoder,
    buffer: [u8; PACKET_BYTES],
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// `expected_loss_percent` 0-100: how many packets the network is thought to lose. The higher, the more of the bits
    /// go into the copy of the frame before.
    ///
    /// # Errors
    /// When libopus refuses (out of memory, or a percentage above 100).
    pub fn new(expected_loss_percent: u8) -> Result<Self, OpusError> {
        let mut inner =
            opus::Encoder::new(ENCODER_RATE_HZ, Channels::Mono, Application::Voip).map_err(codec("make an encoder"))?;
        inner
            .set_bitrate(Bitrate::Bits(VOICE_BITS))
            .and_then(|()| inner.set_signal(Signal::Voice))
            .and_then(|()| inner.set_complexity(COMPLEXITY))
            .and_then(|()| inner.set_inband_fec(true))
            .and_then(|()| inner.set_packet_loss_perc(i32::from(expected_loss_percent)))
            .and_then(|()| inner.set_dtx(true))
            .map_err(codec("set up an encoder"))?;
        Ok(Self { inner, buffer: [0; PACKET_BYTES] })
    }

    /// Codes 20 ms.
    ///
    /// # Errors
    /// [`OpusError::Frame`] when it is not [`ENCODER_FRAME`] samples.
    pub fn encode(&mut self, frame: &[i16]) -> Result<Coded, OpusError> {
        if frame.len() != ENCODER_FRAME {
            return Err(OpusError::Frame { got: frame.len() });
        }
        let length = self.inner.encode(frame, &mut self.buffer).map_err(codec("encode"))?;
        Ok(Coded { packet: self.buffer[..length].to_vec(), silence: length <= DTX_BYTES })
    }
}

/// Decodes to 16 kHz mono; a stereo packet is mixed.
pub struct Decoder {
    inner: opus::Decoder,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder that has heard nothing.
    ///
    /// # Errors
    /// When libopus refuses (out of memory).
    pub fn new() -> Result<Self, OpusError> {
        let inner = opus::Decoder::new(DECODER_RATE_HZ, Channels::Mono).map_err(codec("make a decoder"))?;
        Ok(Self { inner })
    }

    /// Samples at 16 kHz, within -1..1, as many as the packet holds (2.5 to 120 ms).
    ///
    /// # Errors
    /// [`OpusError::Empty`], or [`OpusError::Codec`] for a corrupt packet; the decoder stays usable.
    pub fn decode(&mut self, packet: &[u8]) -> Result<Vec<f32>, OpusError> {
        if packet.is_empty() {
            return Err(OpusError::Empty);
        }
        self.run(packet, DECODER_LONGEST, false, "decode a packet")
    }

    /// The `samples` before `next_packet`, whose own packet is lost, from the copy in `next_packet` (concealed if it
    /// carries none). `next_packet` itself must still be decoded afterwards.
    ///
    /// # Errors
    /// As [`Decoder::decode`] and [`Decoder::conceal`].
    pub fn decode_fec(&mut self, next_packet: &[u8], samples: usize) -> Result<Vec<f32>, OpusError> {
        if next_packet.is_empty() {
            return Err(OpusError::Empty);
        }
        Self::check_conceal(samples)?;
        self.run(next_packet, samples, true, "decode the copy in a packet")
    }

    /// `samples` (a multiple of 2.5 ms) that go on from what was heard, fading over some 100 ms.
    ///
    /// # Errors
    /// [`OpusError::Conceal`] for other numbers.
    pub fn conceal(&mut self, samples: usize) -> Result<Vec<f32>, OpusError> {
        Self::check_conceal(samples)?;
        self.run(&[], samples, false, "conceal a lost packet")
    }

    fn check_conceal(samples: usize) -> Result<(), OpusError> {
        let fits = samples > 0 && samples <= DECODER_LONGEST && samples.is_multiple_of(CONCEAL_STEP);
        if fits { Ok(()) } else { Err(OpusError::Conceal { got: samples }) }
    }

    /// `longest` bounds a packet's samples; without a packet, and for a copy, it is exactly what libopus makes.
    fn run(&mut self, packet: &[u8], longest: usize, fec: bool, doing: &'static str) -> Result<Vec<f32>, OpusError> {
        let mut out = vec![0.0; longest];
        let samples = self.inner.decode_float(packet, &mut out, fec).map_err(codec(doing))?;
        out.truncate(samples);
        Ok(out)
    }
}

/// Samples at 16 kHz that `packet` holds, read from its first bytes.
///
/// # Errors
/// As [`Decoder::decode`].
pub fn packet_samples(packet: &[u8]) -> Result<usize, OpusError> {
    if packet.is_empty() {
        return Err(OpusError::Empty);
    }
    opus::packet::get_nb_samples(packet, DECODER_RATE_HZ).map_err(codec("read the length of a packet"))
}

#[cfg(test)]
mod tests;
