//! The listener beside the model: feeds user audio to the voice detector, and what is being played to the barge-in rules.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use duologue_audio::level::{SILENCE_DBFS, rms_dbfs};
use duologue_session::barge_in::{Action, BargeIn, FrameEvidence, Playing, VoiceFrame};

use crate::backend::{BackendError, VoiceDetector};

/// Speech that was handed out, with the time at which it is played.
#[derive(Debug)]
struct Played {
    from: Duration,
    until: Duration,
    energy_dbfs: f32,
}

/// Voice detector and rules of one session.
pub struct Listener {
    detector: Box<dyn VoiceDetector>,
    rules: BargeIn,
    played: VecDeque<Played>,
    /// The reply that was played last, and when it began to sound.
    reply: Option<(u32, Duration)>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Listener").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Listener {
    /// A listener that has heard nothing.
    pub fn new(detector: Box<dyn VoiceDetector>, rules: BargeIn) -> Self {
        Self { detector, rules, played: VecDeque::new(), reply: None }
    }

    /// A packet of reply `turn` that will be heard from `from` to `until`.
    pub(super) fn plays(&mut self, turn: u32, from: Duration, until: Duration, samples: &[i16]) {
        if self.reply.is_none_or(|(playing, _)| playing != turn) {
            self.reply = Some((turn, from));
        }
        self.played.push_back(Played {
            from,
            until,
            energy_dbfs: rms_dbfs(samples.iter().map(|&sample| f32::from(sample) / 32768.0)),
        });
    }

    /// Playback stopped at `now`: what was handed out is not heard.
    pub(super) fn stopped(&mut self, now: Duration) {
        self.played.retain(|packet| packet.from <= now);
    }

    /// User audio that was complete at `now`. `speaking`: speech is being played, waits to be, or is held.
    ///
    /// # Errors
    /// When the detector's graph fails.
    pub(super) fn hear(&mut self, now: Duration, samples: &[f32], speaking: bool) -> Result<Vec<Action>, BackendError> {
        while self.played.front().is_some_and(|packet| packet.until < now) {
            self.played.pop_front();
        }
        let energy_dbfs =
            self.played.front().filter(|packet| packet.from <= now).map_or(SILENCE_DBFS, |p| p.energy_dbfs);
        let since = self.reply.filter(|_| speaking).map(|(_, since)| since);
        let playing = since.map(|since| Playing { since, energy_dbfs });
        let (rules, mut actions) = (&mut self.rules, Vec::new());
        self.detector.push(samples, &mut |frame: VoiceFrame| {
            actions.extend(rules.push(now, FrameEvidence { voice: frame, playing }));
        })?;
        Ok(actions)
    }

    /// How long a voice has lasted when it is noticed.
    pub(super) fn onset(&self) -> Duration {
        self.rules.onset()
    }

    /// When [`Self::tick`] is due.
    pub(super) fn due_at(&self) -> Option<Duration> {
        self.rules.timeout()
    }

    /// A hold ends although no audio comes.
    pub(super) fn tick(&mut self, now: Duration) -> Option<Action> {
        self.rules.tick(now)
    }
}
