//! Several sessions in one process, decoded as one batch.
//!
//! 1. Eight sessions with different audio, started at staggered phases, give the same tokens, texts and audio tokens as when each
//!    runs alone.
//! 2. A ninth session is refused by name, and the slot of a session that ended can be taken again.
//! 3. A session that is dropped in the middle of a unit does not disturb the others.

use std::sync::Barrier;

use duologue_engine::{Engine, FinishedUnit, UnitInput};
use duologue_session::Mode;
use duologue_tests::sessions::{begin, engine, greedy, user_audio};

const SESSIONS: usize = 8;
const UNITS: usize = 10;

#[derive(Debug, PartialEq)]
struct Said {
    tokens: Vec<u32>,
    text: String,
    codes: Vec<u32>,
    samples: usize,
}

fn said(unit: FinishedUnit) -> Said {
    let end = unit.report.end;
    Said { tokens: end.tokens, text: end.text, codes: unit.codes, samples: unit.samples.len() }
}

fn run(engine: &Engine, number: usize) -> Vec<Said> {
    let mut conversation = begin(engine, &greedy(engine, Mode::Live));
    let unit = |audio| said(conversation.unit(UnitInput { audio, ..UnitInput::default() }).unwrap());
    user_audio(3 * number, UNITS).into_iter().map(unit).collect()
}

#[test]
fn eight_sessions_say_what_each_says_alone() {
    let engine = engine(SESSIONS);
    let alone: Vec<_> = (0..SESSIONS).map(|number| run(&engine, number)).collect();
    let spoken: usize = alone.iter().flatten().filter(|unit| !unit.codes.is_empty()).count();
    assert!(spoken > SESSIONS, "the sessions hardly speak, the comparison would prove nothing");
    let distinct = alone.iter().map(|said| format!("{said:?}")).collect::<std::collections::HashSet<_>>();
    assert!(distinct.len() > SESSIONS / 2, "the sessions are alike, mixed-up slots would not show");

    // Each starts when its predecessor has finished a unit, so prefills meet decodes of others in every phase.
    let start = Barrier::new(SESSIONS);
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SESSIONS)
            .map(|number| {
                let (engine, start) = (&engine, &start);
                scope.spawn(move || {
                    start.wait();
                    run(engine, number)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (number, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(alone, together, "session {number}");
    }
}

#[test]
fn a_full_engine_refuses_and_a_freed_slot_is_taken_again() {
    let engine = engine(2);
    let config = greedy(&engine, Mode::Live);
    let first = begin(&engine, &config);
    let _second = begin(&engine, &config);
    assert_eq!(engine.busy_slots(), 2);
    let prompt = duologue_engine::PrepareWork { prefix: vec![1], suffix: vec![], reference: None, voice: None };
    let options = duologue_engine::OpenOptions { prompt, source_noise: false, record_window: false };
    let error = engine.open(&config, options).unwrap_err();
    assert!(error.to_string().contains("all 2 session slots are in use"), "{error}");
    drop(first);
    let mut third = begin(&engine, &config);
    let audio = user_audio(0, 1).remove(0);
    assert!(third.unit(UnitInput { audio, ..UnitInput::default() }).is_ok());
}

#[test]
fn a_session_that_vanishes_does_not_disturb_the_others() {
    let engine = engine(2);
    let expected = run(&engine, 1);
    let other = std::thread::scope(|scope| {
        let kept = scope.spawn(|| run(&engine, 1));
        for _ in 0..20 {
            let mut leaving = begin(&engine, &greedy(&engine, Mode::Live));
            leaving.start_unit(UnitInput { audio: user_audio(5, 1).remove(0), force_listen: false, frames: Vec::new() }).unwrap();
            drop(leaving);
        }
        kept.join().unwrap()
    });
    assert_eq!(expected, other);
}
