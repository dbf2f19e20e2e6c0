//! Barge-in: from the voice detector's frames to orders for playback.
//!
//! Owns: when the user's voice pauses the agent's, when it stops it, and when it was only a cough or an echo. Must not:
//! run the detector, hold a clock, or touch sound.
//!
//! ```text
//!            voice for hold_ms            voice for confirm_ms in all
//! Speaking -------------------> Held ----------------------------------> Interrupted (until the agent's next speech)
//!     ^                           |
//!     +---------------------------+  no voice for release_ms, or confirm_ms + release_ms have passed
//! ```
//!
//! Contract: [`BargeIn::push`] once per frame of [`FRAME`] of the user's sound, whether the agent speaks or not; when
//! [`BargeIn::timeout`] passes, [`BargeIn::tick`], so that a hold ends although no sound comes any more.
//!
//! A hold tells an echo from a voice as well: playback is paused, so an echo dies out after the loop's delay, and only a
//! person goes on.

mod config;
mod echo;
mod run;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use config::BargeInConfig;
use echo::EchoGuard;
use run::{Change, Run, Sound};

/// Length of a detector frame: 512 samples at 16 kHz (Silero VAD v5 and later).
pub const FRAME: Duration = Duration::from_millis(FRAME_MS as u64);
const FRAME_MS: u32 = 32;

/// What the voice detector says about one frame of the user's sound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoiceFrame {
    /// Probability that somebody speaks, 0 to 1.
    pub probability: f32,
    /// Root mean square level in dB relative to full scale.
    pub energy_dbfs: f32,
}

/// What of the agent's speech is being played while a frame of the user's sound arrives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Playing {
    /// When this speech began, on the driver's clock. Another value means another speech: the grace window begins again
    /// and the user's voice counts from zero.
    pub since: Duration,
    /// Root mean square level of what was sent for playing during this frame, in dB relative to full scale; very low in
    /// the pauses between words and while held.
    pub energy_dbfs: f32,
}

/// Everything known about one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameEvidence {
    /// The user's side.
    pub voice: VoiceFrame,
    /// The agent's side; `None` when no speech is playing, waiting to be played, or held.
    pub playing: Option<Playing>,
}

/// What to do now, or what has been noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// For information: the user's voice began.
    VoiceStart,
    /// For information: the user's voice ended.
    VoiceEnd,
    /// Pause playback and keep what is left of it.
    Hold,
    /// Go on with what was held.
    Unhold,
    /// The user wants the floor: throw away what was held. Comes only after [`Action::Hold`].
    Interrupt,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// The agent has nothing to say.
    Silent,
    /// The agent speaks since this time.
    Speaking(Duration),
    /// Its speech is paused.
    Held { since: Duration, until: Duration },
    /// Its speech was stopped; frames may go on naming it until the driver has caught up.
    Interrupted(Duration),
}

/// The rules for one session.
#[derive(Debug)]
pub struct BargeIn {
    config: BargeInConfig,
    now: Duration,
    phase: Phase,
    echo: EchoGuard,
    /// The user's voice, whatever the agent does.
    voice: Run,
    /// The user's voice against the speech that is playing: what was said before that speech began does not count.
    claim: Run,
    /// Highest return of the frames that made the claim, in dB: what to learn if it turns out to be no interruption.
    claim_return_db: f32,
}

impl BargeIn {
    /// # Errors
    /// [`crate::ConfigError`] naming the setting.
    pub fn new(config: BargeInConfig) -> Result<Self, crate::ConfigError> {
        config.validate()?;
        Ok(Self {
            now: Duration::ZERO,
            phase: Phase::Silent,
            echo: EchoGuard::new(config.echo_return_db, frames(config.echo_memory_ms)),
            voice: Run::default(),
            claim: Run::default(),
            claim_return_db: f32::NEG_INFINITY,
            config,
        })
    }

    /// Takes the frame that was complete at `now`, which must not run backwards. At most one piece of information and
    /// one order for playback come out, in this order.
    pub fn push(&mut self, now: Duration, evidence: FrameEvidence) -> impl Iterator<Item = Action> + use<> {
        self.advance(now);
        let FrameEvidence { voice, playing } = evidence;
        assert!(
            (0.0..=1.0).contains(&voice.probability) && !voice.energy_dbfs.is_nan(),
            "{voice:?} is no frame of a voice detector. This is a bug."
        );
        self.echo.played(playing.map(|playing| playing.energy_dbfs));
        let sound = self.classify(voice, playing);
        let (hold, release) = (frames(self.config.hold_ms), frames(self.config.release_ms));
        let noticed = match self.voice.push(sound, voice.energy_dbfs, hold, release) {
            Change::Began => Some(Action::VoiceStart),
            Change::Ended => Some(Action::VoiceEnd),
            Change::None => None,
        };
        let order = self.follow(playing).or_else(|| self.judge(sound, voice.energy_dbfs));
        [noticed, order].into_iter().flatten()
    }

    /// How long a voice has lasted when it is noticed.
    pub fn onset(&self) -> Duration {
        Duration::from_millis(u64::from(frames(self.config.hold_ms) * FRAME_MS))
    }

    /// Ends a hold whose time is over although no frame said how it ended.
    pub fn tick(&mut self, now: Duration) -> Option<Action> {
        self.advance(now);
        match self.phase {
            Phase::Held { until, .. } if now >= until => Some(self.unhold()),
            _ => None,
        }
    }

    /// When to call [`BargeIn::tick`]; `None` while nothing is held.
    pub fn timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Held { until, .. } => Some(until),
            _ => None,
        }
    }

    /// How loud the echo of what is played is expected in the user's sound, in dB relative to what is played.
    pub fn echo_return_db(&self) -> f32 {
        self.echo.return_db()
    }

    fn advance(&mut self, now: Duration) {
        assert!(now >= self.now, "time ran backwards from {:?} to {now:?}. This is a bug.", self.now);
        self.now = now;
    }

    fn in_grace(&self, since: Duration) -> bool {
        self.now < since + Duration::from_millis(u64::from(self.config.grace_ms))
    }

    fn classify(&self, voice: VoiceFrame, playing: Option<Playing>) -> Sound {
        let config = &self.config;
        let (mut probability, mut margin_db) = (config.start_probability, config.echo_margin_db);
        if playing.is_some_and(|playing| self.in_grace(playing.since)) {
            probability = config.grace_probability;
            margin_db += config.grace_margin_db;
        }
        let over_echo_db = voice.energy_dbfs - self.echo.level_dbfs();
        if voice.probability >= probability && over_echo_db >= margin_db {
            Sound::Voice
        } else if voice.probability >= config.end_probability && over_echo_db >= 0.0 {
            Sound::Unsure
        } else {
            Sound::Silence
        }
    }

    /// Follows the agent: its speech begins, is replaced, ends.
    fn follow(&mut self, playing: Option<Playing>) -> Option<Action> {
        match (self.phase, playing.map(|playing| playing.since)) {
            (Phase::Held { .. }, None) => {
                // Somebody else threw the speech away.
                let order = self.unhold();
                self.phase = Phase::Silent;
                Some(order)
            }
            (_, None) => {
                self.phase = Phase::Silent;
                None
            }
            (Phase::Speaking(since) | Phase::Held { since, .. } | Phase::Interrupted(since), Some(new))
                if since == new =>
            {
                None
            }
            (phase, Some(new)) => {
                let order = matches!(phase, Phase::Held { .. }).then(|| self.unhold());
                self.phase = Phase::Speaking(new);
                self.claim = Run::default();
                order
            }
        }
    }

    /// Weighs the frame against the speech that is playing.
    fn judge(&mut self, sound: Sound, energy_dbfs: f32) -> Option<Action> {
        let config = &self.config;
        let (hold, release) = (frames(config.hold_ms), frames(config.release_ms));
        match self.phase {
            Phase::Silent | Phase::Interrupted(_) => None,
            Phase::Speaking(since) => {
                let change = self.claim.push(sound, energy_dbfs, hold, release);
                if !self.claim.running() {
                    self.claim_return_db = f32::NEG_INFINITY;
                    // What is turned down only because the speech has just begun may be a voice: taken for echo, it would
                    // hide the rest of itself.
                    if sound == Sound::Silence || !self.in_grace(since) {
                        self.echo.learn(energy_dbfs);
                    }
                } else {
                    self.echo.forget_heard();
                    if sound == Sound::Voice {
                        self.claim_return_db = self.claim_return_db.max(self.echo.return_of(energy_dbfs));
                    }
                }
                if change != Change::Began {
                    return None;
                }
                self.phase = Phase::Held { since, until: self.now + config.longest_hold() };
                Some(Action::Hold)
            }
            Phase::Held { since, until } => {
                let change = self.claim.push(sound, energy_dbfs, hold, release);
                if self.claim.voiced() >= frames(config.confirm_ms) {
                    self.phase = Phase::Interrupted(since);
                    return Some(Action::Interrupt);
                }
                (change == Change::Ended || self.now >= until).then(|| self.unhold())
            }
        }
    }

    /// Playback goes on. What looked like a voice may have been the echo, so the guard rises a little.
    fn unhold(&mut self) -> Action {
        let Phase::Held { since, .. } = self.phase else { panic!("nothing is held. This is a bug.") };
        self.phase = Phase::Speaking(since);
        self.claim = Run::default();
        self.echo.suspect(self.claim_return_db, self.config.echo_lesson_db);
        self.claim_return_db = f32::NEG_INFINITY;
        Action::Unhold
    }
}

/// Whole frames that last at least `ms`.
fn frames(ms: u32) -> u32 {
    ms.div_ceil(FRAME_MS)
}
