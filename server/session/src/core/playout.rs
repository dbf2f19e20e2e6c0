//! What the listener has heard, estimated by the clock: speech plays gap-free from its arrival on.
//!
//! Must not be taken for the client's own word on its buffer.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Playout {
    rate_hz: u32,
    ends_at: Option<Duration>,
}

impl Playout {
    pub(super) fn new(rate_hz: u32) -> Self {
        Self { rate_hz, ends_at: None }
    }

    /// `samples` arrive; they play after what is still playing.
    pub(super) fn add(&mut self, now: Duration, samples: usize) {
        if samples > 0 {
            let length = Duration::from_nanos(samples as u64 * 1_000_000_000 / u64::from(self.rate_hz));
            self.ends_at = Some(self.ends_at.unwrap_or(now).max(now) + length);
        }
    }

    /// When the speech received so far is over; `None` when nothing plays.
    pub(super) fn ends_at(&self) -> Option<Duration> {
        self.ends_at
    }

    /// Whether playback has ended since the last call.
    pub(super) fn ended(&mut self, now: Duration) -> bool {
        self.ends_at.take_if(|ends_at| *ends_at <= now).is_some()
    }

    /// Playback stops; returns the samples that were not played.
    pub(super) fn flush(&mut self, now: Duration) -> u64 {
        let left = self.ends_at.take().map_or(Duration::ZERO, |ends_at| ends_at.saturating_sub(now));
        (left.as_nanos() as u64).saturating_mul(u64::from(self.rate_hz)) / 1_000_000_000
    }
}
