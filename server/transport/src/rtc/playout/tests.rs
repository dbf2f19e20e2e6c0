//! 1. Samples come out once, in order, whatever the pieces; the play head counts them by turn.
//! 2. A flush ends sound within 5 ms and drops the rest; hold and unhold lose 5 ms of fade and nothing else.
//! 3. The queue is bounded and says what it dropped.

use proptest::prelude::*;

use super::*;

const TURN: u32 = 3;

fn ramp(samples: usize) -> Vec<i16> {
    (0..samples).map(|n| (n % 20_000) as i16 + 1).collect()
}

#[test]
fn a_flush_ends_sound_within_5_ms() {
    let mut playout = Playout::default();
    playout.play(TURN, &[10_000; 4_800]).unwrap();
    assert_eq!(playout.frame(), Some([10_000; ENCODER_FRAME]));
    playout.flush();
    let last = playout.frame().unwrap();
    assert!(last[..FADE].windows(2).all(|pair| pair[0] > pair[1]), "fades");
    assert!(last[0] > 9_900 && last[FADE..].iter().all(|&x| x == 0));
    assert_eq!(playout.frame(), None);
    assert_eq!(playout.head(), Some(PlayHead { turn: TURN, played_ms: 25, buffered_ms: 0 }));
}

#[test]
fn what_is_played_after_a_flush_follows_its_fade() {
    let mut playout = Playout::default();
    playout.play(TURN, &[10_000; 4_800]).unwrap();
    playout.frame();
    playout.flush();
    playout.play(4, &[500; 4_800]).unwrap();
    let frame = playout.frame().unwrap();
    assert_eq!(frame[FADE], 500);
    assert_eq!(playout.head().unwrap().turn, 4);
}

#[test]
fn hold_keeps_what_was_not_heard() {
    let mut playout = Playout::default();
    let sound = ramp(4_800);
    playout.play(TURN, &sound).unwrap();
    playout.frame();
    playout.hold();
    playout.hold();
    assert!(playout.frame().unwrap()[FADE..].iter().all(|&x| x == 0));
    assert_eq!(playout.frame(), None);
    playout.play(TURN, &[7; 10]).unwrap();
    assert_eq!(playout.frame(), None);
    playout.unhold();
    let frame = playout.frame().unwrap();
    assert!(frame[0] < sound[ENCODER_FRAME + FADE]);
    assert_eq!(frame[FADE..], sound[ENCODER_FRAME + 2 * FADE..2 * ENCODER_FRAME + FADE]);
    assert_eq!(playout.queued(), 4_810 - 2 * ENCODER_FRAME - FADE);
}

#[test]
fn a_flush_while_held_is_silent_at_once() {
    let mut playout = Playout::default();
    playout.play(TURN, &[10_000; 4_800]).unwrap();
    playout.frame();
    playout.hold();
    playout.frame();
    playout.flush();
    assert_eq!(playout.frame(), None);
    playout.play(TURN, &[1; ENCODER_FRAME]).unwrap();
    assert_eq!(playout.frame(), Some([1; ENCODER_FRAME]), "a flush ends the hold");
}

#[test]
fn a_minute_fits() {
    let mut playout = Playout::default();
    playout.play(TURN, &vec![1; CAPACITY - 5]).unwrap();
    assert_eq!(playout.play(TURN, &[1; 8]), Err(PlayoutFull { dropped: 3 }));
    assert_eq!(playout.play(TURN, &[1]), Err(PlayoutFull { dropped: 1 }));
    assert_eq!(playout.queued(), CAPACITY);
}

proptest! {
    #[test]
    fn pieces_come_out_as_one_stream(pieces in prop::collection::vec(0usize..1_500, 0..20)) {
        let sound = ramp(pieces.iter().sum());
        let mut playout = Playout::default();
        let mut at = 0;
        for piece in pieces {
            playout.play(TURN, &sound[at..at + piece]).unwrap();
            at += piece;
        }
        let out: Vec<i16> = std::iter::from_fn(|| playout.frame()).flatten().collect();
        prop_assert_eq!(out.len(), sound.len().next_multiple_of(ENCODER_FRAME));
        prop_assert_eq!(&out[..sound.len()], &sound[..]);
        prop_assert!(out[sound.len()..].iter().all(|&x| x == 0));
        let played = playout.head().map_or(0, |head| head.played_ms);
        prop_assert_eq!(played, (sound.len() / 24) as u64);
    }
}
