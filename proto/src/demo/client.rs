//! Messages of a client on `/ws/duplex` (worker.py:1405-1810, static/duplex/lib/duplex-session.js).

use serde::{Deserialize, Serialize};

use super::config::{DuplexConfig, INPUT_RATE};
use crate::{
    payload::{Base64, FloatAudio},
    wire::{ErrorCode, Limits, WireError, at_most, read_head, within},
};

wire_events! {
    /// What a client can say.
    pub enum ClientEvent {
        /// Starts the session. May come while the session is still queued; it is kept until a slot is free.
        "prepare" => Prepare(Box<Prepare>),
        /// User audio; answered by exactly one `result`.
        "audio_chunk" => AudioChunk(AudioChunk),
        /// A picture for the next chunk; documented by the demo, not in its code.
        "video_frame" => VideoFrame(VideoFrame),
        /// Stops the clock.
        "pause" => Pause(Pause),
        /// Starts the clock again.
        "resume" => Resume(Empty),
        /// Deprecated; answered and without effect.
        "interrupt" => Interrupt(Empty),
        /// Measurements of the page; swallowed.
        "client_diagnostic" => ClientDiagnostic(Empty),
        /// Ends the session.
        "stop" => Stop(Empty),
    }
}

/// Reads one message of a client. The texts of the refusals are the demo's own where it has one.
///
/// # Errors
/// [`ErrorCode::TooLarge`], [`ErrorCode::InvalidJson`], [`ErrorCode::UnknownEvent`], [`ErrorCode::MissingField`] or
/// [`ErrorCode::InvalidValue`], with the path of the field.
pub fn parse_client(text: &str, limits: &Limits) -> Result<ClientEvent, WireError> {
    let head = read_head(text, limits.max_message_bytes)?;
    let event = ClientEvent::read(&head.kind, text).unwrap_or_else(|| {
        Err(WireError::at(ErrorCode::UnknownEvent, "type", format!("Unknown message type: {}", head.kind)))
    })?;
    event.check(limits)?;
    Ok(event)
}

impl ClientEvent {
    fn check(&self, limits: &Limits) -> Result<(), WireError> {
        match self {
            Self::Prepare(prepare) => prepare.check(limits),
            Self::AudioChunk(chunk) => chunk.check(limits),
            Self::VideoFrame(video) => at_most("frame", "an image", video.frame.0.len(), limits.max_image_bytes),
            Self::Pause(pause) => within("timeout", pause.timeout, 0.0..),
            Self::Resume(_) | Self::Interrupt(_) | Self::ClientDiagnostic(_) | Self::Stop(_) => Ok(()),
        }
    }
}

/// A message without fields of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// `prepare`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Prepare {
    /// System prompt; the demo's default when missing.
    #[serde(alias = "prefix_system_prompt", skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Settings; the defaults when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<DuplexConfig>,
    /// Reference voice in the prompt, 16 kHz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_audio_base64: Option<FloatAudio>,
    /// Reference voice of the vocoder, 16 kHz; `ref_audio_base64` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tts_ref_audio_base64: Option<FloatAudio>,
    /// A file on the demo's server. Never opened here: the bundle's default voice is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_audio_path: Option<String>,
    /// Answer before the unit's bookkeeping; this server always does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deferred_finalize: Option<bool>,
    /// Slices a picture may be cut into; goes before `config.max_slice_nums`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_slice_nums: Option<u32>,
}

impl Prepare {
    /// Slices a picture may be cut into when its chunk does not say.
    pub fn slices(&self) -> u32 {
        let positive = |slices: &u32| *slices > 0;
        let configured = self.config.as_ref().and_then(|config| config.max_slice_nums);
        self.max_slice_nums.filter(positive).or(configured.filter(positive)).unwrap_or(1)
    }

    fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let voices =
            [("ref_audio_base64", &self.ref_audio_base64), ("tts_ref_audio_base64", &self.tts_ref_audio_base64)];
        for (param, voice) in voices {
            let bytes = voice.as_ref().map_or(0, |audio| audio.0.len() * 4);
            at_most(param, "a voice", bytes, limits.max_voice_bytes)?;
        }
        self.config.as_ref().map_or(Ok(()), DuplexConfig::check)
    }
}

/// `audio_chunk`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AudioChunk {
    /// User audio, 16 kHz; 1 s from the demo's page, any length is answered.
    #[serde(default, alias = "audio")]
    pub audio_base64: FloatAudio,
    /// JPEG or PNG files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_base64_list: Option<Vec<Base64>>,
    /// This unit listens whatever the model wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_listen: Option<bool>,
    /// Slices a picture may be cut into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_slice_nums: Option<u32>,
}

impl AudioChunk {
    fn check(&self, limits: &Limits) -> Result<(), WireError> {
        if self.audio_base64.0.is_empty() {
            return Err(WireError::at(ErrorCode::MissingField, "audio_base64", "Missing audio_base64"));
        }
        let seconds = self.audio_base64.0.len() as f64 / f64::from(INPUT_RATE);
        if seconds > limits.max_audio_s {
            let message =
                format!("{seconds:.3} s of audio in one message; at most {} s are allowed", limits.max_audio_s);
            return Err(WireError::at(ErrorCode::TooLarge, "audio_base64", message));
        }
        let frames = self.frame_base64_list.as_deref().unwrap_or_default();
        if frames.len() > limits.max_images {
            let message = format!("{} images; at most {} are allowed", frames.len(), limits.max_images);
            return Err(WireError::at(ErrorCode::TooLarge, "frame_base64_list", message));
        }
        for (index, frame) in frames.iter().enumerate() {
            at_most(&format!("frame_base64_list[{index}]"), "an image", frame.0.len(), limits.max_image_bytes)?;
        }
        Ok(())
    }
}

/// `video_frame`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoFrame {
    /// JPEG or PNG file.
    pub frame: Base64,
}

/// `pause`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// Seconds until the session ends if it is not resumed; 60 in the demo when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
}
