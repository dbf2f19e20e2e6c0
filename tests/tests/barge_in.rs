//! Interruptions in live mode, at every moment of a unit.
//!
//! Whenever the user interrupts: nothing of the interrupted turn is heard any more, the next unit listens (closing the open turn), the
//! session goes on and speaks again later, words that were not heard leave the cache as if they had never been said, and an interruption of a model that does not speak changes nothing.
// The figures are read with `--nocapture`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use duologue_engine::{Engine, FinishedUnit, UnitInput};
use duologue_session::{EndedBy, Mode, SessionConfig, WindowMode, WindowState};
use duologue_tests::sessions::{begin, engine, greedy, heard, user_audio};

const UNITS: usize = 120;

#[test]
fn speech_stops_and_the_session_goes_on() {
    let engine = engine(1);
    let mut config = greedy(&engine, Mode::Live);
    stops_and_goes_on(&engine, &config);
    // Speech that has begun before the unit is over stops as well, and its unit with it.
    config.conduct.first_words = 2;
    stops_and_goes_on(&engine, &config);
}

fn stops_and_goes_on(engine: &Engine, config: &SessionConfig) {
    let turn_eos = engine.bundle().manifest().tokenizer.tokens.turn_eos;
    let mut conversation = begin(engine, config);
    let (mut interrupted, mut aborted, mut spoken_after) = (0, 0, 0);
    let mut must_listen = false;
    for (number, audio) in user_audio(0).take(UNITS).enumerate() {
        let was_open = conversation.turn_open();
        conversation.start_unit(heard(audio)).unwrap();
        // From the first millisecond (prefill) to well into the vocoder; every third unit only.
        let interrupt = number % 3 == 2 && was_open && !must_listen;
        if interrupt {
            std::thread::sleep(Duration::from_millis((number as u64 * 7) % 60));
            conversation.interrupt().unwrap();
        }
        let unit = conversation.finish_unit().unwrap();
        if must_listen {
            assert!(unit.report.end.is_listen, "unit {number} after an interruption: {:?}", unit.report.end);
            assert_eq!(unit.report.end.ended_by, EndedBy::ForcedListen);
            assert!(unit.samples.is_empty() && unit.codes.is_empty());
            if was_open {
                assert_eq!(unit.report.end.tokens[0], turn_eos, "the open turn is closed first");
            }
            assert!(!conversation.turn_open());
        }
        must_listen = interrupt;
        interrupted += usize::from(interrupt);
        aborted += usize::from(unit.report.end.ended_by == EndedBy::Aborted);
        spoken_after += usize::from(interrupted > 0 && !interrupt && !unit.samples.is_empty());
    }
    println!(
        "{interrupted} interruptions, {aborted} of them while the LLM was generating; {spoken_after} units spoken afterwards"
    );
    assert!(
        interrupted >= 5 && spoken_after >= 10,
        "{interrupted} interruptions, {spoken_after} spoken units afterwards"
    );
}

/// A session on the golden audio that listens once it has spoken; its first words are stopped after so many samples, or not
/// at all. Returns the unit that spoke and the window after each unit behind it.
fn speak_once(engine: &Engine, config: &SessionConfig, stop: Option<u64>) -> (FinishedUnit, Vec<WindowState>) {
    let mut conversation = begin(engine, config);
    let mut audio = user_audio(0);
    let spoken = loop {
        let unit = conversation.unit(heard(audio.next().expect("it never ends"))).unwrap();
        if unit.report.end.speaks() {
            break unit;
        }
    };
    if let Some(heard_samples) = stop {
        conversation.interrupt().unwrap();
        conversation.heard(heard_samples).unwrap();
    }
    let listen = |audio| UnitInput { force_listen: true, ..heard(audio) };
    let windows = audio.take(5).map(|audio| conversation.unit(listen(audio)).unwrap().report.window);
    (spoken, windows.map(|window| window.expect("these sessions record it")).collect())
}

#[test]
fn unheard_words_leave_the_cache_as_if_they_had_never_been_said() {
    let engine = engine(1);
    let mut config = greedy(&engine, Mode::Live);
    config.window.mode = WindowMode::Context;
    config.window.context_max_units = 3;
    let (whole, all_said) = speak_once(&engine, &config, None);
    let words = whole.report.end.word_ends.len();
    assert!(words >= 3 && whole.report.end.turn_open, "the golden checkpoint says {:?}", whole.report.end);
    let token2wav = engine.bundle().manifest().token2wav.as_ref().expect("the golden bundle speaks");
    let sound = whole.codes.len() as u64 * u64::from(token2wav.sample_rate_hz / token2wav.token_rate_hz);
    let rows = |windows: &[WindowState]| windows[0].unit_lengths.iter().sum::<usize>();
    // The last words are still in the vocoder, where nobody can hear them.
    let audible = words * whole.samples.len() / sound as usize;
    assert!(audible >= 3, "{audible} of {words} words");
    for keep in 0..=audible {
        let (_, cut) = speak_once(&engine, &config, Some(sound * keep as u64 / words as u64));
        assert_eq!(rows(&cut) + words - keep, rows(&all_said));
        // One step says `<|speak|>`, the last one never says anything.
        let mut terse = config.clone();
        terse.max_new_speak_tokens = keep + 2;
        let (few, never) = speak_once(&engine, &terse, None);
        let whole_ids = &whole.report.end.speech_ids;
        assert_eq!(few.report.end.speech_ids, whole_ids[..keep], "the same words, only fewer");
        assert_eq!(cut, never, "{keep} of {words} words heard");
    }
}

#[test]
fn interrupting_a_listening_model_changes_nothing() {
    let engine = engine(1);
    let run = |interrupt: bool| {
        let mut conversation = begin(&engine, &greedy(&engine, Mode::Live));
        let mut tokens = Vec::new();
        for audio in user_audio(0).take(4) {
            if interrupt && !conversation.turn_open() {
                conversation.interrupt().unwrap();
            }
            tokens.push(conversation.unit(heard(audio)).unwrap().report.end.tokens);
        }
        tokens
    };
    assert_eq!(run(false), run(true));
}
