//! The rules against a straightforward re-computation, and the quirks one by one.

use proptest::prelude::*;

use super::*;
use crate::candidates::{argmax, draw, keep_nucleus, keep_top_k, mass, max, top_k};
use crate::tokens::TokenIds;

const CHUNK_EOS: u32 = 11;
const TURN_EOS: u32 = 13;
const EOS: u32 = 16;

fn tokens(vocab: usize) -> Tokens {
    let ids: Vec<u32> = (0..17).collect();
    Tokens {
        vocab,
        tokens: TokenIds {
            unit: ids[0],
            unit_end: ids[1],
            image: ids[2],
            image_end: ids[3],
            slice: ids[4],
            slice_end: ids[5],
            listen: ids[6],
            speak: ids[7],
            tts_bos: ids[8],
            tts_eos: ids[9],
            tts_pad: ids[10],
            chunk_eos: CHUNK_EOS,
            chunk_tts_eos: ids[12],
            turn_eos: TURN_EOS,
            audio_start: ids[14],
            audio_end: ids[15],
            eos: EOS,
        },
        special_ids: ids,
        special_texts: Vec::new(),
        forbidden_ids: vec![10, 20, CHUNK_EOS],
    }
}

fn greedy() -> Sampling {
    Sampling {
        decode_mode: DecodeMode::Greedy,
        temperature: 0.7,
        top_k: 20,
        top_p: 0.8,
        listen_prob_scale: 1.0,
        listen_top_k: None,
        repetition_penalty: 1.05,
        repetition_window: 512,
        length_penalty: 1.1,
    }
}

fn sampler(rules: Sampling) -> TextSampler {
    TextSampler::new(rules, &tokens(32), 7)
}

fn logits(set: &[(u32, f32)]) -> Vec<f32> {
    let mut logits = vec![-9.0; 32];
    for &(id, value) in set {
        logits[id as usize] = value;
    }
    logits
}

fn decode(sampler: &mut TextSampler, set: &[(u32, f32)]) -> u32 {
    sampler.decode(&logits(set), &mut Scratch::default()).expect("the logits are fine")
}

#[test]
fn chunk_eos_is_chosen_by_the_raw_test_only_and_never_remembered() {
    let mut sampler = sampler(greedy());
    assert_eq!(decode(&mut sampler, &[(CHUNK_EOS, 2.0), (25, 1.9)]), CHUNK_EOS);
    // A forbidden token may win the raw test; chunk_eos is then masked although it is second.
    assert_eq!(decode(&mut sampler, &[(20, 3.0), (CHUNK_EOS, 2.0), (25, 1.0)]), 25);
    assert_eq!(sampler.history().collect::<Vec<_>>(), [25]);
}

#[test]
fn greedy_takes_the_lowest_id_on_ties() {
    assert_eq!(decode(&mut sampler(greedy()), &[(25, 1.0), (24, 1.0), (30, 1.0)]), 24);
}

#[test]
fn repetition_divides_once_whatever_the_sign_and_how_often() {
    let mut sampler = sampler(greedy());
    for _ in 0..3 {
        assert_eq!(decode(&mut sampler, &[(25, 10.0)]), 25);
    }
    // One division leaves 0.952; two would leave 0.907.
    assert_eq!(decode(&mut sampler, &[(25, 1.0), (26, 0.93)]), 25);
    assert_eq!(decode(&mut sampler, &[(25, 1.0), (26, 0.96)]), 26);
    // A negative score grows when divided.
    assert_eq!(decode(&mut sampler, &[(25, -1.0), (27, -0.96)]), 25);
}

#[test]
fn repetition_forgets_what_left_the_window() {
    let mut sampler = sampler(Sampling { repetition_window: 2, ..greedy() });
    decode(&mut sampler, &[(25, 10.0)]);
    assert_eq!(decode(&mut sampler, &[(25, 1.0), (26, 0.97)]), 26);
    decode(&mut sampler, &[(27, 10.0)]);
    assert_eq!(sampler.history().collect::<Vec<_>>(), [26, 27]);
    assert_eq!(decode(&mut sampler, &[(25, 1.0), (28, 0.99)]), 25);
}

#[test]
fn a_penalty_below_one_encourages() {
    let mut sampler = sampler(Sampling { repetition_penalty: 0.5, ..greedy() });
    decode(&mut sampler, &[(25, 10.0)]);
    assert_eq!(decode(&mut sampler, &[(25, 1.0), (26, 1.9)]), 25);
}

#[test]
fn length_penalty_lowers_turn_eos_on_both_sides_of_zero_and_after_repetition() {
    assert_eq!(decode(&mut sampler(greedy()), &[(TURN_EOS, 1.0), (25, 0.92)]), 25);
    assert_eq!(decode(&mut sampler(greedy()), &[(TURN_EOS, 1.0), (25, 0.90)]), TURN_EOS);
    assert_eq!(decode(&mut sampler(greedy()), &[(TURN_EOS, -1.0), (25, -1.05)]), 25);
    let mut both = sampler(greedy());
    decode(&mut both, &[(TURN_EOS, 10.0)]);
    // 1 / 1.05 / 1.1 = 0.8658
    assert_eq!(decode(&mut both, &[(TURN_EOS, 1.0), (25, 0.87)]), 25);
    assert_eq!(decode(&mut both, &[(TURN_EOS, 1.0), (26, 0.86)]), TURN_EOS);
}

#[test]
fn listen_rules_act_on_the_tokenizers_eos_and_the_shortcut_is_not_remembered() {
    let scaled = Sampling { listen_prob_scale: 3.0, ..greedy() };
    assert_eq!(decode(&mut sampler(scaled), &[(EOS, 1.0), (25, 2.0)]), EOS);
    let mut shortcut = sampler(Sampling { listen_top_k: Some(2), ..greedy() });
    assert_eq!(decode(&mut shortcut, &[(EOS, 1.0), (25, 2.0)]), EOS);
    assert_eq!(shortcut.history().count(), 0);
    // Two better tokens: not among the best two any more. A forbidden one does not count.
    assert_eq!(decode(&mut shortcut, &[(EOS, 1.0), (25, 2.0), (26, 3.0)]), 26);
    assert_eq!(decode(&mut shortcut, &[(EOS, 1.0), (25, 2.0), (20, 3.0)]), EOS);
}

#[test]
fn bad_logits_are_named_and_change_nothing() {
    let mut sampler = sampler(greedy());
    let mut scratch = Scratch::default();
    let mut broken = logits(&[(25, 1.0)]);
    broken[4] = f32::NAN;
    let error = sampler.decode(&broken, &mut scratch).unwrap_err();
    assert!(error.to_string().contains("logit 4 is NaN"), "{error}");
    broken[4] = f32::INFINITY;
    assert_eq!(sampler.decode(&broken, &mut scratch), Err(SampleError::NotFinite { index: 4, value: f32::INFINITY }));
    assert_eq!(sampler.decode(&broken[1..], &mut scratch), Err(SampleError::Length { expected: 32, got: 31 }));
    assert_eq!(sampler.decode(&[f32::NEG_INFINITY; 32], &mut scratch), Err(SampleError::NothingLeft));
    assert_eq!(sampler.history().count(), 0);
}

#[test]
fn sampling_follows_the_seed_and_the_shares() {
    let rules = Sampling {
        decode_mode: DecodeMode::Sampling,
        temperature: 1.0,
        repetition_penalty: 1.0,
        top_k: 0,
        top_p: 0.0,
        ..greedy()
    };
    // exp: chunk_eos 1, token 25 2, token 26 1; all others nothing.
    let scores = {
        let mut scores = vec![f32::NEG_INFINITY; 32];
        scores[CHUNK_EOS as usize] = 0.0;
        scores[25] = std::f32::consts::LN_2;
        scores[26] = 0.0;
        scores
    };
    let run = |seed| {
        let mut sampler = TextSampler::new(rules.clone(), &tokens(32), seed);
        let mut scratch = Scratch::default();
        (0..8000).map(|_| sampler.decode(&scores, &mut scratch).unwrap()).collect::<Vec<_>>()
    };
    let drawn = run(1);
    assert_eq!(drawn, run(1));
    assert_ne!(drawn, run(2));
    let share = |id| drawn.iter().filter(|&&token| token == id).count() as f64 / 8000.0;
    // Raw test: 1/4 of the mass. The rest splits 2:1.
    for (id, expected) in [(CHUNK_EOS, 0.25), (25, 0.5), (26, 0.25)] {
        assert!((share(id) - expected).abs() < 0.02, "token {id}: {}", share(id));
    }
}

/// The reference's filter, sorted in full (utils.py:1142-1167): ids that keep a finite score.
fn filtered_by_the_book(scores: &[f32], k: usize, p: f32) -> Vec<u32> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&i| scores[i] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    if k > 0 && k < order.len() {
        let kth = scores[order[k - 1]];
        order.retain(|&i| scores[i] >= kth);
    }
    if p > 0.0 {
        let weights: Vec<f64> = order.iter().map(|&i| f64::from((scores[i] - scores[order[0]]).exp())).collect();
        let total: f64 = weights.iter().sum();
        let mut before = 0.0;
        let mut kept = 0;
        for weight in weights {
            if kept > 0 && before > f64::from(p) {
                break;
            }
            before += weight / total;
            kept += 1;
        }
        order.truncate(kept);
    }
    let mut ids: Vec<u32> = order.into_iter().map(|i| i as u32).collect();
    ids.sort_unstable();
    ids
}

fn ids_of(candidates: &[Candidate]) -> Vec<u32> {
    let mut ids: Vec<u32> = candidates.iter().map(|candidate| candidate.id).collect();
    ids.sort_unstable();
    ids
}

proptest! {
    /// Quarter steps make ties at the k-th place common; lengths beyond the first buffer exercise its shrinking.
    #[test]
    fn top_k_and_top_p_keep_what_the_book_keeps(
        quarters in prop::collection::vec(-40i8..40, 1..1500),
        k in 0usize..60,
        p in prop_oneof![Just(0.0f32), 0.01f32..0.999],
    ) {
        let scores: Vec<f32> = quarters.iter().map(|&q| if q == -40 { f32::NEG_INFINITY } else { f32::from(q) / 4.0 }).collect();
        let mut kept = Vec::new();
        top_k(&scores, k, &mut kept);
        prop_assert_eq!(ids_of(&kept), filtered_by_the_book(&scores, k, 0.0));
        keep_nucleus(&mut kept, p, 1);
        prop_assert_eq!(ids_of(&kept), filtered_by_the_book(&scores, k, p));
    }

    /// Against the standard library in double precision, over every size of score that a softmax can meet.
    #[test]
    fn mass_is_the_sum_of_exponentials(
        scores in prop::collection::vec(prop_oneof![Just(f32::NEG_INFINITY), -200.0f32..50.0, 45.0f32..50.0], 1..3000),
    ) {
        let best = max(&scores);
        prop_assume!(best > f32::NEG_INFINITY);
        let wanted: f64 = scores.iter().map(|&score| f64::from(score - best).exp()).sum();
        let got = mass(&scores, best);
        prop_assert!((got - wanted).abs() <= 1e-6 * wanted, "{} instead of {}", got, wanted);
    }

    #[test]
    fn a_draw_is_always_a_candidate_and_the_best_one_when_alone(scores in prop::collection::vec(-5.0f32..5.0, 2..200), seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut kept = Vec::new();
        top_k(&scores, 10, &mut kept);
        let drawn = draw(&kept, &mut random).unwrap();
        prop_assert!(ids_of(&kept).contains(&drawn));
        keep_nucleus(&mut kept, 1e-6, 1);
        prop_assert_eq!(draw(&kept, &mut random), argmax(&scores));
    }

    #[test]
    fn the_nucleus_keeps_its_minimum(scores in prop::collection::vec(-5.0f32..5.0, 5..200), min_keep in 1usize..5) {
        let mut kept = Vec::new();
        top_k(&scores, 0, &mut kept);
        keep_nucleus(&mut kept, 1e-6, min_keep);
        prop_assert_eq!(kept.len(), min_keep);
        keep_top_k(&mut kept, 1);
        prop_assert_eq!(kept[0].id, argmax(&scores).unwrap());
    }
}
