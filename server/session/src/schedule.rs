//! A forced pattern of listening and speaking, for measurements with weights that speak no sense.
//!
//! Random weights may never speak, or never stop. A schedule takes the decisions out of their hands and leaves them the work: every
//! graph runs as usual, on tokens that the samplers choose, so that times and memory are those of a real conversation.
//! Owns the pattern only; [`crate::Dialogue`] and [`crate::SpeechTurn`] keep to it.

use std::fmt;
use std::str::FromStr;

use crate::config::{ConfigError, require};

/// Steps of a speaking unit besides its words: `<|speak|>`, `<|turn_eos|>`, `<|chunk_eos|>`, and the last one, which never decodes.
const STEPS_WITHOUT_WORDS: usize = 4;

/// What a session does, unit by unit: `listen` units, then `speak` units, and again from the start. The last one of a run of
/// speaking units ends the turn.
///
/// As text: `listen=1,speak=3,tokens=5,codes=25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Units that listen; 0 for a session that only speaks.
    pub listen: u32,
    /// Units that speak; 0 for a session that only listens.
    pub speak: u32,
    /// Words (LLM tokens) of a speaking unit.
    pub tokens: usize,
    /// TTS codes of a speaking unit.
    pub codes: usize,
}

/// What the LLM's next token must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// `<|listen|>`
    Listen,
    /// `<|speak|>`
    Speak,
    /// Whatever word the sampler likes best.
    Word,
    /// `<|turn_eos|>`
    TurnEos,
    /// `<|chunk_eos|>`
    ChunkEos,
}

impl Schedule {
    /// Checks the pattern against the steps and, in a session that speaks, the codes that a unit has room for.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting.
    pub fn validate(&self, max_new_speak_tokens: usize, codes_per_unit: Option<usize>) -> Result<(), ConfigError> {
        let Self { listen, speak, tokens, codes } = *self;
        require(listen > 0 || speak > 0, "schedule.speak", || "neither listens nor speaks; give a unit to one".into())?;
        let most = max_new_speak_tokens.saturating_sub(STEPS_WITHOUT_WORDS);
        require((1..=most).contains(&tokens), "schedule.tokens", || {
            format!("{tokens} is not in 1..={most}, the words that a unit of {max_new_speak_tokens} steps has room for")
        })?;
        match codes_per_unit {
            Some(most) => require((1..=most).contains(&codes), "schedule.codes", || {
                format!("{codes} is not in 1..={most}, the codes of a unit")
            }),
            None => Ok(()),
        }
    }

    /// The token for step `step` of unit `unit` of the session, both counted from 0.
    pub(crate) fn choice(&self, unit: u32, step: usize, turn_open: bool) -> Choice {
        let period = u64::from(self.listen) + u64::from(self.speak);
        let position = u64::from(unit) % period;
        if position < u64::from(self.listen) {
            // A turn is open here only if an interruption took the unit that should have ended it.
            return if turn_open { Choice::TurnEos } else { Choice::Listen };
        }
        match step {
            0 => Choice::Speak,
            step if step <= self.tokens => Choice::Word,
            _ if turn_open && position + 1 == period => Choice::TurnEos,
            _ => Choice::ChunkEos,
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, speak, tokens, codes } = self;
        write!(out, "listen={listen},speak={speak},tokens={tokens},codes={codes}")
    }
}

impl FromStr for Schedule {
    type Err = ConfigError;

    /// Reads what [`fmt::Display`] writes, in any order; every number must be there.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        const FORM: &str = "write listen=1,speak=3,tokens=5,codes=25";
        let mut numbers: [(&str, Option<u32>); 4] =
            [("listen", None), ("speak", None), ("tokens", None), ("codes", None)];
        for part in text.split(',') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let place = numbers.iter_mut().find(|(known, number)| *known == name.trim() && number.is_none());
            let (Some((_, number)), Ok(value)) = (place, value.trim().parse()) else {
                return Err(ConfigError::new("schedule", format!("cannot read {part:?}; {FORM}")));
            };
            *number = Some(value);
        }
        let [listen, speak, tokens, codes] = numbers.map(|(name, number)| {
            number.ok_or_else(|| ConfigError::new("schedule", format!("{name} is missing; {FORM}")))
        });
        Ok(Self { listen: listen?, speak: speak?, tokens: tokens? as usize, codes: codes? as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: Schedule = Schedule { listen: 1, speak: 3, tokens: 5, codes: 25 };

    #[test]
    fn text_is_read_as_it_is_written_and_in_any_order() {
        assert_eq!(PATTERN.to_string().parse(), Ok(PATTERN));
        assert_eq!("codes=25, tokens=5, speak=3, listen=1".parse(), Ok(PATTERN));
        for (text, part) in [
            ("", "cannot read \"\""),
            ("listen=1,speak=3,tokens=5", "codes is missing"),
            ("listen=1,listen=2", "cannot read \"listen=2\""),
            ("listen=-1", "cannot read"),
            ("words=5", "cannot read \"words=5\""),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("listen=1,speak=3"), "{error}");
        }
    }

    #[test]
    fn a_pattern_that_a_unit_has_no_room_for_is_refused() {
        let refused = |schedule: Schedule| schedule.validate(20, Some(25)).unwrap_err().setting;
        assert_eq!(PATTERN.validate(20, Some(25)), Ok(()));
        assert_eq!(Schedule { tokens: 16, ..PATTERN }.validate(20, Some(25)), Ok(()));
        assert_eq!(refused(Schedule { tokens: 17, ..PATTERN }), "schedule.tokens");
        assert_eq!(refused(Schedule { tokens: 0, ..PATTERN }), "schedule.tokens");
        assert_eq!(refused(Schedule { codes: 26, ..PATTERN }), "schedule.codes");
        assert_eq!(refused(Schedule { codes: 0, ..PATTERN }), "schedule.codes");
        assert_eq!(refused(Schedule { listen: 0, speak: 0, ..PATTERN }), "schedule.speak");
        assert_eq!(
            Schedule { codes: 0, ..PATTERN }.validate(20, None),
            Ok(()),
            "a session without speech has no codes"
        );
    }
}
