//! The session core on virtual time: scripts of inputs, and the outputs that must follow.

use proptest::prelude::*;

use super::*;
use crate::dialogue::{EndedBy, SpeechOrder, TurnReset, UnitEnd};

const UNIT: usize = 100;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What came out, in words: one line per output, so that scripts read as they run.
struct Script {
    session: DuplexSession,
    unit: Option<(UnitId, TurnId)>,
    /// When the audio of the last dispatched unit was complete.
    ready_at: Duration,
}

impl Script {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(cut_unheard: bool) -> Self {
        let config = CoreConfig {
            unit_samples: UNIT,
            unit_deadline: ms(1000),
            output_rate_hz: 24000,
            backlog_units: 2,
            frames_per_unit: 2,
            text_bytes: 20,
            cut_unheard,
        };
        Self { session: DuplexSession::new(config, ms(0)), unit: None, ready_at: ms(0) }
    }

    /// A prepared session with the first outputs taken.
    fn running() -> Self {
        Self::new().prepared()
    }

    fn prepared(self) -> Self {
        let mut script = self;
        assert_eq!(script.drain(), ["prepare", "idle"]);
        assert_eq!(
            script.at(0, Input::Prepared(PreparedReport { kv_len: 65, from_cache: false, took: ms(5) })),
            ["ready", "idle"]
        );
        script
    }

    fn drain(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = match self.session.poll() {
                Output::Idle => {
                    lines.push("idle".into());
                    return lines;
                }
                Output::Timeout(at) => {
                    lines.push(format!("wait until {}", at.as_millis()));
                    return lines;
                }
                Output::Work(Work::Prepare) => "prepare".into(),
                Output::Work(Work::Unit { unit, turn, audio, frames, text, force_listen, cuts, ready_at }) => {
                    self.ready_at = ready_at;
                    assert_eq!(audio.len(), UNIT);
                    self.unit = Some((unit, turn));
                    let forced = if force_listen { " forced" } else { "" };
                    let text = if text.is_empty() { text } else { format!(" typed {text:?}") };
                    let cuts: String = cuts.iter().map(|cut| format!(" cut {} to {}", cut.unit.0, cut.keep)).collect();
                    format!(
                        "unit {} turn {} from {} frames {}{text}{forced}{cuts}",
                        unit.0,
                        turn.0,
                        audio[0],
                        frames.len()
                    )
                }
                Output::Work(Work::Fence { turn }) => format!("fence {}", turn.0),
                Output::Work(Work::Release) => "release".into(),
                Output::Event(Event::Ready(_)) => "ready".into(),
                Output::Event(Event::Unit { report, unit_time, stale }) => {
                    let stale = if stale { " stale" } else { "" };
                    format!("done {} in {}{stale}", report.unit.0, unit_time.as_millis())
                }
                Output::Event(Event::Speech(report)) => format!("speech {}", report.samples.len()),
                Output::Event(Event::Flush { turn, unplayed_samples }) => {
                    format!("flush {} {unplayed_samples}", turn.0)
                }
                Output::Event(Event::Truncated { heard_samples, units }) => {
                    let text: Vec<&str> = units.iter().map(|unit| unit.text.as_str()).collect();
                    format!("heard {heard_samples} {text:?}")
                }
                Output::Event(Event::PlayoutEnded { gap }) => if gap { "gap" } else { "silent" }.into(),
                Output::Event(Event::UnitDropped) => "unit dropped".into(),
                Output::Event(Event::FrameDropped) => "frame dropped".into(),
                Output::Event(Event::TextDropped) => "text dropped".into(),
                Output::Event(Event::DeadlineMissed { unit }) => format!("late {}", unit.0),
                Output::Event(Event::Closed(reason)) => format!("closed {reason:?}"),
            };
            lines.push(line);
        }
    }

    fn at(&mut self, time: u64, input: Input) -> Vec<String> {
        self.session.handle(ms(time), input);
        self.drain()
    }

    /// A unit's worth of audio, marked with a number.
    fn audio(&mut self, time: u64, mark: f32) -> Vec<String> {
        self.at(time, Input::Audio(vec![mark; UNIT]))
    }

    /// The report of the unit in flight.
    fn done(&mut self, time: u64, speech: SpeechOrder) -> Vec<String> {
        let (unit, turn) = self.unit.take().expect("the script has a unit in flight");
        self.at(time, Input::Unit(Box::new(report(unit, turn, speech))))
    }

    fn speech(&mut self, time: u64, unit: u32, turn: u32, samples: usize, done: bool) -> Vec<String> {
        let (unit, turn) = (UnitId(unit), TurnId(turn));
        let timings = SpeechTimings::default();
        self.at(
            time,
            Input::Speech(SpeechReport {
                unit,
                turn,
                samples: vec![1; samples],
                codes: vec![],
                sound_samples: 24000,
                first_part: None,
                done,
                timings,
            }),
        )
    }
}

fn report(unit: UnitId, turn: TurnId, speech: SpeechOrder) -> UnitReport {
    UnitReport {
        unit,
        turn,
        end: UnitEnd {
            terminator: 11,
            unit_end: 1,
            is_listen: speech == SpeechOrder::None,
            end_of_turn: speech == SpeechOrder::EndTurn,
            ended_by: EndedBy::ChunkEos,
            tokens: vec![],
            decoded: vec![],
            text: String::new(),
            speech_ids: vec![],
            word_ends: vec![],
            speech,
            reset: TurnReset::None,
            turn_open: speech == SpeechOrder::Continue,
        },
        kv_prefill: 0,
        kv_generate: 0,
        kv_final: 0,
        apm_kv: [0, 0],
        vision_slices: 0,
        vision_tokens: 0,
        window: None,
        timings: UnitTimings::default(),
    }
}

fn frame() -> Frame {
    Frame { width: 1, height: 1, rgb: vec![0; 3], max_slices: 1 }
}

#[test]
fn audio_during_preparation_waits_and_units_run_one_at_a_time() {
    let mut script = Script::new();
    script.drain();
    assert_eq!(script.audio(10, 1.0), ["idle"]);
    let prepared = Input::Prepared(PreparedReport { kv_len: 65, from_cache: false, took: ms(20) });
    assert_eq!(script.at(20, prepared), ["ready", "unit 0 turn 0 from 1 frames 0", "wait until 1010"]);
    assert_eq!(script.audio(1009, 2.0), ["wait until 1010"]);
    // Unit time counts from the last sample, not from the dispatch.
    assert_eq!(script.done(200 + 1000, SpeechOrder::None)[..2], ["late 0", "done 0 in 1190"]);
    assert_eq!(script.done(1300, SpeechOrder::None), ["done 1 in 291", "idle"]);
}

#[test]
fn a_unit_carries_the_time_at_which_its_audio_was_complete() {
    let mut script = Script::running();
    script.at(50, Input::Audio(vec![0.0; UNIT - 1]));
    script.at(100, Input::Audio(vec![0.0; 1]));
    assert_eq!(script.ready_at, ms(100));
    // It waits for the engine until 700.
    script.audio(300, 1.0);
    assert_eq!(script.done(700, SpeechOrder::None)[1], "unit 1 turn 0 from 1 frames 0");
    assert_eq!(script.ready_at, ms(300));
}

#[test]
fn a_full_backlog_drops_the_oldest_unit_and_keeps_a_forced_listen() {
    let mut script = Script::running();
    script.audio(0, 0.0);
    for (time, mark) in [(100, 1.0), (200, 2.0)] {
        assert_eq!(script.audio(time, mark), ["wait until 1000"]);
    }
    script.at(200, Input::ForceListen);
    assert_eq!(script.audio(300, 3.0), ["unit dropped", "wait until 1000"]);
    // A large push drops as many as do not fit.
    assert_eq!(script.at(400, Input::Audio(vec![4.0; 3 * UNIT]))[..3], ["unit dropped"; 3]);
    assert_eq!(script.session.stats().units_dropped, 4);
    assert_eq!(script.done(500, SpeechOrder::None)[1], "unit 1 turn 0 from 4 frames 0 forced");
    assert_eq!(script.done(600, SpeechOrder::None)[1], "unit 2 turn 0 from 4 frames 0");
}

#[test]
fn frames_go_with_the_audio_being_collected_and_the_oldest_one_goes_first() {
    let mut script = Script::running();
    script.at(0, Input::Audio(vec![0.0; UNIT - 1]));
    for _ in 0..2 {
        assert_eq!(script.at(1, Input::Frame(frame())), ["idle"]);
    }
    assert_eq!(script.at(2, Input::Frame(frame())), ["frame dropped", "idle"]);
    assert_eq!(script.at(3, Input::Audio(vec![0.0; 1]))[0], "unit 0 turn 0 from 0 frames 2");
    script.done(4, SpeechOrder::None);
    assert_eq!(script.audio(5, 1.0)[0], "unit 1 turn 0 from 1 frames 0");
}

#[test]
fn typed_text_goes_with_the_next_unit() {
    let mut script = Script::running();
    assert_eq!(script.at(10, Input::Text("hello".into())), ["idle"]);
    script.at(20, Input::Text("you".into()));
    assert_eq!(script.at(30, Input::Text("and everybody else".into())), ["text dropped", "idle"]);
    assert_eq!(script.audio(40, 0.0)[0], "unit 0 turn 0 from 0 frames 0 typed \"hello you\"");
    script.done(50, SpeechOrder::None);
    assert_eq!(script.audio(60, 1.0)[0], "unit 1 turn 0 from 1 frames 0");
}

#[test]
fn typed_text_interrupts_and_waits_for_a_unit_that_may_answer() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    script.done(1100, SpeechOrder::Continue);
    script.speech(1200, 0, 0, 12000, false);
    assert_eq!(script.at(1300, Input::Text("stop".into()))[..2], ["fence 1", "flush 1 9600"]);
    assert_eq!(script.audio(2000, 1.0)[0], "unit 1 turn 1 from 1 frames 0 forced");
    script.done(2100, SpeechOrder::None);
    assert_eq!(script.audio(3000, 2.0)[0], "unit 2 turn 1 from 2 frames 0 typed \"stop\"");
}

#[test]
fn an_interruption_stops_playback_fences_late_speech_and_forces_the_next_unit_to_listen() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    assert_eq!(script.done(1100, SpeechOrder::Continue), ["done 0 in 100", "idle"]);
    assert_eq!(script.speech(1200, 0, 0, 12000, false), ["speech 12000", "wait until 1700"]);
    assert_eq!(script.audio(1300, 1.0)[0], "unit 1 turn 0 from 1 frames 0");
    // 200 ms of the 500 ms are played: 300 ms are cut.
    assert_eq!(script.at(1400, Input::Interrupt)[..2], ["fence 1", "flush 1 7200"]);
    // The rest of unit 0 and all of unit 1 belong to the old turn.
    assert_eq!(script.speech(1450, 0, 0, 12000, true), ["wait until 2300"]);
    assert_eq!(script.done(1500, SpeechOrder::Continue), ["done 1 in 200 stale", "idle"]);
    assert_eq!(script.speech(1550, 1, 0, 24000, true), ["idle"]);
    assert_eq!(script.session.stats().stale_samples, 36000);
    assert_eq!(script.audio(2300, 2.0)[0], "unit 2 turn 1 from 2 frames 0 forced");
    script.done(2400, SpeechOrder::None);
    assert!(!script.session.speaking());
    // The new turn is heard again.
    assert_eq!(script.audio(3300, 3.0)[0], "unit 3 turn 1 from 3 frames 0");
    script.done(3400, SpeechOrder::EndTurn);
    assert_eq!(script.speech(3500, 3, 1, 2400, true), ["speech 2400", "wait until 3600"]);
    assert_eq!(script.at(3600, Input::Tick), ["silent", "idle"]);
    assert_eq!(script.session.stats().interrupts, 1);
}

#[test]
fn repeated_interruptions_force_one_listen_and_leave_it_valid() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    script.done(1100, SpeechOrder::Continue);
    script.audio(2000, 1.0);
    assert_eq!(script.at(2100, Input::Interrupt)[0], "fence 1");
    assert!(!script.session.speaking());
    // The turn is still open on the LLM side, but the listener hears nothing: before the stale unit's report ...
    assert_eq!(script.at(2150, Input::Interrupt), ["wait until 3000"]);
    assert_eq!(script.done(2200, SpeechOrder::Continue), ["done 1 in 200 stale", "idle"]);
    // ... before the forced unit is dispatched ...
    assert_eq!(script.at(2250, Input::Interrupt), ["idle"]);
    assert_eq!(script.audio(3000, 2.0)[0], "unit 2 turn 1 from 2 frames 0 forced");
    // ... and while it is computed.
    assert_eq!(script.at(3050, Input::Interrupt), ["wait until 4000"]);
    assert_eq!(script.done(3100, SpeechOrder::None), ["done 2 in 100", "idle"]);
    // The answer is not delayed by a second forced listen, and can be interrupted again.
    assert_eq!(script.audio(4000, 3.0)[0], "unit 3 turn 1 from 3 frames 0");
    script.done(4100, SpeechOrder::Continue);
    assert!(script.session.speaking());
    assert_eq!(script.at(4200, Input::Interrupt)[0], "fence 2");
    assert_eq!((script.session.turn(), script.session.stats().interrupts), (TurnId(2), 2));
}

#[test]
fn speech_of_the_new_fence_can_be_interrupted_before_its_report() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    script.done(1100, SpeechOrder::Continue);
    script.at(1200, Input::Interrupt);
    script.audio(2000, 1.0);
    script.speech(2100, 1, 1, 24000, false);
    assert_eq!(script.at(2200, Input::Interrupt)[..2], ["fence 2", "flush 2 21600"]);
}

#[test]
fn an_interruption_of_silence_changes_nothing() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    assert_eq!(script.at(1050, Input::Interrupt), ["wait until 2000"]);
    script.done(1100, SpeechOrder::None);
    assert_eq!(script.audio(2000, 1.0)[0], "unit 1 turn 0 from 1 frames 0");
    assert_eq!((script.session.turn(), script.session.stats().interrupts), (TurnId(0), 0));
}

#[test]
fn playback_can_be_interrupted_after_the_turn_is_computed() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    script.done(1100, SpeechOrder::EndTurn);
    script.speech(1200, 0, 0, 48000, true);
    assert_eq!(script.at(3199, Input::Interrupt)[..2], ["fence 1", "flush 1 24"]);
    script.audio(3300, 1.0);
    script.done(3400, SpeechOrder::EndTurn);
    script.speech(3500, 1, 1, 24, true);
    // Played to the end: nothing left to stop.
    assert_eq!(script.at(3501, Input::Interrupt), ["silent", "idle"]);
}

#[test]
fn speech_may_overtake_its_units_report() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    script.speech(1100, 0, 0, 24, true);
    assert!(script.session.speaking());
    script.done(1200, SpeechOrder::EndTurn);
    assert!(!script.session.speaking());
}

#[test]
fn a_unit_that_is_spoken_before_its_report_is_speaking_until_then() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    script.speech(1100, 0, 0, 24, false);
    let events = script.at(1200, Input::Tick);
    assert_eq!(events[0], "gap", "the LLM is late with the other words");
    assert!(script.session.speaking(), "nothing sounds, and more is to come");
    assert_eq!(script.at(1300, Input::Interrupt)[0], "fence 1");
    assert!(!script.session.speaking());
}

/// A second of two words is played from 1100 on, the next is in the making.
fn saying_two_words() -> Script {
    let mut script = Script::with(true).prepared();
    script.audio(1000, 0.0);
    let (unit, turn) = script.unit.take().expect("dispatched above");
    let mut report = report(unit, turn, SpeechOrder::Continue);
    report.end.text = "one two".into();
    report.end.word_ends = vec![3, 7];
    script.at(1050, Input::Unit(Box::new(report)));
    script.speech(1100, 0, 0, 24000, true);
    script
}

#[test]
fn the_next_unit_forgets_what_was_not_heard_by_the_clock() {
    let mut script = saying_two_words();
    assert_eq!(script.at(1500, Input::Interrupt)[..2], ["fence 1", "flush 1 14400"]);
    let next = script.audio(2000, 1.0);
    assert_eq!(next[..2], ["heard 9600 [\"one\"]", "unit 1 turn 1 from 1 frames 0 forced cut 0 to 1"]);
    script.done(2100, SpeechOrder::None);
    assert_eq!(script.audio(3000, 2.0)[0], "unit 2 turn 1 from 2 frames 0", "once only");
}

#[test]
fn the_listeners_last_word_before_the_next_unit_counts() {
    let mut script = saying_two_words();
    script.at(1500, Input::Interrupt);
    script.at(1510, Input::Heard(24_000));
    script.at(1550, Input::Heard(2_000));
    assert_eq!(script.audio(2000, 1.0)[..2], ["heard 2000 [\"\"]", "unit 1 turn 1 from 1 frames 0 forced cut 0 to 0"]);
    let mut script = saying_two_words();
    script.at(1500, Input::Interrupt);
    script.at(1510, Input::Heard(u64::MAX));
    assert_eq!(script.audio(2000, 1.0)[..2], ["heard 24000 []", "unit 1 turn 1 from 1 frames 0 forced"]);
}

#[test]
fn playback_that_is_stopped_behind_the_model_is_forgotten_without_a_forced_listen() {
    let mut script = saying_two_words();
    assert_eq!(script.at(1500, Input::Heard(2_000)), ["wait until 2100"]);
    assert_eq!(script.audio(2000, 1.0)[..2], ["heard 2000 [\"\"]", "unit 1 turn 0 from 1 frames 0 cut 0 to 0"]);
}

#[test]
fn a_gap_is_playback_running_dry_inside_a_turn() {
    let mut script = Script::running();
    script.audio(1000, 0.0);
    script.done(1100, SpeechOrder::Continue);
    script.speech(1200, 0, 0, 24000, true);
    assert_eq!(script.at(2200, Input::Tick), ["gap", "idle"]);
    assert_eq!(script.session.stats().gaps, 1);
}

#[test]
fn a_missed_deadline_is_told_once_and_the_unit_still_counts() {
    let mut script = Script::running();
    assert_eq!(script.audio(100, 0.0)[1], "wait until 1100");
    assert_eq!(script.at(1099, Input::Tick), ["wait until 1100"]);
    // At the time that it asked for: a timeout that is asked for again at once would keep the clock from going on.
    assert_eq!(script.at(1100, Input::Tick), ["late 0", "idle"]);
    assert_eq!(script.at(1200, Input::Tick), ["idle"]);
    assert_eq!(script.done(1300, SpeechOrder::None), ["done 0 in 1200", "idle"]);
    assert_eq!(script.session.stats().deadlines_missed, 1);
}

#[test]
fn closing_releases_once_and_late_results_go_nowhere() {
    let mut script = Script::running();
    script.audio(100, 0.0);
    assert_eq!(script.at(200, Input::Close), ["release", "closed Requested", "idle"]);
    assert_eq!(script.done(300, SpeechOrder::Continue), ["idle"]);
    assert_eq!(script.speech(300, 0, 0, 10, true), ["idle"]);
    assert_eq!(script.at(400, Input::Close), ["idle"]);
    let mut script = Script::running();
    assert_eq!(script.at(1, Input::Failed("no memory".into())), ["release", "closed Failed(\"no memory\")", "idle"]);
}

#[test]
#[should_panic(expected = "no unit in flight. This is a bug.")]
fn a_report_of_no_unit_is_a_bug() {
    let mut script = Script::running();
    script.unit = Some((UnitId(0), TurnId(0)));
    script.done(0, SpeechOrder::None);
}

#[test]
#[should_panic(expected = "prepared twice. This is a bug.")]
fn preparing_twice_is_a_bug() {
    Script::running().at(0, Input::Prepared(PreparedReport { kv_len: 65, from_cache: false, took: ms(5) }));
}

#[test]
#[should_panic(expected = "time ran backwards")]
fn time_running_backwards_is_a_bug() {
    let mut script = Script::running();
    script.at(5, Input::Tick);
    script.at(4, Input::Tick);
}

proptest! {
    /// However audio is cut into pushes, the units are the same, whole and in order.
    #[test]
    fn units_do_not_depend_on_the_pushes(pushes in prop::collection::vec(1usize..250, 1..40)) {
        let mut script = Script::running();
        let mut sent = 0;
        let mut got = Vec::new();
        for push in pushes {
            let samples: Vec<f32> = (sent..sent + push).map(|i| i as f32).collect();
            sent += push;
            script.session.handle(ms(0), Input::Audio(samples));
            loop {
                match script.session.poll() {
                    Output::Work(Work::Unit { unit, turn, audio, .. }) => {
                        got.extend(audio);
                        let done = Box::new(report(unit, turn, SpeechOrder::None));
                        script.session.handle(ms(0), Input::Unit(done));
                    }
                    Output::Timeout(_) | Output::Idle => break,
                    _ => {}
                }
            }
        }
        prop_assert_eq!(script.session.stats().units_dropped, 0);
        prop_assert_eq!(got.len(), sent / UNIT * UNIT);
        prop_assert!(got.iter().enumerate().all(|(i, &sample)| sample == i as f32));
    }
}
