//! The task itself: waits for commands, answers of the backend and the clock, and keeps the session core, the pacer and
//! the link in step.

mod interruption;

use std::sync::Arc;
use std::time::Duration;

use duologue_session::{CloseReason, CoreStats, DuplexSession, Event, Input, Output as CoreOutput, UnitReport};
use duologue_session::{SpeechReport, Work};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::events::{CloseCause, FlushCause, SessionCommand, SessionEvent, SpeechEvent, UnitEvent};
use super::link::{Link, LinkError};
use super::listener::Listener;
use super::parts::{DriverLimits, DriverParts};
use super::play_head::PlayHead;
use super::spans::SessionSpans;
use super::turns::Turns;
use crate::backend::{BackendError, BackendSession};
use crate::http::metrics::SessionMetrics;
use crate::pacer::Pacer;
use crate::record::Recorder;

/// A reply that pauses for so long was made too late.
const AUDIBLE_GAP: Duration = Duration::from_millis(100);

/// How often a session asks its backend whether it still lives: one that has died rings no bell.
const LIFE_SIGN: Duration = Duration::from_secs(1);

/// What ended a wait.
enum Happened {
    Answer,
    Command(Option<SessionCommand>),
    LinkGone,
    Due,
}

/// Why playback stands still; it goes on when no reason is left.
#[derive(Debug, Clone, Copy, Default)]
struct Still {
    voice: bool,
    paused: bool,
    detached: bool,
}

impl Still {
    fn any(&self) -> bool {
        self.voice || self.paused || self.detached
    }
}

/// One session's task.
pub struct Driver {
    core: DuplexSession,
    session: Box<dyn BackendSession>,
    wake: Arc<Notify>,
    listener: Option<Listener>,
    pacer: Pacer,
    play_head: PlayHead,
    /// The reply that was stopped, until it is settled how much of it was heard.
    stopped_turn: Option<u32>,
    link: Link,
    turns: Turns,
    limits: DriverLimits,
    output_rate_hz: u32,
    began: Instant,
    clock: Duration,
    still: Still,
    detached_at: Duration,
    prepared: bool,
    /// When the next turn of the core's clock is due.
    core_due: Option<Duration>,
    last_audio: Duration,
    pause_ends: Option<Duration>,
    drain_ends: Option<Duration>,
    flush_cause: FlushCause,
    /// When the audio of the unit in which the current reply began was complete.
    reply_ready_at: Option<Duration>,
    late_unit: Option<u32>,
    /// The unit that the backend has, and since when.
    dispatched: Option<(u32, Duration)>,
    unit_deadline: Duration,
    late: Box<dyn Fn() + Send>,
    recorder: Option<Recorder>,
    closed: Option<CloseCause>,
    metrics: SessionMetrics,
    spans: SessionSpans,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Driver").field("core", &self.core).field("turns", &self.turns).finish_non_exhaustive()
    }
}

impl Driver {
    /// A session whose clock starts now.
    pub fn new(parts: DriverParts) -> Self {
        let DriverParts { session, wake, core, listener, reply_start, output, limits, recorder, span, late } = parts;
        Self {
            core: DuplexSession::new(core, Duration::ZERO),
            session,
            wake,
            listener,
            pacer: Pacer::new(output.pace, core.output_rate_hz, reply_start),
            play_head: PlayHead::new(core.output_rate_hz),
            stopped_turn: None,
            link: Link::new(output.events),
            turns: Turns::default(),
            limits,
            output_rate_hz: core.output_rate_hz,
            began: Instant::now(),
            clock: Duration::ZERO,
            still: Still::default(),
            detached_at: Duration::ZERO,
            prepared: false,
            core_due: None,
            last_audio: Duration::ZERO,
            pause_ends: None,
            drain_ends: None,
            flush_cause: FlushCause::Client,
            reply_ready_at: None,
            late_unit: None,
            dispatched: None,
            unit_deadline: core.unit_deadline,
            late,
            recorder,
            closed: None,
            metrics: SessionMetrics::new(core.unit_deadline.as_secs_f64(), core.output_rate_hz),
            spans: SessionSpans::new(span),
        }
    }

    /// Runs the session to its end. It ends by a command, a limit, or when all senders of commands are gone.
    pub async fn run(mut self, mut commands: mpsc::Receiver<SessionCommand>) -> (CloseCause, CoreStats) {
        self.pump();
        loop {
            if let Some(cause) = self.closed.take() {
                return (cause, self.core.stats());
            }
            let due = self.next_due();
            let wake = self.wake.clone();
            let happened = tokio::select! {
                biased;
                () = wake.notified() => Happened::Answer,
                command = commands.recv() => Happened::Command(command),
                () = self.link.gone() => Happened::LinkGone,
                () = sleep_until(self.began + due) => Happened::Due,
            };
            self.clock = self.began.elapsed();
            match happened {
                Happened::Answer => self.take_answers(),
                Happened::Command(Some(command)) => self.command(command),
                Happened::Command(None) => self.close(CloseCause::ConnectionLost),
                Happened::LinkGone => self.detach(),
                Happened::Due => self.tick(),
            }
            self.pump();
        }
    }

    /// When what is being handled happened. It moves only between two of them, so that all of one has one time.
    fn now(&self) -> Duration {
        self.clock
    }

    /// The earliest time at which something has to happen by itself.
    fn next_due(&self) -> Duration {
        let turn_end =
            (self.turns.made() && self.pacer.is_empty() && !self.still.any()).then(|| self.pacer.played_at());
        let idle =
            (self.prepared && !self.still.paused && !self.still.detached).then(|| self.last_audio + self.limits.idle);
        let detached = self.still.detached.then(|| self.detached_at + self.limits.resume);
        let listener = self.listener.as_ref().and_then(Listener::due_at);
        [self.core_due, listener, self.pacer.due_at(), turn_end, idle, detached, self.pause_ends, self.drain_ends]
            .into_iter()
            .flatten()
            .fold(self.limits.session.min(self.now() + LIFE_SIGN), Duration::min)
    }

    fn tick(&mut self) {
        let now = self.now();
        let over = |limit: Option<Duration>| limit.is_some_and(|limit| now >= limit);
        if now >= self.limits.session {
            self.close(CloseCause::MaxDuration);
        } else if over(self.drain_ends) {
            self.close(CloseCause::Draining);
        } else if over(self.pause_ends) {
            self.close(CloseCause::PauseTimeout);
        } else if self.still.detached && now >= self.detached_at + self.limits.resume {
            self.close(CloseCause::ConnectionLost);
        } else if self.prepared
            && !self.still.paused
            && !self.still.detached
            && now >= self.last_audio + self.limits.idle
        {
            self.close(CloseCause::Idle);
        } else {
            if let Some(action) = self.listener.as_mut().and_then(|listener| listener.tick(now)) {
                self.barge_in(action);
            }
            self.core.handle(now, Input::Tick);
            self.take_answers();
        }
    }

    fn take_answers(&mut self) {
        loop {
            match self.session.next_input() {
                Ok(Some(input)) => {
                    self.core.handle(self.now(), input);
                    // A report frees the engine for the next unit: hand it over before reading on.
                    self.pump();
                }
                Ok(None) => return,
                Err(error) => return self.fail(&error),
            }
        }
    }

    fn command(&mut self, command: SessionCommand) {
        let now = self.now();
        match command {
            SessionCommand::Audio(samples) => {
                self.last_audio = now;
                self.listen(now, &samples);
                self.audio(now, samples);
            }
            SessionCommand::Arrived(samples) => {
                self.last_audio = now;
                self.listen(now, &samples);
            }
            // The jitter buffer makes silence for a client that sends nothing: that is no sign of life.
            SessionCommand::Due(samples) => self.audio(now, samples),
            SessionCommand::Frame(frame) => self.core.handle(now, Input::Frame(frame)),
            SessionCommand::Text(text) => {
                self.last_audio = now;
                self.interrupt(FlushCause::Client);
                self.core.handle(now, Input::Text(text));
            }
            SessionCommand::ForceListen => self.core.handle(now, Input::ForceListen),
            SessionCommand::Interrupt => self.interrupt(FlushCause::Client),
            SessionCommand::Playback { turn, played } => {
                let heard = self.play_head.reported(now, turn, played);
                if let Some(heard) = heard.filter(|_| self.stopped_turn == Some(turn)) {
                    self.core.handle(now, Input::Heard(heard));
                }
            }
            SessionCommand::Pause(timeout) => {
                let timeout = timeout.min(self.limits.pause);
                self.pause_ends = Some(now + timeout);
                self.stand_still(|still| still.paused = true);
                self.send(SessionEvent::Paused { timeout });
            }
            SessionCommand::Resume => {
                self.pause_ends = None;
                self.last_audio = now;
                self.stand_still(|still| still.paused = false);
                self.send(SessionEvent::Resumed);
            }
            SessionCommand::Attach { output, after } => match self.link.attach(&output, after, &self.play_head) {
                Ok(repeated) => {
                    self.pacer.repeats(now, repeated);
                    self.pacer.set_pace(output.pace);
                    self.last_audio = now;
                    self.stand_still(|still| still.detached = false);
                }
                // The client sees its channel end; what it missed is gone.
                Err(LinkError::Forgotten | LinkError::Full) => drop(output),
            },
            SessionCommand::Observe(events) => self.link.observe(events),
            SessionCommand::Drain(limit) => {
                self.drain_ends = Some(now + limit);
                self.send(SessionEvent::Draining(limit));
            }
            SessionCommand::Close(cause) => self.close(cause),
        }
    }

    /// What the model and the recording make of user audio.
    fn audio(&mut self, now: Duration, samples: Vec<f32>) {
        if self.still.paused {
            return;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.user(now, &samples);
        }
        self.core.handle(now, Input::Audio(samples));
    }

    fn detach(&mut self) {
        self.link.detach();
        self.detached_at = self.now();
        self.stand_still(|still| still.detached = true);
    }

    /// Runs the core until it waits, then hands out what is due.
    fn pump(&mut self) {
        while self.closed.is_none() {
            match self.core.poll() {
                CoreOutput::Work(Work::Release) => {}
                CoreOutput::Work(work) => {
                    self.spans.work(&work);
                    if let Work::Unit { unit, .. } = &work {
                        self.dispatched = Some((unit.0, self.now()));
                    }
                    let clock_zero = self.began.into_std();
                    if let Err(error) = self.session.perform(work, clock_zero) {
                        self.fail(&error);
                    }
                }
                CoreOutput::Event(event) => self.event(event),
                CoreOutput::Timeout(at) => {
                    self.core_due = Some(at);
                    break;
                }
                CoreOutput::Idle => {
                    self.core_due = None;
                    break;
                }
            }
        }
        self.play();
    }

    fn play(&mut self) {
        let now = self.now();
        if self.turns.made() {
            self.pacer.complete();
        }
        while self.closed.is_none()
            && let Some(packet) = self.pacer.poll(now)
        {
            if self.metrics.audio(&packet, self.pacer.played_at()) >= AUDIBLE_GAP {
                (self.late)();
            }
            let until = self.pacer.played_at();
            let length = Duration::from_secs_f64(packet.samples.len() as f64 / f64::from(self.output_rate_hz));
            let from = until.saturating_sub(length);
            if let Some(listener) = &mut self.listener {
                listener.plays(packet.turn, from, until, &packet.samples);
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.reply(from, &packet.samples);
            }
            self.play_head.sent(packet.turn, packet.start + packet.samples.len() as u64);
            self.send(SessionEvent::Audio { turn: packet.turn, start: packet.start, samples: packet.samples });
        }
        if self.turns.made() && self.pacer.is_empty() && !self.still.any() && self.pacer.played_at() <= now {
            let turn = self.turns.next();
            self.reply_ready_at = None;
            self.send(SessionEvent::TurnDone { turn });
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready(report) => {
                self.prepared = true;
                self.last_audio = self.now();
                self.send(SessionEvent::Ready(report));
            }
            Event::Unit { report, unit_time, stale } => self.unit(&report, unit_time, stale),
            Event::Speech(report) => self.speech(report),
            Event::Flush { .. } => self.flush(),
            Event::Truncated { heard_samples, units } => self.truncated(heard_samples, units),
            Event::UnitDropped => self.send(SessionEvent::UnitDropped),
            Event::FrameDropped => self.send(SessionEvent::FrameDropped),
            Event::TextDropped => self.send(SessionEvent::TextDropped),
            Event::DeadlineMissed { unit } => self.late_unit = Some(unit.0),
            // The pacer knows better when playback ends: it is told of pauses.
            Event::PlayoutEnded { .. } => {}
            Event::Closed(CloseReason::Failed(message)) => self.end(CloseCause::Failed(message)),
            Event::Closed(CloseReason::Requested) => {}
        }
    }

    fn unit(&mut self, report: &UnitReport, unit_time: Duration, stale: bool) {
        let (unit, end) = (report.unit.0, &report.end);
        let ready_at = self.now().saturating_sub(unit_time);
        if self.turns.is_ahead(unit) {
            if !stale {
                self.turns.unit_ahead(unit, end, ready_at);
            }
        } else {
            if !stale {
                if end.speaks() {
                    self.next_reply_if_over(unit);
                    self.begin_reply(unit, ready_at);
                }
                self.turns.unit(unit, end);
            }
        }
        let deadline_missed = self.late_unit.take_if(|late| *late == unit).is_some();
        // Not by its deadline: that of a unit which came in a burst of audio has begun before the backend had it.
        let dispatched = self.dispatched.take_if(|(dispatched, _)| *dispatched == unit);
        if dispatched.is_some_and(|(_, at)| self.now().saturating_sub(at) >= self.unit_deadline) {
            (self.late)();
        }
        self.send(SessionEvent::Unit(Arc::new(UnitEvent {
            unit,
            turn: self.turns.of_unit(unit),
            speaks: end.speaks() && !stale,
            is_listen: end.is_listen,
            end_of_turn: end.end_of_turn,
            text: end.text.clone(),
            stale,
            ready_at,
            unit_time,
            deadline_missed,
            timings: report.timings,
            tokens: end.tokens.len(),
            kv_tokens: report.kv_final,
            vision_slices: report.vision_slices,
            vision_tokens: report.vision_tokens,
        })));
    }

    fn speech(&mut self, report: SpeechReport) {
        let unit = report.unit.0;
        self.next_reply_if_over(unit);
        // The first words of a unit may be heard before its report; after the report the reply has begun already, unless it
        // was decided ahead of the speech of the one before.
        if let Some(ready_at) = self.core.ready_at(report.unit).or(self.turns.decided_ahead_at()) {
            self.begin_reply(unit, ready_at);
        }
        let start = self.turns.speech(report.samples.len(), report.done);
        let turn = self.turns.current();
        let first = start == 0 && !report.samples.is_empty();
        let ttfb = self.reply_ready_at.filter(|_| first).map(|ready_at| self.now().saturating_sub(ready_at));
        self.send(SessionEvent::Speech(SpeechEvent {
            unit,
            turn,
            start,
            samples: report.samples.len(),
            audio_tokens: report.codes.len(),
            done: report.done,
            ttfb,
            timings: report.timings,
        }));
        self.play_head.made(report.samples.len());
        self.pacer.push(self.now(), turn, start, report.samples, ttfb.unwrap_or_default());
    }

    /// A unit of the next reply has come while the current one, all made, is still being played.
    fn next_reply_if_over(&mut self, unit: u32) {
        if self.turns.of_unit(unit) != self.turns.current() {
            let turn = self.turns.next();
            self.reply_ready_at = None;
            self.send(SessionEvent::TurnDone { turn });
        }
    }

    fn begin_reply(&mut self, unit: u32, ready_at: Duration) {
        if self.turns.begin() {
            tracing::debug!(unit, turn = self.turns.current(), "reply begins");
            self.reply_ready_at = Some(ready_at);
            self.play_head.begin(self.turns.current());
            self.send(SessionEvent::TurnBegan { turn: self.turns.current() });
        }
    }

    fn fail(&mut self, error: &BackendError) {
        self.core.handle(self.now(), Input::Failed(error.to_string()));
    }

    fn close(&mut self, cause: CloseCause) {
        self.core.handle(self.now(), Input::Close);
        self.end(cause);
    }

    fn end(&mut self, cause: CloseCause) {
        if self.closed.is_none() {
            self.send(SessionEvent::Closed(cause.clone()));
            self.closed.get_or_insert(cause);
        }
    }

    fn send(&mut self, event: SessionEvent) {
        if let Some(recorder) = &mut self.recorder {
            recorder.event(self.clock, &event);
        }
        self.metrics.event(self.now(), &event);
        self.spans.event(&event);
        if self.link.send(event).is_err() && self.closed.is_none() {
            self.closed = Some(CloseCause::SlowClient);
            self.core.handle(self.now(), Input::Close);
            // The client's own line is full; second programs and the recording are told.
            self.send(SessionEvent::Closed(CloseCause::SlowClient));
        }
    }
}
