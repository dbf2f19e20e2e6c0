//! 1. In order, out of order, across the wrap: every packet is played once, in order.
//! 2. Lost packets are answered at their time, with the next packet when it is there; duplicates and late ones count.
//! 3. The delay follows the network up and down again.
//! 4. A stall, a pause, a restart of the sender end in playing again.
//! 5. Whatever arrives: no panic, nothing played twice or backwards, the buffer stays bounded.

use proptest::prelude::*;

use super::*;

fn packet(index: u32) -> Packet {
    Packet {
        sequence: (65_530 + index) as u16,
        timestamp: index.wrapping_mul(960),
        samples: 320,
        payload: index.to_be_bytes().to_vec(),
    }
}

fn index(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Plays packets that arrive `(at_ms, index)`, sorted, with a pull every 20 ms, at 10, 30, 50 ...
fn play(buffer: &mut JitterBuffer, arrivals: &[(u64, u32)], until_ms: u64) -> Vec<Pull> {
    let mut arrivals = arrivals.iter().peekable();
    (0..until_ms / 20)
        .map(|tick| {
            let now = 20 * tick + 10;
            while let Some(&&(when, index)) = arrivals.peek().filter(|arrival| arrival.0 <= now) {
                buffer.push(at(when), packet(index));
                arrivals.next();
            }
            buffer.pull()
        })
        .collect()
}

fn played(pulls: &[Pull]) -> Vec<u32> {
    pulls
        .iter()
        .flat_map(|pull| match pull {
            Pull::Packet(packet) => vec![index(&packet.payload)],
            Pull::Squeeze(first, second) => vec![index(&first.payload), index(&second.payload)],
            Pull::Missing { .. } => vec![],
        })
        .collect()
}

fn steady(count: u32) -> Vec<(u64, u32)> {
    (0..count).map(|index| (u64::from(index) * 20, index)).collect()
}

#[test]
fn a_steady_stream_is_played_as_it_comes() {
    let mut buffer = JitterBuffer::default();
    let pulls = play(&mut buffer, &steady(100), 2_000);
    assert_eq!(played(&pulls), (0..100).collect::<Vec<_>>());
    assert!(buffer.depth() <= at(20));
    assert_eq!(buffer.counts(), Counts { received: 100, played: 100, ..Counts::default() });
}

#[test]
fn neighbours_that_swap_are_put_right() {
    let mut buffer = JitterBuffer::default();
    let mut arrivals = steady(400);
    // a stream that swaps from the start teaches the buffer to wait, which costs its first packets
    for pair in arrivals.chunks_exact_mut(2) {
        (pair[0].1, pair[1].1) = (pair[1].1, pair[0].1);
    }
    let played = played(&play(&mut buffer, &arrivals, 8_100));
    assert!(played.is_sorted());
    let learned = played.iter().position(|&index| index >= 100).unwrap();
    assert_eq!(played[learned..], (100..400).collect::<Vec<_>>());
}

#[test]
fn a_loss_is_answered_with_the_copy_when_the_next_packet_is_there() {
    let mut buffer = JitterBuffer::default();
    // packets come in pairs, so that two are in the buffer when the first is due
    let arrivals: Vec<_> =
        (0..100).filter(|index| index % 10 != 4).map(|index| (u64::from(index / 2) * 40, index)).collect();
    let pulls = play(&mut buffer, &arrivals, 2_200);
    let copies: Vec<_> = pulls
        .iter()
        .filter_map(|pull| match pull {
            Pull::Missing { next: Some(next) } => Some(index(next)),
            _ => None,
        })
        .collect();
    assert!(copies.len() >= 8, "copies before {copies:?}");
    assert!(copies.iter().all(|index| index % 10 == 5));
    assert_eq!(buffer.counts().missed, 10);
    assert_eq!(played(&pulls).len(), 90);
}

#[test]
fn what_was_lost_while_dry_is_not_waited_for_again() {
    let mut buffer = JitterBuffer::default();
    let arrivals: Vec<_> = steady(100).into_iter().filter(|arrival| !(50..52).contains(&arrival.1)).collect();
    let pulls = play(&mut buffer, &arrivals, 2_000);
    // two pulls without sound for two lost packets, and no delay afterwards
    assert_eq!(pulls.iter().filter(|pull| matches!(pull, Pull::Missing { .. })).count(), 2);
    assert_eq!(played(&pulls).last(), Some(&99));
}

#[test]
fn duplicates_and_late_packets_are_counted_and_not_played() {
    let mut buffer = JitterBuffer::default();
    let mut arrivals = steady(100);
    arrivals.push((400, 20));
    arrivals.push((401, 21));
    arrivals.push((1_000, 10));
    arrivals.sort();
    let pulls = play(&mut buffer, &arrivals, 2_000);
    assert!(played(&pulls).windows(2).all(|pair| pair[0] < pair[1]));
    let counts = buffer.counts();
    assert_eq!(counts.late + counts.duplicate, 3, "{counts:?}");
}

#[test]
fn the_delay_follows_the_network() {
    let mut buffer = JitterBuffer::default();
    // ten seconds in which every third packet is 70 ms late, then a quiet network
    let mut arrivals: Vec<_> = (0..1_500u32)
        .map(|index| (u64::from(index) * 20 + if index < 500 && index % 3 == 0 { 70 } else { 0 }, index))
        .collect();
    arrivals.sort();
    let rough: Vec<_> = arrivals.iter().copied().filter(|arrival| arrival.0 < 10_000).collect();
    let quiet: Vec<_> = arrivals.iter().copied().filter(|arrival| arrival.0 >= 10_000).collect();
    play(&mut buffer, &rough, 10_000);
    let missed_before = buffer.counts().missed;
    assert!((at(60)..at(80)).contains(&buffer.jitter()), "{:?}", buffer.jitter());
    assert!(buffer.depth() >= at(60), "{:?}", buffer.depth());
    assert!(missed_before <= 20, "{missed_before} missed while learning");
    let shifted: Vec<_> = quiet.iter().map(|&(when, index)| (when - 10_000, index)).collect();
    // the clock of `play` starts again at 0: the transit times jump back by 10 s, which a network may do too
    play(&mut buffer, &shifted, 20_000);
    assert!(buffer.depth() <= at(40), "{:?}", buffer.depth());
    assert!(buffer.counts().squeezed > 0);
}

#[test]
fn a_stall_costs_what_is_too_old_and_no_more() {
    let mut buffer = JitterBuffer::default();
    let mut arrivals: Vec<_> = (0..200u32)
        .map(|index| (if (50..100).contains(&index) { 2_000 } else { u64::from(index) * 20 }, index))
        .collect();
    arrivals.sort();
    let pulls = play(&mut buffer, &arrivals, 4_200);
    let played = played(&pulls);
    assert!(played.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(played.last(), Some(&199));
    assert!(buffer.depth() <= OVERFLOW);
    assert!(buffer.counts().overflowed >= 30, "{:?}", buffer.counts());
}

#[test]
fn a_pause_of_the_sender_is_silence_and_then_goes_on() {
    let mut buffer = JitterBuffer::default();
    // discontinuous transmission: sequence numbers go on, the clock jumps
    let arrivals: Vec<_> =
        (0..100u32).map(|index| (u64::from(index) * 20 + if index < 50 { 0 } else { 600 }, index)).collect();
    let pulls = play(&mut buffer, &arrivals, 2_700);
    assert_eq!(played(&pulls), (0..100).collect::<Vec<_>>());
    assert_eq!(buffer.counts().missed, 0);
}

#[test]
fn a_sender_that_starts_again_is_followed_once_two_packets_agree() {
    let mut buffer = JitterBuffer::default();
    play(&mut buffer, &steady(50), 1_000);
    let again = |n: u32| Packet { sequence: (20_000 + n) as u16, ..packet(n) };
    buffer.push(at(1_000), again(0));
    assert_eq!(buffer.counts().restarts, 0);
    buffer.push(at(1_020), again(1));
    assert_eq!(buffer.counts().restarts, 1);
    assert!(matches!(buffer.pull(), Pull::Packet(_)));
}

#[test]
fn short_and_long_packets_keep_the_same_delay() {
    for (samples, step_ms) in [(160, 10), (960, 60)] {
        let mut buffer = JitterBuffer::default();
        let mut missing = 0;
        for n in 0..300u32 {
            let packet = Packet { samples, timestamp: n * step_ms * 48, ..packet(n) };
            buffer.push(at(u64::from(n * step_ms)), packet);
            missing += u32::from(matches!(buffer.pull(), Pull::Missing { .. }));
        }
        assert!(missing <= 1, "{missing} missing at {step_ms} ms");
        assert!(buffer.depth() <= at(60));
    }
}

proptest! {
    #[test]
    fn nothing_is_played_twice_or_backwards(
        events in prop::collection::vec((0u64..200, prop::num::u32::ANY, prop::bool::weighted(0.7)), 1..400),
    ) {
        let mut buffer = JitterBuffer::default();
        let (mut now, mut base) = (0, 0u32);
        let mut last = None;
        let mut restarts = 0;
        for (step, noise, near) in events {
            now += step % 30;
            base += 1;
            let sequence = if near { base + noise % 8 } else { noise };
            let samples = 40 * (1 + (noise % 48) as usize);
            buffer.push(at(now), Packet { sequence: sequence as u16, samples, ..packet(sequence) });
            if buffer.counts().restarts != restarts {
                restarts = buffer.counts().restarts;
                last = None;
            }
            let played = match buffer.pull() {
                Pull::Packet(packet) => vec![packet.sequence],
                Pull::Squeeze(first, second) => vec![first.sequence, second.sequence],
                Pull::Missing { .. } => vec![],
            };
            for sequence in played {
                if let Some(last) = last {
                    prop_assert!((sequence.wrapping_sub(last) as i16) > 0, "{} after {}", sequence, last);
                }
                last = Some(sequence);
            }
            prop_assert!(buffer.packets.len() <= 100);
            let counts = buffer.counts();
            prop_assert!(
                counts.played + counts.late + counts.duplicate + counts.overflowed <= counts.received
            );
        }
    }
}
