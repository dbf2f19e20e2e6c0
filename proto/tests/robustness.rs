//! Whatever comes from the network, a reader answers with a message or a refusal: never a panic, never a long refusal.

mod common;

use duologue_proto::{
    demo, live,
    live::AudioFormat,
    payload::{Base64, PayloadError, decode_f32le, decode_s16le, encode_f32le, encode_s16le},
    wire::{Limits, WireError},
};
use proptest::prelude::*;

/// Gives `text` to every reader of both wires.
fn read_everywhere(text: &str) {
    let limits = Limits { max_message_bytes: 1 << 16, ..Limits::default() };
    let short = |result: Result<(), WireError>| {
        if let Err(error) = result {
            assert!(error.message.len() <= 300, "a refusal stays short: {} bytes", error.message.len());
            assert!(error.param.is_none_or(|param| param.len() <= 300), "so does its place");
        }
    };
    short(live::parse_client(text, &limits, AudioFormat::Pcm24k).map(drop));
    short(live::parse_server(text, limits.max_message_bytes).map(drop));
    short(live::rest::parse_create(text, &limits).map(drop));
    short(live::rest::parse_ice(text, &limits).map(drop));
    short(live::rest::parse_client_secret(text, &limits).map(drop));
    short(demo::parse_client(text, &limits).map(drop));
    short(demo::parse_server(text, limits.max_message_bytes).map(drop));
    short(demo::rest::parse_comment(text, &limits).map(drop));
    short(demo::rest::parse_ref_audio_upload(text, &limits).map(drop));
}

/// A fixture of a message, cut and with one piece replaced.
fn broken_fixture() -> impl Strategy<Value = String> {
    let mut texts = Vec::new();
    for folder in ["live", "demo", "live/invalid", "demo/invalid"] {
        texts.extend(common::fixtures(folder).into_iter().map(|(_, text)| text));
    }
    (prop::sample::select(texts), any::<prop::sample::Index>(), any::<prop::sample::Index>(), ".{0,8}").prop_map(
        |(text, from, to, piece)| {
            let characters: Vec<char> = text.chars().collect();
            let (a, b) = (from.index(characters.len() + 1), to.index(characters.len() + 1));
            let (start, end) = (a.min(b), a.max(b).min(a.min(b) + 12));
            characters[..start].iter().chain(&piece.chars().collect::<Vec<_>>()).chain(&characters[end..]).collect()
        },
    )
}

/// A message with a known name and fields of any kind.
fn strange_message() -> impl Strategy<Value = String> {
    let names: Vec<&str> = live::ClientEvent::TYPES.iter().chain(demo::ClientEvent::TYPES).copied().collect();
    let fields =
        ["session", "audio", "audio_base64", "config", "frame_base64_list", "image", "timeout_s", "id", "event_id"];
    let values = prop::sample::select(vec![
        "null",
        "0",
        "-1",
        "1e308",
        "18446744073709551616",
        "\"\"",
        "\"=\"",
        "[]",
        "[[]]",
        "{}",
        "{\"duologue\":{}}",
        "{\"audio\":[]}",
        "{\"input\":[{}]}",
        "\"AAAA\"",
        "[\"AA==\"]",
        "true",
        "\"\\ud83d\\ude00\"",
    ]);
    let pair = (prop::sample::select(fields.to_vec()), values);
    (prop::sample::select(names), prop::collection::vec(pair, 0..4)).prop_map(|(name, pairs)| {
        let rest: String = pairs.iter().map(|(field, value)| format!(", \"{field}\": {value}")).collect();
        format!("{{\"type\": \"{name}\"{rest}}}")
    })
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        read_everywhere(&text);
    }

    #[test]
    fn broken_messages_never_panic(text in broken_fixture()) {
        read_everywhere(&text);
    }

    #[test]
    fn strange_messages_never_panic(text in strange_message()) {
        read_everywhere(&text);
    }

    #[test]
    fn base64_comes_back_and_keeps_its_limit(bytes in prop::collection::vec(any::<u8>(), 0..100), max in 0_usize..100) {
        let text = serde_json::to_value(Base64(bytes.clone())).expect("base64 is a text");
        let text = text.as_str().expect("base64 is a text");
        match Base64::decode(text, max) {
            Ok(decoded) => {
                prop_assert!(bytes.len() <= max);
                prop_assert_eq!(decoded.0, bytes);
            }
            Err(error) => {
                prop_assert_eq!(error, PayloadError::TooLarge { bytes: bytes.len(), max });
                prop_assert!(bytes.len() > max);
            }
        }
    }

    #[test]
    fn s16_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        match decode_s16le(&bytes) {
            Ok(samples) => {
                prop_assert!(samples.iter().all(|sample| (-1.0..1.0).contains(sample)));
                prop_assert_eq!(encode_s16le(&samples), bytes);
            }
            Err(_) => prop_assert!(!bytes.len().is_multiple_of(2)),
        }
    }

    #[test]
    fn f32_bytes_come_back_unless_not_finite(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        match decode_f32le(&bytes) {
            Ok(samples) => {
                prop_assert!(samples.iter().all(|sample| sample.is_finite()));
                prop_assert_eq!(encode_f32le(&samples), bytes);
            }
            Err(PayloadError::PartialSample { .. }) => prop_assert!(!bytes.len().is_multiple_of(4)),
            Err(PayloadError::NotFinite { index, .. }) => {
                let sample = &bytes[index * 4..index * 4 + 4];
                prop_assert!(sample[3] & 0x7f == 0x7f && sample[2] & 0x80 == 0x80, "exponent bits are all set");
            }
            Err(other) => prop_assert!(false, "unexpected refusal: {}", other),
        }
    }
}

#[test]
fn samples_beyond_full_scale_are_clipped_when_written_as_s16() {
    assert_eq!(encode_s16le(&[2.0, -2.0, 0.0]), [0xff, 0x7f, 0x00, 0x80, 0, 0]);
}

#[test]
fn a_deeply_nested_message_is_refused_and_does_not_overflow_the_stack() {
    let nested = format!("{{\"type\": \"session.start\", \"session\": {}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    read_everywhere(&nested);
    let ignored = format!("{{\"type\": \"session.close\", \"x\": {}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    read_everywhere(&ignored);
}

#[test]
fn a_long_wrong_value_is_not_quoted_in_full() {
    let text = format!("{{\"type\": \"session.start\", \"session\": \"{}\"}}", "ä".repeat(20_000));
    let error = live::parse_client(&text, &Limits::default(), AudioFormat::Pcm24k).expect_err("a session is an object");
    assert!(error.message.len() <= 300 && error.message.ends_with('…'), "{}", error.message);
}

#[test]
fn format_decides_what_a_whole_sample_is() {
    let text = r#"{"type": "session.input_audio.append", "audio": "AAAA"}"#;
    let read = |format| live::parse_client(text, &Limits::default(), format).map(drop).map_err(|error| error.message);
    assert_eq!(read(AudioFormat::Pcmu), Ok(()));
    let refusal = "3 bytes are not whole samples of 2 bytes (audio/pcm at 16000 Hz)";
    assert_eq!(read(AudioFormat::Pcm16k), Err(refusal.to_owned()));
}

#[test]
fn session_ids_are_made_safe_for_file_names() {
    assert_eq!(demo::sanitize_session_id("adx_m3kf92-A"), "adx_m3kf92-A");
    assert_eq!(demo::sanitize_session_id("../../etc/ä b"), "______etc___b");
    assert_eq!(demo::DuplexKind::of("adx_1"), demo::DuplexKind::AudioDuplex);
    assert_eq!(demo::DuplexKind::of("omni_1"), demo::DuplexKind::OmniDuplex);
}

#[test]
fn the_demo_names_its_own_refusals() {
    let message = |text: &str| demo::parse_client(text, &Limits::default()).expect_err("refused").message;
    assert_eq!(message(r#"{"type": "audio_chunk"}"#), "Missing audio_base64");
    assert_eq!(message(r#"{"type": "dance"}"#), "Unknown message type: dance");
}

#[test]
fn prepare_falls_back_as_the_demo_does() {
    let prepare = |text: &str| match demo::parse_client(text, &Limits::default()) {
        Ok(demo::ClientEvent::Prepare(prepare)) => prepare,
        other => panic!("not a prepare message: {other:?}"),
    };
    assert_eq!(prepare(r#"{"type": "prepare"}"#).slices(), 1);
    assert_eq!(prepare(r#"{"type": "prepare", "config": {"max_slice_nums": 4}}"#).slices(), 4);
    assert_eq!(prepare(r#"{"type": "prepare", "max_slice_nums": 2, "config": {"max_slice_nums": 4}}"#).slices(), 2);
}
