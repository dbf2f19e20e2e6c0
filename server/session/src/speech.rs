//! The speaking side of one session's turn: what the TTS may generate and how its codes become token2wav calls
//! (modeling_minicpmo_unified.py:5184-5245, 5448-5536).
//!
//! Owns the code buffer and the place in the TTS cache. Must not choose codes ([`crate::CodeSampler`]) or run a graph.

use crate::conduct::Conduct;
use crate::config::{Speech, SpeechRules};
use crate::dialogue::TurnReset;
use crate::schedule::Schedule;

/// New codes that start an early call: the first and the second call of a turn; later ones are full.
/// The first counts the look-ahead, so that a reply begins after half a unit's codes and not after all of them.
const EARLY_FIRST_CODES: usize = 12;
const EARLY_SECOND_CODES: usize = 15;

/// The TTS cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpeechError {
    /// Condition and codes do not fit.
    #[error(
        "the turn is too long for the TTS cache: {cache_len} rows used, {condition_len} condition rows and \
         {codes} codes to come, capacity {capacity}; end the turn or export with a larger tts.kv_capacity"
    )]
    ContextFull {
        /// Rows in the cache.
        cache_len: usize,
        /// Rows of the unit's condition.
        condition_len: usize,
        /// Most codes of the unit.
        codes: usize,
        /// Rows of the cache.
        capacity: usize,
    },
}

/// Which of a unit's words a condition holds ([`Conduct::first_words`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    Whole,
    /// The first ones. They get the codes of the turn's first piece of sound, or half of the unit's if that is less.
    First,
    /// Those behind the first ones. They get the unit's other codes.
    Rest,
}

/// The unit that shall be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanRequest {
    /// The words at hand.
    pub part: Part,
    /// Rows of the TTS condition, audio_bos included: at least 1.
    pub condition_len: usize,
    /// The unit ends the turn; not known of a first part.
    pub end_of_turn: bool,
    /// Rows in the session's TTS cache.
    pub cache_len: usize,
    /// Rows that fit.
    pub cache_capacity: usize,
}

/// How one chunk of codes is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodePlan {
    /// Steps in which the eos may not be chosen.
    pub min_new: usize,
    /// Steps; the last one is never returned, so at most `max_new - 1` codes come out.
    pub max_new: usize,
    /// Position of the condition's first row: the cache length, 0 after a restart.
    pub text_start_pos: usize,
    /// Clear the TTS cache first: the turn was too long for it ([`Conduct::renew_tts_cache`]). The voice loses the intonation
    /// of the turn so far, once in about two minutes of speech.
    pub restart: bool,
}

/// One call of token2wav.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VocoderCall {
    /// Codes, the look-ahead of a non-last call included.
    pub tokens: Vec<u32>,
    /// The turn's last call: no look-ahead, nothing held back.
    pub last: bool,
    /// Output samples to drop from the front: the silence at the start of a turn that nobody shall hear.
    pub skip_samples: usize,
}

/// What is left to do when a unit's codes are complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkEnd {
    /// Calls still to make, in order.
    pub calls: Vec<VocoderCall>,
    /// The unit's audio is filled up to one second with zeros in FRONT if it is shorter, also when no call was made
    /// ([`Conduct::artificial_silence`], modeling_minicpmo_unified.py:5519-5524 and 4940).
    pub left_pad: bool,
    /// After the calls: clear the TTS cache and start token2wav anew from the voice.
    pub reset: TurnReset,
}

/// A unit being spoken.
#[derive(Debug, Clone, Copy)]
struct Unit {
    /// Codes so far.
    codes: usize,
    /// Codes that it may have.
    most: usize,
    /// It may be shorter than that, as a turn begins with it.
    begins: bool,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// Codes of a part are coming; `codes` and `most` are the part's.
    Part {
        unit: Unit,
        part: Part,
        condition_len: usize,
        codes: usize,
        most: usize,
        end_of_turn: bool,
    },
    /// The first part's codes are complete.
    AwaitsWords(Unit),
}

/// The speaking side of one session.
#[derive(Debug)]
pub struct SpeechTurn {
    conduct: Conduct,
    rules: SpeechRules,
    codes_per_unit: usize,
    /// The same for a turn's first unit.
    first_unit_codes: usize,
    /// Every unit has all its codes: a schedule says how many.
    scheduled: bool,
    /// Codes not yet turned into audio: the silence in front of a turn, what a call left as look-ahead, new ones.
    buffer: Vec<u32>,
    /// Rows of the turn in the TTS cache.
    text_start_pos: usize,
    calls_in_turn: usize,
    codes_in_turn: usize,
    /// Samples of the turn's start that nobody shall hear and that no call has covered yet.
    unheard_samples: usize,
    phase: Phase,
}

impl SpeechTurn {
    /// A session that has not spoken yet. `speech` and `schedule` are validated by the caller.
    pub fn new(conduct: Conduct, speech: &Speech, schedule: Option<&Schedule>) -> Self {
        let (rules, sampling) = (speech.rules.clone(), &speech.sampling);
        let first = if conduct.long_first_unit { sampling.first_unit_codes } else { sampling.codes_per_unit };
        let mut turn = Self {
            conduct,
            codes_per_unit: schedule.map_or(sampling.codes_per_unit, |schedule| schedule.codes),
            first_unit_codes: schedule.map_or(first, |schedule| schedule.codes),
            scheduled: schedule.is_some(),
            buffer: Vec::with_capacity(2 * (rules.chunk_tokens + rules.lookahead)),
            rules,
            text_start_pos: 0,
            calls_in_turn: 0,
            codes_in_turn: 0,
            unheard_samples: 0,
            phase: Phase::Idle,
        };
        turn.reset_vocoder();
        turn
    }

    /// Plans the codes of a unit or of a part of it (modeling_minicpmo_unified.py:5191-5199).
    ///
    /// # Errors
    /// [`SpeechError::ContextFull`]; with [`Conduct::renew_tts_cache`] only when the part does not fit an empty cache.
    pub fn plan(&mut self, request: PlanRequest) -> Result<CodePlan, SpeechError> {
        let PlanRequest { part, condition_len, end_of_turn, cache_len, cache_capacity } = request;
        assert!(condition_len > 0, "a TTS condition holds audio_bos at least. This is a bug.");
        assert_eq!(cache_len, self.text_start_pos, "the TTS cache is not where the turn is. This is a bug.");
        let unit = match (&self.phase, part) {
            (Phase::Idle, Part::Whole | Part::First) => self.next_unit(),
            (Phase::AwaitsWords(unit), Part::Rest) => *unit,
            _ => panic!("the last unit's codes are not finished, or it had no first part. This is a bug."),
        };
        let most = match part {
            // Enough for the first piece of sound.
            Part::First => EARLY_FIRST_CODES.min(unit.most / 2),
            Part::Whole | Part::Rest => unit.most - unit.codes,
        };
        let rows = condition_len + most;
        let restart = cache_len + rows > cache_capacity;
        if restart && (!self.conduct.renew_tts_cache || rows > cache_capacity) {
            return Err(SpeechError::ContextFull { cache_len, condition_len, codes: most, capacity: cache_capacity });
        }
        if restart {
            self.text_start_pos = 0;
        }
        let max_new = most + 1;
        // The first part's words are not the last ones, so its codes are not either.
        let begins = part != Part::First && (unit.begins || (restart && most <= self.codes_per_unit));
        let may_end_early = (end_of_turn || begins) && !self.scheduled;
        self.phase = Phase::Part { unit, part, condition_len, codes: 0, most, end_of_turn };
        Ok(CodePlan {
            min_new: if may_end_early { 0 } else { max_new },
            max_new,
            text_start_pos: self.text_start_pos,
            restart,
        })
    }

    fn next_unit(&self) -> Unit {
        // A turn that starts over in an empty cache is still ahead by what its first unit was.
        let most = if self.codes_in_turn == 0 { self.first_unit_codes } else { self.codes_per_unit };
        // A reply that begins ahead is played at once, for it lasts until the next unit: it must be as long as promised.
        let begins = self.text_start_pos == 0 && most <= self.codes_per_unit;
        Unit { codes: 0, most, begins }
    }

    /// Takes new codes of the planned part, all at once or as they come. May ask for a call at once, with
    /// [`Conduct::early_sound`]; else calls wait for [`Self::finish`].
    pub fn push(&mut self, new_codes: &[u32]) -> Vec<VocoderCall> {
        let Phase::Part { codes, most, .. } = &mut self.phase else {
            panic!("codes without a plan. This is a bug.");
        };
        *codes += new_codes.len();
        assert!(*codes <= *most, "more codes than planned. This is a bug.");
        self.codes_in_turn += new_codes.len();
        self.buffer.extend_from_slice(new_codes);
        let mut calls = Vec::new();
        if self.conduct.early_sound {
            while self.buffer.len() >= self.early_threshold() {
                calls.push(self.call(self.early_threshold()));
            }
        }
        calls
    }

    /// The part's codes are complete. `None` if it was a first one: the unit goes on with its other words. Else empties the buffer
    /// as far as the reference does.
    pub fn finish(&mut self) -> Option<ChunkEnd> {
        let Phase::Part { mut unit, part, condition_len, codes, end_of_turn, .. } =
            std::mem::replace(&mut self.phase, Phase::Idle)
        else {
            panic!("finish without a plan. This is a bug.");
        };
        self.text_start_pos += condition_len + codes;
        unit.codes += codes;
        if part == Part::First {
            self.phase = Phase::AwaitsWords(unit);
            return None;
        }
        let mut calls = Vec::new();
        while self.buffer.len() >= self.rules.lookahead + self.rules.flush_tokens {
            calls.push(self.call(self.buffer.len().min(self.rules.chunk_tokens + self.rules.lookahead)));
        }
        let silence = self.conduct.artificial_silence;
        if !end_of_turn {
            return Some(ChunkEnd { calls, left_pad: silence, reset: TurnReset::None });
        }
        // The reference plays the silence of a turn without a single code; a listener need not wait for it.
        if !self.buffer.is_empty() && (silence || self.codes_in_turn > 0) {
            calls.push(self.last_call());
        }
        self.reset(TurnReset::All);
        Some(ChunkEnd { calls, left_pad: false, reset: TurnReset::All })
    }

    /// Forgets turn state; a unit in progress is given up. The caller does the same to its caches.
    pub fn reset(&mut self, reset: TurnReset) {
        match reset {
            TurnReset::None => return,
            // The TTS cache stays, so it must not hold half a unit.
            TurnReset::VocoderOnly => {
                assert!(matches!(self.phase, Phase::Idle), "partial reset inside a unit. This is a bug.");
            }
            TurnReset::All => self.text_start_pos = 0,
        }
        self.phase = Phase::Idle;
        self.reset_vocoder();
    }

    /// Samples of a unit with so many codes; of as many as it may have until they are complete.
    pub fn sound_samples(&self, codes: usize, done: bool) -> usize {
        self.samples_of(match self.phase {
            Phase::Part { unit, .. } | Phase::AwaitsWords(unit) if !done => unit.most,
            _ => codes,
        })
    }

    /// Samples of so many codes.
    pub fn samples_of(&self, codes: usize) -> usize {
        self.rules.samples_per_code * codes
    }

    /// Codes waiting for look-ahead or for the turn's end.
    pub fn buffer(&self) -> &[u32] {
        &self.buffer
    }

    /// Rows of the turn in the TTS cache.
    pub fn text_start_pos(&self) -> usize {
        self.text_start_pos
    }

    fn reset_vocoder(&mut self) {
        self.buffer.clear();
        self.buffer.resize(self.rules.silence_prefix, self.rules.silence_token);
        self.calls_in_turn = 0;
        self.codes_in_turn = 0;
        self.unheard_samples = match self.conduct.artificial_silence {
            true => 0,
            false => self.rules.silence_prefix * self.rules.samples_per_code,
        };
    }

    /// Codes that the buffer must hold for the next early call.
    fn early_threshold(&self) -> usize {
        let SpeechRules { silence_prefix, lookahead, chunk_tokens, .. } = self.rules;
        let full = chunk_tokens + lookahead;
        match self.calls_in_turn {
            0 => (silence_prefix + EARLY_FIRST_CODES).max(lookahead + 1).min(full),
            1 => (EARLY_SECOND_CODES + lookahead).min(full),
            _ => full,
        }
    }

    /// A call over the first `take` codes, the last `lookahead` of which stay.
    fn call(&mut self, take: usize) -> VocoderCall {
        let tokens = self.buffer[..take].to_vec();
        let spoken = take - self.rules.lookahead;
        self.buffer.drain(..spoken);
        let held_back = if self.calls_in_turn == 0 { self.rules.held_back_samples } else { 0 };
        self.calls_in_turn += 1;
        let given = (spoken * self.rules.samples_per_code).saturating_sub(held_back);
        let skip_samples = self.unheard_samples.min(given);
        self.unheard_samples -= skip_samples;
        VocoderCall { tokens, last: false, skip_samples }
    }

    fn last_call(&mut self) -> VocoderCall {
        let tokens = std::mem::take(&mut self.buffer);
        // A last call gives at least its codes' samples, and all that the calls before held back.
        let skip_samples = std::mem::take(&mut self.unheard_samples);
        VocoderCall { tokens, last: true, skip_samples }
    }
}

#[cfg(test)]
mod tests;
