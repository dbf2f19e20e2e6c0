//! Messages of both wires, through the readers and through the state machines behind them.

use std::time::Duration;

use duologue_proto::live::{AudioFormat, SessionConfig};
use duologue_proto::wire::{Limits, WireError};
use duologue_proto::{demo, live};
use duologue_session::{Duplex, PreparedReport};
use duologue_transport::demo::{DemoCodec, Moment, Reaction};
use duologue_transport::live::codec::{LiveCodec, LiveSession, Sound};
use duologue_transport::live::session_request;
use duologue_transport::{BackendInfo, ReplyStart, SessionEvent};
use serde::Serialize;

const FORMATS: [AudioFormat; 6] = [
    AudioFormat::Pcm24k,
    AudioFormat::Pcm16k,
    AudioFormat::Pcmu,
    AudioFormat::Pcma,
    AudioFormat::Pcm12k,
    AudioFormat::Pcm8k,
];

fn limits() -> Limits {
    Limits { max_message_bytes: 1 << 16, ..Limits::default() }
}

fn info() -> BackendInfo {
    BackendInfo {
        name: "fuzz".into(),
        precision: "fp32".into(),
        sha256: String::new(),
        random_weights: true,
        slots: 1,
        duplex: Duplex {
            sample_rate_hz: 16_000,
            chunk_ms: 1000,
            first_chunk_ms: 1035,
            cnn_redundancy_ms: 20,
            max_new_speak_tokens: 20,
            max_chars_per_unit: 28,
            force_listen_count: 0,
        },
        output_rate_hz: 24_000,
        reply_start: ReplyStart::default(),
        voices: vec!["default".into()],
        cloning: Some(0.5..=10.0),
        vision: true,
        typed: true,
        suggestions: vec![],
        default_instructions: String::new(),
        context_tokens: 8192,
        forced_schedules: true,
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A refusal stays short whatever it quotes.
fn short(error: &WireError) {
    assert!(error.message.len() <= 300 && error.param.as_ref().is_none_or(|param| param.len() <= 300), "{error:?}");
}

/// What was read can be written, and what is written can be read. Numbers may differ in their last digit, so that they are not
/// compared.
fn survives<T: Serialize>(message: &T, read: impl Fn(&str) -> Result<T, WireError>) {
    let written = serde_json::to_string(message).expect("wire types are JSON");
    // Escapes may have made it too long.
    if written.len() <= limits().max_message_bytes {
        assert!(read(&written).is_ok(), "cannot be read back: {written}");
    }
}

/// The lines are the messages of one client, in each audio format.
pub fn live_client(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let info = info();
    let limits_of_manager = duologue_transport::Limits::default();
    for format in FORMATS {
        let config = serde_json::json!({"model": "m", "audio": {"format": format}, "duologue": {}});
        let config: SessionConfig = serde_json::from_value(config).expect("a session");
        let session = LiveSession {
            id: "sess_1",
            resume_token: "",
            resumed: false,
            config: &config,
            info: &info,
            limits: &limits_of_manager,
            recording_id: None,
            muted: std::sync::Arc::default(),
            sound: Sound::Messages,
        };
        let mut codec = LiveCodec::new(&session, limits());
        for line in text.lines().chain([text]) {
            match live::parse_client(line, &limits(), format) {
                Ok(message) => survives(&message, |text| live::parse_client(text, &limits(), format)),
                Err(error) => short(&error),
            }
            if let Err(error) = codec.receive(line) {
                short(&error);
            }
        }
    }
}

/// One message of a server, as clients in Rust read it.
pub fn live_server(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let read = |text: &str| live::parse_server(text, limits().max_message_bytes);
    match read(text) {
        Ok(message) => survives(&message, read),
        Err(error) => short(&error),
    }
}

/// Bodies of the REST routes; a session that is asked for is translated for the backend.
pub fn live_rest(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let limits = limits();
    match live::rest::parse_create(text, &limits) {
        Ok(create) => drop(session_request(&create.session, &info()).inspect_err(short)),
        Err(error) => short(&error),
    }
    drop(live::rest::parse_ice(text, &limits).inspect_err(short));
    drop(live::rest::parse_client_secret(text, &limits).inspect_err(short));
}

/// The lines are the messages of one client of a session that is ready at once.
pub fn demo_client(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut codec = DemoCodec::new(&info(), limits());
    let mut now = Moment { clock: Duration::ZERO, unix_s: 0.0 };
    for line in text.lines().chain([text]) {
        match demo::parse_client(line, &limits()) {
            Ok(message) => survives(&message, |text| demo::parse_client(text, &limits())),
            Err(error) => short(&error),
        }
        now.clock += Duration::from_millis(20);
        if codec.waiting() {
            continue;
        }
        match codec.receive(line, now) {
            Ok(reactions) => {
                if reactions.iter().any(|reaction| matches!(reaction, Reaction::Open(_))) {
                    let report = PreparedReport { kv_len: 50, from_cache: false, took: Duration::ZERO };
                    drop(codec.event(&SessionEvent::Ready(report), now));
                }
            }
            Err(error) => short(&error),
        }
    }
}

/// One message of a server.
pub fn demo_server(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let read = |text: &str| demo::parse_server(text, limits().max_message_bytes);
    match read(text) {
        Ok(message) => survives(&message, read),
        Err(error) => short(&error),
    }
}

/// Bodies of the REST routes.
pub fn demo_rest(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let limits = limits();
    drop(demo::rest::parse_comment(text, &limits).inspect_err(short));
    drop(demo::rest::parse_app_switch(text, &limits).inspect_err(short));
    drop(demo::rest::parse_ref_audio_upload(text, &limits).inspect_err(short));
}
