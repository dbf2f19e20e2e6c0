//! Places and queue, with time as a number.

use proptest::prelude::*;

use super::*;

#[test]
fn the_queue_is_first_come_first_served_and_bounded() {
    let (now, mut door) = (Instant::now(), Admission::new(1, 2, Duration::ZERO));
    let first = door.enter(now).unwrap();
    assert_eq!(door.place(first, now), Ok(None));
    let (second, third) = (door.enter(now).unwrap(), door.enter(now).unwrap());
    assert_eq!(door.enter(now), Err(Refusal::QueueFull { waiting: 2 }));
    assert_eq!(door.place(third, now).unwrap().unwrap().position, 2);
    door.leave(first, Some(Duration::from_secs(20)), now);
    assert_eq!(door.place(second, now), Ok(None));
    let place = door.place(third, now).unwrap().unwrap();
    assert_eq!((place.position, place.queue_length), (1, 1));
    assert_eq!(place.estimate, Duration::from_secs(100), "0.8 of the first guess and 0.2 of what was seen");
}

#[test]
fn who_leaves_the_queue_lets_the_others_move_up() {
    let (now, mut door) = (Instant::now(), Admission::new(1, 5, Duration::ZERO));
    let tickets: Vec<_> = (0..4).map(|_| door.enter(now).unwrap()).collect();
    door.leave(tickets[1], None, now);
    assert_eq!(door.place(tickets[2], now).unwrap().unwrap().position, 1);
    assert_eq!(door.place(tickets[0], now), Ok(None));
}

#[test]
fn a_draining_server_takes_nobody_and_sends_the_queue_away() {
    let (now, mut door) = (Instant::now(), Admission::new(1, 5, Duration::ZERO));
    let (inside, waiting) = (door.enter(now).unwrap(), door.enter(now).unwrap());
    door.drain();
    assert_eq!(door.enter(now), Err(Refusal::Draining));
    assert_eq!(door.place(waiting, now), Err(Refusal::Draining));
    assert_eq!(door.place(inside, now), Ok(None));
    door.leave(inside, None, now);
    assert_eq!((door.load().busy, door.load().waiting), (0, 1));
}

proptest! {
    /// Clients come (0, 1) and go (2), units are late (3), and time passes (4): nobody waits for a place that is open, and
    /// after enough calm all are.
    #[test]
    fn open_places_never_stay_empty_while_somebody_waits(steps in proptest::collection::vec(0..5u8, 1..200)) {
        let (slots, max, calm) = (3, 4, Duration::from_secs(10));
        let (mut now, mut door) = (Instant::now(), Admission::new(slots, max, calm));
        let mut visits = VecDeque::new();
        for step in steps {
            match step {
                0 | 1 => match door.enter(now) {
                    Ok(ticket) => visits.push_back(ticket),
                    Err(refusal) => {
                        let load = door.load();
                        prop_assert!(load.busy >= load.open && load.waiting == max, "{refusal}: {load:?}");
                    }
                },
                2 => {
                    if let Some(ticket) = visits.pop_front() {
                        door.leave(ticket, None, now);
                    }
                }
                3 => {
                    door.late(now);
                    let load = door.load();
                    prop_assert!(load.open <= load.busy.saturating_sub(1).max(1));
                }
                _ => {
                    now += calm;
                    if let Some(&visit) = visits.back() {
                        prop_assert!(door.place(visit, now).is_ok());
                    }
                }
            }
            let load = door.load();
            prop_assert!((1..=slots).contains(&load.open) && load.busy <= slots && load.waiting <= max, "{load:?}");
            prop_assert!(load.waiting == 0 || load.busy >= load.open, "{load:?}");
            prop_assert_eq!(load.busy + load.waiting, visits.len());
        }
        for _ in 0..2 {
            now += calm;
            door.update(now);
        }
        prop_assert_eq!(door.load().open, slots);
    }
}

#[test]
fn a_late_machine_takes_nobody_more_until_it_has_been_calm() {
    let calm = Duration::from_secs(10);
    let (start, mut door) = (Instant::now(), Admission::new(8, 9, calm));
    let at = |seconds| start + Duration::from_secs(seconds);
    let inside: Vec<_> = (0..4).map(|_| door.enter(at(0)).unwrap()).collect();
    assert_eq!((door.late(at(1)), door.late(at(2))), (Some(3), None), "told once");
    assert!(inside.iter().all(|&ticket| door.place(ticket, at(2)) == Ok(None)), "who is inside stays");

    let waiting: Vec<_> = (0..5).map(|_| door.enter(at(3)).unwrap()).collect();
    assert_eq!(
        door.place(waiting[0], at(3)).unwrap().unwrap().estimate,
        Duration::from_secs(80),
        "two of three must go"
    );
    door.leave(inside[0], None, at(4));
    assert_eq!((door.load().busy, door.load().waiting), (3, 5), "three places are taken, and three are open");
    door.leave(inside[1], None, at(5));
    assert_eq!(door.place(waiting[0], at(5)), Ok(None), "one of three is free");

    assert_eq!(
        (door.place(waiting[1], at(11)).unwrap().unwrap().position, door.load().open),
        (1, 3),
        "not calm for long enough"
    );
    assert_eq!((door.place(waiting[1], at(12)), door.load().open), (Ok(None), 6));
    assert_eq!((door.load().busy, door.load().waiting), (6, 1));
    assert_eq!((door.place(waiting[4], at(22)), door.load().open), (Ok(None), 8), "all places are open again");
    assert_eq!(door.late(at(30)), Some(6));
}

#[test]
fn a_machine_that_is_too_slow_for_one_keeps_one_place_open() {
    let (now, mut door) = (Instant::now(), Admission::new(2, 1, Duration::from_secs(10)));
    let first = door.enter(now).unwrap();
    assert_eq!(door.late(now), Some(1));
    let second = door.enter(now).unwrap();
    assert!(door.place(second, now).unwrap().is_some());
    door.leave(first, None, now);
    assert_eq!(door.place(second, now), Ok(None));
}

#[test]
fn without_a_calm_time_all_places_are_open_always() {
    let (now, mut door) = (Instant::now(), Admission::new(3, 0, Duration::ZERO));
    door.enter(now).unwrap();
    assert_eq!((door.late(now), door.load().open), (None, 3));
}
