//! Measurements of Duologue: `duologue bench` and `duologue bench compare`.
//!
//! Clients that speak and listen at the pace of people talk to a server over its own wires; what they see becomes rows,
//! rows become figures, figures are held against gates.
//!
//! ```text
//!  Scenario ──► run: loads, runs ──► conversation: Speaker ─ Client ─ Player ──► Rows ──► Report ──► table, JSON, HTML
//!  (scenario)   (run)                (user, client, player)                       (measure)  (metric, statistics, gates)
//! ```
//!
//! Owns the client's side of a measurement. Must not know the engine or the bundle: the server is an address, and what the
//! environment says of it comes from whoever started it. `benches/` times host code and the server around the model with
//! criterion; `reference/` runs the official code beside us.
//!
//! **Zero points.** A sample of the user counts when a microphone would have taken it, a sample of the reply when a page
//! would have played it (without the sound card's own delay). A unit's audio is complete, by the client's clock, when the
//! unit's event arrived minus its unit time: the network's delay then cancels out of what is measured from there.
#![forbid(unsafe_code)]

pub mod client;
pub mod compare;
pub mod conversation;
pub mod environment;
pub mod error;
pub mod gates;
pub mod measure;
pub mod metric;
pub mod player;
pub mod report;
pub mod resources;
pub mod run;
pub mod scenario;
pub mod statistics;
pub mod user;
pub mod voice;

pub use client::{Endpoint, Target, Transport};
pub use error::BenchError;
pub use report::Report;
pub use scenario::Scenario;
