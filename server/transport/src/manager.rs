//! The session manager: who may come in, who waits, which sessions run, and how they end.
//!
//! Owns the table of sessions and the queue. What happens inside a session is the driver's business.

mod admission;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use duologue_session::barge_in::{BargeIn, BargeInConfig};
use duologue_session::{Conduct, ConfigError, CoreConfig, Mode};
use rand::Rng;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tracing::Span;

use crate::backend::{Backend, BackendError, BargeInMode, SessionRequest};
use crate::driver::spans;
use crate::driver::{
    COMMAND_CAPACITY, CloseCause, Driver, DriverLimits, DriverParts, EVENT_CAPACITY, Listener, Output, Sequenced,
    SessionCommand,
};
use crate::http::metrics;
use crate::pacer::Pace;
use crate::record::Recorder;

pub use admission::{Admission, Load, Refusal, TicketId, Waiting};
use table::{Entry, Table};
pub use table::{Limits, SessionId, SessionSummary};

/// How often a waiting client hears of its place.
pub const QUEUE_UPDATE_INTERVAL: Duration = Duration::from_secs(3);
/// Sessions that were told to end get so much longer for their last words.
const GOODBYES: Duration = Duration::from_secs(2);

/// Why a session could not be opened or found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagerError {
    /// No place, also not in the queue.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The backend says no.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A resume token that is unknown, or whose session is over.
    #[error("the session to resume is over or unknown; start a new one")]
    ResumeExpired,
    /// A session that is over, was never there, or is another key's; which of them is nobody's business.
    #[error("no session is named {id}; it may be over")]
    Unknown {
        /// The name.
        id: SessionId,
    },
    /// As many second programs hear the session as may.
    #[error("{limit} programs are attached to this session, which is its limit; close one first")]
    Crowded {
        /// How many may.
        limit: usize,
    },
}

/// Opens sessions on a backend and keeps count of them. Cheap to clone.
#[derive(Clone)]
pub struct SessionManager {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    limits: Limits,
    barge_in: BargeInConfig,
    state: Mutex<State>,
    /// Rung when the queue has moved.
    moved: watch::Sender<u64>,
}

struct State {
    admission: Admission,
    table: Table,
    /// Sessions per client key.
    per_key: HashMap<String, usize>,
    /// When the server stops, once that is decided.
    stops_at: Option<Instant>,
}

impl fmt::Debug for SessionManager {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SessionManager").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

/// A place at the door: admitted or in the queue. Dropping it leaves.
#[derive(Debug)]
pub struct Visitor {
    manager: SessionManager,
    ticket: Option<TicketId>,
    id: SessionId,
    key: String,
    moved: watch::Receiver<u64>,
}

/// What a session knows of the wire that it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// In traces.
    pub name: &'static str,
    /// How it wants speech; `None` as soon as it is made.
    pub pace: Option<Pace>,
}

/// A wire's hold on a session. Dropping it is a lost connection, not a close: the session waits for a resume.
#[derive(Debug)]
pub struct SessionLink {
    /// Name of the session.
    pub id: SessionId,
    /// What a client shows to come back.
    pub resume_token: String,
    /// To the session.
    pub commands: mpsc::Sender<SessionCommand>,
    /// From it.
    pub events: mpsc::Receiver<Sequenced>,
    /// Name of the recording that is made.
    pub recording: Option<String>,
    /// Whether its client has muted it, whatever connection it is on.
    pub muted: Arc<AtomicBool>,
}

/// A second program's hold on a session: it hears everything but the sound. Dropping it changes nothing for the session.
#[derive(Debug)]
pub struct Sideband {
    /// Name of the session.
    pub id: SessionId,
    /// How long it has run.
    pub age: Duration,
    /// To the session.
    pub commands: mpsc::Sender<SessionCommand>,
    /// From it, from now on. They end early for who does not read.
    pub events: mpsc::Receiver<Sequenced>,
    _place: OwnedSemaphorePermit,
}

impl SessionManager {
    /// A manager with no sessions.
    ///
    /// # Errors
    /// [`ConfigError`] naming the barge-in setting.
    pub fn new(backend: Arc<dyn Backend>, limits: Limits, barge_in: BargeInConfig) -> Result<Self, ConfigError> {
        barge_in.validate()?;
        let admission = Admission::new(backend.info().slots, limits.queue, limits.calm);
        let state = State { admission, table: Table::default(), per_key: HashMap::new(), stops_at: None };
        let moved = watch::Sender::new(0);
        Ok(Self { inner: Arc::new(Inner { backend, limits, barge_in, state: Mutex::new(state), moved }) })
    }

    /// What is served.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.inner.backend
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().expect("no code panics with the manager locked. This is a bug.")
    }

    fn ring(&self) {
        self.inner.moved.send_modify(|count| *count += 1);
    }

    /// Comes to the door. `key` is whom the session counts for (an API key's name, or an address).
    ///
    /// # Errors
    /// [`Refusal`] when the queue is full, the server drains, or the key has its share.
    pub fn enter(&self, key: &str) -> Result<Visitor, Refusal> {
        let mut state = self.state();
        let held = state.per_key.get(key).copied().unwrap_or(0);
        if held >= self.inner.limits.sessions_per_key {
            let refusal = Refusal::KeyLimit { sessions: self.inner.limits.sessions_per_key };
            metrics::session_refused(&refusal);
            return Err(refusal);
        }
        let ticket = state.admission.enter(Instant::now()).inspect_err(metrics::session_refused)?;
        metrics::queue_length(state.admission.load().waiting);
        *state.per_key.entry(key.to_owned()).or_default() += 1;
        drop(state);
        // Time may have opened places for those who wait.
        self.ring();
        let moved = self.inner.moved.subscribe();
        let id = SessionId::random();
        Ok(Visitor { manager: self.clone(), ticket: Some(ticket), id, key: key.to_owned(), moved })
    }

    fn leave(&self, ticket: TicketId, key: &str, session: Option<(SessionId, Duration)>) {
        let mut state = self.state();
        state.admission.leave(ticket, session.as_ref().map(|(_, length)| *length), Instant::now());
        metrics::queue_length(state.admission.load().waiting);
        if let Some((id, _)) = session {
            state.table.remove(&id);
        }
        if let Some(held) = state.per_key.get_mut(key) {
            *held -= 1;
            if *held == 0 {
                state.per_key.remove(key);
            }
        }
        drop(state);
        self.ring();
    }

    /// A session was not served in time: fewer places stay open.
    fn late(&self) {
        if let Some(open) = self.state().admission.late(Instant::now()) {
            tracing::warn!(open, "late: no new sessions beyond this number until the server keeps up again");
        }
    }

    /// Takes a running session over after a lost connection; `after` is the number of the last event handled.
    ///
    /// # Errors
    /// [`ManagerError::ResumeExpired`].
    pub async fn resume(&self, token: &str, after: Option<u64>, wire: Wire) -> Result<SessionLink, ManagerError> {
        let entry = self.state().table.by_token(token).ok_or(ManagerError::ResumeExpired)?;
        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let attach = SessionCommand::Attach { output: Output { events, pace: wire.pace }, after };
        entry.commands.send(attach).await.map_err(|_| ManagerError::ResumeExpired)?;
        let Entry { id, token, commands, recording, muted, .. } = entry;
        Ok(SessionLink { id, resume_token: token, commands, events: receiver, recording, muted })
    }

    /// Lets a second program hear a session of the same key.
    ///
    /// # Errors
    /// [`ManagerError::Unknown`], [`ManagerError::Crowded`].
    pub async fn attach(&self, id: &SessionId, key: &str) -> Result<Sideband, ManagerError> {
        let unknown = || ManagerError::Unknown { id: id.clone() };
        let entry = self.state().table.by_id(id).filter(|entry| entry.key == key).ok_or_else(unknown)?;
        let Entry { id, began, commands, sidebands, .. } = entry;
        let crowded = ManagerError::Crowded { limit: self.inner.limits.sidebands };
        let place = sidebands.try_acquire_owned().map_err(|_| crowded)?;
        let (observer, events) = mpsc::channel(EVENT_CAPACITY);
        commands.send(SessionCommand::Observe(observer)).await.map_err(|_| unknown())?;
        Ok(Sideband { id, age: began.elapsed(), commands, events, _place: place })
    }

    /// Sends a command to a session by its name (hang-up, kick).
    ///
    /// # Errors
    /// [`ManagerError::ResumeExpired`] when there is no such session.
    pub async fn command(&self, id: &SessionId, command: SessionCommand) -> Result<(), ManagerError> {
        let entry = self.state().table.by_id(id).ok_or(ManagerError::ResumeExpired)?;
        entry.commands.send(command).await.map_err(|_| ManagerError::ResumeExpired)
    }

    /// Running sessions, oldest first.
    pub fn sessions(&self) -> Vec<SessionSummary> {
        self.state().table.list()
    }

    /// How full the server is.
    pub fn load(&self) -> Load {
        self.state().admission.load()
    }

    /// How long a session lasts, by those so far.
    pub fn typical_session(&self) -> Duration {
        self.state().admission.typical()
    }

    /// Refuses new sessions, gives running ones `limit` to end, and waits until all are gone, at most a little longer.
    pub async fn drain(&self, limit: Duration) {
        let running = {
            let mut state = self.state();
            state.admission.drain();
            state.stops_at = Some(Instant::now() + limit);
            state.table.all()
        };
        self.ring();
        for entry in running {
            // A driver that is gone already needs no word.
            drop(entry.commands.send(SessionCommand::Drain(limit)).await);
        }
        let mut moved = self.inner.moved.subscribe();
        let gone = async { while self.load().busy > 0 && moved.changed().await.is_ok() {} };
        // Who had a place and opens no session keeps nobody waiting.
        drop(tokio::time::timeout(limit + GOODBYES, gone).await);
    }
}

impl Visitor {
    /// The place now: `None` when it is this visitor's turn.
    ///
    /// # Errors
    /// [`Refusal::Draining`] when the server began to stop meanwhile.
    pub fn place(&self) -> Result<Option<Waiting>, Refusal> {
        let ticket = self.ticket.expect("a visitor holds its ticket until it opens. This is a bug.");
        let mut state = self.manager.state();
        let waiting = state.admission.load().waiting;
        let place = state.admission.place(ticket, Instant::now());
        let moved = state.admission.load().waiting < waiting;
        metrics::queue_length(state.admission.load().waiting);
        drop(state);
        if moved {
            // Time has opened places; they are others' too.
            self.manager.ring();
        }
        place
    }

    /// Waits until it is this visitor's turn, the place changes, or [`QUEUE_UPDATE_INTERVAL`] is over.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub async fn wait(&mut self) -> Result<Option<Waiting>, Refusal> {
        let before = self.place()?;
        if before.is_none() {
            return Ok(None);
        }
        let until = Instant::now() + QUEUE_UPDATE_INTERVAL;
        loop {
            self.moved.borrow_and_update();
            let place = self.place()?;
            if place.as_ref().map(|place| place.position) != before.as_ref().map(|place| place.position) {
                return Ok(place);
            }
            tokio::select! {
                _ = self.moved.changed() => {}
                () = tokio::time::sleep_until(until) => return self.place(),
            }
        }
    }

    /// The name that the session will have.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Opens the session; to be called once [`Self::place`] says `None`.
    ///
    /// # Errors
    /// [`ManagerError::Backend`] when the backend refuses the wishes.
    pub fn open(
        mut self,
        request: &SessionRequest,
        wire: Wire,
        recorder: Option<Recorder>,
    ) -> Result<SessionLink, ManagerError> {
        let manager = self.manager.clone();
        let Inner { backend, limits, barge_in, .. } = &*manager.inner;
        let wake = Arc::new(Notify::new());
        let bell = wake.clone();
        let session = backend.open(request, Arc::new(move || bell.notify_one()))?;
        let rules =
            BargeIn::new(barge_in.clone()).expect("the manager's rules were checked at its start. This is a bug.");
        let listener = match request.barge_in {
            BargeInMode::Voice => backend.voice_detector().map(|detector| Listener::new(detector, rules)),
            BargeInMode::Model => None,
        };
        let info = backend.info();
        let mut reply_start = info.reply_start;
        let conduct = Conduct::from(request.mode);
        if !conduct.long_first_unit || request.schedule.is_some() {
            // All units have the same number of codes.
            reply_start.ahead = Duration::ZERO;
        }
        let mut core = CoreConfig::new(&info.duplex, info.output_rate_hz);
        core.cut_unheard = barge_in.cut_unheard && conduct.cut_unheard;
        let span = spans::session(&self.id, request.mode, wire.name, &info.name);
        let (commands, inbox) = mpsc::channel(COMMAND_CAPACITY);
        let recording = recorder.is_some().then(|| self.id.to_string());
        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let driver = Driver::new(DriverParts {
            session,
            wake,
            core,
            listener,
            reply_start,
            output: Output { events, pace: wire.pace },
            limits: DriverLimits {
                idle: limits.idle,
                session: limits.session,
                resume: limits.resume,
                pause: limits.pause,
            },
            recorder,
            span: span.clone(),
            late: Box::new({
                let manager = manager.clone();
                move || manager.late()
            }),
        });
        let entry = Entry {
            id: self.id.clone(),
            token: secret(),
            key: self.key.clone(),
            began: Instant::now(),
            commands: commands.clone(),
            sidebands: Arc::new(Semaphore::new(limits.sidebands.min(Semaphore::MAX_PERMITS))),
            recording,
            muted: Arc::default(),
        };
        let Entry { id, token: resume_token, recording, muted, .. } = entry.clone();
        let stops_at = {
            let mut state = manager.state();
            state.table.insert(entry);
            state.stops_at
        };
        if let Some(stops_at) = stops_at {
            // It had its place before the server began to stop.
            let left = stops_at.saturating_duration_since(Instant::now());
            commands.try_send(SessionCommand::Drain(left)).expect("its inbox is empty. This is a bug.");
        }
        let stay = Stay {
            manager: manager.clone(),
            ticket: self.ticket.take().expect("a visitor holds its ticket until it opens. This is a bug."),
            key: std::mem::take(&mut self.key),
            id: id.clone(),
            began: Instant::now(),
            mode: request.mode,
            cause: CloseCause::Failed("the session's task broke; see the log".into()),
            span,
        };
        metrics::session_opened(stay.mode);
        tokio::spawn(stay.run(driver, inbox));
        Ok(SessionLink { id, resume_token, commands, events: receiver, recording, muted })
    }
}

/// A running session's hold on its place. It is given back whatever ends the session's task, a panic too.
struct Stay {
    manager: SessionManager,
    ticket: TicketId,
    key: String,
    id: SessionId,
    began: Instant,
    mode: Mode,
    cause: CloseCause,
    span: Span,
}

impl Stay {
    async fn run(mut self, driver: Driver, inbox: mpsc::Receiver<SessionCommand>) {
        let (cause, stats) = driver.run(inbox).await;
        tracing::info!(session = %self.id, cause = cause.detail(), units = stats.units, "session over");
        self.cause = cause;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        metrics::session_closed(self.mode, &self.cause);
        spans::session_closed(&self.span, &self.cause);
        self.manager.leave(self.ticket, &self.key, Some((self.id.clone(), self.began.elapsed())));
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.manager.leave(ticket, &self.key, None);
        }
    }
}

/// 128 random bits in hexadecimal digits.
fn secret() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}
