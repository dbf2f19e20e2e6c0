//! Plans, call boundaries and what is heard of a turn's start, in both modes. The golden sessions are in tests/replay.rs.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::code_sampler::{CodeSampler, CodeStep};
use crate::config::{Mode, SpeechSampling};

const LOOKAHEAD: usize = 3;
const HELD_BACK: usize = 3840;
const PER_CODE: usize = 960;

fn speech() -> Speech {
    Speech {
        sampling: SpeechSampling {
            codes: 6562,
            eos: 6561,
            greedy: true,
            temperature: 0.8,
            repetition_penalty: 1.05,
            repetition_window: 16,
            codes_per_unit: 25,
            first_unit_codes: 25,
            filter: None,
        },
        rules: SpeechRules {
            silence_token: 4218,
            silence_prefix: 3,
            lookahead: LOOKAHEAD,
            chunk_tokens: 25,
            flush_tokens: 5,
            samples_per_code: PER_CODE,
            held_back_samples: HELD_BACK,
        },
    }
}

fn turn(mode: Mode) -> SpeechTurn {
    SpeechTurn::new(mode.into(), &speech(), None)
}

fn request(cache_len: usize, end_of_turn: bool) -> PlanRequest {
    PlanRequest { part: Part::Whole, condition_len: 5, end_of_turn, cache_len, cache_capacity: 100 }
}

fn unit(turn: &mut SpeechTurn, codes: &[u32], end_of_turn: bool) -> (Vec<VocoderCall>, ChunkEnd) {
    let at = turn.text_start_pos();
    turn.plan(PlanRequest { part: Part::Whole, condition_len: 5, end_of_turn, cache_len: at, cache_capacity: 4096 })
        .unwrap();
    let early = turn.push(codes);
    (early, turn.finish().unwrap())
}

fn codes(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

#[test]
fn early_end_is_allowed_at_the_start_and_at_the_end_of_a_turn() {
    let mut turn = turn(Mode::Fidelity);
    let plan = turn.plan(request(0, false)).unwrap();
    assert_eq!((plan.min_new, plan.max_new, plan.text_start_pos), (0, 26, 0));
    turn.push(&codes(0..10));
    turn.finish();
    assert_eq!(turn.plan(request(15, false)).unwrap().min_new, 26);
    turn.finish();
    assert_eq!(turn.plan(request(20, true)).unwrap().min_new, 0);
    assert_eq!(turn.finish().unwrap().reset, TurnReset::All);
    assert_eq!(turn.text_start_pos(), 0);
}

#[test]
fn a_full_tts_cache_is_an_error_in_fidelity_and_a_restart_in_live_mode() {
    let fill = |mode| {
        let mut turn = turn(mode);
        for at in [0, 30, 60] {
            assert!(!turn.plan(request(at, false)).unwrap().restart);
            turn.push(&codes(0..25));
            turn.finish();
        }
        turn
    };
    let error = fill(Mode::Fidelity).plan(request(90, false)).unwrap_err();
    assert_eq!(error, SpeechError::ContextFull { cache_len: 90, condition_len: 5, codes: 25, capacity: 100 });
    assert!(error.to_string().contains("90 rows used"), "{error}");

    let mut live = fill(Mode::Live);
    let buffered = live.buffer().to_vec();
    let plan = live.plan(request(90, false)).unwrap();
    assert!(plan.restart && plan.text_start_pos == 0 && plan.min_new == 0);
    assert_eq!(live.buffer(), buffered, "the vocoder goes on");
    live.push(&codes(0..25));
    live.finish();
    assert_eq!(live.text_start_pos(), 30);

    let too_long = PlanRequest { part: Part::Whole, condition_len: 90, ..request(30, false) };
    assert!(matches!(live.plan(too_long), Err(SpeechError::ContextFull { .. })));
}

#[test]
fn a_partial_reset_keeps_the_tts_position_and_refills_the_silence() {
    let mut turn = turn(Mode::Fidelity);
    unit(&mut turn, &codes(0..25), false);
    turn.reset(TurnReset::VocoderOnly);
    assert_eq!((turn.text_start_pos(), turn.buffer()), (30, &[4218; 3][..]));
    assert_eq!(turn.plan(PlanRequest { cache_capacity: 4096, ..request(30, false) }).unwrap().min_new, 26);
    turn.reset(TurnReset::All);
    assert_eq!(turn.text_start_pos(), 0);
}

#[test]
fn live_speech_starts_at_twelve_codes_then_fifteen_then_full() {
    let mut turn = turn(Mode::Live);
    turn.plan(PlanRequest { cache_capacity: 4096, ..request(0, false) }).unwrap();
    let mut sizes = Vec::new();
    for code in 0..25 {
        for call in turn.push(&[code]) {
            sizes.push((code, call.tokens.len(), call.skip_samples));
        }
    }
    // 3 silence codes and 12 new ones; 12 of them become audio, of which the silence is skipped.
    assert_eq!(sizes, [(11, 15, 3 * PER_CODE)]);
    let end = turn.finish().unwrap();
    assert_eq!(end.calls, [VocoderCall { tokens: codes(9..25), last: false, skip_samples: 0 }]);
    assert!(!end.left_pad);

    // The look-ahead of the unit before and 25 new codes make one full call.
    turn.plan(PlanRequest { cache_capacity: 4096, ..request(30, false) }).unwrap();
    let calls: Vec<_> = (100..125).flat_map(|code| turn.push(&[code])).collect();
    assert_eq!(
        calls,
        [VocoderCall { tokens: [codes(22..25), codes(100..125)].concat(), last: false, skip_samples: 0 }]
    );
    assert_eq!(turn.finish().unwrap().calls, []);
}

#[test]
fn a_first_unit_may_be_ahead_in_live_mode_and_its_sound_lasts_until_the_second() {
    let speech = Speech { sampling: SpeechSampling { first_unit_codes: 35, ..speech().sampling }, ..speech() };
    let mut turn = SpeechTurn::new(Mode::Live.into(), &speech, None);
    for round in 0..2 {
        let plan = turn.plan(PlanRequest { cache_capacity: 4096, ..request(0, false) }).unwrap();
        assert_eq!((plan.min_new, plan.max_new), (36, 36), "not before it is ahead");
        assert_eq!(turn.sound_samples(3, false), 35 * PER_CODE);
        let mut calls: Vec<_> = (0..35).flat_map(|code| turn.push(&[code])).collect();
        calls.extend(turn.finish().unwrap().calls);
        assert_eq!(turn.sound_samples(35, false), 35 * PER_CODE, "complete, whatever is still to be made of it");
        let spoken = |call: &VocoderCall| call.tokens.len() - LOOKAHEAD;
        assert_eq!(calls.iter().map(spoken).collect::<Vec<_>>(), [12, 15, 8]);
        let skipped: usize = calls.iter().map(|call| call.skip_samples).sum();
        assert_eq!(35 * PER_CODE - HELD_BACK - skipped, 26_880, "1.12 s");
        // The other units have theirs, and the next turn begins ahead again.
        let plan = turn.plan(PlanRequest { cache_capacity: 4096, ..request(40, round == 0) }).unwrap();
        assert_eq!(plan.max_new, 26);
        turn.push(&codes(0..25));
        assert_eq!(turn.sound_samples(25, true), 25 * PER_CODE);
        turn.finish();
        turn.reset(TurnReset::All);
    }
    let short = turn.plan(PlanRequest { cache_capacity: 4096, ..request(0, true) }).unwrap();
    assert_eq!((short.min_new, short.max_new), (0, 36), "a reply of one unit is as short as it is");
    let mut faithful = SpeechTurn::new(Mode::Fidelity.into(), &speech, None);
    assert_eq!(faithful.plan(request(0, false)).unwrap().max_new, 26, "the official code knows one number");
}

#[test]
fn a_unit_in_two_parts_has_the_codes_and_the_sound_of_one() {
    for first_unit_codes in [25, 35] {
        let speech = Speech { sampling: SpeechSampling { first_unit_codes, ..speech().sampling }, ..speech() };
        let mut turn = SpeechTurn::new(Mode::Live.into(), &speech, None);
        let plan = |turn: &mut SpeechTurn, part, condition_len, end_of_turn| {
            let cache_len = turn.text_start_pos();
            turn.plan(PlanRequest { part, condition_len, end_of_turn, cache_len, cache_capacity: 4096 }).unwrap()
        };
        let first = plan(&mut turn, Part::First, 3, false);
        assert_eq!((first.min_new, first.max_new), (13, 13), "it is not the end");
        let early: Vec<_> = (0..12).flat_map(|code| turn.push(&[code])).collect();
        assert_eq!(early.iter().map(|call| call.tokens.len()).collect::<Vec<_>>(), [15], "the first piece of sound");
        assert_eq!(turn.finish(), None, "the unit goes on");
        assert_eq!((turn.text_start_pos(), turn.sound_samples(12, false)), (15, first_unit_codes * PER_CODE));

        let others = first_unit_codes - 12;
        let rest = plan(&mut turn, Part::Rest, 4, false);
        assert_eq!(rest.max_new, others + 1);
        assert_eq!(rest.min_new, if first_unit_codes == 25 { 0 } else { others + 1 }, "as the unit in one part");
        let mut calls = turn.push(&codes(12..first_unit_codes as u32));
        calls.extend(turn.finish().expect("its words are complete").calls);
        let spoken = |call: &VocoderCall| call.tokens.len() - LOOKAHEAD;
        assert_eq!(calls.iter().map(spoken).sum::<usize>(), others);
        assert_eq!(turn.text_start_pos(), 15 + 4 + others);
        let next = plan(&mut turn, Part::Whole, 5, true);
        assert_eq!((next.min_new, next.max_new), (0, 26));
    }
}

#[test]
fn a_unit_given_up_between_its_parts_leaves_nothing() {
    let mut turn = turn(Mode::Live);
    turn.plan(PlanRequest { part: Part::First, cache_capacity: 4096, ..request(0, false) }).unwrap();
    turn.push(&codes(0..12));
    turn.finish();
    turn.reset(TurnReset::All);
    assert_eq!((turn.text_start_pos(), turn.buffer()), (0, &[4218; 3][..]));
    assert_eq!(turn.plan(request(0, false)).unwrap().max_new, 26);
}

#[test]
#[should_panic(expected = "had no first part. This is a bug.")]
fn a_rest_without_a_first_part_is_a_bug() {
    let _ = turn(Mode::Live).plan(PlanRequest { part: Part::Rest, ..request(0, false) });
}

#[test]
fn a_short_live_reply_skips_across_calls_and_hears_every_code() {
    let mut turn = turn(Mode::Live);
    // 3 silence + 5 codes: one call over 5 codes gives 4800 samples less those held back, all of it silence.
    let (early, end) = unit(&mut turn, &codes(0..5), true);
    assert_eq!(early, []);
    assert_eq!(
        end.calls.iter().map(|call| (call.last, call.skip_samples)).collect::<Vec<_>>(),
        [(false, 960), (true, 1920)]
    );
    // Heard: 960 and (2 * 3 + 8) * 480 samples made, minus the skipped ones, are the five codes.
    assert_eq!(960 + 6720 - 960 - 1920, 5 * PER_CODE);
    // Too short for a first call: the last one gives everything, and the silence is skipped.
    let (_, end) = unit(&mut turn, &[7, 8], true);
    assert_eq!(
        end.calls,
        [VocoderCall { tokens: vec![4218, 4218, 4218, 7, 8], last: true, skip_samples: 3 * PER_CODE }]
    );
}

#[test]
fn a_wordless_turn_is_silence_in_fidelity_and_nothing_in_live_mode() {
    let (_, end) = unit(&mut turn(Mode::Fidelity), &[], true);
    assert_eq!(end.calls, [VocoderCall { tokens: vec![4218; 3], last: true, skip_samples: 0 }]);
    let (_, end) = unit(&mut turn(Mode::Live), &[], true);
    assert_eq!((end.calls.len(), end.reset), (0, TurnReset::All));
}

proptest! {
    /// Whatever the scores, every unit of a scheduled session has its number of codes: no eos before, none needed after.
    #[test]
    fn a_scheduled_unit_has_its_codes(codes in 1usize..26, units in 1usize..5, greedy: bool, seed: u64) {
        let speech = Speech { sampling: SpeechSampling { codes: 40, eos: 39, greedy, ..speech().sampling }, ..speech() };
        let schedule = Schedule { listen: 1, speak: units as u32, tokens: 4, codes };
        let mut turn = SpeechTurn::new(Mode::Live.into(), &speech, Some(&schedule));
        let mut sampler = CodeSampler::new(speech.sampling, seed);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for unit in 1..=units {
            let at = turn.text_start_pos();
            let end_of_turn = unit == units;
            sampler.start(
                turn.plan(PlanRequest { part: Part::Whole, condition_len: 5, end_of_turn, cache_len: at, cache_capacity: 4096 }).unwrap(),
            );
            let mut fed = 0;
            loop {
                let logits: Vec<f32> = (0..40).map(|_| random.random_range(-10.0..10.0)).collect();
                let CodeStep::Feed { code, last } = sampler.advance(&logits).unwrap() else {
                    return Err(TestCaseError::fail("the eos was chosen"));
                };
                prop_assert!(code < 39);
                turn.push(&[code]);
                fed += 1;
                if last {
                    break;
                }
            }
            prop_assert_eq!(fed, codes);
            turn.finish();
            prop_assert_eq!(turn.text_start_pos(), if end_of_turn { 0 } else { unit * (5 + codes) });
        }
    }
}

#[test]
#[should_panic(expected = "This is a bug.")]
fn a_tts_cache_out_of_step_is_a_bug() {
    let _ = turn(Mode::Live).plan(request(7, false));
}

proptest! {
    /// Every code of a turn becomes audio exactly once and in order, no call is larger than a chunk and its look-ahead
    /// or smaller than one code, only the turn's end is a last call, and the skipped samples are the turn's start.
    #[test]
    fn a_turn_is_covered_once(units in prop::collection::vec((0u32..26, 1usize..26), 1..8), live: bool) {
        let mode = if live { Mode::Live } else { Mode::Fidelity };
        let mut turn = turn(mode);
        let mut expected = vec![4218; 3];
        let mut spoken: Vec<u32> = Vec::new();
        let (mut skipped, mut made) = (0, 0);
        let mut next = 0;
        let count = units.len();
        for (index, (amount, piece)) in units.into_iter().enumerate() {
            let end_of_turn = index + 1 == count;
            let at = turn.text_start_pos();
            turn.plan(PlanRequest { part: Part::Whole, condition_len: 5, end_of_turn, cache_len: at, cache_capacity: 4096 }).unwrap();
            let new = codes(next..next + amount);
            next += amount;
            expected.extend(&new);
            let mut calls: Vec<VocoderCall> = new.chunks(piece).flat_map(|piece| turn.push(piece)).collect();
            calls.extend(turn.finish().unwrap().calls);
            for call in calls {
                let covered = if call.last { call.tokens.len() } else { call.tokens.len() - LOOKAHEAD };
                prop_assert!(covered >= 1 && call.tokens.len() <= 25 + LOOKAHEAD);
                prop_assert!(!call.last || end_of_turn);
                spoken.extend(&call.tokens[..covered]);
                made += 1;
                skipped += call.skip_samples;
            }
        }
        let wordless = next == 0;
        if live && wordless {
            prop_assert_eq!(made, 0);
        } else {
            prop_assert_eq!(spoken, expected);
            let start = if live { 3 * PER_CODE } else { 0 };
            prop_assert_eq!(skipped, start);
        }
        prop_assert_eq!(turn.buffer(), &[4218u32; 3][..]);
    }
}
