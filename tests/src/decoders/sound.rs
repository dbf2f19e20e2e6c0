//! Sound and pictures: base64, PCM, G.711, Opus with its jitter buffer, wav files, JPEG and PNG.

use std::time::Duration;

use duologue_audio::g711::Law;
use duologue_audio::opus::{DECODER_FRAME, DECODER_LONGEST, Decoder, packet_samples};
use duologue_audio::wav::{Limits, parse_mono};
use duologue_proto::payload::{Base64, decode_f32le, decode_s16le, encode_f32le, encode_s16le};
use duologue_transport::picture;
use duologue_transport::rtc::uplink::Uplink;

/// Text as base64, its bytes as samples of every kind.
pub fn base64(bytes: &[u8]) {
    const LIMIT: usize = 3 * 1024;
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(Base64(decoded)) = Base64::decode(text, LIMIT)
    {
        assert!(decoded.len() <= LIMIT);
        let again = serde_json::to_value(Base64(decoded)).expect("text");
        assert_eq!(again, text, "one spelling for one payload");
    }
    if let Ok(samples) = decode_s16le(bytes) {
        assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
        assert_eq!(encode_s16le(&samples), bytes);
    }
    if let Ok(samples) = decode_f32le(bytes) {
        assert!(samples.iter().all(|sample| sample.is_finite()));
        assert_eq!(encode_f32le(&samples), bytes);
    }
    for law in [Law::Mu, Law::A] {
        assert_eq!(law.decode(bytes).len(), bytes.len());
    }
}

/// The bytes as a packet that is decoded, after one that was lost before it.
pub fn opus(bytes: &[u8]) {
    let mut decoder = Decoder::new().expect("memory");
    let bounded = |samples: &[f32]| samples.len() <= DECODER_LONGEST && samples.iter().all(|x| x.is_finite());
    let promised = packet_samples(bytes);
    if let Ok(copy) = decoder.decode_fec(bytes, DECODER_FRAME) {
        assert!(copy.len() == DECODER_FRAME && bounded(&copy));
    }
    if let Ok(samples) = decoder.decode(bytes) {
        assert!(bounded(&samples));
        assert_eq!(promised.ok(), Some(samples.len()), "as long as its head says");
    }
    assert!(decoder.conceal(DECODER_FRAME).is_ok_and(|samples| bounded(&samples)), "the decoder stays usable");
}

/// The bytes as RTP packets as they arrive: 8 bytes of time, numbers and length, then the payload; a frame is due after
/// each.
pub fn uplink(bytes: &[u8]) {
    let mut uplink = Uplink::new().expect("memory");
    let (mut rest, mut now) = (bytes, Duration::ZERO);
    while let [step, source, sequence @ .., timestamp_low, timestamp, length] = &rest[..rest.len().min(8)] {
        let [a, b, c] = *sequence else { break };
        now += Duration::from_millis(u64::from(*step));
        let sequence = u16::from_le_bytes([a, b]);
        let timestamp = u32::from_le_bytes([0, *timestamp_low, *timestamp, c]);
        let (payload, after) = rest[8..].split_at(usize::from(*length).min(rest.len() - 8));
        rest = after;
        uplink.push(now, u32::from(*source % 3), sequence, timestamp, payload);
        let frame = uplink.tick();
        assert!(frame.len() == DECODER_FRAME && frame.iter().all(|x| x.is_finite()), "one frame at every tick");
    }
    let stats = uplink.stats();
    assert!(stats.missed + stats.late <= (1 << 32) && stats.depth_ms.is_finite() && stats.jitter_ms.is_finite());
}

/// A reference voice.
pub fn wav(bytes: &[u8]) {
    let limits = Limits { min_seconds: 0.0, max_seconds: 10.0 };
    if let Ok(pcm) = parse_mono("the voice", bytes, limits) {
        assert!(pcm.samples.len() <= bytes.len() && pcm.samples.iter().all(|x| x.is_finite()));
        assert!(pcm.samples.len() as f64 <= 10.0 * f64::from(pcm.rate_hz));
    }
}

/// A picture of the camera.
pub fn picture(bytes: &[u8]) {
    if let Ok(frame) = picture::decode(bytes, 1) {
        assert_eq!(frame.rgb.len() as u64, 3 * u64::from(frame.width) * u64::from(frame.height));
    }
}
