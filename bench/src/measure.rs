//! Rows out of conversations: what each unit, reply and sentence of the user came to.
//!
//! Pure. All times are milliseconds on the clock of their conversation, which begins with the microphone.

use std::collections::BTreeMap;
use std::time::Duration;

use duologue_proto::live::{DroppedKind, ServerEvent, Speech, TurnState, Unit};
use duologue_proto::timeline::Decision;
use serde::{Deserialize, Serialize};

use crate::conversation::{Conversation, Said};
use crate::player::Sounds;
use crate::resources::Usage;
use crate::scenario::Load;

/// The user's audio in a unit; the first one of a session is a little longer.
pub const UNIT_MS: f64 = 1_000.0;

/// Which conversation a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Sessions beside it.
    pub load: Load,
    /// Number of the run, from 0.
    pub run: usize,
    /// Number of the session within the run, from 0.
    pub session: usize,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// One for each session.
    pub sessions: Vec<SessionRow>,
    /// One for each unit.
    pub units: Vec<UnitRow>,
    /// One for each reply.
    pub replies: Vec<ReplyRow>,
    /// One for each thing the user said.
    pub said: Vec<SaidRow>,
    /// Memory and processor of this process, which holds the clients and, if it was started here, the server.
    pub usage: Vec<UsageRow>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Which.
    #[serde(flatten)]
    pub place: Place,
    /// From the first packet to the network until it was open.
    pub connect_ms: f64,
    /// How long it was.
    pub length_ms: f64,
    /// How late the client was, at worst.
    pub client_late_ms: f64,
    /// Units of user audio that the server dropped.
    pub dropped_units: u64,
    /// Units of user audio that it neither finished nor dropped, though there was time.
    pub unfinished_units: u64,
    /// Interruptions that were not said, as there was no reply to interrupt.
    pub skipped_interruptions: usize,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The server had no room.
    pub refused: bool,
}

/// A unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitRow {
    /// Of which session.
    #[serde(flatten)]
    pub place: Place,
    /// Its number.
    pub unit: u64,
    /// Its reply, or the one that would come next.
    pub turn: u64,
    /// What the model decided.
    pub decision: Decision,
    /// Its audio was complete.
    pub ready_ms: f64,
    /// Unit time.
    pub unit_ms: f64,
    /// It took longer than its audio.
    pub missed: bool,
    /// It was decided before an interruption; nothing of it is heard, but for what was spoken before it was decided.
    pub stale: bool,
    /// Tokens that the LLM made.
    pub tokens: u32,
    /// Audio tokens.
    pub codes: usize,
    /// Log-mel.
    pub mel_ms: f64,
    /// Audio encoder.
    pub apm_ms: f64,
    /// Pictures.
    pub vision_ms: f64,
    /// LLM prefill.
    pub prefill_ms: f64,
    /// LLM decode steps, sampling, and the unit's end.
    pub generate_ms: f64,
    /// Audio tokens of its words.
    pub tts_ms: f64,
    /// Their mel.
    pub flow_ms: f64,
    /// Their samples.
    pub hift_ms: f64,
    /// Sound that was made of it.
    pub sound_ms: f64,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplyRow {
    /// Of which session.
    #[serde(flatten)]
    pub place: Place,
    /// Its number.
    pub turn: u64,
    /// The unit that made the model speak.
    pub unit: u64,
    /// The audio of that unit was complete.
    pub ready_ms: f64,
    /// From then to the first piece of sound, by the server's clock.
    pub made_ms: Option<f64>,
    /// Stages of that first piece: audio tokens, mel, samples.
    pub first_piece_ms: [f64; 3],
    /// Its first audio arrived.
    pub arrived_ms: Option<f64>,
    /// Its first sample was played.
    pub played_ms: Option<f64>,
    /// Its first audible sample was played.
    pub audible_ms: Option<f64>,
    /// Its last audible sample was played.
    pub silent_ms: Option<f64>,
    /// Times that playback ran dry within it.
    pub gaps_ms: Vec<f64>,
    /// It was stopped.
    pub interrupted: bool,
}

impl ReplyRow {
    /// From the complete unit to the first audio at the client.
    pub fn ttfb_ms(&self) -> Option<f64> {
        Some(self.arrived_ms? - self.ready_ms)
    }
}

/// Something that the user said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaidRow {
    /// In which session.
    #[serde(flatten)]
    pub place: Place,
    /// Its number.
    pub said: usize,
    /// It was said into a reply, on purpose.
    pub interrupts: bool,
    /// Its first voiced sample.
    pub first_voiced_ms: f64,
    /// Its last voiced sample.
    pub last_voiced_ms: f64,
    /// The reply that was heard after it and before the user spoke again.
    pub answered_by: Option<u64>,
    /// From the last voiced sample to the first audible one of that reply.
    pub ttfa_ms: Option<f64>,
    /// From the first voiced sample to the last audible one of the reply it stopped.
    pub barge_in_ms: Option<f64>,
}

/// A moment of the process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Sessions at that time.
    pub load: Load,
    /// Number of the run.
    pub run: usize,
    /// Memory and processor.
    #[serde(flatten)]
    pub usage: Usage,
}

impl Rows {
    /// Adds what a conversation came to.
    pub fn add(&mut self, place: Place, conversation: &Conversation) {
        let events = &conversation.events;
        self.sessions.push(SessionRow {
            place,
            connect_ms: ms(conversation.connect),
            length_ms: ms(conversation.length),
            client_late_ms: ms(conversation.client_late),
            dropped_units: dropped_units(events),
            unfinished_units: unfinished_units(conversation.length, events),
            skipped_interruptions: conversation.skipped,
            failed: None,
            refused: false,
        });
        let speech = speech_by_unit(events);
        let units: Vec<UnitRow> = units(events).map(|(at, unit)| unit_row(place, at, unit, &speech)).collect();
        let replies = replies(place, &units, events, &conversation.sounds);
        self.said.extend(said(place, &conversation.said, &replies));
        self.units.extend(units);
        self.replies.extend(replies);
    }

    /// Adds a session that came to nothing.
    pub fn add_failed(&mut self, place: Place, reason: String, refused: bool) {
        self.sessions.push(SessionRow {
            place,
            connect_ms: 0.0,
            length_ms: 0.0,
            client_late_ms: 0.0,
            dropped_units: 0,
            unfinished_units: 0,
            skipped_interruptions: 0,
            failed: (!refused).then_some(reason),
            refused,
        });
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

type Events = [(Duration, ServerEvent)];

fn dropped_units(events: &Events) -> u64 {
    let count = |event: &ServerEvent| match event {
        ServerEvent::Dropped(dropped) if dropped.what == DroppedKind::Unit => dropped.count,
        _ => 0,
    };
    events.iter().map(|(_, event)| count(event)).sum()
}

/// How long a server may take for the last unit of a conversation, the jitter buffer in front of it included.
const LAST_UNIT_MS: f64 = 1_500.0;

/// What the user sent in whole units, long enough before the end, and nobody has heard of again.
fn unfinished_units(sent: Duration, events: &Events) -> u64 {
    let whole = ((ms(sent) - LAST_UNIT_MS) / UNIT_MS).floor().max(0.0) as u64;
    whole.saturating_sub(units(events).count() as u64 + dropped_units(events))
}

fn units(events: &Events) -> impl Iterator<Item = (f64, &Unit)> {
    events
        .iter()
        .filter_map(|(at, event)| if let ServerEvent::Unit(unit) = event { Some((ms(*at), unit)) } else { None })
}

fn pieces(events: &Events) -> impl Iterator<Item = &Speech> {
    events.iter().filter_map(|(_, event)| if let ServerEvent::Speech(speech) = event { Some(speech) } else { None })
}

fn speech_by_unit(events: &Events) -> BTreeMap<u64, Vec<&Speech>> {
    let mut units: BTreeMap<u64, Vec<&Speech>> = BTreeMap::new();
    pieces(events).for_each(|speech| units.entry(speech.unit).or_default().push(speech));
    units
}

fn unit_row(place: Place, at_ms: f64, unit: &Unit, speech: &BTreeMap<u64, Vec<&Speech>>) -> UnitRow {
    let pieces = speech.get(&unit.unit).map(Vec::as_slice).unwrap_or_default();
    let sum = |of: fn(&Speech) -> f64| pieces.iter().map(|piece| of(piece)).sum();
    UnitRow {
        place,
        unit: unit.unit,
        turn: unit.turn,
        decision: unit.decision,
        ready_ms: at_ms - unit.unit_ms,
        unit_ms: unit.unit_ms,
        missed: unit.deadline_missed,
        stale: unit.stale,
        tokens: unit.tokens,
        codes: pieces.iter().map(|piece| piece.codes).max().unwrap_or(0),
        mel_ms: unit.stages.mel_ms,
        apm_ms: unit.stages.apm_ms,
        vision_ms: unit.stages.vision_ms,
        prefill_ms: unit.stages.prefill_ms,
        generate_ms: unit.stages.llm_ms,
        tts_ms: sum(|piece| piece.stages.tts_ms),
        flow_ms: sum(|piece| piece.stages.flow_ms),
        hift_ms: sum(|piece| piece.stages.hift_ms),
        // The model's voice has 24 kHz.
        sound_ms: sum(|piece| piece.samples as f64 * 1e3 / f64::from(crate::voice::WIRE_RATE_HZ)),
    }
}

fn replies(place: Place, units: &[UnitRow], events: &Events, sounds: &Sounds) -> Vec<ReplyRow> {
    let interrupted = |turn: u64| {
        events.iter().any(|(_, event)| {
            matches!(event, ServerEvent::Turn(stopped) if stopped.turn == turn && stopped.state == TurnState::Interrupted)
        })
    };
    let mut firsts: BTreeMap<u64, &UnitRow> = BTreeMap::new();
    for unit in units.iter().filter(|unit| unit.decision == Decision::Speak && !unit.stale) {
        firsts.entry(unit.turn).or_insert(unit);
    }
    let reply = |(&turn, unit): (&u64, &&UnitRow)| {
        let sound = sounds.get(&turn).cloned().unwrap_or_default();
        let first = pieces(events).find(|piece| piece.turn == turn && piece.first);
        ReplyRow {
            place,
            turn,
            unit: unit.unit,
            ready_ms: unit.ready_ms,
            made_ms: first.and_then(|piece| piece.ttfb_ms),
            first_piece_ms: first
                .map_or([0.0; 3], |piece| [piece.stages.tts_ms, piece.stages.flow_ms, piece.stages.hift_ms]),
            arrived_ms: sound.arrived_at.map(ms),
            played_ms: sound.played_at.map(ms),
            audible_ms: sound.audible_at.map(ms),
            silent_ms: sound.silent_at.map(ms),
            gaps_ms: sound.gaps.iter().copied().map(ms).collect(),
            interrupted: interrupted(turn),
        }
    };
    firsts.iter().map(reply).collect()
}

fn said(place: Place, said: &[Said], replies: &[ReplyRow]) -> Vec<SaidRow> {
    // Somebody who was cut off by the end of the scenario said nothing that counts.
    let whole: Vec<(f64, f64, bool)> =
        said.iter().filter_map(|said| Some((ms(said.first_voiced?), ms(said.last_voiced?), said.interrupts))).collect();
    let row = |(index, &(first, last, interrupts)): (usize, &(f64, f64, bool))| {
        let next = whole.get(index + 1).map_or(f64::INFINITY, |next| next.0);
        let answer = replies.iter().find(|reply| reply.audible_ms.is_some_and(|at| last < at && at < next));
        let stopped = replies.iter().find(|reply| {
            let heard = reply.audible_ms.zip(reply.silent_ms);
            reply.interrupted && heard.is_some_and(|(from, to)| from < first && first < to)
        });
        SaidRow {
            place,
            said: index,
            interrupts,
            first_voiced_ms: first,
            last_voiced_ms: last,
            answered_by: answer.map(|reply| reply.turn),
            ttfa_ms: answer.and_then(|reply| Some(reply.audible_ms? - last)),
            barge_in_ms: stopped.filter(|_| interrupts).and_then(|reply| Some(reply.silent_ms? - first)),
        }
    };
    whole.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { load: Load::Sessions(1), run: 0, session: 0 };

    fn reply(turn: u64, audible_ms: f64, silent_ms: f64, interrupted: bool) -> ReplyRow {
        ReplyRow {
            place: PLACE,
            turn,
            unit: turn,
            ready_ms: audible_ms - 50.0,
            made_ms: Some(20.0),
            first_piece_ms: [1.0; 3],
            arrived_ms: Some(audible_ms - 25.0),
            played_ms: Some(audible_ms),
            audible_ms: Some(audible_ms),
            silent_ms: Some(silent_ms),
            gaps_ms: vec![],
            interrupted,
        }
    }

    fn voice(from: u64, to: u64, interrupts: bool) -> Said {
        let at = |ms| Some(Duration::from_millis(ms));
        Said { interrupts, first_voiced: at(from), last_voiced: at(to) }
    }

    #[test]
    fn an_answer_is_heard_after_the_voice_and_before_the_next_one() {
        let replies =
            [reply(0, 500.0, 900.0, false), reply(1, 2_300.0, 3_000.0, false), reply(2, 9_000.0, 9_500.0, false)];
        let rows = said(
            PLACE,
            &[voice(1_000, 2_000, false), voice(5_000, 6_000, false), voice(7_000, 8_000, false)],
            &replies,
        );
        let found: Vec<_> = rows.iter().map(|row| (row.answered_by, row.ttfa_ms)).collect();
        assert_eq!(found, [(Some(1), Some(300.0)), (None, None), (Some(2), Some(1_000.0))]);
    }

    #[test]
    fn a_server_that_goes_silent_has_not_finished_its_units() {
        let dropped = |count| {
            let event = duologue_proto::live::Dropped { what: DroppedKind::Unit, count };
            vec![(Duration::ZERO, ServerEvent::Dropped(event))]
        };
        let seconds = Duration::from_secs;
        assert_eq!([0, 1, 2, 10].map(|sent| unfinished_units(seconds(sent), &[])), [0, 0, 0, 8]);
        assert_eq!(unfinished_units(seconds(10), &dropped(5)), 3);
        assert_eq!(unfinished_units(seconds(10), &dropped(9)), 0);
    }

    #[test]
    fn a_barge_in_stops_the_reply_that_sounds() {
        let replies = [reply(0, 500.0, 1_180.0, true), reply(1, 3_000.0, 4_000.0, false)];
        let rows = said(PLACE, &[voice(1_000, 2_000, true), voice(3_500, 3_900, true)], &replies);
        assert_eq!(rows[0].barge_in_ms, Some(180.0));
        assert_eq!(rows[1].barge_in_ms, None, "that reply went on");
    }
}
