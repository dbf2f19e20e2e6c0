//! What the engine tells a session.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded};
use duologue_session::{PreparedReport, SpeechReport, UnitReport};

use crate::error::EngineError;

/// Unread events of a session. A unit makes at most five (its report and up to four pieces of speech); a session that is a dozen
/// units behind is not coming back. When full, the session ends (`EngineError::FellBehind`) and nobody waits.
pub const EVENT_CAPACITY: usize = 64;

/// One message of the engine to a session.
#[derive(Debug)]
pub enum EngineEvent {
    /// Prompt and voice are in place; units may come.
    Prepared(PreparedReport),
    /// The LLM side of a unit is finalized.
    Unit(Box<UnitReport>),
    /// A piece of a unit's speech. The first pieces may come before the unit's report.
    Speech(SpeechReport),
    /// The session is over.
    Failed(EngineError),
}

/// Rung after every event, for sessions that do not wait in [`EventStream::recv`]. Must be cheap and must not block.
#[derive(Clone)]
pub struct Wake(pub Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Wake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Wake")
    }
}

/// The engine's end of a session's event channel.
#[derive(Debug, Clone)]
pub(crate) struct EventSink {
    sender: Sender<EngineEvent>,
    behind: Arc<AtomicBool>,
    wake: Option<Wake>,
}

/// The session's end.
#[derive(Debug)]
pub struct EventStream {
    receiver: Receiver<EngineEvent>,
    behind: Arc<AtomicBool>,
    alarm: Alarm,
}

/// Raised when a thread of the engine has panicked: the other threads still hold senders, so a closed channel would not tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarm(Arc<AtomicBool>);

impl Alarm {
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Held by a thread of the engine while it runs; raises the alarm when the thread panics.
#[derive(Debug)]
pub(crate) struct AlarmGuard(pub Alarm);

impl Drop for AlarmGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.0.store(true, Ordering::Release);
        }
    }
}

/// How often a waiting session looks whether the engine still lives.
const ALARM_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn event_channel(alarm: Alarm, wake: Option<Wake>) -> (EventSink, EventStream) {
    let (sender, receiver) = bounded(EVENT_CAPACITY);
    let behind = Arc::new(AtomicBool::new(false));
    (EventSink { sender, behind: behind.clone(), wake }, EventStream { receiver, behind, alarm })
}

impl EventSink {
    /// Never waits. A full channel marks the session as fallen behind; a closed one means nobody listens any more.
    pub fn send(&self, event: EngineEvent) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(event) {
            self.behind.store(true, Ordering::Release);
        }
        if let Some(Wake(ring)) = &self.wake {
            ring();
        }
    }
}

impl EventStream {
    fn check(&self) -> Result<(), EngineError> {
        match self.behind.load(Ordering::Acquire) {
            true => Err(EngineError::FellBehind { capacity: EVENT_CAPACITY }),
            false => Ok(()),
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`EngineError::FellBehind`] once events were lost; [`EngineError::Stopped`] when the engine is gone.
    pub fn recv(&self) -> Result<EngineEvent, EngineError> {
        loop {
            self.check()?;
            match self.receiver.recv_timeout(ALARM_INTERVAL) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) if !self.alarm.raised() => {}
                Err(_) => return Err(EngineError::Stopped),
            }
        }
    }

    /// The next event if there is one; errors as [`EventStream::recv`].
    ///
    /// # Errors
    /// As [`EventStream::recv`].
    pub fn try_recv(&self) -> Result<Option<EngineEvent>, EngineError> {
        self.check()?;
        match self.receiver.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(TryRecvError::Empty) if !self.alarm.raised() => Ok(None),
            Err(TryRecvError::Empty) => Err(EngineError::Stopped),
            Err(TryRecvError::Disconnected) => Err(EngineError::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_does_not_read_ends_and_the_sender_never_waits() {
        let event = || EngineEvent::Prepared(PreparedReport { kv_len: 1, from_cache: false, took: Duration::ZERO });
        let (sink, stream) = event_channel(Alarm::default(), None);
        for _ in 0..EVENT_CAPACITY {
            sink.send(event());
        }
        assert!(stream.try_recv().is_ok());
        sink.send(event());
        sink.send(event());
        let error = stream.recv().unwrap_err();
        assert!(error.to_string().contains("64 events were not read"), "{error}");
    }

    #[test]
    fn a_session_does_not_wait_for_a_thread_that_panicked() {
        let alarm = Alarm::default();
        let (_sink, stream) = event_channel(alarm.clone(), None);
        let thread = std::thread::spawn(move || {
            let _guard = AlarmGuard(alarm);
            panic!("a broken invariant");
        });
        assert!(thread.join().is_err());
        assert!(matches!(stream.recv(), Err(EngineError::Stopped)));
        assert!(matches!(stream.try_recv(), Err(EngineError::Stopped)));
    }

    #[test]
    fn every_event_rings_and_so_does_one_that_is_lost() {
        let rung = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = rung.clone();
        let wake = Wake(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let (sink, _stream) = event_channel(Alarm::default(), Some(wake));
        for _ in 0..=EVENT_CAPACITY {
            sink.send(EngineEvent::Prepared(PreparedReport { kv_len: 1, from_cache: false, took: Duration::ZERO }));
        }
        assert_eq!(rung.load(Ordering::Relaxed), EVENT_CAPACITY + 1);
    }
}
