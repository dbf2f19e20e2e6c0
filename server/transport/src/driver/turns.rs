//! Numbers the replies: which unit belongs to which, where its samples stand, and when a reply is complete.
//!
//! Units and speech of one reply come in any order between the LLM and the vocoder, so a reply's end is known by the
//! unit that ended it. Pure.

use duologue_session::UnitEnd;

/// The replies of one session.
#[derive(Debug, Default)]
pub struct Turns {
    current: u32,
    /// Something of the current reply was announced to the client.
    begun: bool,
    /// Samples of it made so far.
    samples: u64,
    /// The unit that ended it, once known; later units belong to the next one.
    ends_with: Option<u32>,
    /// Speech units announced and not yet complete, minus complete ones not yet announced.
    pending: i64,
}

impl Turns {
    /// The reply that `unit` belongs to (or would, if it listens).
    pub fn of_unit(&self, unit: u32) -> u32 {
        self.current + u32::from(self.ends_with.is_some_and(|last| unit > last))
    }

    /// The reply that is spoken or comes next.
    pub fn current(&self) -> u32 {
        self.current
    }

    /// Marks the reply as announced; returns whether it had not been.
    pub fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }

    /// The client knows of the current reply.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// A unit of the current fence was finalized.
    pub fn unit(&mut self, unit: u32, end: &UnitEnd) {
        self.pending += i64::from(end.speaks());
        if end.end_of_turn || (self.begun && !end.turn_open) {
            self.ends_with.get_or_insert(unit);
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

    /// The reply is over, said or stopped; returns its number.
    pub fn next(&mut self) -> u32 {
        let done = self.current;
        *self = Self { current: done + 1, ..Self::default() };
        done
    }
}
