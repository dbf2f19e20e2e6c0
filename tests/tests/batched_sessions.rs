//! Several sessions in one process, decoded as one batch.
//!
//! 1. Eight sessions with different audio at staggered phases give the same tokens, texts, audio tokens and samples as when each runs
//!    alone; and they really were decoded together.
//! 2. A full engine refuses one more by name, and the slot of a session that ended can be taken again.
//! 3. A session that vanishes in the middle of a unit does not disturb the others.
//! 4. A session whose context is full ends alone, with its reason.
//! 5. A session with the prompt of the one before it on its slot finds it there and says what it would have said; one with another
//!    prompt, or behind one whose window has changed the prompt's rows, does not find it. Others that are decoded together meanwhile
//!    leave it whole, and so does a window that only drops units.

use duologue_engine::{Engine, FinishedUnit, OpenOptions, PrepareWork};
use duologue_session::{Mode, WindowMode};
use duologue_tests::sessions::{begin, begin_with, engine, greedy, heard, user_audio};

const SESSIONS: usize = 8;
const UNITS: usize = 10;

#[derive(Debug, PartialEq)]
struct Said {
    tokens: Vec<u32>,
    text: String,
    codes: Vec<u32>,
    samples: Vec<i16>,
}

fn said(unit: FinishedUnit) -> Said {
    let end = unit.report.end;
    Said { tokens: end.tokens, text: end.text, codes: unit.codes, samples: unit.samples }
}

fn run(engine: &Engine, number: usize) -> Vec<Said> {
    let mut conversation = begin(engine, &greedy(engine, Mode::Live));
    user_audio(3 * number).take(UNITS).map(|audio| said(conversation.unit(heard(audio)).unwrap())).collect()
}

/// All sessions at once: session N begins in round N, and in every round each open session gets its next unit before any is waited
/// for. So prefills of some meet decodes and speech of others, each in another unit of its own.
fn run_together(engine: &Engine) -> Vec<Vec<Said>> {
    let mut sessions: Vec<_> = Vec::new();
    let mut all: Vec<Vec<Said>> = (0..SESSIONS).map(|_| Vec::with_capacity(UNITS)).collect();
    for round in 0..SESSIONS + UNITS - 1 {
        if round < SESSIONS {
            sessions.push((begin(engine, &greedy(engine, Mode::Live)), user_audio(3 * round).take(UNITS)));
        }
        let started: Vec<usize> = (0..sessions.len())
            .filter(|&number| {
                let (conversation, audio) = &mut sessions[number];
                audio.next().map(|audio| conversation.start_unit(heard(audio)).unwrap()).is_some()
            })
            .collect();
        for number in started {
            all[number].push(said(sessions[number].0.finish_unit().unwrap()));
        }
    }
    all
}

#[test]
fn eight_sessions_say_what_each_says_alone() {
    let engine = engine(SESSIONS);
    let alone: Vec<_> = (0..SESSIONS).map(|number| run(&engine, number)).collect();
    let spoken: usize = alone.iter().flatten().filter(|unit| !unit.codes.is_empty()).count();
    assert!(spoken > SESSIONS, "the sessions hardly speak, the comparison would prove nothing");
    let distinct = alone.iter().map(|said| format!("{said:?}")).collect::<std::collections::HashSet<_>>();
    assert!(distinct.len() > SESSIONS / 2, "the sessions are alike, mixed-up slots would not show");

    assert_eq!(engine.widest_batch(), 1);
    let together = run_together(&engine);
    assert!(engine.widest_batch() > 1, "at most {} sessions were decoded together", engine.widest_batch());
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
    let prompt = PrepareWork { prefix: vec![1], suffix: vec![], reference: None, voice: None };
    let options = OpenOptions { prompt, record_window: false, wake: None };
    let error = engine.open(&config, options.clone()).unwrap_err();
    assert!(error.to_string().contains("speaks but has no voice"), "{error}");
    let mut silent = config.clone();
    silent.speech = None;
    let error = engine.open(&silent, options).unwrap_err();
    assert!(error.to_string().contains("all 2 session slots are in use"), "{error}");
    drop(first);
    let mut third = begin(&engine, &config);
    assert!(third.unit(heard(user_audio(0).next().unwrap())).is_ok());
}

#[test]
fn a_session_that_vanishes_does_not_disturb_the_others() {
    let engine = engine(2);
    let expected = run(&engine, 1);
    let other = std::thread::scope(|scope| {
        let kept = scope.spawn(|| run(&engine, 1));
        for _ in 0..20 {
            let mut leaving = begin(&engine, &greedy(&engine, Mode::Live));
            leaving.start_unit(heard(user_audio(5).next().unwrap())).unwrap();
            drop(leaving);
        }
        kept.join().unwrap()
    });
    assert_eq!(expected, other);
}

#[test]
fn a_full_context_ends_one_session_only() {
    let engine = engine(2);
    let mut endless = greedy(&engine, Mode::Live);
    endless.window.mode = WindowMode::Off;
    let error = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut config = greedy(&engine, Mode::Live);
            config.window.mode = WindowMode::Basic;
            let mut conversation = begin(&engine, &config);
            user_audio(7).take(40).for_each(|audio| drop(conversation.unit(heard(audio)).unwrap()));
        });
        // Nearly as long as the context.
        let mut conversation = begin_with(&engine, &endless, &"word ".repeat(3900));
        assert!(conversation.prepared().kv_len > 7000);
        let error = user_audio(0).find_map(|audio| conversation.unit(heard(audio)).err()).expect("the context ends");
        other.join().unwrap();
        error
    });
    assert!(error.to_string().contains("context"), "{error}");
}

#[test]
fn a_prompt_that_the_slot_still_holds_is_not_computed_again() {
    let engine = engine(1);
    let mut config = greedy(&engine, Mode::Live);
    // Rewrites what follows the prompt's reference audio once more than two units have been spoken.
    config.window.mode = WindowMode::Context;
    config.window.context_max_units = 2;
    let speak = |prompt: &str, units: usize| {
        let mut conversation = begin_with(&engine, &config, prompt);
        let said: Vec<Said> =
            user_audio(0).take(units).map(|audio| said(conversation.unit(heard(audio)).unwrap())).collect();
        (conversation.prepared().from_cache, conversation.prepared().kv_len, said)
    };
    let first = speak("You are kind.", 2);
    assert!(!first.0 && first.2.iter().any(|said| !said.tokens.is_empty()), "{first:?}");
    // A session that ends in the middle of nothing leaves the prompt, too.
    assert!(speak("You are kind.", 0).0);
    let again = speak("You are kind.", 2);
    assert_eq!(again, (true, first.1, first.2));
    assert!(!speak("You are not.", 1).0);
    let long = speak("You are kind.", UNITS);
    assert!(!long.0, "another prompt was there");
    assert_eq!(
        speak("You are kind.", UNITS),
        (false, long.1, long.2),
        "the window has rewritten what follows the audio"
    );
}

#[test]
fn a_kept_prompt_outlives_dropped_units_and_the_batches_of_its_neighbours() {
    let engine = engine(3);
    let mut config = greedy(&engine, Mode::Live);
    config.window.mode = WindowMode::Basic;
    let first = begin(&engine, &config);
    // Drops units all the time.
    let mut dropping = config.clone();
    dropping.window.basic_low_tokens = 100;
    dropping.window.basic_high_tokens = 150;
    let mut middle = begin(&engine, &dropping);
    let third = begin(&engine, &config);
    let mut dropped = 0;
    let listen = |audio| {
        let unit = middle.unit(heard(audio)).unwrap();
        dropped = unit.report.window.as_ref().expect("recorded").dropped_units;
        said(unit)
    };
    let expected: Vec<Said> = user_audio(4).take(UNITS).map(listen).collect();
    assert!(dropped > 1, "{dropped} units dropped");
    drop(middle);

    // The slots on both sides are decoded as one batch, and the one between them runs along.
    let mut neighbours = [(first, user_audio(0)), (third, user_audio(3))];
    let mut spoken = [0, 0];
    for _ in 0..UNITS {
        for (conversation, audio) in &mut neighbours {
            conversation.start_unit(heard(audio.next().unwrap())).unwrap();
        }
        for ((conversation, _), spoken) in neighbours.iter_mut().zip(&mut spoken) {
            *spoken += usize::from(!conversation.finish_unit().unwrap().codes.is_empty());
        }
    }
    assert!(spoken.iter().all(|&units| units > 1), "{spoken:?} units with speech");

    let mut again = begin(&engine, &dropping);
    assert!(again.prepared().from_cache);
    let got: Vec<Said> = user_audio(4).take(UNITS).map(|audio| said(again.unit(heard(audio)).unwrap())).collect();
    assert_eq!(got, expected);
}
