//! How much of the agent's own speech comes back through the user's microphone.
//!
//! Owns: the estimate of the echo's level. Must not: decide what is a voice.
//!
//! The estimate is the loudest that was heard lately, while nobody interrupted, over the loudest that was played lately:
//! loudest over loudest, because the delay between the two is unknown and a pause in one is no pause in the other. What it
//! takes for echo includes the room's noise, which a voice has to exceed just the same.

use std::collections::VecDeque;

/// The return is not learnt from frames in which less than this was played: the room's noise would pass for echo.
const FAINT_DBFS: f32 = -50.0;
/// Level of no sound at all.
const NOTHING_DBFS: f32 = -120.0;
/// Most that one frame raises the estimate: a cough must not hide the word after it. A louder echo causes holds, which
/// teach faster.
const RISE_DB: f32 = 0.2;
/// Share of the distance that one frame lowers it: two thirds of the way in 0.6 s.
const FALL: f32 = 0.05;
/// Where the estimate stays: below, noise rules; above, the microphone would hear the loudspeaker louder than was played.
const RANGE_DB: (f32, f32) = (-60.0, 10.0);

#[derive(Debug)]
pub(super) struct EchoGuard {
    return_db: f32,
    /// Levels of what was played in the last frames, newest last. Sound comes back later than it was sent (network,
    /// client's buffer, loudspeaker, air), by a delay that the server does not know: the loudest of them counts.
    played: VecDeque<f32>,
    /// Levels of the user's sound in the last frames in which nobody interrupted, without a gap.
    heard: VecDeque<f32>,
    memory: usize,
}

impl EchoGuard {
    pub(super) fn new(return_db: f32, memory: u32) -> Self {
        let memory = memory as usize;
        let window = || VecDeque::with_capacity(memory);
        Self { return_db, played: window(), heard: window(), memory }
    }

    /// Notes what was played during this frame; `None` for nothing.
    pub(super) fn played(&mut self, energy_dbfs: Option<f32>) {
        remember(&mut self.played, self.memory, energy_dbfs.unwrap_or(NOTHING_DBFS));
    }

    /// Level that the echo may have in this frame.
    pub(super) fn level_dbfs(&self) -> f32 {
        loudest(&self.played) + self.return_db
    }

    /// The estimate.
    pub(super) fn return_db(&self) -> f32 {
        self.return_db
    }

    /// Return in dB if the whole frame were echo.
    pub(super) fn return_of(&self, energy_dbfs: f32) -> f32 {
        energy_dbfs - loudest(&self.played)
    }

    /// Learns from a frame in which nobody interrupts.
    pub(super) fn learn(&mut self, energy_dbfs: f32) {
        if loudest(&self.played) < FAINT_DBFS {
            self.heard.clear();
            return;
        }
        remember(&mut self.heard, self.memory, energy_dbfs);
        let distance = self.return_of(loudest(&self.heard)) - self.return_db;
        if distance > 0.0 {
            self.move_by(distance.min(RISE_DB));
        } else if self.heard.len() == self.memory {
            // A shorter stretch may not have heard the echo yet.
            self.move_by(distance * FALL);
        }
    }

    /// Somebody may be speaking: the frames before were perhaps the begin of it.
    pub(super) fn forget_heard(&mut self) {
        self.heard.clear();
    }

    /// Learns from a voice that was none, or too short: up to `most_db` towards its return.
    pub(super) fn suspect(&mut self, return_db: f32, most_db: f32) {
        self.move_by((return_db - self.return_db).clamp(0.0, most_db));
    }

    fn move_by(&mut self, db: f32) {
        self.return_db = (self.return_db + db).clamp(RANGE_DB.0, RANGE_DB.1);
    }
}

fn remember(levels: &mut VecDeque<f32>, memory: usize, level_dbfs: f32) {
    if levels.len() == memory {
        levels.pop_front();
    }
    levels.push_back(level_dbfs.max(NOTHING_DBFS));
}

fn loudest(levels: &VecDeque<f32>) -> f32 {
    levels.iter().copied().fold(NOTHING_DBFS, f32::max)
}
