//! Replies that are spoken from their first words on (`Conduct::first_words`).
//!
//! Two sessions beside each other, one of which speaks early: the LLM says the same, every unit has as many codes and every turn as
//! much sound, and the codes that begin a turn were made without its later words.

use duologue_session::{Mode, Schedule};
use duologue_tests::sessions::{begin, engine, greedy, heard, user_audio};

const PATTERN: Schedule = Schedule { listen: 1, speak: 2, tokens: 6, codes: 25 };
const SAMPLES_PER_CODE: usize = 960;

#[test]
fn the_same_words_and_as_much_sound() {
    let engine = engine(2);
    let mut config = greedy(&engine, Mode::Live);
    config.schedule = Some(PATTERN);
    let mut whole = begin(&engine, &config);
    config.conduct.first_words = 2;
    let mut early = begin(&engine, &config);
    let mut sound = 0;
    for (number, audio) in user_audio(0).take(9).enumerate() {
        whole.start_unit(heard(audio.clone())).unwrap();
        early.start_unit(heard(audio)).unwrap();
        let (whole, early) = (whole.finish_unit().unwrap(), early.finish_unit().unwrap());
        assert_eq!(
            early.report.end, whole.report.end,
            "unit {number}: what is said does not depend on when it is spoken"
        );
        assert_eq!(early.codes.len(), whole.codes.len());
        let begins = number % 3 == 1;
        if begins {
            let alike = early.codes.iter().zip(&whole.codes).take_while(|(early, whole)| early == whole).count();
            assert!(alike < 12, "the condition of the first codes had only the first words");
        }
        sound = if begins { 0 } else { sound } + early.samples.len();
        if number % 3 == 2 {
            assert_eq!(sound, 2 * PATTERN.codes * SAMPLES_PER_CODE, "all codes of a turn are heard");
        }
    }
}
