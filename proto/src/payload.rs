//! Binary payloads inside JSON: base64, and raw PCM as bytes.
//!
//! Decoding refuses what no speaker meant: half a sample, a number that is none. G.711 is in the audio crate, which has the
//! tables.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A payload that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The text is not standard base64 with padding (RFC 4648 section 4).
    #[error("not standard base64 with padding: {0}")]
    NotBase64(String),
    /// The payload is larger than allowed.
    #[error("{bytes} bytes of payload; at most {max} are allowed")]
    TooLarge {
        /// Size after decoding.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The bytes end inside a sample.
    #[error("{bytes} bytes are not whole samples of {sample_bytes} bytes ({encoding})")]
    PartialSample {
        /// Bytes given.
        bytes: usize,
        /// Bytes of one sample.
        sample_bytes: usize,
        /// Name of the encoding.
        encoding: &'static str,
    },
    /// A sample is NaN or infinite.
    #[error("sample {index} is {value}; every sample must be a finite number (full scale is -1 to 1)")]
    NotFinite {
        /// Position of the first bad sample.
        index: usize,
        /// `NaN`, `inf` or `-inf`.
        value: String,
    },
}

/// Bytes that travel as base64 text (standard alphabet, padded).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl Base64 {
    /// Decodes `text` when the result has at most `max_bytes`; a longer text is refused before anything is allocated.
    ///
    /// # Errors
    /// [`PayloadError::TooLarge`], [`PayloadError::NotBase64`].
    pub fn decode(text: &str, max_bytes: usize) -> Result<Self, PayloadError> {
        let padding = text.bytes().rev().take(2).filter(|byte| *byte == b'=').count();
        let bytes = (text.len().div_ceil(4) * 3).saturating_sub(padding);
        if bytes > max_bytes {
            return Err(PayloadError::TooLarge { bytes, max: max_bytes });
        }
        STANDARD.decode(text).map(Self).map_err(|error| PayloadError::NotBase64(error.to_string()))
    }
}

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&base64::display::Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    /// Bounded by the size of the message, which the reader checks first.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Base64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64 text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64, E> {
                Base64::decode(text, usize::MAX).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Mono samples, full scale -1 to 1, that travel as base64 of little-endian f32. Reading refuses NaN and infinities.
#[derive(Clone, PartialEq, Default)]
pub struct FloatAudio(pub Vec<f32>);

impl fmt::Debug for FloatAudio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FloatAudio({} samples)", self.0.len())
    }
}

impl Serialize for FloatAudio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Base64(encode_f32le(&self.0)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FloatAudio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Base64::deserialize(deserializer)?;
        decode_f32le(&bytes.0).map(Self).map_err(de::Error::custom)
    }
}

/// Samples of little-endian signed 16-bit PCM, divided by 32768.
///
/// # Errors
/// [`PayloadError::PartialSample`] for an odd number of bytes.
pub fn decode_s16le(bytes: &[u8]) -> Result<Vec<f32>, PayloadError> {
    let (samples, []) = bytes.as_chunks::<2>() else {
        return Err(PayloadError::PartialSample { bytes: bytes.len(), sample_bytes: 2, encoding: "s16le" });
    };
    Ok(samples.iter().map(|sample| f32::from(i16::from_le_bytes(*sample)) / 32768.0).collect())
}

/// Little-endian signed 16-bit PCM of samples of full scale -1 to 1: times 32768, rounded, clipped.
pub fn encode_s16le(samples: &[f32]) -> Vec<u8> {
    // `as` saturates, which is the clipping.
    samples.iter().flat_map(|sample| ((sample * 32768.0).round() as i16).to_le_bytes()).collect()
}

/// Samples of little-endian 32-bit floats, as they are: values beyond full scale are kept, as the reference keeps them.
///
/// # Errors
/// [`PayloadError::PartialSample`] for bytes not divisible by four, [`PayloadError::NotFinite`] for NaN or an infinity.
pub fn decode_f32le(bytes: &[u8]) -> Result<Vec<f32>, PayloadError> {
    let (chunks, []) = bytes.as_chunks::<4>() else {
        return Err(PayloadError::PartialSample { bytes: bytes.len(), sample_bytes: 4, encoding: "f32le" });
    };
    let samples: Vec<f32> = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    match samples.iter().position(|sample| !sample.is_finite()) {
        Some(index) => Err(PayloadError::NotFinite { index, value: samples[index].to_string() }),
        None => Ok(samples),
    }
}

/// Little-endian 32-bit floats.
pub fn encode_f32le(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}
