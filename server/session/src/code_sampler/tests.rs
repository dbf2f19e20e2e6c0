//! The code loop: lengths, eos masking, the penalty per count, and the draw.

use super::*;
use crate::config::CodeFilter;

const EOS: u32 = 9;

fn rules() -> SpeechSampling {
    SpeechSampling {
        codes: 10,
        eos: EOS,
        greedy: true,
        temperature: 0.8,
        repetition_penalty: 1.05,
        repetition_window: 16,
        codes_per_unit: 25,
        first_unit_codes: 25,
        filter: None,
    }
}

fn plan(min_new: usize) -> CodePlan {
    CodePlan { min_new, max_new: 26, text_start_pos: 0, restart: false }
}

fn logits(set: &[(u32, f32)]) -> Vec<f32> {
    let mut logits = vec![-30.0; 10];
    for &(code, value) in set {
        logits[code as usize] = value;
    }
    logits
}

#[test]
fn a_chunk_without_eos_gives_25_codes_and_all_of_them_are_fed() {
    let mut sampler = CodeSampler::new(rules(), 0);
    sampler.start(plan(26));
    let mut fed = 0;
    loop {
        // The eos is by far the best, and masked in all of the 25 steps.
        match sampler.advance(&logits(&[(EOS, 50.0), (3, 1.0)])).unwrap() {
            CodeStep::Feed { code, last } => {
                assert_eq!(code, 3);
                fed += 1;
                if last {
                    break;
                }
            }
            CodeStep::End => panic!("the eos was masked"),
        }
    }
    assert_eq!((fed, sampler.codes().len()), (25, 25));
    sampler.start(plan(0));
}

#[test]
fn eos_may_come_at_once_and_is_not_a_code() {
    let mut sampler = CodeSampler::new(rules(), 0);
    sampler.start(plan(0));
    assert_eq!(sampler.advance(&logits(&[(EOS, 1.0)])), Ok(CodeStep::End));
    assert!(sampler.codes().is_empty());
    sampler.start(plan(0));
    assert_eq!(sampler.advance(&logits(&[(3, 1.0)])), Ok(CodeStep::Feed { code: 3, last: false }));
    assert_eq!(sampler.advance(&logits(&[(EOS, 1.0)])), Ok(CodeStep::End));
    assert_eq!(sampler.codes(), [3]);
}

#[test]
fn the_penalty_grows_with_the_count_and_knows_the_sign() {
    let history = [1, 1, 2, 1];
    let mut scores = [1.0, 1.0, -1.0, 0.0];
    penalise_repetition(&mut scores, &history, 1.05, 16);
    assert_eq!(scores, [1.0, 1.0 / f64::from(1.05f32).powi(3) as f32, -1.05, 0.0]);
    // Only the last two count.
    let mut scores = [1.0, 1.0, -1.0, 0.0];
    penalise_repetition(&mut scores, &history, 1.05, 2);
    assert_eq!(scores, [1.0, 1.0 / 1.05, -1.05, 0.0]);
}

#[test]
fn the_penalty_starts_anew_with_every_chunk() {
    let mut sampler = CodeSampler::new(rules(), 0);
    for _ in 0..2 {
        sampler.start(plan(0));
        // 4 is better by 4 %: without a penalty it wins, with one repetition it loses.
        let close = logits(&[(4, 1.04), (5, 1.0)]);
        assert_eq!(sampler.advance(&close), Ok(CodeStep::Feed { code: 4, last: false }));
        assert_eq!(sampler.advance(&close), Ok(CodeStep::Feed { code: 5, last: false }));
        assert_eq!(sampler.advance(&logits(&[(EOS, 1.0)])), Ok(CodeStep::End));
    }
}

#[test]
fn the_draw_follows_temperature_and_the_filter_bounds_it() {
    let shares = |filter: Option<CodeFilter>| {
        let mut sampler = CodeSampler::new(SpeechSampling { greedy: false, filter, ..rules() }, 11);
        let mut counts = [0; 10];
        for _ in 0..6000 {
            sampler.start(plan(0));
            // Divided by 0.8: weights 4, 2, 1, 1.
            let step = |weight: f32| weight.ln() * 0.8;
            let CodeStep::Feed { code, .. } =
                sampler.advance(&logits(&[(0, step(4.0)), (1, step(2.0)), (2, 0.0), (3, 0.0)])).unwrap()
            else {
                panic!("the eos has no mass");
            };
            counts[code as usize] += 1;
            sampler.abort();
        }
        counts.map(|count| f64::from(count) / 6000.0)
    };
    let all = shares(None);
    for (code, expected) in [(0, 0.5), (1, 0.25), (2, 0.125), (3, 0.125)] {
        assert!((all[code] - expected).abs() < 0.02, "code {code}: {}", all[code]);
    }
    let nucleus = shares(Some(CodeFilter { top_p: 0.6, top_k: 25, min_keep: 1 }));
    assert!((nucleus[0] - 2.0 / 3.0).abs() < 0.02 && nucleus[2] + nucleus[3] == 0.0, "{nucleus:?}");
    let best = shares(Some(CodeFilter { top_p: 1.0, top_k: 1, min_keep: 1 }));
    assert_eq!(best[0], 1.0);
}

#[test]
#[should_panic(expected = "This is a bug.")]
fn a_chunk_in_a_chunk_is_a_bug() {
    let mut sampler = CodeSampler::new(rules(), 0);
    sampler.start(plan(0));
    sampler.start(plan(0));
}

#[test]
#[should_panic(expected = "This is a bug.")]
fn codes_without_a_chunk_are_a_bug() {
    let _ = CodeSampler::new(rules(), 0).advance(&logits(&[]));
}
