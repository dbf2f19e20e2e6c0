//! A session's line to its wire, and the memory of what was said on it, for a client that comes back.

use std::collections::VecDeque;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::events::{Output, Sequenced, SessionEvent};
use super::play_head::PlayHead;

/// Events kept for a client that reconnects: ten seconds of speech in packets of 20 ms, twice as long as a lost peer
/// connection takes to be noticed, and half a minute of units without speech. Older ones are lost to it.
const REPLAY_CAPACITY: usize = 640;
/// Events that a wire may leave unread: all that are kept, and five seconds of new ones. A full line ends the session.
pub const EVENT_CAPACITY: usize = REPLAY_CAPACITY + 256;

/// The line could not take an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkError {
    /// The wire does not read.
    Full,
    /// A client wants events again that are no longer kept.
    Forgotten,
}

/// Numbers events, sends them, and keeps the latest ones.
#[derive(Debug)]
pub struct Link {
    sender: Option<Sender<Sequenced>>,
    next: u64,
    kept: VecDeque<Sequenced>,
    /// Second programs, which hear no sound.
    observers: Vec<Sender<Sequenced>>,
}

impl Link {
    pub fn new(sender: Sender<Sequenced>) -> Self {
        Self { sender: Some(sender), next: 0, kept: VecDeque::new(), observers: Vec::new() }
    }

    /// Sends an event, or only keeps it while no wire is there.
    ///
    /// # Errors
    /// [`LinkError::Full`].
    pub fn send(&mut self, event: SessionEvent) -> Result<(), LinkError> {
        let event = Sequenced { seq: self.next, event };
        self.next += 1;
        if !matches!(event.event, SessionEvent::Audio { .. }) {
            // Whoever does not read hears no more; the session goes on.
            self.observers.retain(|observer| observer.try_send(event.clone()).is_ok());
        }
        if self.kept.len() == REPLAY_CAPACITY {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        self.pass(event)
    }

    fn pass(&mut self, event: Sequenced) -> Result<(), LinkError> {
        match self.sender.as_ref().map(|sender| sender.try_send(event)) {
            Some(Err(TrySendError::Full(_))) => Err(LinkError::Full),
            // A closed one is noticed by `gone`.
            Some(Ok(()) | Err(TrySendError::Closed(_))) | None => Ok(()),
        }
    }

    /// Another wire takes over: what came after event `after` is sent again, then everything new. Sound is not sent again
    /// that the client has said to have played: over WebRTC it has no event of which it could say that it was handled.
    ///
    /// # Errors
    /// [`LinkError::Forgotten`] when an event after it is no longer kept, [`LinkError::Full`] when the wire does not take
    /// them; the line is as before then.
    ///
    /// Returns the samples of speech that were sent again.
    pub fn attach(&mut self, output: &Output, after: Option<u64>, played: &PlayHead) -> Result<usize, LinkError> {
        let wanted = after.map_or(0, |seq| seq.saturating_add(1));
        let oldest = self.kept.front().map_or(self.next, |event| event.seq);
        if wanted < oldest || wanted > self.next {
            return Err(LinkError::Forgotten);
        }
        let is_played = |event: &SessionEvent| match event {
            SessionEvent::Audio { turn, start, samples } => played.has_played(*turn, start + samples.len() as u64),
            _ => false,
        };
        let mut repeated = 0;
        for event in self.kept.iter().filter(|event| event.seq >= wanted && !is_played(&event.event)) {
            if let SessionEvent::Audio { samples, .. } = &event.event {
                repeated += samples.len();
            }
            if let Err(TrySendError::Full(_)) = output.events.try_send(event.clone()) {
                return Err(LinkError::Full);
            }
        }
        self.sender = Some(output.events.clone());
        Ok(repeated)
    }

    /// Sends what comes from now on to a second program too. How many there may be is the manager's business.
    pub fn observe(&mut self, observer: Sender<Sequenced>) {
        self.observers.push(observer);
    }

    /// Waits until the wire has gone; for ever when none is there.
    pub async fn gone(&self) {
        match &self.sender {
            Some(sender) => sender.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Forgets the wire.
    pub fn detach(&mut self) {
        self.sender = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    const RATE_HZ: u32 = 1000;

    fn unheard() -> PlayHead {
        PlayHead::new(RATE_HZ)
    }

    fn turn(event: &Sequenced) -> u32 {
        match event.event {
            SessionEvent::TurnBegan { turn } => turn,
            ref other => panic!("{other:?}"),
        }
    }

    fn drain(receiver: &mut mpsc::Receiver<Sequenced>) -> Vec<u32> {
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|event| turn(&event)).collect()
    }

    #[test]
    fn a_client_that_comes_back_misses_nothing_and_hears_nothing_twice() {
        let (sender, mut first) = mpsc::channel(400);
        let mut link = Link::new(sender);
        for n in 0..5 {
            link.send(SessionEvent::TurnBegan { turn: n }).unwrap();
        }
        assert_eq!(drain(&mut first), [0, 1, 2, 3, 4]);
        drop(first);
        link.send(SessionEvent::TurnBegan { turn: 5 }).unwrap();
        let (events, mut second) = mpsc::channel(400);
        link.attach(&Output { events, pace: None }, Some(2), &unheard()).unwrap();
        link.send(SessionEvent::TurnBegan { turn: 6 }).unwrap();
        assert_eq!(drain(&mut second), [3, 4, 5, 6]);
    }

    #[test]
    fn what_is_no_longer_kept_cannot_be_had_again() {
        let (sender, _first) = mpsc::channel(REPLAY_CAPACITY * 2);
        let mut link = Link::new(sender);
        for n in 0..=REPLAY_CAPACITY as u32 {
            link.send(SessionEvent::TurnBegan { turn: n }).unwrap();
        }
        let (events, mut second) = mpsc::channel(REPLAY_CAPACITY * 2);
        let output = Output { events, pace: None };
        assert_eq!(link.attach(&output, None, &unheard()), Err(LinkError::Forgotten));
        let never_was = link.attach(&output, Some(9_999), &unheard());
        assert_eq!(never_was, Err(LinkError::Forgotten));
        link.attach(&output, Some(0), &unheard()).unwrap();
        assert_eq!(drain(&mut second).len(), REPLAY_CAPACITY);
    }

    #[test]
    fn all_that_is_kept_fits_a_new_wire() {
        let mut link = Link::new(mpsc::channel(EVENT_CAPACITY).0);
        for n in 0..2 * REPLAY_CAPACITY as u32 {
            link.send(SessionEvent::TurnBegan { turn: n }).unwrap();
        }
        let (events, mut second) = mpsc::channel(EVENT_CAPACITY);
        link.attach(&Output { events, pace: None }, Some(REPLAY_CAPACITY as u64 - 1), &unheard()).unwrap();
        assert_eq!(drain(&mut second).len(), REPLAY_CAPACITY);
    }

    #[test]
    fn a_wire_that_does_not_take_what_was_missed_is_not_taken_either() {
        let (sender, mut first) = mpsc::channel(8);
        let mut link = Link::new(sender);
        link.send(SessionEvent::TurnBegan { turn: 0 }).unwrap();
        link.send(SessionEvent::TurnBegan { turn: 1 }).unwrap();
        let (events, mut second) = mpsc::channel(1);
        assert_eq!(link.attach(&Output { events, pace: None }, None, &unheard()), Err(LinkError::Full));
        link.send(SessionEvent::TurnBegan { turn: 2 }).unwrap();
        assert_eq!(drain(&mut first), [0, 1, 2], "the line is as before");
        assert_eq!(drain(&mut second), [0]);
        assert!(second.is_closed());
    }

    #[test]
    fn sound_that_the_client_has_played_does_not_come_again() {
        let mut link = Link::new(mpsc::channel(8).0);
        let mut played = unheard();
        played.begin(0);
        for start in [0, 20, 40] {
            link.send(SessionEvent::Audio { turn: 0, start, samples: [0; 20].into() }).unwrap();
            played.sent(0, start + 20);
        }
        played.reported(Duration::ZERO, 0, Duration::from_millis(45));
        let (events, mut second) = mpsc::channel(8);
        assert_eq!(link.attach(&Output { events, pace: None }, None, &played), Ok(20));
        let starts: Vec<u64> = std::iter::from_fn(|| second.try_recv().ok())
            .map(|event| match event.event {
                SessionEvent::Audio { start, .. } => start,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(starts, [40], "of which the last 15 ms are new");
    }

    #[test]
    fn a_second_program_hears_no_sound_and_is_forgotten_when_it_does_not_read() {
        let (sender, mut first) = mpsc::channel(16);
        let mut link = Link::new(sender);
        link.send(SessionEvent::TurnBegan { turn: 0 }).unwrap();
        let (observer, mut second) = mpsc::channel(2);
        link.observe(observer);
        link.send(SessionEvent::Audio { turn: 0, start: 0, samples: [0; 4].into() }).unwrap();
        for turn in 1..=5 {
            link.send(SessionEvent::TurnBegan { turn }).unwrap();
        }
        assert_eq!(drain(&mut second), [1, 2]);
        assert!(second.is_closed(), "it was too slow");
        assert_eq!(std::iter::from_fn(|| first.try_recv().ok()).count(), 7, "the session's own wire missed nothing");
    }

    #[test]
    fn a_wire_that_does_not_read_is_an_error_and_not_a_wait() {
        let (sender, _receiver) = mpsc::channel(1);
        let mut link = Link::new(sender);
        link.send(SessionEvent::Resumed).unwrap();
        assert_eq!(link.send(SessionEvent::Resumed), Err(LinkError::Full));
    }
}
