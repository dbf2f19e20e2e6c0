//! Everything Duologue writes for, or reads from, other programs, as serde types.
//!
//! Owns the shapes only: no IO, no clock, no tensors. A type here is the single source of truth of its wire.

pub mod session_record;
pub mod timeline;
