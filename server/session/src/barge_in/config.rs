//! Settings of barge-in, their defaults and why.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::FRAME_MS;
use crate::config::{ConfigError, require};

/// Thresholds and times. Times are rounded up to whole detector frames of 32 ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BargeInConfig {
    /// Voice probability that begins a voice (Silero's own default is 0.5).
    pub start_probability: f32,
    /// Voice probability that goes on with one (Silero's own default is 0.15 below the start).
    pub end_probability: f32,
    /// Voice that pauses playback, in ms. Two frames: a third would miss first syllables that are shorter ("be | quiet") and
    /// spend half of the 200 ms within which speech must stop; clicks and knocks stay below two.
    pub hold_ms: u32,
    /// Voice, gaps not counted, that stops playback for good, in ms. "mm-hm", "yeah" and "okay" are mostly shorter. It may be
    /// generous: playback is paused all the while, so nobody hears the difference.
    pub confirm_ms: u32,
    /// Silence that ends a voice, in ms: longer than the closure of a "p", the gap inside "mm-hm", the comma after "no".
    pub release_ms: u32,
    /// Time after the begin of a speech within which more is asked of a voice, in ms: the echo canceller of the client
    /// needs it to converge.
    pub grace_ms: u32,
    /// Voice probability that begins a voice within the grace window.
    pub grace_probability: f32,
    /// What a voice must be louder within the grace window, on top of `echo_margin_db`.
    pub grace_margin_db: f32,
    /// How much louder than the expected echo a voice must begin, in dB.
    pub echo_margin_db: f32,
    /// Level of the echo relative to what is played, in dB, as long as nothing has been learnt: an echo canceller that has
    /// not converged. A better one is learnt in about a second, a loudspeaker without one from the first holds.
    pub echo_return_db: f32,
    /// Largest delay after which played sound comes back, in ms: network both ways, client's buffer, loudspeaker, air.
    pub echo_memory_ms: u32,
    /// How much one hold that came to nothing raises the expected echo, in dB. Small, as it may have been a person's "mm-hm";
    /// a true echo brings a hold again and again until the guard is above it.
    pub echo_lesson_db: f32,
    /// After an interruption, by voice or by the client, the model forgets the words that were not heard.
    pub cut_unheard: bool,
}

impl Default for BargeInConfig {
    fn default() -> Self {
        Self {
            start_probability: 0.5,
            end_probability: 0.35,
            hold_ms: 64,
            confirm_ms: 500,
            release_ms: 250,
            grace_ms: 300,
            grace_probability: 0.8,
            grace_margin_db: 6.0,
            echo_margin_db: 3.0,
            echo_return_db: -26.0,
            echo_memory_ms: 512,
            echo_lesson_db: 3.0,
            cut_unheard: true,
        }
    }
}

impl BargeInConfig {
    /// # Errors
    /// [`ConfigError`] naming the setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let probability = |name: &str, value: f32| {
            require(value > 0.0 && value <= 1.0, &format!("barge_in.{name}"), || {
                format!("{value} is not a probability above 0 and at most 1")
            })
        };
        probability("start_probability", self.start_probability)?;
        probability("end_probability", self.end_probability)?;
        probability("grace_probability", self.grace_probability)?;
        require(self.end_probability <= self.start_probability, "barge_in.end_probability", || {
            format!("{} is above start_probability {}", self.end_probability, self.start_probability)
        })?;
        require(self.grace_probability >= self.start_probability, "barge_in.grace_probability", || {
            format!("{} is below start_probability {}", self.grace_probability, self.start_probability)
        })?;
        let lasts = |name: &str, ms: u32, most: u32| {
            require((FRAME_MS..=most).contains(&ms), &format!("barge_in.{name}"), || {
                format!("{ms} is not within {FRAME_MS}..={most} ms")
            })
        };
        lasts("confirm_ms", self.confirm_ms, 5_000)?;
        lasts("release_ms", self.release_ms, 2_000)?;
        lasts("echo_memory_ms", self.echo_memory_ms, 5_000)?;
        lasts("hold_ms", self.hold_ms, self.confirm_ms)?;
        require(self.grace_ms <= 5_000, "barge_in.grace_ms", || format!("{} is above 5000", self.grace_ms))?;
        let decibels = |name: &str, value: f32, low: f32, high: f32| {
            require((low..=high).contains(&value), &format!("barge_in.{name}"), || {
                format!("{value} is not within {low}..={high} dB")
            })
        };
        decibels("grace_margin_db", self.grace_margin_db, 0.0, 40.0)?;
        decibels("echo_margin_db", self.echo_margin_db, 0.0, 40.0)?;
        decibels("echo_lesson_db", self.echo_lesson_db, 0.0, 40.0)?;
        decibels("echo_return_db", self.echo_return_db, -60.0, 10.0)
    }

    /// Longest time that playback is paused without a decision.
    pub fn longest_hold(&self) -> Duration {
        Duration::from_millis(u64::from(self.confirm_ms) + u64::from(self.release_ms))
    }
}
