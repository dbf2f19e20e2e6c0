//! A forced pattern holds whatever the logits say.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::config::Mode;
use crate::schedule::Schedule;

/// Scores that prefer special tokens as often as words.
fn random_logits(random: &mut ChaCha8Rng) -> Vec<f32> {
    (0..VOCAB).map(|_| random.random_range(-10.0..10.0)).collect()
}

fn scheduled(schedule: Schedule, mode: Mode, greedy: bool) -> SessionConfig {
    let mut config = config(mode);
    config.schedule = Some(schedule);
    config.sampling.decode_mode = if greedy { DecodeMode::Greedy } else { DecodeMode::Sampling };
    // Neither has a say: the schedule decides when to listen and how many words a unit has.
    config.force_listen_count = 3;
    config.max_chars = 2;
    config
}

/// One unit on random logits.
fn unit(run: &mut Run, force: bool, random: &mut ChaCha8Rng) -> UnitEnd {
    run.dialogue.begin_unit(run.kv_len);
    run.fed.clear();
    let mut step = run.dialogue.start(force);
    let end = loop {
        match step {
            Step::End(end) => break *end,
            Step::Feed { token, speaks } => run.fed.push((token, speaks)),
            Step::Sample => {}
        }
        step = run.dialogue.advance(&random_logits(random), &Letters, &mut Scratch::default()).unwrap();
    };
    run.finish();
    end
}

proptest! {
    /// Every unit is what the pattern says, a run of speaking units ends its turn with its last one, and every word is one.
    #[test]
    fn the_pattern_holds_for_random_logits(
        listen in 0u32..4, speak in 0u32..4, words in 1usize..17, live: bool, greedy: bool, seed: u64,
    ) {
        prop_assume!(listen + speak > 0);
        let schedule = Schedule { listen, speak, tokens: words, codes: 25 };
        let mode = if live { Mode::Live } else { Mode::Fidelity };
        let mut run = Run::new(&scheduled(schedule, mode, greedy));
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for number in 0..4 * (listen + speak) {
            let position = number % (listen + speak);
            let end = unit(&mut run, false, &mut random);
            if position < listen {
                prop_assert_eq!((&end.tokens[..], end.ended_by, end.speaks()), (&[LISTEN][..], EndedBy::Listen, false));
                continue;
            }
            let last = position + 1 == listen + speak;
            prop_assert_eq!(end.tokens[0], SPEAK);
            prop_assert!(end.tokens[1..=words].iter().all(|&token| token >= 32), "{:?}", end.tokens);
            let rest = if last { &[TURN_EOS, CHUNK_EOS][..] } else { &[CHUNK_EOS] };
            prop_assert_eq!(&end.tokens[words + 1..], rest);
            prop_assert_eq!(end.text.chars().count(), words);
            prop_assert_eq!((end.ended_by, end.turn_open), (EndedBy::ChunkEos, !last));
            prop_assert_eq!(end.speech, if last { SpeechOrder::EndTurn } else { SpeechOrder::Continue });
        }
    }

    /// A listen that is forced from outside closes the turn, and the pattern goes on with the next unit as if it had been obeyed.
    #[test]
    fn an_interruption_does_not_shift_the_pattern(forced in prop::collection::vec(any::<bool>(), 24), seed: u64) {
        let schedule = Schedule { listen: 1, speak: 3, tokens: 2, codes: 25 };
        let mut run = Run::new(&scheduled(schedule, Mode::Live, false));
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (number, force) in forced.into_iter().enumerate() {
            let end = unit(&mut run, force, &mut random);
            prop_assert_eq!(end.speaks(), number % 4 != 0 && !force);
            prop_assert!(!(end.turn_open && (force || number % 4 == 3)));
        }
    }
}

#[test]
fn a_turn_that_an_interruption_left_open_is_closed_before_listening() {
    let schedule = Schedule { listen: 1, speak: 1, tokens: 2, codes: 25 };
    let mut run = Run::new(&scheduled(schedule, Mode::Live, true));
    let mut random = ChaCha8Rng::seed_from_u64(0);
    unit(&mut run, false, &mut random);
    run.generate(&[65, 66]);
    assert_eq!(run.dialogue.abort(&Letters).tokens, [SPEAK, CHUNK_EOS]);
    run.finish();
    let end = unit(&mut run, false, &mut random);
    assert_eq!(end.tokens, [TURN_EOS, LISTEN]);
    assert!(!end.turn_open);
}

#[test]
fn a_schedule_is_checked_with_the_session() {
    let schedule = Schedule { listen: 1, speak: 3, tokens: 17, codes: 25 };
    let error = Dialogue::new(&scheduled(schedule, Mode::Live, true), &tokens()).unwrap_err();
    assert_eq!(error.setting, "schedule.tokens");
}
