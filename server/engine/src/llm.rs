//! The LLM thread: owns the LLM graph and its cache, and one dialogue per slot.
//!
//! Prompt and unit prefills and the two tokens that close a unit are singles on the slot's view of the cache; decoding is one
//! batch over all slots that are generating. Must not know audio or the vocoder.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use duologue_model::{Llm, ModelError, Tokenizer};
use duologue_session::{
    CacheEdit, Part, PreparedReport, Scratch, SpeechOrder, Step, TokenIds, TurnId, TurnReset, UnitEnd, UnitId,
    UnitReport, UnitTimings,
};

use crate::command::{LlmCommand, LlmSession, Prompt, SpeakOrder, SpeechCommand, UnitInput, VoiceOrder};
use crate::error::EngineError;
use crate::events::EngineEvent;
use crate::prompts::{HeldPrompts, PromptRows};
use crate::scheduler::{Action, Kind, Ready, Scheduler};
use crate::timing::{deadline_key, timed};

/// Room that a prompt must leave: a spoken unit without pictures takes about half of it.
const UNIT_ROWS: usize = 64;

/// What a slot is doing.
enum Phase {
    Idle,
    Prompt(Prompt),
    Prefill(Box<UnitInput>),
    Decode { token: u32, speaks: bool, run: Box<UnitRun> },
    Finalize { end: Box<UnitEnd>, run: Box<UnitRun> },
}

/// The unit a slot is generating.
struct UnitRun {
    unit: UnitId,
    turn: TurnId,
    deadline: Instant,
    apm_kv: [usize; 2],
    vision_slices: usize,
    vision_tokens: usize,
    kv_prefill: usize,
    /// Words that the speech thread has already.
    handed_over: usize,
    /// Hidden states of those it has not.
    hidden: Vec<f32>,
    timings: UnitTimings,
}

impl UnitRun {
    /// To speak `words`, whose hidden states are the ones at hand.
    fn order(&mut self, part: Part, speech: SpeechOrder, reset: TurnReset, words: &[u32]) -> SpeakOrder {
        SpeakOrder {
            unit: self.unit,
            turn: self.turn,
            deadline: self.deadline,
            reset,
            speech,
            part,
            ids: words.to_vec(),
            hidden: std::mem::take(&mut self.hidden),
        }
    }
}

struct Slot {
    session: LlmSession,
    phase: Phase,
}

/// State of the thread.
pub(crate) struct LlmThread {
    pub llm: Llm,
    pub tokenizer: Arc<Tokenizer>,
    pub ids: TokenIds,
    pub speech: Sender<SpeechCommand>,
    /// Most slots decoded in one step so far.
    pub widest_batch: Arc<AtomicUsize>,
    slots: Vec<Option<Slot>>,
    held: HeldPrompts,
    scheduler: Scheduler,
    scratch: Scratch,
    rows: Vec<f32>,
}

impl LlmThread {
    pub fn new(llm: Llm, tokenizer: Arc<Tokenizer>, ids: TokenIds, speech: Sender<SpeechCommand>) -> Self {
        let slots = llm.slots();
        Self {
            llm,
            tokenizer,
            ids,
            speech,
            widest_batch: Arc::default(),
            slots: (0..slots).map(|_| None).collect(),
            held: HeldPrompts::new(slots),
            scheduler: Scheduler::default(),
            scratch: Scratch::default(),
            rows: Vec::new(),
        }
    }

    /// Runs until every sender of `commands` is gone.
    pub fn run(mut self, commands: &Receiver<LlmCommand>) {
        loop {
            let slots = &self.slots;
            match self.scheduler.next(slots.iter().enumerate().filter_map(|(index, slot)| ready(index, slot.as_ref()?)))
            {
                Action::Wait => match commands.recv() {
                    Ok(command) => self.accept(command),
                    Err(_) => return,
                },
                Action::Single(slot) => self.single(slot),
                Action::Step => self.step(),
            }
            while let Ok(command) = commands.try_recv() {
                self.accept(command);
            }
        }
    }

    fn accept(&mut self, command: LlmCommand) {
        match command {
            LlmCommand::Open { slot, session, speech } => {
                self.slots[slot] = Some(Slot { session: *session, phase: Phase::Idle });
                if let Some(session) = speech {
                    self.forward(SpeechCommand::Open { slot, session });
                }
            }
            LlmCommand::Close { slot } => {
                self.leave(slot);
                self.forward(SpeechCommand::Close { slot });
            }
            LlmCommand::Prompt { slot, prompt } => self.enter(slot, Phase::Prompt(prompt)),
            LlmCommand::Unit { slot, input } => self.enter(slot, Phase::Prefill(input)),
        }
    }

    /// Gives an idle slot its next work. Work of a session that failed meanwhile has no slot any more and is dropped.
    fn enter(&mut self, slot: usize, phase: Phase) {
        if let Some(state) = &mut self.slots[slot] {
            assert!(matches!(state.phase, Phase::Idle), "slot {slot} got work while it had some. This is a bug.");
            state.phase = phase;
        }
    }

    /// Sends to the speech thread, which outlives this one.
    fn forward(&self, command: SpeechCommand) {
        self.speech.send(command).expect("the speech thread outlives the LLM thread. This is a bug.");
    }

    /// Ends the session of a slot whose work failed; the others do not notice.
    fn fail(&mut self, slot: usize, error: EngineError) {
        tracing::warn!(slot, %error, "llm stage failed, session ends");
        if let Some(state) = self.leave(slot) {
            state.session.events.send(EngineEvent::Failed(error));
        }
        self.forward(SpeechCommand::Close { slot });
    }

    /// Frees a slot. Its prompt's rows stay for the next session that has the same.
    fn leave(&mut self, slot: usize) -> Option<Slot> {
        let state = self.slots[slot].take();
        if state.is_some() {
            self.llm.rewind(slot, self.held.kept_rows(slot));
        }
        state
    }

    fn single(&mut self, slot: usize) {
        let state = self.slots[slot].as_mut().expect("the scheduler chose an open slot. This is a bug.");
        let result = match std::mem::replace(&mut state.phase, Phase::Idle) {
            Phase::Prompt(prompt) => self.prompt(slot, prompt),
            Phase::Prefill(input) => self.prefill(slot, *input),
            Phase::Finalize { end, run } => self.finalize(slot, *end, *run),
            Phase::Idle | Phase::Decode { .. } => unreachable!("not a single"),
        };
        if let Err(error) = result {
            self.fail(slot, error);
        }
    }

    fn prompt(&mut self, slot: usize, prompt: Prompt) -> Result<(), EngineError> {
        let Prompt { rows, voice, asked } = prompt;
        let suffix = rows.suffix.clone();
        let held = self.held.find(slot, &rows);
        let (prefix_len, kv_len) = match held {
            Some(lengths) => lengths,
            None => self.feed_prompt(slot, rows)?,
        };
        assert_eq!(self.llm.len(slot), kv_len, "a slot begins with its prompt. This is a bug.");
        let from_cache = held.is_some();
        let session = &mut self.slots[slot].as_mut().expect("open while it works. This is a bug.").session;
        session.dialogue.prepared(prefix_len, suffix, self.tokenizer.as_ref());
        match voice {
            Some(voice) => {
                self.forward(SpeechCommand::Voice { slot, order: VoiceOrder { pcm: voice, kv_len, from_cache, asked } })
            }
            None => {
                let took = asked.elapsed();
                session.events.send(EngineEvent::Prepared(PreparedReport { kv_len, from_cache, took }));
            }
        }
        Ok(())
    }

    /// Computes a prompt in a slot. Returns its rows before the suffix, and all.
    fn feed_prompt(&mut self, slot: usize, rows: PromptRows) -> Result<(usize, usize), EngineError> {
        let audio = rows.audio.as_ref().map_or(&[][..], |audio| audio);
        let needed = rows.prefix.len() + audio.len() / self.llm.hidden_size() + rows.suffix.len();
        if needed + UNIT_ROWS > self.llm.capacity() {
            return Err(EngineError::PromptTooLong { needed, capacity: self.llm.capacity() });
        }
        self.held.forget(slot);
        self.llm.rewind(slot, 0);
        self.feed_tokens(slot, &rows.prefix)?;
        if !audio.is_empty() {
            self.llm.prefill(slot, audio)?;
        }
        let prefix_len = self.llm.len(slot);
        self.feed_tokens(slot, &rows.suffix)?;
        let kv_len = self.llm.len(slot);
        self.held.hold(slot, rows, prefix_len, kv_len);
        Ok((prefix_len, kv_len))
    }

    fn feed_tokens(&mut self, slot: usize, ids: &[u32]) -> Result<(), ModelError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.rows.clear();
        self.llm.embed(ids, &mut self.rows)?;
        self.llm.prefill(slot, &self.rows)
    }

    /// `<unit>`, then `<image>` rows `</image>` and `<slice>` rows `</slice>` per picture, then the audio rows, then what was
    /// typed, in one call.
    fn prefill(&mut self, slot: usize, input: UnitInput) -> Result<(), EngineError> {
        let UnitInput { unit, turn, deadline, force_listen, cuts, images, audio, text, apm_kv, mut timings } = input;
        let (start, cost) = timed(|| -> Result<_, EngineError> {
            let state = self.slots[slot].as_mut().expect("open while it works. This is a bug.");
            for cut in cuts {
                if let Some(edit) = state.session.dialogue.cut(cut) {
                    self.held.before_edit(slot, &edit);
                    apply(&mut self.llm, slot, edit)?;
                }
            }
            state.session.dialogue.begin_unit(self.llm.len(slot));
            let ids = self.ids;
            self.rows.clear();
            self.llm.embed(&[ids.unit], &mut self.rows)?;
            let width = self.rows.len();
            let (mut vision_slices, mut vision_tokens) = (0, 0);
            for image in &images {
                for (index, slice) in image.iter().enumerate() {
                    let (open, close) =
                        if index == 0 { (ids.image, ids.image_end) } else { (ids.slice, ids.slice_end) };
                    self.llm.embed(&[open], &mut self.rows)?;
                    self.rows.extend_from_slice(slice);
                    vision_slices += 1;
                    vision_tokens += slice.len() / width;
                    self.llm.embed(&[close], &mut self.rows)?;
                }
            }
            self.rows.extend_from_slice(&audio);
            if !text.is_empty() {
                self.llm.embed(&self.tokenizer.encode_words(&text), &mut self.rows)?;
            }
            self.llm.prefill(slot, &self.rows)?;
            Ok((state.session.dialogue.start(force_listen), vision_slices, vision_tokens))
        });
        let (step, vision_slices, vision_tokens) = start?;
        timings.prefill = cost;
        let kv_prefill = self.llm.len(slot);
        let run = UnitRun {
            unit,
            turn,
            deadline,
            apm_kv,
            vision_slices,
            vision_tokens,
            kv_prefill,
            handed_over: 0,
            hidden: Vec::new(),
            timings,
        };
        self.follow(slot, step, Box::new(run))
    }

    /// Puts the slot into the phase that `step` asks for.
    fn follow(&mut self, slot: usize, step: Step, mut run: Box<UnitRun>) -> Result<(), EngineError> {
        let begin = Instant::now();
        let step = match step {
            Step::Sample => {
                let state = self.slots[slot].as_mut().expect("open while it works. This is a bug.");
                state.session.dialogue.advance(self.llm.logits(slot), self.tokenizer.as_ref(), &mut self.scratch)?
            }
            step => step,
        };
        run.timings.generate += begin.elapsed();
        let phase = match step {
            Step::Sample => unreachable!("advance never asks to sample again"),
            Step::Feed { token, speaks } => {
                self.begin_to_speak(slot, &mut run);
                Phase::Decode { token, speaks, run }
            }
            Step::End(end) => {
                self.speak(slot, &end, &mut run);
                Phase::Finalize { end, run }
            }
        };
        self.slots[slot].as_mut().expect("open while it works. This is a bug.").phase = phase;
        Ok(())
    }

    /// Hands a reply's first words to the speech thread, if that may begin before the unit is over.
    fn begin_to_speak(&self, slot: usize, run: &mut UnitRun) {
        let state = self.slots[slot].as_ref().expect("open while it works. This is a bug.");
        let Some(words) = state.session.dialogue.first_words() else { return };
        run.handed_over = words.len();
        let order = run.order(Part::First, SpeechOrder::Continue, TurnReset::None, words);
        self.forward(SpeechCommand::Speak { slot, order });
    }

    /// Hands the unit's words to the speech thread at once: closing the unit overlaps with speaking it.
    fn speak(&self, slot: usize, end: &UnitEnd, run: &mut UnitRun) {
        if end.speech == SpeechOrder::None && end.reset == TurnReset::None {
            return;
        }
        let part = if run.handed_over == 0 { Part::Whole } else { Part::Rest };
        let order = run.order(part, end.speech, end.reset, &end.speech_ids[run.handed_over..]);
        self.forward(SpeechCommand::Speak { slot, order });
    }

    /// One decode batch over every generating slot; units of stale turns end instead.
    fn step(&mut self) {
        let mut batch = Vec::with_capacity(self.slots.len());
        for slot in 0..self.slots.len() {
            let Some(state) = &mut self.slots[slot] else { continue };
            match std::mem::replace(&mut state.phase, Phase::Idle) {
                Phase::Decode { mut run, .. }
                    if state.session.fence.is_stale(run.turn) && state.session.dialogue.may_abort() =>
                {
                    let end = state.session.dialogue.abort(self.tokenizer.as_ref());
                    self.speak(slot, &end, &mut run);
                    self.slots[slot].as_mut().expect("open above. This is a bug.").phase = Phase::Finalize { end, run };
                }
                // Its neighbours in the batch must not pay for it.
                Phase::Decode { .. } if self.llm.len(slot) >= self.llm.capacity() => {
                    self.fail(slot, EngineError::ContextFull { capacity: self.llm.capacity() });
                }
                Phase::Decode { token, speaks, run } => batch.push((slot, token, speaks, run)),
                other => state.phase = other,
            }
        }
        if batch.is_empty() {
            return;
        }
        self.widest_batch.fetch_max(batch.len(), Ordering::Relaxed);
        let feeds: Vec<(usize, u32)> = batch.iter().map(|(slot, token, ..)| (*slot, *token)).collect();
        let (result, cost) = timed(|| self.llm.decode(&feeds));
        if let Err(error) = result {
            let error = EngineError::from(error);
            for (slot, ..) in batch {
                self.fail(slot, error.clone());
            }
            return;
        }
        for (slot, _, speaks, mut run) in batch {
            run.timings.generate += cost;
            if speaks {
                run.hidden.extend_from_slice(self.llm.hidden(slot));
            }
            if let Err(error) = self.follow(slot, Step::Sample, run) {
                self.fail(slot, error);
            }
        }
    }

    /// Feeds the terminator and `</unit>`, edits the cache as the window asks, and reports the unit.
    fn finalize(&mut self, slot: usize, end: UnitEnd, mut run: UnitRun) -> Result<(), EngineError> {
        let kv_generate = self.llm.len(slot);
        let (result, cost) = timed(|| -> Result<_, EngineError> {
            self.feed_tokens(slot, &end.feed())?;
            let state = self.slots[slot].as_mut().expect("open while it works. This is a bug.");
            let finalized = state.session.dialogue.finalize(self.llm.len(slot), self.tokenizer.as_ref());
            if let Some(edit) = finalized.edit {
                self.held.before_edit(slot, &edit);
                apply(&mut self.llm, slot, edit)?;
            }
            Ok(finalized.kv_len)
        });
        let kv_final = result?;
        assert_eq!(kv_final, self.llm.len(slot), "the window predicted another cache length. This is a bug.");
        run.timings.finalize = cost;
        let session = &self.slots[slot].as_ref().expect("open while it works. This is a bug.").session;
        session.events.send(EngineEvent::Unit(Box::new(UnitReport {
            unit: run.unit,
            turn: run.turn,
            end,
            kv_prefill: run.kv_prefill,
            kv_generate,
            kv_final,
            apm_kv: run.apm_kv,
            vision_slices: run.vision_slices,
            vision_tokens: run.vision_tokens,
            window: session.record_window.then(|| session.dialogue.window_state()),
            timings: run.timings,
        })));
        Ok(())
    }
}

fn apply(llm: &mut Llm, slot: usize, edit: CacheEdit) -> Result<(), ModelError> {
    match edit {
        CacheEdit::Drop { preserve, len } => llm.remove(slot, preserve..preserve + len),
        CacheEdit::Rebuild { prefix, feed, units_len } => llm.splice(slot, prefix, &feed, units_len),
    }
}

fn ready(index: usize, slot: &Slot) -> Option<Ready> {
    let (kind, deadline) = match &slot.phase {
        Phase::Idle => return None,
        // A prompt has no deadline: it waits until no unit is due.
        Phase::Prompt(_) => (Kind::Single, u64::MAX),
        Phase::Prefill(input) => (Kind::Single, deadline_key(input.deadline)),
        Phase::Finalize { run, .. } => (Kind::Single, deadline_key(run.deadline)),
        Phase::Decode { run, .. } => (Kind::Step, deadline_key(run.deadline)),
    };
    Some(Ready { slot: index, deadline, kind })
}
