//! Decides what an owner thread runs next. Pure: no threads, no clock, no graphs.
//!
//! Every graph thread has two kinds of work. A *single* is a call for one slot (a prefill, a vocoder chunk); a *step* advances
//! every decoding slot at once and is cheap per slot. Two rules keep deadlines:
//!
//! 1. singles run earliest deadline first;
//! 2. while slots wait for a step, never two singles in a row, so one long prefill delays the others' next token once, not twice.

/// Work of one slot that is ready to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Slot that owns the work.
    pub slot: usize,
    /// When it must be done, in any monotonic unit.
    pub deadline: u64,
    /// How it runs.
    pub kind: Kind,
}

/// How a piece of work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Alone.
    Single,
    /// Together with every other slot that is ready for a step.
    Step,
}

/// What to run next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Run the single of this slot.
    Single(usize),
    /// Run one step over all slots ready for it.
    Step,
    /// Nothing is ready: wait for a command.
    Wait,
}

/// Scheduler of one owner thread.
#[derive(Debug, Default)]
pub struct Scheduler {
    last_was_single: bool,
}

impl Scheduler {
    /// Chooses among the ready work; ties of deadline go to the lower slot.
    pub fn next(&mut self, ready: impl IntoIterator<Item = Ready>) -> Action {
        let (mut single, mut step): (Option<Ready>, bool) = (None, false);
        for item in ready {
            match item.kind {
                Kind::Step => step = true,
                Kind::Single if single.is_none_or(|s| (item.deadline, item.slot) < (s.deadline, s.slot)) => {
                    single = Some(item);
                }
                Kind::Single => {}
            }
        }
        let action = match single {
            Some(_) if step && self.last_was_single => Action::Step,
            Some(item) => Action::Single(item.slot),
            None if step => Action::Step,
            None => Action::Wait,
        };
        self.last_was_single = matches!(action, Action::Single(_));
        action
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ready(slot: usize, deadline: u64, single: bool) -> Ready {
        Ready { slot, deadline, kind: if single { Kind::Single } else { Kind::Step } }
    }

    #[test]
    fn singles_run_by_deadline_and_steps_between_them() {
        let mut scheduler = Scheduler::default();
        let work = [ready(0, 30, true), ready(1, 10, true), ready(2, 20, false)];
        assert_eq!(scheduler.next(work), Action::Single(1));
        assert_eq!(scheduler.next([work[0], work[2]]), Action::Step);
        assert_eq!(scheduler.next([work[0], work[2]]), Action::Single(0));
        assert_eq!(scheduler.next([work[2]]), Action::Step);
        assert_eq!(scheduler.next([]), Action::Wait);
    }

    proptest! {
        /// Whatever arrives, a waiting step is never passed over twice, the chosen single has the earliest deadline, and work
        /// that is there is always run.
        #[test]
        fn no_step_starves_and_singles_are_edf(rounds in prop::collection::vec(prop::collection::vec((0usize..8, 0u64..100, any::<bool>()), 0..8), 1..60)) {
            let mut scheduler = Scheduler::default();
            let mut passed_over = 0;
            for round in rounds {
                let work: Vec<Ready> = round.into_iter().map(|(s, d, k)| ready(s, d, k)).collect();
                let has_step = work.iter().any(|w| w.kind == Kind::Step);
                match scheduler.next(work.iter().copied()) {
                    Action::Wait => { prop_assert!(work.is_empty()); passed_over = 0; }
                    Action::Step => { prop_assert!(has_step); passed_over = 0; }
                    Action::Single(slot) => {
                        let earliest = work.iter().filter(|w| w.kind == Kind::Single).map(|w| (w.deadline, w.slot)).min();
                        prop_assert_eq!(earliest.map(|e| e.1), Some(slot));
                        passed_over = if has_step { passed_over + 1 } else { 0 };
                        prop_assert!(passed_over <= 1);
                    }
                }
            }
        }
    }
}
