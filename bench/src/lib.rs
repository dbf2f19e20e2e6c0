//! Measurements of Duologue. `benches/micro.rs` times the host code of a unit, `benches/server.rs` the server
//! around the model; `reference/` runs the official code beside us.
