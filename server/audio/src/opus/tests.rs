//! 1. Voice-like sound survives coding: same length, same energy.
//! 2. A lost packet is better restored from the copy in the next one than by concealment.
//! 3. Silence comes to packets that need not be sent, and sound ends that at once.
//! 4. No bytes make the decoder panic, and it works on afterwards.

use proptest::prelude::*;

use super::*;

/// A gliding tone with harmonics, something like a vowel, at 24 kHz.
fn vowel(frames: usize) -> Vec<i16> {
    let mut phase = 0.0f32;
    (0..frames * ENCODER_FRAME)
        .map(|index| {
            let time = index as f32 / ENCODER_RATE_HZ as f32;
            phase += (140.0 + 50.0 * (time * 7.0).sin()) / ENCODER_RATE_HZ as f32;
            let sound: f32 =
                (1..8u8).map(|n| (std::f32::consts::TAU * phase * f32::from(n)).sin() / f32::from(n)).sum();
            (sound * 5_000.0 * (0.6 + 0.4 * (time * 21.0).sin())) as i16
        })
        .collect()
}

fn packets(samples: &[i16]) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(20).unwrap();
    samples.chunks_exact(ENCODER_FRAME).map(|frame| encoder.encode(frame).unwrap().packet).collect()
}

fn energy(samples: &[f32]) -> f32 {
    samples.iter().map(|x| x * x).sum::<f32>() / samples.len() as f32
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    energy(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

#[test]
fn voice_survives() {
    let voice = vowel(100);
    let mut decoder = Decoder::new().unwrap();
    let heard: Vec<f32> = packets(&voice).iter().flat_map(|packet| decoder.decode(packet).unwrap()).collect();
    assert_eq!(heard.len(), 100 * DECODER_FRAME);
    let said = energy(&voice.iter().map(|&x| f32::from(x) / 32_768.0).collect::<Vec<_>>());
    let ratio = energy(&heard) / said;
    assert!((0.8..1.25).contains(&ratio), "energy ratio {ratio}");
}

#[test]
fn the_copy_in_the_next_packet_beats_concealment() {
    let sent = packets(&vowel(60));
    let (mut whole, mut with_copy, mut concealed) = (0.0, 0.0, 0.0);
    for lost in (20..50).step_by(3) {
        let (mut all, mut copy, mut plc) = (Decoder::new().unwrap(), Decoder::new().unwrap(), Decoder::new().unwrap());
        for packet in &sent[..lost] {
            for decoder in [&mut all, &mut copy, &mut plc] {
                decoder.decode(packet).unwrap();
            }
        }
        let truth = all.decode(&sent[lost]).unwrap();
        let from_copy = copy.decode_fec(&sent[lost + 1], DECODER_FRAME).unwrap();
        let made_up = plc.conceal(DECODER_FRAME).unwrap();
        assert_eq!((from_copy.len(), made_up.len()), (DECODER_FRAME, DECODER_FRAME));
        whole += energy(&truth);
        with_copy += distance(&truth, &from_copy);
        concealed += distance(&truth, &made_up);
    }
    let (with_copy, concealed) = (with_copy / whole, concealed / whole);
    assert!(with_copy < 0.7 * concealed, "error with the copy {with_copy}, concealed {concealed}");
}

#[test]
fn silence_need_not_be_sent() {
    let mut encoder = Encoder::new(10).unwrap();
    for frame in vowel(20).chunks_exact(ENCODER_FRAME) {
        assert!(!encoder.encode(frame).unwrap().silence);
    }
    let until = (0..100).position(|_| encoder.encode(&[0; ENCODER_FRAME]).unwrap().silence).unwrap();
    assert!(until <= 25, "{until} frames of silence were sent");
    let voice = vowel(1);
    let first = encoder.encode(&voice).unwrap();
    let second = encoder.encode(&voice).unwrap();
    assert!(!first.silence || !second.silence);
}

#[test]
fn wrong_sizes_are_refused() {
    assert!(matches!(Encoder::new(0).unwrap().encode(&[0; 960]), Err(OpusError::Frame { got: 960 })));
    assert!(Encoder::new(101).is_err());
    let mut decoder = Decoder::new().unwrap();
    for samples in [0, 39, 41, DECODER_LONGEST + CONCEAL_STEP] {
        assert!(matches!(decoder.conceal(samples), Err(OpusError::Conceal { .. })), "{samples}");
    }
    assert!(matches!(decoder.decode(&[]), Err(OpusError::Empty)));
    assert!(matches!(packet_samples(&[]), Err(OpusError::Empty)));
}

proptest! {
    #[test]
    fn any_bytes_leave_a_working_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new().unwrap();
        if let (Ok(samples), Ok(length)) = (decoder.decode(&bytes), packet_samples(&bytes)) {
            prop_assert_eq!(samples.len(), length);
            prop_assert!(samples.iter().all(|x| x.is_finite()));
        }
        let _ = decoder.decode_fec(&bytes, DECODER_FRAME);
        let good = packets(&vowel(1));
        prop_assert_eq!(decoder.decode(&good[0]).unwrap().len(), DECODER_FRAME);
    }
}
