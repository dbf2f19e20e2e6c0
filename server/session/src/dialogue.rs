//! The LLM side of one session: what `streaming_generate` and `finalize_unit` decide
//! (modeling_minicpmo_unified.py:4960-5290), driven token by token.
//!
//! Owns whether the turn is open, the text sampler, and the cache window. Must not run a graph or know the vocoder.
//!
//! Order of calls, one unit per round; anything else panics:
//! ```text
//! prepared ─► begin_unit ─► (prefill) ─► start ─┬─ Sample ─► advance ─┬─ Feed ─► (decode) ─► advance ...
//!                 ▲                             ├─ Feed ─► (decode) ──┘
//!                 └── finalize ◄── (feed end) ◄─┴─ End ◄── abort
//! ```

use serde::{Deserialize, Serialize};

use crate::candidates::SampleError;
use crate::conduct::Conduct;
use crate::config::{ConfigError, SessionConfig};
use crate::heard::WordCut;
use crate::sampler::{Scratch, TextSampler};
use crate::schedule::{Choice, Schedule};
use crate::tokens::{TextDecoder, TokenIds, Tokens};
use crate::window::{CacheEdit, UnitRecord, UnitWindow, WindowState};

/// What the LLM thread has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Call [`Dialogue::advance`] with the logits of the prefill's last row.
    Sample,
    /// Decode this token, then call [`Dialogue::advance`] with the new logits.
    Feed {
        /// LLM token.
        token: u32,
        /// Its hidden state goes into the TTS condition, in order with [`UnitEnd::speech_ids`].
        speaks: bool,
    },
    /// The unit is over: feed [`UnitEnd::feed`] in one call, then [`Dialogue::finalize`].
    End(Box<UnitEnd>),
}

/// Why a unit ended; the names are those of the golden sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The model chose `<|listen|>`.
    Listen,
    /// The unit had to listen.
    ForcedListen,
    /// The model chose `<|chunk_eos|>`.
    ChunkEos,
    /// The model chose `<|chunk_tts_eos|>`.
    ChunkTtsEos,
    /// All steps were used.
    MaxTokens,
    /// One more token would have made the text too long.
    CharLimit,
    /// [`Dialogue::abort`].
    Aborted,
}

/// Whether the TTS runs for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeechOrder {
    /// No speech from this unit.
    None,
    /// Speak [`UnitEnd::speech_ids`]; the turn goes on.
    Continue,
    /// Speak them; the turn ends with this unit.
    EndTurn,
}

/// Which turn state the speech thread forgets before it handles the unit's speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnReset {
    /// Nothing.
    None,
    /// Token2wav's caches and code buffer, but not the TTS cache: what the reference leaves over when a listen is
    /// forced into an open turn (modeling_minicpmo_unified.py:5004-5011).
    VocoderOnly,
    /// Everything of the turn.
    All,
}

/// A unit's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitEnd {
    /// Fed together with `</unit>`.
    pub terminator: u32,
    /// `</unit>`.
    pub unit_end: u32,
    /// The model's decision for the unit is "listen". Words may come before it, see [`Self::speaks`].
    pub is_listen: bool,
    /// The unit's result says that the turn is over: the last fed token was `<|turn_eos|>`.
    pub end_of_turn: bool,
    /// Why it ended.
    pub ended_by: EndedBy,
    /// The reference's `total_ids` of the unit: a forced `<|turn_eos|>`, fed tokens, the terminator.
    pub tokens: Vec<u32>,
    /// What the sampler returned, before `<|listen|>` is replaced in an open turn, before the length cut, and with a
    /// token that an abort kept from being fed.
    pub decoded: Vec<u32>,
    /// Text of the result; empty when listening without speaking.
    pub text: String,
    /// Fed tokens after the first step: ids of the TTS condition.
    pub speech_ids: Vec<u32>,
    /// With [`Conduct::cut_unheard`], for each of `speech_ids` but a `<|turn_eos|>` at their end: where its text ends in `text`, in bytes; a
    /// letter that is spread over several tokens ends with the last one.
    pub word_ends: Vec<usize>,
    /// Whether the TTS runs.
    pub speech: SpeechOrder,
    /// What the speech thread forgets first.
    pub reset: TurnReset,
    /// The turn is open after this unit.
    pub turn_open: bool,
}

impl UnitEnd {
    /// Words of this unit will be heard. What shows a unit as spoken asks this, because a unit whose decision is "listen" may
    /// have ended its turn with words first ([`Conduct::speak_before_listen`]). Always `false` in a text-only session and for
    /// an aborted unit, of which first words may have been heard all the same ([`Conduct::first_words`]).
    pub fn speaks(&self) -> bool {
        self.speech != SpeechOrder::None
    }

    /// The two tokens that close the unit, fed in one call.
    pub fn feed(&self) -> [u32; 2] {
        [self.terminator, self.unit_end]
    }
}

/// What follows from finalizing a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finalized {
    /// Change the cache like this, before the next unit.
    pub edit: Option<CacheEdit>,
    /// Rows in the cache after the edit.
    pub kv_len: usize,
}

/// A unit in the making.
#[derive(Debug, Default)]
struct Draft {
    /// Returned by [`Step::Feed`] and not yet known to be fed: an abort may come first. Only `decoded` counts it
    /// before that.
    pending: Option<u32>,
    step: usize,
    tokens: Vec<u32>,
    decoded: Vec<u32>,
    speech_ids: Vec<u32>,
    last_is_turn_eos: bool,
    closes_open_turn: bool,
    /// No turn was open before it.
    begins_turn: bool,
}

#[derive(Debug, Default)]
enum Phase {
    /// No prompt yet.
    #[default]
    Unprepared,
    /// Between units.
    Idle,
    /// Prefill of a unit.
    Prefill,
    /// The next step decodes.
    Choose(Draft),
    /// `<|turn_eos|>` was fed to close the turn; the next step ends the unit.
    ForcedClose(Draft),
    /// `</unit>` is being fed.
    Ended(UnitRecord),
}

/// The LLM side of one session.
#[derive(Debug)]
pub struct Dialogue {
    conduct: Conduct,
    speaks: bool,
    force_listen_count: u32,
    max_steps: usize,
    max_chars: usize,
    previous_marker: String,
    schedule: Option<Schedule>,
    ids: TokenIds,
    sampler: TextSampler,
    window: UnitWindow,
    turn_open: bool,
    units_started: u32,
    phase: Phase,
}

impl Dialogue {
    /// A session without a prompt.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting or a token id cannot work.
    pub fn new(config: &SessionConfig, tokens: &Tokens) -> Result<Self, ConfigError> {
        config.validate()?;
        tokens.validate()?;
        Ok(Self {
            conduct: config.conduct,
            speaks: config.speech.is_some(),
            force_listen_count: config.force_listen_count,
            max_steps: config.max_new_speak_tokens,
            max_chars: config.max_chars,
            previous_marker: config.previous_marker.clone(),
            schedule: config.schedule,
            ids: tokens.tokens,
            sampler: TextSampler::new(config.sampling.clone(), tokens, config.seed),
            window: UnitWindow::new(config.window.clone(), tokens),
            turn_open: false,
            units_started: 0,
            phase: Phase::Unprepared,
        })
    }

    /// The prompt is in the cache: `kv_len_prefix` rows (prompt prefix and reference audio), then `suffix_ids`.
    pub fn prepared(&mut self, kv_len_prefix: usize, suffix_ids: Vec<u32>, text: &dyn TextDecoder) {
        assert!(matches!(self.phase, Phase::Unprepared), "the prompt is already there. This is a bug.");
        self.window.prepared(kv_len_prefix, suffix_ids, text.encode(&self.previous_marker));
        self.phase = Phase::Idle;
    }

    /// A unit begins; `kv_len` is the cache length before its `<unit>`.
    pub fn begin_unit(&mut self, kv_len: usize) {
        assert!(matches!(self.phase, Phase::Idle), "begin_unit before finalize or prepared. This is a bug.");
        self.window.begin_unit(kv_len);
        self.phase = Phase::Prefill;
    }

    /// The unit's input is in the cache. With `force_listen` an open turn is closed first by feeding `<|turn_eos|>`.
    pub fn start(&mut self, force_listen: bool) -> Step {
        assert!(matches!(self.phase, Phase::Prefill), "start before begin_unit. This is a bug.");
        let forced = force_listen || (self.schedule.is_none() && self.units_started < self.force_listen_count);
        self.units_started = self.units_started.saturating_add(1);
        let mut draft =
            Draft { tokens: Vec::with_capacity(self.max_steps + 1), begins_turn: !self.turn_open, ..Draft::default() };
        if force_listen && self.turn_open {
            self.turn_open = false;
            draft.closes_open_turn = true;
            draft.tokens.push(self.ids.turn_eos);
            self.phase = Phase::ForcedClose(draft);
            return Step::Feed { token: self.ids.turn_eos, speaks: false };
        }
        if forced {
            return self.end_with_choice(draft, self.ids.listen, EndedBy::ForcedListen, None);
        }
        self.phase = Phase::Choose(draft);
        Step::Sample
    }

    /// The next step. `logits` `[vocab]` follow the prefill or the token just fed; they are not looked at where the
    /// reference does not decode (after a forced `<|turn_eos|>`, and at a unit's last step).
    ///
    /// # Errors
    /// [`SampleError`]; the session cannot go on, drop it.
    pub fn advance(
        &mut self,
        logits: &[f32],
        text: &dyn TextDecoder,
        scratch: &mut Scratch,
    ) -> Result<Step, SampleError> {
        match std::mem::take(&mut self.phase) {
            Phase::Choose(draft) => {
                let draft = self.commit(draft);
                if draft.step + 1 == self.max_steps {
                    return Ok(self.end_with_choice(draft, self.ids.chunk_eos, EndedBy::MaxTokens, Some(text)));
                }
                let decoded = self.decode(&draft, logits, scratch)?;
                Ok(self.choose(draft, decoded, text))
            }
            Phase::ForcedClose(draft) => {
                Ok(self.end_with_choice(draft, self.ids.listen, EndedBy::ForcedListen, Some(text)))
            }
            phase => panic!("advance in phase {phase:?}, before start. This is a bug."),
        }
    }

    /// The words that speech may begin with while the LLM goes on ([`Conduct::first_words`]): at the step that has fed the last of
    /// them, if the unit begins a turn and has more words. What was returned is spoken whatever the unit becomes, but for an abort.
    pub fn first_words(&self) -> Option<&[u32]> {
        let Phase::Choose(Draft { pending: Some(next), speech_ids, begins_turn: true, .. }) = &self.phase else {
            return None;
        };
        let turn_eos = self.ids.turn_eos;
        let wanted = self.speaks && !speech_ids.is_empty() && speech_ids.len() == self.conduct.first_words;
        (wanted && *next != turn_eos && !speech_ids.contains(&turn_eos)).then_some(speech_ids)
    }

    /// Whether [`Self::abort`] is allowed now: while the model chooses words. A unit that closes its turn goes on to
    /// its end, one token away: without its `<|turn_eos|>` in the cache the model would take the turn for open.
    pub fn may_abort(&self) -> bool {
        matches!(self.phase, Phase::Choose(_))
    }

    /// Ends the unit in mid generation (barge-in): what was fed stays, nothing of it is spoken, all turn state goes.
    /// The token of the last [`Step::Feed`] must not be fed any more; the unit does not contain it. A turn that is
    /// open without that token stays open; the next unit's forced listen closes it. `text` decodes what was
    /// generated. Panics where [`Self::may_abort`] is `false`.
    pub fn abort(&mut self, text: &dyn TextDecoder) -> Box<UnitEnd> {
        let draft = match std::mem::take(&mut self.phase) {
            Phase::Choose(draft) => draft,
            phase => panic!("abort in phase {phase:?}, not while choosing. This is a bug."),
        };
        // A unit that said nothing, with no turn to go on with, has simply listened.
        let terminator = if self.turn_open { self.ids.chunk_eos } else { self.ids.listen };
        let Step::End(mut end) = self.end_with_choice(draft, terminator, EndedBy::Aborted, Some(text)) else {
            unreachable!("end_with_choice ends the unit");
        };
        end.speech = SpeechOrder::None;
        end.reset = TurnReset::All;
        end
    }

    /// The terminator and `</unit>` are in the cache, now `kv_len` rows long. Returns the window's edit.
    pub fn finalize(&mut self, kv_len: usize, text: &dyn TextDecoder) -> Finalized {
        let Phase::Ended(record) = std::mem::take(&mut self.phase) else {
            panic!("finalize before the unit ended. This is a bug.");
        };
        self.phase = Phase::Idle;
        let edit = self.window.finish_unit(kv_len, record, text);
        Finalized { edit, kv_len: self.window.kv_len() }
    }

    /// Words that were not heard leave the cache; to be called between units. What the model hears next stands behind the
    /// words that stay: rows computed while the others were there keep their values, but not their positions.
    pub fn cut(&mut self, WordCut { unit, keep }: WordCut) -> Option<CacheEdit> {
        assert!(matches!(self.phase, Phase::Idle), "words are cut between two units. This is a bug.");
        self.window.cut(unit.0 as usize, keep)
    }

    /// The turn is open: the model has begun to speak and not ended it.
    pub fn turn_open(&self) -> bool {
        self.turn_open
    }

    /// The window's bookkeeping, as the golden sessions record it.
    pub fn window_state(&self) -> WindowState {
        self.window.state()
    }

    /// The pending token is in the cache: it now belongs to the unit.
    fn commit(&mut self, mut draft: Draft) -> Draft {
        let Some(token) = draft.pending.take() else { return draft };
        if draft.step != 0 {
            draft.speech_ids.push(token);
        }
        draft.tokens.push(token);
        draft.last_is_turn_eos = token == self.ids.turn_eos;
        self.turn_open = !draft.last_is_turn_eos;
        draft.step += 1;
        draft
    }

    /// The model's choice, or what a schedule puts in its place. The sampler looks at the logits either way: a forced choice
    /// must not cost less than a free one.
    fn decode(&mut self, draft: &Draft, logits: &[f32], scratch: &mut Scratch) -> Result<u32, SampleError> {
        let Some(schedule) = &self.schedule else {
            return self.sampler.decode(logits, scratch);
        };
        let forced = match schedule.choice(self.units_started - 1, draft.step, self.turn_open) {
            Choice::Word => return self.sampler.decode_word(logits, scratch),
            Choice::Listen => self.ids.listen,
            Choice::Speak => self.ids.speak,
            Choice::TurnEos => self.ids.turn_eos,
            Choice::ChunkEos => self.ids.chunk_eos,
        };
        self.sampler.decode(logits, scratch)?;
        Ok(forced)
    }

    /// One round of the reference's loop after `decode` (modeling_minicpmo_unified.py:5056-5121).
    fn choose(&mut self, mut draft: Draft, decoded: u32, text: &dyn TextDecoder) -> Step {
        draft.decoded.push(decoded);
        let ids = self.ids;
        // An open turn may not listen; the sampler's history keeps `<|listen|>` all the same.
        let token = if decoded == ids.listen && self.turn_open { ids.tts_bos } else { decoded };
        let terminates = if token == ids.listen {
            Some(EndedBy::Listen)
        } else if token == ids.chunk_eos {
            Some(EndedBy::ChunkEos)
        } else if token == ids.chunk_tts_eos {
            Some(EndedBy::ChunkTtsEos)
        } else {
            None
        };
        if let Some(ended_by) = terminates {
            return self.end_with_choice(draft, token, ended_by, Some(text));
        }
        let speaks = draft.step != 0;
        if speaks {
            draft.speech_ids.push(token);
            let too_long = text.decode(&draft.speech_ids).chars().count() >= self.max_chars && self.schedule.is_none();
            draft.speech_ids.pop();
            if too_long {
                // A rejected token opens the turn too (line 5081).
                self.turn_open = true;
                return self.end_with_choice(draft, ids.chunk_eos, EndedBy::CharLimit, Some(text));
            }
        }
        draft.pending = Some(token);
        self.phase = Phase::Choose(draft);
        Step::Feed { token, speaks }
    }

    /// Ends the unit; `text` may be left out when nothing was generated.
    fn end_with_choice(
        &mut self,
        mut draft: Draft,
        terminator: u32,
        ended_by: EndedBy,
        text: Option<&dyn TextDecoder>,
    ) -> Step {
        draft.tokens.push(terminator);
        let is_listen = terminator == self.ids.listen;
        let generated = match text {
            Some(text) if !draft.speech_ids.is_empty() => text.decode(&draft.speech_ids),
            _ => String::new(),
        };
        // `<|turn_eos|>` and then `<|listen|>` in one unit: the reference reports a listen, never speaks the unit's
        // words and keeps the turn's caches (line 5161). A listener wants to hear the end of the sentence.
        let speaks_before_listen =
            self.conduct.speak_before_listen && ended_by == EndedBy::Listen && draft.last_is_turn_eos;
        let speech = if !self.speaks {
            SpeechOrder::None
        } else if speaks_before_listen || (!is_listen && draft.last_is_turn_eos) {
            SpeechOrder::EndTurn
        } else if is_listen {
            SpeechOrder::None
        } else {
            SpeechOrder::Continue
        };
        let reset = match (draft.closes_open_turn, self.conduct.whole_turn_reset) {
            (false, _) => TurnReset::None,
            (true, false) => TurnReset::VocoderOnly,
            (true, true) => TurnReset::All,
        };
        let word_ends = match (self.conduct.cut_unheard, text) {
            (true, Some(text)) => {
                let words = draft.speech_ids.len() - usize::from(draft.speech_ids.last() == Some(&self.ids.turn_eos));
                word_ends(&draft.speech_ids[..words], &generated, text)
            }
            _ => Vec::new(),
        };
        let end = UnitEnd {
            terminator,
            unit_end: self.ids.unit_end,
            is_listen,
            end_of_turn: draft.last_is_turn_eos && (!is_listen || speaks_before_listen),
            ended_by,
            tokens: draft.tokens,
            decoded: draft.decoded,
            text: if is_listen && !speaks_before_listen { String::new() } else { generated.clone() },
            speech_ids: draft.speech_ids,
            word_ends,
            speech,
            reset,
            turn_open: self.turn_open,
        };
        self.phase = Phase::Ended(UnitRecord {
            ids: end.speech_ids.clone(),
            text: generated,
            is_listen: is_listen && !speaks_before_listen,
            word_ends: end.word_ends.clone(),
        });
        Step::End(Box::new(end))
    }
}

/// See [`UnitEnd::word_ends`]; `whole` is the text of all ids.
fn word_ends(ids: &[u32], whole: &str, text: &dyn TextDecoder) -> Vec<usize> {
    let common = |part: String| part.bytes().zip(whole.bytes()).take_while(|(a, b)| a == b).count();
    (1..=ids.len()).map(|n| whole.floor_char_boundary(common(text.decode(&ids[..n])))).collect()
}

#[cfg(test)]
mod tests;
