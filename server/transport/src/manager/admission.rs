//! Who may come in: a fixed number of places, a bounded first-come queue, and an estimate of the wait. Pure.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

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

/// Names a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TicketId(u64);

/// Places and queue.
#[derive(Debug)]
pub struct Admission {
    slots: usize,
    max_waiting: usize,
    next: u64,
    inside: HashSet<TicketId>,
    queue: VecDeque<TicketId>,
    length: Duration,
    draining: bool,
}

impl Admission {
    /// # Panics
    /// If there are no slots.
    pub fn new(slots: usize, max_waiting: usize) -> Self {
        assert!(slots > 0, "an engine without slots. This is a bug.");
        Self {
            slots,
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
    pub fn enter(&mut self) -> Result<TicketId, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        let ticket = TicketId(self.next);
        if self.inside.len() < self.slots {
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
    pub fn place(&self, ticket: TicketId) -> Result<Option<Waiting>, Refusal> {
        if self.inside.contains(&ticket) {
            return Ok(None);
        }
        let index = self.queue.iter().position(|&waiting| waiting == ticket);
        let index = index.expect("a ticket that has left. This is a bug.");
        if self.draining {
            return Err(Refusal::Draining);
        }
        // Places free up one after the other, `slots` of them per session length.
        let rounds = (index + 1) as f64 / self.slots as f64;
        Ok(Some(Waiting { position: index + 1, estimate: self.length.mul_f64(rounds), queue_length: self.queue.len() }))
    }

    /// A visit ends; `length` is how long its session lasted, when there was one. The next in the queue comes in.
    pub fn leave(&mut self, ticket: TicketId, length: Option<Duration>) {
        self.queue.retain(|&waiting| waiting != ticket);
        self.inside.remove(&ticket);
        if let Some(length) = length {
            self.length = self.length.mul_f64(1.0 - LENGTH_WEIGHT) + length.mul_f64(LENGTH_WEIGHT);
        }
        while !self.draining && self.inside.len() < self.slots {
            let Some(next) = self.queue.pop_front() else { return };
            self.inside.insert(next);
        }
    }

    /// Nobody comes in any more.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Places taken.
    pub fn busy(&self) -> usize {
        self.inside.len()
    }

    /// Visits in the queue.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The server stops.
    pub fn draining(&self) -> bool {
        self.draining
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_queue_is_first_come_first_served_and_bounded() {
        let mut door = Admission::new(1, 2);
        let first = door.enter().unwrap();
        assert_eq!(door.place(first), Ok(None));
        let (second, third) = (door.enter().unwrap(), door.enter().unwrap());
        assert_eq!(door.enter(), Err(Refusal::QueueFull { waiting: 2 }));
        assert_eq!(door.place(third).unwrap().unwrap().position, 2);
        door.leave(first, Some(Duration::from_secs(20)));
        assert_eq!(door.place(second), Ok(None));
        let place = door.place(third).unwrap().unwrap();
        assert_eq!((place.position, place.queue_length), (1, 1));
        assert_eq!(place.estimate, Duration::from_secs(100), "0.8 of the first guess and 0.2 of what was seen");
    }

    #[test]
    fn who_leaves_the_queue_lets_the_others_move_up() {
        let mut door = Admission::new(1, 5);
        let tickets: Vec<_> = (0..4).map(|_| door.enter().unwrap()).collect();
        door.leave(tickets[1], None);
        assert_eq!(door.place(tickets[2]).unwrap().unwrap().position, 1);
        assert_eq!(door.place(tickets[0]), Ok(None));
    }

    #[test]
    fn a_draining_server_takes_nobody_and_sends_the_queue_away() {
        let mut door = Admission::new(1, 5);
        let (inside, waiting) = (door.enter().unwrap(), door.enter().unwrap());
        door.drain();
        assert_eq!(door.enter(), Err(Refusal::Draining));
        assert_eq!(door.place(waiting), Err(Refusal::Draining));
        assert_eq!(door.place(inside), Ok(None));
        door.leave(inside, None);
        assert_eq!((door.busy(), door.waiting()), (0, 1));
    }

    proptest! {
        #[test]
        fn places_never_overflow_and_never_stay_empty_while_somebody_waits(steps in proptest::collection::vec(0..3u8, 1..200)) {
            let (slots, max) = (3, 4);
            let mut door = Admission::new(slots, max);
            let mut visits = VecDeque::new();
            for step in steps {
                match step {
                    0 | 1 => {
                        let full = door.busy() == slots && door.waiting() == max;
                        match door.enter() {
                            Ok(ticket) => visits.push_back(ticket),
                            Err(refusal) => prop_assert!(full, "{refusal}"),
                        }
                    }
                    _ => {
                        if let Some(ticket) = visits.pop_front() {
                            door.leave(ticket, None);
                        }
                    }
                }
                prop_assert!(door.busy() <= slots && door.waiting() <= max);
                prop_assert!(door.waiting() == 0 || door.busy() == slots);
                prop_assert_eq!(door.busy() + door.waiting(), visits.len());
            }
        }
    }
}
