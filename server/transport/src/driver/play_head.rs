//! How much of the speech was heard: by the client's own word where it gives one, else by the pacer's clock. Pure.
//!
//! Counts samples of all speech of the session, as the session core does; clients count within a reply.

use std::collections::VecDeque;
use std::time::Duration;

/// Replies whose begin is remembered; a client's word on an older one is not taken.
const REPLIES: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Report {
    turn: u32,
    sample: u64,
    at: Duration,
}

/// The play head of one session.
#[derive(Debug)]
pub struct PlayHead {
    rate_hz: u32,
    /// Reply and its first sample, oldest first.
    replies: VecDeque<(u32, u64)>,
    made: u64,
    sent: u64,
    /// What was made and not sent never will be.
    stopped: bool,
    report: Option<Report>,
}

impl PlayHead {
    pub fn new(rate_hz: u32) -> Self {
        Self { rate_hz, replies: VecDeque::new(), made: 0, sent: 0, stopped: false, report: None }
    }

    /// Reply `turn` begins behind all speech made so far.
    pub fn begin(&mut self, turn: u32) {
        if self.replies.len() == REPLIES {
            self.replies.pop_front();
        }
        self.replies.push_back((turn, self.made));
        if std::mem::take(&mut self.stopped) {
            self.sent = self.made;
        }
    }

    /// What is not sent yet is thrown away.
    pub fn stopped(&mut self) {
        self.stopped = true;
    }

    /// Speech was made; not all of it need ever be sent.
    pub fn made(&mut self, samples: usize) {
        self.made += samples as u64;
    }

    /// The samples of reply `turn` before `end` were sent.
    pub fn sent(&mut self, turn: u32, end: u64) {
        if let Some(begin) = self.begin_of(turn) {
            self.sent = begin + end;
        }
    }

    /// The client says how much of a reply it has played. Returns the place among all speech, never beyond what was sent.
    pub fn reported(&mut self, now: Duration, turn: u32, played: Duration) -> Option<u64> {
        let played = (played.as_nanos() * u128::from(self.rate_hz) / 1_000_000_000) as u64;
        let sample = self.begin_of(turn)?.saturating_add(played).min(self.sent);
        self.report = Some(Report { turn, sample, at: now });
        Some(sample)
    }

    /// Whether the client has said that it played reply `turn` up to sample `end`, and so all replies before it.
    pub fn has_played(&self, turn: u32, end: u64) -> bool {
        self.report.is_some_and(|report| {
            let reported = self.begin_of(report.turn).map_or(0, |begin| report.sample.saturating_sub(begin));
            turn < report.turn || (turn == report.turn && end <= reported)
        })
    }

    /// What was heard when playback stops at `now`: the client's last word on the reply and the time since, or, from a
    /// client that says nothing, all that was sent but the `unplayed` samples.
    pub fn heard(&self, now: Duration, unplayed: u64) -> u64 {
        let by_clock = self.sent.saturating_sub(unplayed);
        match self.report.filter(|report| self.replies.back().is_some_and(|(turn, _)| *turn == report.turn)) {
            Some(Report { sample, at, .. }) => (sample + self.samples_in(now.saturating_sub(at))).min(self.sent),
            None => by_clock,
        }
    }

    /// The reply in which this sample lies, and its place there.
    pub fn place(&self, sample: u64) -> Option<(u32, Duration)> {
        let (turn, begin) = self.replies.iter().rev().find(|(_, begin)| *begin <= sample)?;
        let nanos = u128::from(sample - begin) * 1_000_000_000 / u128::from(self.rate_hz);
        Some((*turn, Duration::from_nanos(nanos as u64)))
    }

    fn begin_of(&self, turn: u32) -> Option<u64> {
        self.replies.iter().find(|(known, _)| *known == turn).map(|(_, begin)| *begin)
    }

    fn samples_in(&self, time: Duration) -> u64 {
        (time.as_nanos() * u128::from(self.rate_hz) / 1_000_000_000) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One sample is one millisecond. Reply 0 is done, of the 500 samples of reply 1 300 were sent.
    fn head() -> PlayHead {
        let mut head = PlayHead::new(1000);
        head.begin(0);
        head.made(1000);
        head.sent(0, 1000);
        head.begin(1);
        head.made(500);
        head.sent(1, 300);
        head
    }

    #[test]
    fn without_a_word_of_the_client_the_clock_counts() {
        assert_eq!(head().heard(ms(5000), 120), 1180);
        assert_eq!(head().place(1180), Some((1, ms(180))));
        assert_eq!(head().place(999), Some((0, ms(999))));
    }

    #[test]
    fn a_client_is_believed_and_time_runs_on_since_its_word() {
        let mut head = head();
        assert_eq!(head.reported(ms(5000), 1, ms(100)), Some(1100));
        assert_eq!(head.heard(ms(5000), 0), 1100);
        assert_eq!(head.heard(ms(5080), 0), 1180);
        assert_eq!(head.heard(ms(9000), 0), 1300, "never more than was sent");
    }

    #[test]
    fn a_client_cannot_have_heard_what_was_not_sent_or_never_was() {
        let mut head = head();
        assert_eq!(head.reported(ms(5000), 1, Duration::MAX), Some(1300));
        assert_eq!(head.reported(ms(5000), 7, ms(1)), None);
    }

    #[test]
    fn the_word_on_an_earlier_reply_does_not_count_for_this_one() {
        let mut head = head();
        head.reported(ms(5000), 0, ms(1000));
        assert_eq!(head.heard(ms(9000), 50), 1250);
    }

    #[test]
    fn old_replies_are_forgotten() {
        let mut head = head();
        (2..=5).for_each(|turn| head.begin(turn));
        assert_eq!(head.reported(ms(5000), 1, ms(1)), None);
    }

    #[test]
    fn a_reply_of_which_nothing_was_sent_is_not_taken_for_the_one_stopped_before() {
        let mut head = head();
        head.stopped();
        head.begin(2);
        head.made(400);
        assert_eq!(head.place(head.heard(ms(5000), 0)), Some((2, ms(0))));
        head.sent(2, 100);
        assert_eq!(head.place(head.heard(ms(5000), 30)), Some((2, ms(70))));
    }
}
