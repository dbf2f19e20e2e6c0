//! The speech thread: owns the TTS and token2wav graphs, and one [`SpeechTurn`] per slot.
//!
//! TTS steps run as one batch over all slots that are speaking; conditions, vocoder calls and new voices are singles. A slot may
//! generate codes and have vocoder calls waiting at the same time, so the first audio leaves while codes are still coming.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use duologue_model::{Stream, Token2Wav, Tts, Voice, VoiceFrontEnd};
use duologue_session::{
    ChunkEnd, CodeStep, FirstPart, Part, PlanRequest, PreparedReport, SpeechOrder, SpeechReport, SpeechTimings,
    SpeechTurn, TurnId, TurnReset, UnitId, VocoderCall,
};

use crate::command::{SpeakOrder, SpeechCommand, SpeechSession, VoiceOrder};
use crate::error::EngineError;
use crate::events::EngineEvent;
use crate::recordings::RecordingCache;
use crate::scheduler::{Action, Kind, Ready, Scheduler};
use crate::timing::{deadline_key, timed};

/// Units of one session that may wait for the vocoder, one that is spoken in two parts counted once. The LLM is at most a few units ahead of a vocoder that keeps up at all;
/// when full, the session ends (`EngineError::SpeechBehind`).
const ORDER_CAPACITY: usize = 8;

/// A unit being spoken.
struct Speaking {
    unit: UnitId,
    turn: TurnId,
    deadline: Instant,
    /// Code to feed at the next step, and whether it is the part's last; none once the part's codes are complete.
    feed: Option<(u32, bool)>,
    /// Set when the unit is spoken in two parts.
    first_part: Option<FirstPart>,
    /// Codes of the first part, once the second has begun.
    first_codes: Vec<u32>,
    /// The first part's codes are complete; the order with the other words is still to come.
    awaits_words: bool,
    end: Option<ChunkEnd>,
    calls: VecDeque<VocoderCall>,
    /// Audio not sent yet: the whole unit, if it may still be padded in front.
    held: Vec<i16>,
    /// Since the last report.
    timings: SpeechTimings,
}

impl Speaking {
    fn new(order: &SpeakOrder) -> Self {
        Self {
            unit: order.unit,
            turn: order.turn,
            deadline: order.deadline,
            feed: None,
            first_part: None,
            first_codes: Vec::new(),
            awaits_words: false,
            end: None,
            calls: VecDeque::new(),
            held: Vec::new(),
            timings: SpeechTimings::default(),
        }
    }
}

struct Slot {
    session: SpeechSession,
    voice: Option<Arc<Voice>>,
    new_voice: Option<VoiceOrder>,
    stream: Option<Stream>,
    orders: VecDeque<SpeakOrder>,
    speaking: Option<Box<Speaking>>,
}

/// State of the thread.
pub(crate) struct SpeechThread {
    pub tts: Tts,
    pub token2wav: Token2Wav,
    pub voice_front_end: VoiceFrontEnd,
    /// Artificial silence fills a unit's audio up to this many samples.
    pub unit_samples: usize,
    slots: Vec<Option<Slot>>,
    scheduler: Scheduler,
    voices: RecordingCache<Voice>,
}

/// Voices kept. At full size the base caches of a 6 s voice take 263 MB (see [`Voice`]).
const VOICES: usize = 4;

impl SpeechThread {
    pub fn new(tts: Tts, token2wav: Token2Wav, voice_front_end: VoiceFrontEnd, unit_samples: usize) -> Self {
        let slots = tts.slots();
        Self {
            tts,
            token2wav,
            voice_front_end,
            unit_samples,
            slots: (0..slots).map(|_| None).collect(),
            scheduler: Scheduler::default(),
            voices: RecordingCache::new(VOICES),
        }
    }

    /// Runs until every sender of `commands` is gone.
    pub fn run(mut self, commands: &Receiver<SpeechCommand>) {
        loop {
            let slots = &self.slots;
            let work =
                slots.iter().enumerate().filter_map(|(index, slot)| Some(ready(index, slot.as_ref()?))).flatten();
            match self.scheduler.next(work) {
                Action::Wait => match commands.recv() {
                    Ok(command) => self.accept(command),
                    Err(_) => return,
                },
                Action::Single(slot) => self.guarded(slot, Self::single),
                Action::Step => self.step(),
            }
            while let Ok(command) = commands.try_recv() {
                self.accept(command);
            }
        }
    }

    fn accept(&mut self, command: SpeechCommand) {
        match command {
            SpeechCommand::Open { slot, session } => {
                self.tts.clear(slot);
                self.slots[slot] = Some(Slot {
                    session: *session,
                    voice: None,
                    new_voice: None,
                    stream: None,
                    orders: VecDeque::with_capacity(2 * ORDER_CAPACITY),
                    speaking: None,
                });
            }
            SpeechCommand::Close { slot } => self.slots[slot] = None,
            // A session that failed on this thread may still get orders from the threads before it.
            SpeechCommand::Voice { slot, order } => {
                if let Some(state) = &mut self.slots[slot] {
                    state.new_voice = Some(order);
                }
            }
            SpeechCommand::Speak { slot, order } => {
                let Some(state) = &mut self.slots[slot] else { return };
                let units = state.orders.iter().filter(|order| order.part != Part::Rest).count();
                if order.part != Part::Rest && units == ORDER_CAPACITY {
                    self.fail(slot, EngineError::SpeechBehind { units: ORDER_CAPACITY });
                } else {
                    state.orders.push_back(order);
                }
            }
        }
    }

    fn slot(&mut self, slot: usize) -> &mut Slot {
        self.slots[slot].as_mut().expect("a slot stays open while it works. This is a bug.")
    }

    fn fail(&mut self, slot: usize, error: EngineError) {
        tracing::warn!(slot, %error, "speech stage failed, session ends");
        if let Some(state) = self.slots[slot].take() {
            state.session.events.send(EngineEvent::Failed(error));
        }
    }

    fn guarded(&mut self, slot: usize, work: impl FnOnce(&mut Self, usize) -> Result<(), EngineError>) {
        if let Err(error) = work(self, slot) {
            self.fail(slot, error);
        }
    }

    fn single(&mut self, slot: usize) -> Result<(), EngineError> {
        let state = self.slot(slot);
        if let Some(order) = state.new_voice.take() {
            return self.set_voice(slot, &order);
        }
        if let Some(mut speaking) = state.speaking.take() {
            if state.session.fence.is_stale(speaking.turn) {
                self.give_up(slot, *speaking);
                return Ok(());
            }
            if let Some(call) = speaking.calls.pop_front() {
                self.vocode(slot, &mut speaking, &call)?;
                self.settle(slot, speaking);
                return Ok(());
            }
            let order =
                state.orders.pop_front().expect("only slots with a call or an order are singles. This is a bug.");
            return self.go_on(slot, speaking, &order);
        }
        let order = state.orders.pop_front().expect("only slots with an order are singles. This is a bug.");
        self.begin(slot, &order)
    }

    fn set_voice(&mut self, slot: usize, order: &VoiceOrder) -> Result<(), EngineError> {
        let Self { token2wav, voice_front_end, voices, .. } = self;
        let voice = voices.get_or_make(&order.pcm, |pcm| token2wav.setup(&voice_front_end.prompt(pcm)?))?;
        let state = self.slot(slot);
        state.voice = Some(voice);
        state.stream = None;
        state.session.events.send(EngineEvent::Prepared(PreparedReport {
            kv_len: order.kv_len,
            from_cache: order.from_cache,
            took: order.asked.elapsed(),
        }));
        Ok(())
    }

    /// Forgets what the order asks to forget, then begins with its words.
    fn begin(&mut self, slot: usize, order: &SpeakOrder) -> Result<(), EngineError> {
        let stale = self.slot(slot).session.fence.is_stale(order.turn);
        self.reset(slot, if stale { TurnReset::All } else { order.reset });
        if order.speech == SpeechOrder::None {
            return Ok(());
        }
        match (stale, order.part) {
            (false, _) => self.read_words(slot, Box::new(Speaking::new(order)), order),
            // Its first part was given up, and that said that nothing more comes.
            (true, Part::Rest) => Ok(()),
            (true, Part::Whole | Part::First) => {
                self.report(slot, &mut Speaking::new(order), true);
                Ok(())
            }
        }
    }

    /// A unit whose first words are spoken gets the others.
    fn go_on(&mut self, slot: usize, mut speaking: Box<Speaking>, order: &SpeakOrder) -> Result<(), EngineError> {
        assert_eq!((order.unit, order.part), (speaking.unit, Part::Rest), "another unit's words. This is a bug.");
        speaking.awaits_words = false;
        speaking.first_codes.extend_from_slice(self.slot(slot).session.sampler.codes());
        self.read_words(slot, speaking, order)
    }

    /// Runs the words' condition through the TTS and chooses the first code.
    fn read_words(&mut self, slot: usize, mut speaking: Box<Speaking>, order: &SpeakOrder) -> Result<(), EngineError> {
        let (plan, cost) = timed(|| -> Result<_, EngineError> {
            let condition = self.tts.condition(&order.ids, &order.hidden)?;
            let request = PlanRequest {
                part: order.part,
                condition_len: order.ids.len() + 1,
                end_of_turn: order.speech == SpeechOrder::EndTurn,
                cache_len: self.tts.len(slot),
                cache_capacity: self.tts.capacity(),
            };
            let session = &mut self.slots[slot].as_mut().expect("open while it works. This is a bug.").session;
            let plan = session.turn.plan(request)?;
            if plan.restart {
                tracing::warn!(slot, "turn outgrew the TTS cache, its context starts anew");
                self.tts.clear(slot);
            }
            session.sampler.start(plan);
            self.tts.prefill(slot, &condition)?;
            Ok(plan)
        });
        let plan = plan?;
        if order.part == Part::First {
            let samples = self.slot(slot).session.turn.samples_of(plan.max_new - 1);
            speaking.first_part = Some(FirstPart { words: order.ids.len(), samples });
        }
        speaking.timings.tts += cost;
        self.choose(slot, speaking)
    }

    /// Chooses the next code from the slot's logits.
    fn choose(&mut self, slot: usize, mut speaking: Box<Speaking>) -> Result<(), EngineError> {
        let begin = Instant::now();
        let state = self.slots[slot].as_mut().expect("open while it works. This is a bug.");
        match state.session.sampler.advance(self.tts.logits(slot))? {
            CodeStep::Feed { code, last } => {
                speaking.calls.extend(state.session.turn.push(&[code]));
                speaking.feed = Some((code, last));
            }
            CodeStep::End => finish_codes(&mut state.session.turn, &mut speaking),
        }
        speaking.timings.tts += begin.elapsed();
        self.settle(slot, speaking);
        Ok(())
    }

    /// One TTS step over every slot with a code to feed.
    fn step(&mut self) {
        let mut batch = Vec::with_capacity(self.slots.len());
        for slot in 0..self.slots.len() {
            let Some(state) = &mut self.slots[slot] else { continue };
            let Some(speaking) = state.speaking.take_if(|speaking| speaking.feed.is_some()) else { continue };
            if state.session.fence.is_stale(speaking.turn) {
                self.give_up(slot, *speaking);
            } else {
                batch.push((slot, speaking));
            }
        }
        if batch.is_empty() {
            return;
        }
        let feeds: Vec<(usize, u32)> = batch
            .iter()
            .map(|(slot, speaking)| (*slot, speaking.feed.expect("taken for it. This is a bug.").0))
            .collect();
        let (result, cost) = timed(|| self.tts.decode(&feeds));
        if let Err(error) = result {
            let error = EngineError::from(error);
            batch.into_iter().for_each(|(slot, _)| self.fail(slot, error.clone()));
            return;
        }
        for (slot, mut speaking) in batch {
            speaking.timings.tts += cost;
            let (_, last) = speaking.feed.take().expect("taken for it. This is a bug.");
            if last {
                finish_codes(&mut self.slot(slot).session.turn, &mut speaking);
                self.settle(slot, speaking);
            } else {
                self.guarded(slot, |thread, slot| thread.choose(slot, speaking));
            }
        }
    }

    fn vocode(&mut self, slot: usize, speaking: &mut Speaking, call: &VocoderCall) -> Result<(), EngineError> {
        let state = self.slots[slot].as_mut().expect("open while it works. This is a bug.");
        let voice = state.voice.as_ref().expect("a session is prepared with a voice before it speaks. This is a bug.");
        let stream = state.stream.get_or_insert_with(|| Stream::new(voice, state.session.options));
        let piece = self.token2wav.push(stream, &call.tokens, call.last)?;
        speaking.timings.flow += piece.flow;
        speaking.timings.hift += piece.hift;
        speaking.held.extend_from_slice(&piece.pcm[call.skip_samples.min(piece.pcm.len())..]);
        if state.session.conduct.early_sound && !speaking.held.is_empty() {
            self.report(slot, speaking, false);
        }
        Ok(())
    }

    /// Puts a unit back to go on with, or closes it when its codes and calls are done.
    fn settle(&mut self, slot: usize, mut speaking: Box<Speaking>) {
        if !speaking.calls.is_empty() || speaking.end.is_none() {
            self.slot(slot).speaking = Some(speaking);
            return;
        }
        let ChunkEnd { left_pad, reset, .. } = *speaking.end.as_ref().expect("checked above. This is a bug.");
        if self.slot(slot).session.conduct.artificial_silence {
            pad_like_the_reference(&mut speaking.held, left_pad, self.unit_samples);
        }
        self.report(slot, &mut speaking, true);
        self.reset(slot, reset);
    }

    /// Barge-in: nothing more of this turn is spoken.
    fn give_up(&mut self, slot: usize, mut speaking: Speaking) {
        self.slot(slot).session.sampler.abort();
        self.report(slot, &mut speaking, true);
        self.reset(slot, TurnReset::All);
    }

    fn report(&mut self, slot: usize, speaking: &mut Speaking, done: bool) {
        let session = &self.slot(slot).session;
        let codes = [&speaking.first_codes, session.sampler.codes()].concat();
        session.events.send(EngineEvent::Speech(SpeechReport {
            unit: speaking.unit,
            turn: speaking.turn,
            samples: std::mem::take(&mut speaking.held),
            sound_samples: session.turn.sound_samples(codes.len(), done),
            codes,
            first_part: speaking.first_part,
            done,
            timings: std::mem::take(&mut speaking.timings),
        }));
    }

    fn reset(&mut self, slot: usize, reset: TurnReset) {
        let state = self.slots[slot].as_mut().expect("open while it works. This is a bug.");
        state.session.turn.reset(reset);
        match reset {
            TurnReset::None => {}
            TurnReset::VocoderOnly => {}
            TurnReset::All => self.tts.clear(slot),
        }
        // The stream keeps its memory: at full size its caches are hundreds of megabytes.
        if let (true, Some(stream)) = (reset != TurnReset::None, &mut state.stream) {
            stream.reset();
        }
    }
}

fn finish_codes(turn: &mut SpeechTurn, speaking: &mut Speaking) {
    match turn.finish() {
        None => speaking.awaits_words = true,
        Some(mut end) => {
            speaking.calls.extend(end.calls.drain(..));
            speaking.end = Some(end);
        }
    }
}

/// A unit of a going turn that is shorter than a unit gets zeros in front; one without audio is all zeros
/// (modeling_minicpmo_unified.py:4940, 5519-5524).
fn pad_like_the_reference(samples: &mut Vec<i16>, left_pad: bool, unit_samples: usize) {
    if samples.len() < unit_samples && (left_pad || samples.is_empty()) {
        let missing = unit_samples - samples.len();
        samples.splice(0..0, std::iter::repeat_n(0, missing));
    }
}

/// A slot may have a code to feed and a call to make at the same time.
fn ready(index: usize, slot: &Slot) -> impl Iterator<Item = Ready> {
    let item = |deadline, kind| Ready { slot: index, deadline, kind };
    let step = slot.speaking.as_ref().filter(|s| s.feed.is_some()).map(|s| item(deadline_key(s.deadline), Kind::Step));
    let single = if slot.new_voice.is_some() {
        // A voice has no deadline: it waits until no unit is due.
        Some(item(u64::MAX, Kind::Single))
    } else if let Some(speaking) = &slot.speaking {
        let more = speaking.awaits_words && !slot.orders.is_empty();
        (more || !speaking.calls.is_empty()).then(|| item(deadline_key(speaking.deadline), Kind::Single))
    } else {
        slot.orders.front().map(|order| item(deadline_key(order.deadline), Kind::Single))
    };
    step.into_iter().chain(single)
}
