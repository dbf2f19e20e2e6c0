//! Numbers the replies: which unit belongs to which, where its samples stand, and when a reply is complete.
//!
//! Units and speech of one reply come in any order between the LLM and the vocoder, so a reply's end is known by the
//! unit that ended it. The LLM may be ahead of the vocoder by whole replies: what it decided then waits until speech has
//! caught up, as late speech still belongs to the reply before. Pure.

use std::time::Duration;

use duologue_session::UnitEnd;

/// The replies of one session.
#[derive(Debug, Default)]
pub struct Turns {
    current: u32,
    /// Something of the current reply was announced to the client.
    begun: bool,
    /// When the unit was complete that the current reply begins with, if that was decided ahead of speech.
    decided_ahead_at: Option<Duration>,
    /// Samples of it made so far.
    samples: u64,
    /// The unit that ended it, once known; later units belong to the next one.
    ends_with: Option<u32>,
    /// Speech units announced and not yet complete, minus complete ones not yet announced.
    pending: i64,
    /// Units of later replies, oldest first. As many as the engine lets the LLM be ahead of speech.
    ahead: Vec<Ahead>,
}

/// A unit that was decided before the speech of the reply before it was made.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    unit: u32,
    speaks: bool,
    ends: bool,
    ready_at: Duration,
}

impl Turns {
    /// The reply that `unit` belongs to (or would, if it listens).
    pub fn of_unit(&self, unit: u32) -> u32 {
        if self.ends_with.is_none_or(|last| unit <= last) {
            return self.current;
        }
        self.current + 1 + self.ahead.iter().filter(|ahead| ahead.ends && ahead.unit < unit).count() as u32
    }

    /// The reply that is spoken or comes next.
    pub fn current(&self) -> u32 {
        self.current
    }

    /// Marks the reply as announced; returns whether it had not been.
    pub fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }

    /// When the unit was complete that the current reply begins with, if that was decided ahead of speech.
    pub fn decided_ahead_at(&self) -> Option<Duration> {
        self.decided_ahead_at
    }

    /// `unit` belongs to a later reply, and speech of this one is still to come.
    pub fn is_ahead(&self, unit: u32) -> bool {
        self.of_unit(unit) != self.current && self.begun && !self.made()
    }

    /// A unit of the current fence was finalized.
    pub fn unit(&mut self, unit: u32, end: &UnitEnd) {
        self.pending += i64::from(end.speaks());
        if end.end_of_turn || (self.begun && !end.turn_open) {
            self.ends_with.get_or_insert(unit);
        }
    }

    /// A unit of the current fence was finalized for which [`Self::is_ahead`] holds.
    pub fn unit_ahead(&mut self, unit: u32, end: &UnitEnd, ready_at: Duration) {
        let (speaks, ends) = (end.speaks(), end.end_of_turn || !end.turn_open);
        self.keep(Ahead { unit, speaks, ends, ready_at });
    }

    /// A unit that only listens, with no reply before it that it could end, is of no interest later.
    fn keep(&mut self, ahead: Ahead) {
        if ahead.speaks || self.ahead.last().is_some_and(|before| !before.ends) {
            self.ahead.push(ahead);
        }
    }

    /// A piece of speech of the current fence came; returns where its first sample stands.
    pub fn speech(&mut self, samples: usize, done: bool) -> u64 {
        let start = self.samples;
        self.samples += samples as u64;
        self.pending -= i64::from(done);
        start
    }

    /// All speech of the reply has been made, and it has ended.
    pub fn made(&self) -> bool {
        self.begun && self.ends_with.is_some() && self.pending == 0
    }

    /// The reply has been said; returns its number.
    pub fn next(&mut self) -> u32 {
        let (done, ahead) = (self.current, std::mem::take(&mut self.ahead));
        *self = Self { current: done + 1, ..Self::default() };
        for unit in ahead {
            if self.ends_with.is_some() {
                self.keep(unit);
                continue;
            }
            self.decided_ahead_at.get_or_insert(unit.ready_at);
            self.pending += i64::from(unit.speaks);
            self.ends_with = unit.ends.then_some(unit.unit);
        }
        done
    }

    /// The reply was stopped, and what was decided ahead of it is not said either.
    pub fn interrupted(&mut self) {
        *self = Self { current: self.current + u32::from(self.begun), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unit: u32) -> Duration {
        Duration::from_secs(u64::from(unit) + 1)
    }

    fn ahead(turns: &mut Turns, unit: u32, speaks: bool, ends: bool) {
        assert!(turns.is_ahead(unit));
        turns.keep(Ahead { unit, speaks, ends, ready_at: at(unit) });
    }

    /// Reply 0: units 0 and 1 were decided, the speech of the second is still to come.
    fn behind() -> Turns {
        let mut turns = Turns { pending: 2, ends_with: Some(1), ..Turns::default() };
        assert!(turns.begin());
        assert_eq!(turns.speech(100, true), 0);
        turns
    }

    #[test]
    fn late_speech_belongs_to_the_reply_it_was_decided_for() {
        let mut turns = behind();
        ahead(&mut turns, 2, false, true);
        ahead(&mut turns, 3, true, false);
        ahead(&mut turns, 4, true, true);
        ahead(&mut turns, 5, true, true);
        assert_eq!([1, 2, 3, 4, 5, 6].map(|unit| turns.of_unit(unit)), [0, 1, 1, 1, 2, 3]);
        assert_eq!((turns.speech(100, true), turns.current(), turns.made()), (100, 0, true));

        assert_eq!(turns.next(), 0);
        assert_eq!((turns.decided_ahead_at(), turns.of_unit(4), turns.of_unit(5)), (Some(at(3)), 1, 2));
        assert!(turns.begin() && !turns.made());
        assert_eq!((turns.speech(50, true), turns.speech(50, true), turns.made()), (0, 50, true));

        assert_eq!((turns.next(), turns.decided_ahead_at(), turns.of_unit(5)), (1, Some(at(5)), 2));
        assert!(turns.begin());
        turns.speech(50, true);
        assert!(turns.made());
        assert_eq!((turns.next(), turns.decided_ahead_at()), (2, None));
    }

    #[test]
    fn an_interruption_forgets_what_was_decided_ahead() {
        let mut turns = behind();
        ahead(&mut turns, 2, true, true);
        turns.interrupted();
        assert_eq!((turns.current(), turns.of_unit(9), turns.decided_ahead_at()), (1, 1, None));
        turns.interrupted();
        assert_eq!(turns.current(), 1, "no reply has begun since");
    }
}
