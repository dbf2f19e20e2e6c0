//! Who may come in: a number of places, a bounded first-come queue, and an estimate of the wait. Pure.
//!
//! A machine that is late with the sessions it has takes nobody more: whenever it is, no more places stay open than one less
//! than are taken. After a calm time there are twice as many, until all are open.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// How much the newest session's length counts in the estimate.
const LENGTH_WEIGHT: f64 = 0.2;
/// What a session's length is taken for before any has ended.
const FIRST_GUESS: Duration = Duration::from_secs(120);

/// Why nobody may come in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All places and the queue are full.
    #[error("all sessions are in use and {waiting} clients wait; try again later")]
    QueueFull {
        /// Length of the queue.
        waiting: usize,
    },
    /// The server stops.
    #[error("the server is shutting down and takes no new sessions")]
    Draining,
    /// One key wants too many.
    #[error("this key has {sessions} sessions open or waiting, which is its limit; close one first")]
    KeyLimit {
        /// Its limit.
        sessions: usize,
    },
}

/// A place in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// 1 is next.
    pub position: usize,
    /// Until its turn, by the length of sessions so far.
    pub estimate: Duration,
    /// Clients that wait.
    pub queue_length: usize,
}

/// How full the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Places.
    pub slots: usize,
    /// Places that may be taken now.
    pub open: usize,
    /// Places taken; a late machine has fewer open than that.
    pub busy: usize,
    /// Visits in the queue.
    pub waiting: usize,
    /// The server stops.
    pub draining: bool,
}

/// Names a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TicketId(u64);

/// Places and queue.
#[derive(Debug)]
pub struct Admission {
    slots: usize,
    /// Places that may be taken now.
    open: usize,
    /// Since when they are so many, if they are fewer than all.
    reduced_at: Option<Instant>,
    calm: Duration,
    max_waiting: usize,
    next: u64,
    inside: HashSet<TicketId>,
    queue: VecDeque<TicketId>,
    length: Duration,
    draining: bool,
}

impl Admission {
    /// `calm`: how long no deadline is missed before more places open; zero opens all of them always.
    ///
    /// # Panics
    /// If there are no slots.
    pub fn new(slots: usize, max_waiting: usize, calm: Duration) -> Self {
        assert!(slots > 0, "an engine without slots. This is a bug.");
        Self {
            slots,
            open: slots,
            reduced_at: None,
            calm,
            max_waiting,
            next: 0,
            inside: HashSet::new(),
            queue: VecDeque::new(),
            length: FIRST_GUESS,
            draining: false,
        }
    }

    /// Takes a place, or the last one in the queue; [`Self::place`] says which.
    ///
    /// # Errors
    /// [`Refusal::QueueFull`], [`Refusal::Draining`].
    pub fn enter(&mut self, now: Instant) -> Result<TicketId, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        self.update(now);
        let ticket = TicketId(self.next);
        if self.inside.len() < self.open {
            self.inside.insert(ticket);
        } else if self.queue.len() < self.max_waiting {
            self.queue.push_back(ticket);
        } else {
            return Err(Refusal::QueueFull { waiting: self.queue.len() });
        }
        self.next += 1;
        Ok(ticket)
    }

    /// How long a session lasts, by those so far.
    pub fn typical(&self) -> Duration {
        self.length
    }

    /// Where a visit stands: `None` inside.
    ///
    /// # Errors
    /// [`Refusal::Draining`] for one that still waits while the server stops.
    ///
    /// # Panics
    /// If the visit is over.
    pub fn place(&mut self, ticket: TicketId, now: Instant) -> Result<Option<Waiting>, Refusal> {
        self.update(now);
        if self.inside.contains(&ticket) {
            return Ok(None);
        }
        let index = self.queue.iter().position(|&waiting| waiting == ticket);
        let index = index.expect("a ticket that has left. This is a bug.");
        if self.draining {
            return Err(Refusal::Draining);
        }
        // Places free up one after the other, as many as are open per session length; the first of them stay closed.
        let ahead = index + self.inside.len().saturating_sub(self.open);
        let rounds = (ahead + 1) as f64 / self.open as f64;
        Ok(Some(Waiting { position: index + 1, estimate: self.length.mul_f64(rounds), queue_length: self.queue.len() }))
    }

    /// A visit ends; `length` is how long its session lasted, when there was one. The next in the queue comes in.
    pub fn leave(&mut self, ticket: TicketId, length: Option<Duration>, now: Instant) {
        self.queue.retain(|&waiting| waiting != ticket);
        self.inside.remove(&ticket);
        if let Some(length) = length {
            self.length = self.length.mul_f64(1.0 - LENGTH_WEIGHT) + length.mul_f64(LENGTH_WEIGHT);
        }
        self.update(now);
    }

    /// A session was not served in time. Says how many places stay open when these are fewer than before.
    pub fn late(&mut self, now: Instant) -> Option<usize> {
        if self.calm.is_zero() {
            return None;
        }
        self.reduced_at = Some(now);
        let open = self.open.min(self.inside.len().saturating_sub(1).max(1));
        (std::mem::replace(&mut self.open, open) > open).then_some(open)
    }

    /// Opens what a calm machine may, and lets the queue in.
    fn update(&mut self, now: Instant) {
        if self.reduced_at.is_some_and(|at| now.duration_since(at) >= self.calm) {
            self.open = self.slots.min(2 * self.open);
            self.reduced_at = (self.open < self.slots).then_some(now);
        }
        while !self.draining && self.inside.len() < self.open {
            let Some(next) = self.queue.pop_front() else { return };
            self.inside.insert(next);
        }
    }

    /// Nobody comes in any more.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// How full it is.
    pub fn load(&self) -> Load {
        let Self { slots, open, inside, queue, draining, .. } = self;
        Load { slots: *slots, open: *open, busy: inside.len(), waiting: queue.len(), draining: *draining }
    }
}

#[cfg(test)]
mod tests;
