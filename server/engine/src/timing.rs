//! Small measuring tools shared by the threads.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Runs `work` and says how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let result = work();
    (result, begin.elapsed())
}

/// A deadline as a number the scheduler can compare: microseconds since the first call in this process.
pub(crate) fn deadline_key(deadline: Instant) -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(Instant::now);
    deadline.saturating_duration_since(epoch).as_micros() as u64
}
