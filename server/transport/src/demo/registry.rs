//! What the wire's REST tells of its clients: who waits, who talks, and which pages are open.
//!
//! The session manager knows more, but not the demo's words: session ids that the client chose, kinds of pages, tickets.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use duologue_proto::demo::DuplexKind;
use rand::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::manager::Waiting;

/// Pages of the demo that this server can answer.
pub const PAGES: [DuplexKind; 2] = [DuplexKind::AudioDuplex, DuplexKind::OmniDuplex];

/// Clients of this wire.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tickets: HashMap<String, Ticket>,
    /// By place, which is the number that the demo shows as a worker's.
    talks: BTreeMap<usize, Talk>,
    totals: HashMap<usize, Totals>,
    closed: Vec<DuplexKind>,
}

/// A client in the queue.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// Its name.
    pub id: String,
    /// Page that it comes from.
    pub kind: DuplexKind,
    /// The client's name of its session.
    pub session_id: String,
    /// Since when.
    pub since: SystemTime,
    /// Since how long, at the time of asking.
    pub waited: Duration,
    /// Place in the queue, as the client was told last.
    pub place: Waiting,
    began: Instant,
    cancel: Arc<Notify>,
}

/// A client in a session.
#[derive(Debug, Clone)]
pub struct Talk {
    /// Page that it comes from.
    pub kind: DuplexKind,
    /// The client's name of its session.
    pub session_id: String,
    /// Since when.
    pub since: SystemTime,
    /// Since how long, at the time of asking.
    pub lasted: Duration,
    /// It has paused.
    pub paused: bool,
    /// Cached positions.
    pub kv_tokens: usize,
    began: Instant,
}

/// What a place has done on this wire since the server began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Chunks answered.
    pub chunks: u64,
    /// Time from their arrival to their answer, together.
    pub time_ms: f64,
}

impl Registry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics with the registry locked. This is a bug.")
    }

    /// A client begins to wait; dropping the guard ends it. [`TicketGuard::cancelled`] tells when somebody else ends it.
    pub(super) fn wait(self: &Arc<Self>, kind: DuplexKind, session_id: &str, place: Waiting) -> TicketGuard {
        let id = format!("{:08x}", rand::rng().random::<u32>());
        let ticket = Ticket {
            id: id.clone(),
            kind,
            session_id: session_id.to_owned(),
            since: SystemTime::now(),
            waited: Duration::ZERO,
            place,
            began: Instant::now(),
            cancel: Arc::new(Notify::new()),
        };
        let cancel = ticket.cancel.clone();
        self.state().tickets.insert(id.clone(), ticket);
        TicketGuard { registry: self.clone(), id, cancel }
    }

    /// A client takes the lowest free place; dropping the guard frees it.
    pub(super) fn talk(self: &Arc<Self>, kind: DuplexKind, session_id: &str) -> TalkGuard {
        let talk = Talk {
            kind,
            session_id: session_id.to_owned(),
            since: SystemTime::now(),
            lasted: Duration::ZERO,
            paused: false,
            kv_tokens: 0,
            began: Instant::now(),
        };
        let mut state = self.state();
        let place = (0..).find(|place| !state.talks.contains_key(place)).expect("numbers do not end. This is a bug.");
        state.talks.insert(place, talk);
        TalkGuard { registry: self.clone(), place }
    }

    /// Waiting clients, next one first.
    pub fn tickets(&self) -> Vec<Ticket> {
        let aged = |ticket: &Ticket| Ticket { waited: ticket.began.elapsed(), ..ticket.clone() };
        let mut tickets: Vec<_> = self.state().tickets.values().map(aged).collect();
        tickets.sort_by_key(|ticket| ticket.place.position);
        tickets
    }

    /// Takes a client out of the queue; false when it is not in it.
    pub fn cancel(&self, ticket: &str) -> bool {
        let ticket = self.state().tickets.remove(ticket);
        ticket.inspect(|ticket| ticket.cancel.notify_one()).is_some()
    }

    /// Talking clients by place.
    pub fn talks(&self) -> BTreeMap<usize, Talk> {
        let aged = |(place, talk): (&usize, &Talk)| (*place, Talk { lasted: talk.began.elapsed(), ..talk.clone() });
        self.state().talks.iter().map(aged).collect()
    }

    /// What a place has done.
    pub fn totals(&self, place: usize) -> Totals {
        self.state().totals.get(&place).copied().unwrap_or_default()
    }

    /// Sessions of a page are let in.
    pub fn open(&self, kind: DuplexKind) -> bool {
        !self.state().closed.contains(&kind)
    }

    /// Opens or closes a page for new sessions.
    pub fn set_open(&self, kind: DuplexKind, open: bool) {
        let mut state = self.state();
        state.closed.retain(|closed| *closed != kind);
        if !open {
            state.closed.push(kind);
        }
    }
}

/// A client's stay in the queue.
#[derive(Debug)]
pub(super) struct TicketGuard {
    registry: Arc<Registry>,
    id: String,
    cancel: Arc<Notify>,
}

impl TicketGuard {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn moved(&self, place: &Waiting) {
        if let Some(ticket) = self.registry.state().tickets.get_mut(&self.id) {
            ticket.place = place.clone();
        }
    }

    /// Waits until somebody takes the client out of the queue.
    pub(super) async fn cancelled(&self) {
        self.cancel.notified().await;
    }
}

impl Drop for TicketGuard {
    fn drop(&mut self) {
        self.registry.state().tickets.remove(&self.id);
    }
}

/// A client's stay in a session.
#[derive(Debug)]
pub(super) struct TalkGuard {
    registry: Arc<Registry>,
    place: usize,
}

impl TalkGuard {
    pub(super) fn state(&self, paused: bool, kv_tokens: usize) {
        if let Some(talk) = self.registry.state().talks.get_mut(&self.place) {
            (talk.paused, talk.kv_tokens) = (paused, kv_tokens);
        }
    }

    pub(super) fn answered(&self, time_ms: f64) {
        let mut state = self.registry.state();
        let totals = state.totals.entry(self.place).or_default();
        totals.chunks += 1;
        totals.time_ms += time_ms;
    }
}

impl Drop for TalkGuard {
    fn drop(&mut self) {
        self.registry.state().talks.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(position: usize) -> Waiting {
        Waiting { position, estimate: Duration::from_secs(9), queue_length: 2 }
    }

    #[tokio::test]
    async fn tickets_are_listed_in_order_and_can_be_cancelled_once() {
        let registry = Arc::new(Registry::default());
        let second = registry.wait(DuplexKind::OmniDuplex, "b", place(2));
        let first = registry.wait(DuplexKind::AudioDuplex, "adx_a", place(1));
        let order = |registry: &Registry| registry.tickets().into_iter().map(|t| t.session_id).collect::<Vec<_>>();
        assert_eq!(order(&registry), ["adx_a", "b"]);
        assert!(registry.cancel(first.id()) && !registry.cancel(first.id()));
        first.cancelled().await;
        second.moved(&place(1));
        assert_eq!(registry.tickets()[0].place.position, 1);
        drop(second);
        assert!(registry.tickets().is_empty());
    }

    #[test]
    fn places_are_taken_from_the_lowest_and_keep_their_totals() {
        let registry = Arc::new(Registry::default());
        let first = registry.talk(DuplexKind::AudioDuplex, "one");
        let second = registry.talk(DuplexKind::AudioDuplex, "two");
        first.answered(10.0);
        second.state(true, 70);
        drop(first);
        let third = registry.talk(DuplexKind::AudioDuplex, "three");
        third.answered(30.0);
        let talks = registry.talks();
        assert_eq!(talks[&0].session_id, "three");
        assert!(talks[&1].paused && talks[&1].kv_tokens == 70);
        assert_eq!(registry.totals(0), Totals { chunks: 2, time_ms: 40.0 });
    }

    #[test]
    fn a_page_is_closed_until_it_is_opened() {
        let registry = Registry::default();
        registry.set_open(DuplexKind::OmniDuplex, false);
        registry.set_open(DuplexKind::OmniDuplex, false);
        assert!(registry.open(DuplexKind::AudioDuplex) && !registry.open(DuplexKind::OmniDuplex));
        registry.set_open(DuplexKind::OmniDuplex, true);
        assert!(registry.open(DuplexKind::OmniDuplex));
    }
}
