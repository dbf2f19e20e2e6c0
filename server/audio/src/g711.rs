//! G.711 telephone audio, 8 kHz, one byte per sample (ITU-T G.711).
//!
//! Owns nothing but the choice of law; the tables are those of `audio-codec-algorithms`. Must not resample: 8 kHz comes
//! in and goes out, see [`crate::stream`].

use audio_codec_algorithms::{decode_alaw, decode_ulaw, encode_alaw, encode_ulaw};

/// Samples per second of G.711.
pub const RATE_HZ: u32 = 8_000;

/// The companding law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Law {
    /// mu-law: `audio/pcmu`, North America and Japan.
    Mu,
    /// A-law: `audio/pcma`, elsewhere.
    A,
}

impl Law {
    /// One byte for each sample.
    pub fn encode(self, samples: &[i16]) -> Vec<u8> {
        let encode = match self {
            Self::Mu => encode_ulaw,
            Self::A => encode_alaw,
        };
        samples.iter().map(|&sample| encode(sample)).collect()
    }

    /// One sample for each byte; every byte is valid.
    pub fn decode(self, bytes: &[u8]) -> Vec<i16> {
        let decode = match self {
            Self::Mu => decode_ulaw,
            Self::A => decode_alaw,
        };
        bytes.iter().map(|&byte| decode(byte)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Law;

    const LAWS: [Law; 2] = [Law::Mu, Law::A];

    #[test]
    fn a_decoded_byte_encodes_to_a_byte_of_the_same_sample() {
        // mu-law has two zeros, so bytes themselves need not be equal
        for law in LAWS {
            for byte in 0..=255u8 {
                let sample = law.decode(&[byte]);
                assert_eq!(law.decode(&law.encode(&sample)), sample, "{law:?} {byte}");
            }
        }
    }

    #[test]
    fn the_error_is_small_beside_the_sample() {
        for law in LAWS {
            for sample in (i16::MIN..=i16::MAX).step_by(7) {
                let back = i32::from(law.decode(&law.encode(&[sample]))[0]);
                let error = (back - i32::from(sample)).abs();
                // half a step is at most 1/32 of the sample in the top half of a segment; mu-law clips at 32635
                assert!(error <= i32::from(sample).abs() / 24 + 16, "{law:?}: {sample} became {back}");
            }
        }
    }

    #[test]
    fn the_codes_of_silence_are_the_standard_ones() {
        assert_eq!(Law::Mu.encode(&[0]), [0xff]);
        assert_eq!(Law::A.encode(&[0]), [0xd5]);
    }
}
