//! How unevenly the packets of a stream arrive.
//!
//! Owns the transit times of the last packets. Must not decide what to do about them.

use std::collections::VecDeque;
use std::time::Duration;

use super::RTP_HZ;

/// Transit times kept: five seconds at 20 ms.
const KEPT: usize = 250;
/// Unevenness below this is the timer of this machine rather than the network.
const TIMER_MS: i64 = 3;
/// Of a hundred packets, so many must come in time.
const PERCENT_IN_TIME: usize = 95;
/// Packets between two evaluations; sorting 250 numbers at every packet would be most of the work of a session.
const EVALUATE_EVERY: u32 = 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Arrival time minus sending time, in microseconds, both on clocks with an unknown offset.
    transits: VecDeque<i64>,
    last_timestamp: Option<(u32, i64)>,
    since: u32,
    needed: Duration,
}

impl Spread {
    /// A packet with this RTP timestamp arrived.
    pub(super) fn arrived(&mut self, now: Duration, timestamp: u32) {
        let sent = match self.last_timestamp {
            Some((last, unwrapped)) => unwrapped + i64::from(timestamp.wrapping_sub(last) as i32),
            None => 0,
        };
        self.last_timestamp = Some((timestamp, sent));
        let sent_us = i128::from(sent) * 1_000_000 / i128::from(RTP_HZ);
        self.transits.push_back(now.as_micros() as i64 - sent_us as i64);
        if self.transits.len() > KEPT {
            self.transits.pop_front();
        }
        self.since += 1;
        // a young stream is judged at every packet, so that it learns within its first syllable
        if self.since >= EVALUATE_EVERY || self.transits.len() < 2 * EVALUATE_EVERY as usize {
            self.since = 0;
            self.evaluate();
        }
    }

    /// How much longer than the fastest the slowest took that must be in time.
    pub(super) fn needed(&self) -> Duration {
        self.needed
    }

    fn evaluate(&mut self) {
        let mut sorted: Vec<i64> = self.transits.iter().copied().collect();
        sorted.sort_unstable();
        let slowest = sorted[(sorted.len() * PERCENT_IN_TIME).div_ceil(100) - 1];
        let spread = (slowest - sorted[0] - TIMER_MS * 1_000).max(0);
        self.needed = Duration::from_micros(spread as u64);
    }
}
