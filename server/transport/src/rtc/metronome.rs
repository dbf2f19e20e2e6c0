//! When the frames of an outgoing stream are due.
//!
//! Owns the count of frames since the start. Must not sleep: it is asked at some moment and says what to do then and
//! when to ask again.

use std::time::Duration;

/// Length of a frame.
pub const FRAME: Duration = Duration::from_millis(20);
/// Most frames sent at one moment: a machine that was late must not flood the network with what it owes.
const MOST_AT_ONCE: u64 = 2;
/// After a longer delay than this the missed time is given up: the client's buffer ran dry long ago, and hearing the
/// rest faster would not bring it back.
const GIVE_UP: Duration = Duration::from_millis(100);

/// What is due now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Frames whose time is given up; they come before the ones to send.
    pub skipped: u32,
    /// Frames to send, at most two.
    pub frames: u32,
    /// When to ask again, on the clock of the question.
    pub next: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Metronome {
    start: Duration,
    counted: u64,
}

impl Metronome {
    /// The first frame is due at `start`.
    pub fn new(start: Duration) -> Self {
        Self { start, counted: 0 }
    }

    /// What is due at `now`.
    pub fn due(&mut self, now: Duration) -> Due {
        let Some(elapsed) = now.checked_sub(self.start) else {
            return Due { skipped: 0, frames: 0, next: self.start };
        };
        let total = (elapsed.as_nanos() / FRAME.as_nanos()) as u64 + 1;
        let mut owed = total.saturating_sub(self.counted);
        let skipped = if FRAME * (owed.min(1_000) as u32) > GIVE_UP { owed - 1 } else { 0 };
        owed -= skipped;
        let frames = owed.min(MOST_AT_ONCE);
        self.counted += skipped + frames;
        let on_time = self.start + Duration::from_nanos(FRAME.as_nanos() as u64 * self.counted);
        // still behind: half a frame from now is fast enough to catch up and slow enough to be no burst
        let next = if owed > frames { now + FRAME / 2 } else { on_time };
        Due { skipped: skipped as u32, frames: frames as u32, next }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn frames_are_due_every_20_ms() {
        let mut metronome = Metronome::new(at(100));
        assert_eq!(metronome.due(at(90)), Due { skipped: 0, frames: 0, next: at(100) });
        for n in 0..5 {
            let now = at(100 + 20 * n);
            assert_eq!(metronome.due(now), Due { skipped: 0, frames: 1, next: now + FRAME });
        }
        assert_eq!(metronome.due(at(190)), Due { skipped: 0, frames: 0, next: at(200) });
    }

    #[test]
    fn a_short_delay_is_caught_up_in_pairs() {
        let mut metronome = Metronome::new(at(0));
        metronome.due(at(0));
        assert_eq!(metronome.due(at(85)), Due { skipped: 0, frames: 2, next: at(95) });
        assert_eq!(metronome.due(at(95)), Due { skipped: 0, frames: 2, next: at(100) });
        assert_eq!(metronome.due(at(100)), Due { skipped: 0, frames: 1, next: at(120) });
    }

    #[test]
    fn a_long_delay_is_given_up() {
        let mut metronome = Metronome::new(at(0));
        metronome.due(at(0));
        assert_eq!(metronome.due(at(1_000)), Due { skipped: 49, frames: 1, next: at(1_020) });
    }

    proptest! {
        #[test]
        fn every_frame_is_sent_or_skipped_once(steps in prop::collection::vec(0u64..300, 1..100)) {
            let mut metronome = Metronome::new(at(0));
            let (mut now, mut total) = (0, 0u64);
            for step in steps {
                now += step;
                let due = metronome.due(at(now));
                prop_assert!(due.frames <= 2);
                prop_assert!(due.next > at(now));
                total += u64::from(due.skipped + due.frames);
                prop_assert!(total <= now / 20 + 1);
            }
            for _ in 0..10 {
                now += 20;
                total += u64::from(metronome.due(at(now)).frames);
            }
            prop_assert_eq!(total, now / 20 + 1);
        }
    }
}
