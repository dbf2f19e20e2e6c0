//! What a voice, a button or a typed question does to the reply that sounds: playback is held, goes on, or is thrown away.

use std::time::Duration;

use duologue_session::barge_in::Action;
use duologue_session::{HeardUnit, Input};

use super::super::events::{FlushCause, SessionEvent};
use super::super::listener::Listener;
use super::{Driver, Still};

impl Driver {
    /// What the voice detector makes of user audio.
    pub(super) fn listen(&mut self, now: Duration, samples: &[f32]) {
        if self.still.paused {
            return;
        }
        let speaking = self.still.voice || self.pacer.playing(now).is_some();
        // Before the session is ready nothing can be interrupted, and the client hears of nothing.
        if let Some(listener) = self.listener.as_mut().filter(|_| self.prepared) {
            match listener.hear(now, samples, speaking) {
                Ok(actions) => actions.into_iter().for_each(|action| self.barge_in(action)),
                Err(error) => self.fail(&error),
            }
        }
    }

    pub(super) fn barge_in(&mut self, action: Action) {
        let now = self.now();
        // The reply that sounds: the next one may have begun already.
        let turn = self.pacer.playing(now).unwrap_or(self.turns.current());
        match action {
            Action::VoiceStart => {
                let onset = self.listener.as_ref().map_or(Duration::ZERO, Listener::onset);
                self.send(SessionEvent::Voice { speaking: true, at: now.saturating_sub(onset) });
            }
            Action::VoiceEnd => self.send(SessionEvent::Voice { speaking: false, at: now }),
            Action::Hold => {
                self.stand_still(|still| still.voice = true);
                self.send(SessionEvent::Hold { turn });
            }
            Action::Unhold => {
                self.stand_still(|still| still.voice = false);
                self.send(SessionEvent::Unhold { turn });
            }
            Action::Interrupt => self.interrupt(FlushCause::Voice),
        }
    }

    /// Stops what is said and what is still to be heard of it.
    pub(super) fn interrupt(&mut self, cause: FlushCause) {
        let now = self.now();
        self.flush_cause = cause;
        let speaking = self.core.speaking();
        if !speaking && self.pacer.playing(now).is_none() {
            if self.still.voice {
                // There is nothing to stop any more, but the client must not stand still for ever.
                self.barge_in(Action::Unhold);
            }
            return;
        }
        let heard = self.play_head.heard(self.pacer.still_at(now), self.pacer.unplayed(now));
        self.stopped_turn = self.play_head.place(heard).map(|(turn, _)| turn);
        if speaking {
            self.core.handle(now, Input::Interrupt);
        }
        self.core.handle(now, Input::Heard(heard));
        if !speaking {
            // The model has finished the reply, only its playback goes on.
            self.flush();
        }
        if self.still.voice {
            self.stand_still(|still| still.voice = false);
        }
    }

    pub(super) fn flush(&mut self) {
        let now = self.now();
        self.pacer.flush(now);
        self.play_head.stopped();
        self.still.voice = false;
        if self.still.any() {
            self.pacer.hold(now);
        }
        self.stopped(now);
        self.turns.interrupted();
        self.reply_ready_at = None;
        self.send(SessionEvent::Flush { turn: self.turns.current(), cause: self.flush_cause });
    }

    pub(super) fn truncated(&mut self, heard_samples: u64, units: Vec<HeardUnit>) {
        self.stopped_turn = None;
        if let Some((turn, heard)) = self.play_head.place(heard_samples) {
            let units = units.into_iter().map(|unit| (unit.cut.unit.0, unit.text)).collect();
            self.send(SessionEvent::Truncated { turn, heard, units });
        }
    }

    pub(super) fn stand_still(&mut self, change: impl FnOnce(&mut Still)) {
        let (now, was) = (self.now(), self.still.any());
        change(&mut self.still);
        match (was, self.still.any()) {
            (false, true) => {
                self.pacer.hold(now);
                self.metrics.stands_still();
                self.stopped(now);
            }
            (true, false) => self.pacer.unhold(now),
            _ => {}
        }
    }

    /// Playback stands still or is thrown away: what was handed out and not yet played is not heard.
    pub(super) fn stopped(&mut self, now: Duration) {
        if let Some(listener) = &mut self.listener {
            listener.stopped(now);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.stopped(now);
        }
    }
}
