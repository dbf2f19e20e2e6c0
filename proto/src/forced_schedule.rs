//! A forced pattern of listening and speaking, as wires and files write it.

use serde::{Deserialize, Serialize};

/// What a session did because it was told to, and not because the model chose: `listen` units, then `speak` units, and so on; the
/// last of a run of speaking units ends the turn. For measurements with weights that speak no sense. A result that was made so has
/// this object in its first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcedSchedule {
    /// Units that listen.
    pub listen: u32,
    /// Units that speak.
    pub speak: u32,
    /// Words (LLM tokens) of a speaking unit.
    pub tokens: u32,
    /// TTS codes of a speaking unit.
    pub codes: u32,
}
