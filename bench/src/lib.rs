//! Measurements of Duologue. The micro benches are in `benches`; `reference/` runs the official code beside us.
