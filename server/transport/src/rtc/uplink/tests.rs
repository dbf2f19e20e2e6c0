//! 1. One frame of 320 finite samples at every tick, whatever arrives.
//! 2. A voice goes through unharmed on a quiet network; on a bad one most of it does, the figures are printed.

use duologue_audio::opus::{ENCODER_FRAME, Encoder};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn voice(frames: usize) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(10).unwrap();
    let mut phase = 0.0f32;
    (0..frames)
        .map(|frame| {
            let samples: Vec<i16> = (0..ENCODER_FRAME)
                .map(|n| {
                    let time = (frame * ENCODER_FRAME + n) as f32 / 24_000.0;
                    phase += (150.0 + 40.0 * (time * 5.0).sin()) / 24_000.0;
                    let sound: f32 =
                        (1..6u8).map(|n| (std::f32::consts::TAU * phase * f32::from(n)).sin() / f32::from(n)).sum();
                    (sound * 6_000.0) as i16
                })
                .collect();
            encoder.encode(&samples).unwrap().packet
        })
        .collect()
}

fn energy(samples: &[f32]) -> f32 {
    samples.iter().map(|x| x * x).sum::<f32>() / samples.len() as f32
}

/// Sends `packets` 20 ms apart through a network that delays each by `0..jitter_ms` and loses `loss` of them.
fn through(packets: &[Vec<u8>], loss: f64, jitter_ms: u64, seed: u64) -> (Uplink, Vec<Vec<f32>>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut arrivals: Vec<(u64, usize)> = (0..packets.len())
        .filter_map(|index| {
            let delay_us = rng.random_range(0..=jitter_ms * 1_000);
            (!rng.random_bool(loss)).then_some((index as u64 * 20_000 + delay_us, index))
        })
        .collect();
    arrivals.sort_unstable();
    let mut uplink = Uplink::new().unwrap();
    let mut arrivals = arrivals.into_iter().peekable();
    let frames = (0..packets.len() + 10)
        .map(|tick| {
            let now = tick as u64 * 20_000 + 7_000;
            while let Some((when, index)) = arrivals.next_if(|arrival| arrival.0 <= now) {
                uplink.push(Duration::from_micros(when), 7, index as u16, index as u32 * 960, &packets[index]);
            }
            uplink.tick()
        })
        .collect();
    (uplink, frames)
}

#[test]
fn a_quiet_network_changes_nothing() {
    let packets = voice(250);
    let (uplink, frames) = through(&packets, 0.0, 2, 1);
    let stats = uplink.stats();
    assert!(frames.iter().all(|frame| frame.len() == DECODER_FRAME));
    assert_eq!((stats.missed, stats.late, stats.corrupt, stats.restored_ms), (0, 0, 0, 0), "{stats:?}");
    let mut decoder = Decoder::new().unwrap();
    let want: Vec<f32> = packets.iter().flat_map(|packet| decoder.decode(packet).unwrap()).collect();
    let got: Vec<f32> = frames.concat();
    let start = got.windows(64).position(|window| window == &want[..64]).expect("the stream is there");
    assert!(start <= 2 * DECODER_FRAME, "begins {start} samples late");
    assert_eq!(&got[start..start + want.len()], want);
}

#[test]
fn every_packet_is_heard_when_it_arrives() {
    let packets = voice(50);
    let (mut uplink, mut decoder) = (Uplink::new().unwrap(), Decoder::new().unwrap());
    for (index, packet) in packets.iter().enumerate() {
        let heard = uplink.push(Duration::from_millis(20 * index as u64), 7, index as u16, index as u32 * 960, packet);
        assert_eq!(heard, decoder.decode(packet).unwrap(), "packet {index}");
    }
    assert!(uplink.push(Duration::from_secs(1), 7, 50, 48_000, &[]).is_empty());
    assert!(uplink.push(Duration::from_secs(1), 7, 51, 48_960, &[0xff]).is_empty());
    assert_eq!(uplink.stats().corrupt, 2);
}

#[test]
fn of_a_flood_only_its_beginning_is_heard() {
    let (packet, mut uplink) = (&voice(1)[0], Uplink::new().unwrap());
    let mut heard = |ms| -> usize {
        (0..10_000).map(|n| uplink.push(Duration::from_millis(ms), 7, n, 0, packet).len() / DECODER_FRAME).sum()
    };
    assert_eq!(heard(0), 26, "half a second and the packet that goes beyond it");
    assert_eq!(heard(200), 10, "then no more than time has passed");
}

#[test]
fn a_bad_network_leaves_most_of_the_voice() {
    let packets = voice(1_500);
    for (name, loss, jitter_ms, least_played) in
        [("10 % loss", 0.1, 2, 0.88), ("60 ms jitter", 0.0, 60, 0.97), ("10 % loss, 200 ms jitter", 0.1, 200, 0.5)]
    {
        let (uplink, frames) = through(&packets, loss, jitter_ms, 3);
        let (stats, counts) = (uplink.stats(), uplink.counts());
        eprintln!("{name}: {stats:?} {counts:?}");
        assert_eq!(frames.len(), packets.len() + 10);
        assert!(frames.iter().all(|frame| frame.len() == DECODER_FRAME && frame.iter().all(|x| x.is_finite())));
        let played = counts.played as f64 / packets.len() as f64;
        assert!(played >= least_played, "{name}: {played} played");
        let loud = frames.iter().filter(|frame| energy(frame) > 1e-4).count() as f64 / frames.len() as f64;
        assert!(loud >= 0.9, "{name}: sound in {loud} of the frames");
    }
}

#[test]
fn silence_follows_a_stream_that_ends() {
    let (mut uplink, _) = through(&voice(50), 0.0, 2, 5);
    for _ in 0..10 {
        uplink.tick();
    }
    assert!(uplink.tick().iter().all(|&x| x == 0.0));
    assert!(uplink.stats().concealed_ms <= 200);
}

#[test]
fn nothing_received_is_silence() {
    let mut uplink = Uplink::new().unwrap();
    assert_eq!(uplink.tick(), vec![0.0; DECODER_FRAME]);
    assert_eq!(uplink.stats().concealed_ms, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_clock_is_steady_whatever_arrives(
        events in prop::collection::vec(
            (any::<u16>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..40), 0u64..100, 0u32..3), 0..60),
    ) {
        let mut uplink = Uplink::new().unwrap();
        let mut now = 0;
        for (sequence, timestamp, payload, step, source) in events {
            now += step;
            uplink.push(Duration::from_millis(now), source, sequence % 40, timestamp, &payload);
            let frame = uplink.tick();
            prop_assert_eq!(frame.len(), DECODER_FRAME);
            prop_assert!(frame.iter().all(|x| x.is_finite()));
        }
    }
}
