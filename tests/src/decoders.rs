//! One entry for every decoder of network bytes: bytes in, nothing out; a panic or a broken assertion is a finding.
//!
//! The program `fuzz` runs one of them on inputs without end, the test `decoders` all of them over their seeds. An entry must
//! be deterministic and quick, and must not keep anything from one input to the next.

mod connection;
mod messages;
mod sound;

/// A decoder under test.
#[derive(Debug)]
pub struct Entry {
    /// Its name, also of its folder in `tests/seeds`.
    pub name: &'static str,
    /// Further folders of seeds, from the root of the repository.
    pub seeds: &'static [&'static str],
    /// Decodes.
    pub run: fn(&[u8]),
}

const fn entry(name: &'static str, seeds: &'static [&'static str], run: fn(&[u8])) -> Entry {
    Entry { name, seeds, run }
}

const LIVE: &[&str] = &["proto/fixtures/live", "proto/fixtures/live/accepted", "proto/fixtures/live/invalid"];
const DEMO: &[&str] = &["proto/fixtures/demo", "proto/fixtures/demo/accepted", "proto/fixtures/demo/invalid"];

/// All of them.
pub const ENTRIES: [Entry; 14] = [
    entry("live_client", LIVE, messages::live_client),
    entry("live_server", LIVE, messages::live_server),
    entry("live_rest", LIVE, messages::live_rest),
    entry("demo_client", DEMO, messages::demo_client),
    entry("demo_server", DEMO, messages::demo_server),
    entry("demo_rest", DEMO, messages::demo_rest),
    entry("base64", &[], sound::base64),
    entry("opus", &[], sound::opus),
    entry("uplink", &[], sound::uplink),
    entry("wav", &[], sound::wav),
    entry("picture", &[], sound::picture),
    entry("sdp_offer", &[], connection::sdp_offer),
    entry("ice_candidate", &[], connection::ice_candidate),
    entry("http_head", &[], connection::http_head),
];
