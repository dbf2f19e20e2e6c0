//! The ONNX graphs of a bundle as typed Rust calls, with the state that they need between calls.
//!
//! Owns: ONNX Runtime, the bundle folder, every tensor, the KV caches, the vocoder stream, the voice detector. Must not:
//! decide what is fed when (crate `duologue-session`), own a thread, or touch the network.
//!
//! Unsafe code is in `raw` (tensors, runs, where nodes run), `embed` (a file mapping), `operators` (code for wide vectors) and
//! `runtime::library` (asking a library for its version). The only other one of the project is in the program's `host`,
//! which sets an environment variable before any thread exists.
#![deny(unsafe_code)]

pub mod bundle;
mod embed;
pub mod error;
#[cfg(test)]
mod golden;
pub mod graph;
pub mod image;
pub mod manifest;
mod operators;
#[allow(unsafe_code)]
mod raw;
pub mod runtime;
pub mod token2wav;
mod tokenizer;
pub mod vad;

pub use bundle::{Bundle, VerifyProgress};
pub use error::{ModelError, Result};
pub use graph::apm::{Apm, ApmCache};
pub use graph::llm::Llm;
pub use graph::tts::Tts;
pub use graph::vision::Vision;
pub use manifest::Manifest;
pub use runtime::{Device, DeviceChoice, Provider, Runtime, RuntimeOptions};
pub use token2wav::{Stream, StreamOptions, Token2Wav, Trim, Voice, VoiceFrontEnd, VoicePrompt};
pub use tokenizer::Tokenizer;
pub use vad::{VoiceDetector, VoiceDetectorStream};
