//! The session core that a transport drives: input and time in, work and events out (str0m's contract).
//!
//! Owns the cutting of audio into units, the backlog, the turn fence, barge-in and the estimate of what the listener
//! has heard. Must not hold a clock, touch a socket, or know how a unit is computed.
//!
//! Contract: after every [`DuplexSession::handle`] call [`DuplexSession::poll`] until it returns
//! [`Output::Timeout`] or [`Output::Idle`]; at a timeout call `handle` with [`Input::Tick`]. A session is a value:
//! there is no reset, a new conversation is a new `DuplexSession`.
//!
//! One unit is in flight at a time; finished audio waits in the backlog. Overflow rule: when a unit completes and
//! [`CoreConfig::backlog_units`] are waiting, the oldest waiting unit goes, frames included, and
//! [`Event::UnitDropped`] says so. A pending forced listen and typed text are kept by the session, so they survive the drop.

mod backlog;
mod playout;
mod types;

use std::collections::VecDeque;
use std::time::Duration;

use backlog::{Backlog, ReadyUnit};
use playout::Playout;

pub use types::{
    CloseReason, CoreConfig, CoreStats, Event, FirstPart, Frame, Input, Output, PreparedReport, SpeechReport,
    SpeechTimings, TurnId, UnitId, UnitReport, UnitTimings, Work,
};

use crate::heard::{SpokenUnits, WordCut};

#[derive(Debug)]
struct InFlight {
    unit: UnitId,
    /// When its audio was complete: unit time counts from here.
    ready_at: Duration,
    deadline_reported: bool,
}

#[derive(Debug)]
enum State {
    /// The engine reads the prompt.
    Preparing,
    /// Units flow.
    Running(Option<InFlight>),
    /// Released; late reports are dropped.
    Closed,
}

/// One conversation.
#[derive(Debug)]
pub struct DuplexSession {
    config: CoreConfig,
    state: State,
    now: Duration,
    backlog: Backlog,
    playout: Playout,
    outputs: VecDeque<Output>,
    next_unit: UnitId,
    turn: TurnId,
    turn_open: bool,
    /// Units of the current fence that announced speech, minus those whose speech is complete. A unit's last piece
    /// may overtake its report, so it can be negative for a moment.
    speech_pending: i64,
    /// The unit in flight is spoken already, and more of its speech is to come.
    speaks_early: bool,
    force_listen: bool,
    /// Typed and not yet given to a unit.
    text: String,
    /// Speech was stopped and nothing of the new fence has come yet: nothing is left that could be stopped again.
    interrupted: bool,
    /// `None` when the history stays whole.
    spoken: Option<SpokenUnits>,
    /// Samples of all speech that were heard, while an interruption waits for the next unit.
    heard: Option<u64>,
    stats: CoreStats,
}

impl DuplexSession {
    /// A session that asks for [`Work::Prepare`] first. `now` is the driver's clock, any origin.
    pub fn new(config: CoreConfig, now: Duration) -> Self {
        assert!(config.unit_samples > 0 && config.backlog_units > 0, "empty units or backlog. This is a bug.");
        Self {
            state: State::Preparing,
            now,
            backlog: Backlog::new(&config),
            playout: Playout::new(config.output_rate_hz),
            outputs: VecDeque::from([Output::Work(Work::Prepare)]),
            next_unit: UnitId(0),
            turn: TurnId(0),
            turn_open: false,
            speech_pending: 0,
            speaks_early: false,
            force_listen: false,
            text: String::new(),
            interrupted: false,
            spoken: config.cut_unheard.then(SpokenUnits::default),
            heard: None,
            stats: CoreStats::default(),
            config,
        }
    }

    /// Takes one input at time `now`, which must not run backwards.
    pub fn handle(&mut self, now: Duration, input: Input) {
        assert!(now >= self.now, "time ran backwards from {:?} to {now:?}. This is a bug.", self.now);
        self.now = now;
        if matches!(self.state, State::Closed) {
            return;
        }
        self.check_clock();
        match input {
            Input::Tick => {}
            Input::Audio(samples) => self.take_audio(&samples),
            Input::Frame(frame) => {
                if self.backlog.push_frame(frame) {
                    self.stats.frames_dropped += 1;
                    self.event(Event::FrameDropped);
                }
            }
            Input::Text(text) => self.take_text(&text),
            Input::ForceListen => self.force_listen = true,
            Input::Interrupt => self.interrupt(),
            Input::Heard(samples) => self.stopped_at(samples),
            Input::Prepared(report) => self.prepared(report),
            Input::Unit(report) => self.unit_done(report),
            Input::Speech(report) => self.speech(report),
            Input::Failed(message) => self.close(CloseReason::Failed(message)),
            Input::Close => self.close(CloseReason::Requested),
        }
        self.dispatch();
    }

    /// The next thing to do; see the module's contract.
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let deadline = match &self.state {
            State::Running(Some(flight)) if !flight.deadline_reported => {
                Some(flight.ready_at + self.config.unit_deadline)
            }
            _ => None,
        };
        let next = [deadline, self.playout.ends_at()].into_iter().flatten().min();
        next.map_or(Output::Idle, Output::Timeout)
    }

    /// The current fence: results of older turns are stale.
    pub fn turn(&self) -> TurnId {
        self.turn
    }

    /// The model speaks, is about to, or its speech is still being played (by the clock, not by the client's word).
    /// Speech that was interrupted does not count, although its turn stays open until the forced listen closes it.
    pub fn speaking(&self) -> bool {
        (self.goes_on() || self.playout.ends_at().is_some()) && !self.interrupted
    }

    /// More speech will come, by all that is known.
    fn goes_on(&self) -> bool {
        self.turn_open || self.speech_pending != 0 || self.speaks_early
    }

    /// When the audio of `unit` was complete, while that unit is being computed.
    pub fn ready_at(&self, unit: UnitId) -> Option<Duration> {
        match &self.state {
            State::Running(Some(flight)) if flight.unit == unit => Some(flight.ready_at),
            _ => None,
        }
    }

    /// Counters since the session began.
    pub fn stats(&self) -> CoreStats {
        self.stats
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn work(&mut self, work: Work) {
        self.outputs.push_back(Output::Work(work));
    }

    fn take_audio(&mut self, mut samples: &[f32]) {
        while !samples.is_empty() {
            let (rest, dropped) = self.backlog.push_audio(self.now, samples);
            samples = rest;
            if dropped {
                self.stats.units_dropped += 1;
                self.event(Event::UnitDropped);
            }
            // A free engine takes a unit before the rest of a long push can drop it.
            self.dispatch();
        }
    }

    fn take_text(&mut self, text: &str) {
        self.interrupt();
        if self.text.len() + text.len() >= self.config.text_bytes {
            self.event(Event::TextDropped);
            return;
        }
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(text);
    }

    /// Barge-in. Nothing to stop is not an error: the voice detector fires on every word of the user, and a forced
    /// listen would then delay the answer by a unit. So would a second fence before the first one's listen is done,
    /// which would also make that listen stale.
    fn interrupt(&mut self) {
        if !self.speaking() {
            return;
        }
        self.stats.interrupts += 1;
        self.turn.0 += 1;
        self.speech_pending = 0;
        self.speaks_early = false;
        self.force_listen = true;
        self.interrupted = true;
        let unplayed_samples = self.playout.flush(self.now);
        let made = self.spoken.as_ref().map_or(0, SpokenUnits::made);
        self.stopped_at(made.saturating_sub(unplayed_samples));
        self.work(Work::Fence { turn: self.turn });
        self.event(Event::Flush { turn: self.turn, unplayed_samples });
    }

    /// Nothing after the first `samples` samples of what was said so far will be heard.
    fn stopped_at(&mut self, samples: u64) {
        let Some(spoken) = &mut self.spoken else { return };
        // A later word of the same stop must not reach what is said after it.
        if self.heard.is_none() {
            spoken.stop();
        }
        self.heard = Some(samples.min(spoken.made()));
    }

    fn prepared(&mut self, report: PreparedReport) {
        assert!(matches!(self.state, State::Preparing), "prepared twice. This is a bug.");
        self.state = State::Running(None);
        self.event(Event::Ready(report));
    }

    fn unit_done(&mut self, report: Box<UnitReport>) {
        let State::Running(in_flight) = &mut self.state else {
            panic!("a unit's report before the session was prepared. This is a bug.");
        };
        let flight = in_flight.take().expect("a unit's report with no unit in flight. This is a bug.");
        assert_eq!(flight.unit, report.unit, "the report of another unit. This is a bug.");
        assert!(report.turn <= self.turn, "a report from a turn to come. This is a bug.");
        self.stats.units += 1;
        self.turn_open = report.end.turn_open;
        self.speaks_early = false;
        let stale = report.turn < self.turn;
        if !stale {
            self.interrupted = false;
            self.speech_pending += i64::from(report.end.speaks());
        }
        if let Some(spoken) = &mut self.spoken {
            spoken.unit(&report, stale);
        }
        let unit_time = self.now - flight.ready_at;
        self.event(Event::Unit { report, unit_time, stale });
    }

    fn speech(&mut self, report: SpeechReport) {
        assert!(report.unit < self.next_unit, "speech of a unit to come. This is a bug.");
        assert!(report.turn <= self.turn, "speech from a turn to come. This is a bug.");
        if report.turn < self.turn {
            self.stats.stale_samples += report.samples.len() as u64;
            return;
        }
        self.interrupted = false;
        if report.done {
            self.speech_pending -= 1;
        }
        if self.ready_at(report.unit).is_some() {
            self.speaks_early = !report.done;
        }
        self.playout.add(self.now, report.samples.len());
        if let Some(spoken) = &mut self.spoken {
            spoken.speech(&report);
        }
        self.event(Event::Speech(report));
    }

    fn close(&mut self, reason: CloseReason) {
        self.state = State::Closed;
        self.playout.flush(self.now);
        self.work(Work::Release);
        self.event(Event::Closed(reason));
    }

    /// Time-driven events: the unit's deadline and the end of playback.
    fn check_clock(&mut self) {
        if let State::Running(Some(flight)) = &mut self.state
            && !flight.deadline_reported
            && self.now >= flight.ready_at + self.config.unit_deadline
        {
            flight.deadline_reported = true;
            let unit = flight.unit;
            self.stats.deadlines_missed += 1;
            self.event(Event::DeadlineMissed { unit });
        }
        if self.playout.ended(self.now) {
            let gap = self.goes_on();
            self.stats.gaps += u64::from(gap);
            self.event(Event::PlayoutEnded { gap });
        }
    }

    /// Hands the oldest waiting unit to the engine when it is free.
    fn dispatch(&mut self) {
        let State::Running(in_flight @ None) = &mut self.state else { return };
        let Some(ReadyUnit { audio, frames, ready_at }) = self.backlog.pop() else { return };
        let unit = self.next_unit;
        self.next_unit.0 += 1;
        *in_flight = Some(InFlight { unit, ready_at, deadline_reported: false });
        let force_listen = std::mem::take(&mut self.force_listen);
        // A unit that must listen could not answer it.
        let text = if force_listen { String::new() } else { std::mem::take(&mut self.text) };
        let cuts = self.settle_heard();
        self.work(Work::Unit { unit, turn: self.turn, audio, frames, text, force_listen, cuts, ready_at });
    }

    /// An interruption comes to its end: what was not heard shall be forgotten.
    fn settle_heard(&mut self) -> Vec<WordCut> {
        let (Some(spoken), Some(heard_samples)) = (&mut self.spoken, self.heard.take()) else { return Vec::new() };
        let units = spoken.take_unheard(heard_samples);
        let cuts = units.iter().map(|unit| unit.cut).collect();
        self.event(Event::Truncated { heard_samples, units });
        cuts
    }
}

#[cfg(test)]
mod tests;
