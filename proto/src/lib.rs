//! Everything Duologue writes for, or reads from, other programs, as serde types.
//!
//! Owns the shapes only: no IO, no clock, no tensors. A type here is the single source of truth of its wire.
//!
//! - [`live`]: the OpenAI Live API with our extension (`proto/LIVE.md`).
//! - [`demo`]: the MiniCPM-o-Demo protocol (`proto/DEMO.md`).
//! - [`wire`] and [`payload`]: what both share: limits, refusals, base64 and PCM.
//! - [`forced_schedule`]: what a result says whose pattern was forced.
//! - [`session_record`] and [`timeline`]: files of `duologue talk` and `duologue replay`.

#![forbid(unsafe_code)]

#[macro_use]
mod events;

pub mod demo;
pub mod forced_schedule;
pub mod live;
pub mod payload;
pub mod session_record;
pub mod timeline;
pub mod wire;
