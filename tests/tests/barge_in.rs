//! Interruptions in live mode, at every moment of a unit.
//!
//! Whenever the user interrupts: nothing of the interrupted turn is heard any more, the next unit listens (closing the open turn), the
//! session goes on and speaks again later, and an interruption of a model that does not speak changes nothing.
// The figures are read with `--nocapture`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use duologue_session::{EndedBy, Mode};
use duologue_tests::sessions::{begin, engine, greedy, heard, user_audio};

const UNITS: usize = 120;

#[test]
fn speech_stops_and_the_session_goes_on() {
    let engine = engine(1);
    let turn_eos = engine.bundle().manifest().tokenizer.tokens.turn_eos;
    let mut conversation = begin(&engine, &greedy(&engine, Mode::Live));
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
