//! What the engine tells a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
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

/// The engine's end of a session's event channel.
#[derive(Debug, Clone)]
pub(crate) struct EventSink {
    sender: Sender<EngineEvent>,
    behind: Arc<AtomicBool>,
}

/// The session's end.
#[derive(Debug)]
pub struct EventStream {
    receiver: Receiver<EngineEvent>,
    behind: Arc<AtomicBool>,
}

pub(crate) fn event_channel() -> (EventSink, EventStream) {
    let (sender, receiver) = bounded(EVENT_CAPACITY);
    let behind = Arc::new(AtomicBool::new(false));
    (EventSink { sender, behind: behind.clone() }, EventStream { receiver, behind })
}

impl EventSink {
    /// Never waits. A full channel marks the session as fallen behind; a closed one means nobody listens any more.
    pub fn send(&self, event: EngineEvent) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(event) {
            self.behind.store(true, Ordering::Release);
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
        self.check()?;
        self.receiver.recv().map_err(|_| EngineError::Stopped)
    }

    /// The next event if there is one; errors as [`EventStream::recv`].
    ///
    /// # Errors
    /// As [`EventStream::recv`].
    pub fn try_recv(&self) -> Result<Option<EngineEvent>, EngineError> {
        self.check()?;
        match self.receiver.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(EngineError::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_session_that_does_not_read_ends_and_the_sender_never_waits() {
        let event = || EngineEvent::Prepared(PreparedReport { kv_len: 1, took: Duration::ZERO });
        let (sink, stream) = event_channel();
        for _ in 0..EVENT_CAPACITY {
            sink.send(event());
        }
        assert!(stream.try_recv().is_ok());
        sink.send(event());
        sink.send(event());
        let error = stream.recv().unwrap_err();
        assert!(error.to_string().contains("64 events were not read"), "{error}");
    }
}
