//! The byte fixtures of both wires, which the web client reads too.
//!
//! - Every `client.*`, `server.*` and `rest.*` file parses and serialises to the same JSON value again.
//! - Every event of both wires has a fixture.
//! - Every `accepted` file parses to what it says it means.
//! - Every `invalid` file is refused with exactly its code, at its field, with the client's id of it.

mod common;

use std::collections::BTreeSet;

use duologue_proto::{
    demo, live,
    live::AudioFormat,
    wire::{ErrorCode, Limits, WireError},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use common::{fixtures, read};

/// A reader of one kind of message, and the message as a JSON value again.
type Reader = fn(&str, &Limits) -> Result<Value, WireError>;

fn value(message: &impl Serialize) -> Value {
    serde_json::to_value(message).expect("wire types have string keys and finite numbers only")
}

fn live_client(text: &str, limits: &Limits) -> Result<Value, WireError> {
    live::parse_client(text, limits, AudioFormat::default()).map(|message| value(&message))
}

fn demo_client(text: &str, limits: &Limits) -> Result<Value, WireError> {
    demo::parse_client(text, limits).map(|message| value(&message))
}

/// A body that is only written by us and read by others.
fn body<T: Serialize + DeserializeOwned>(text: &str) -> Value {
    value(&serde_json::from_str::<T>(text).expect("a fixture of a body parses"))
}

/// A body whose events are read one by one, as a client does.
fn timeline(text: &str) -> Value {
    let whole: Value = serde_json::from_str(text).expect("the fixture is JSON");
    let bundle = serde_json::from_value(whole["bundle"].clone()).expect("a bundle");
    let events = whole["events"].as_array().expect("a list of events").iter().map(|recorded| {
        let message = live::parse_server(&recorded["event"].to_string(), 4096).expect("an event of the server");
        live::rest::RecordedEvent { at_ms: recorded["at_ms"].as_u64().expect("a time"), event: message.event }
    });
    let read = live::rest::RecordingTimeline {
        id: whole["id"].as_str().expect("an id").to_owned(),
        started_at: whole["started_at"].as_f64().expect("a time"),
        duration_ms: whole["duration_ms"].as_u64().expect("a length"),
        sample_rate: 24_000,
        unit_ms: 1000,
        bundle,
        events: events.collect(),
    };
    value(&read)
}

fn live_rest(name: &str, text: &str) -> Value {
    use live::rest::{
        ClientSecretResponse, ConfigResponse, CreateResponse, ErrorResponse, parse_client_secret, parse_create,
        parse_ice,
    };
    let limits = Limits::default();
    match name {
        "create.request" => value(&parse_create(text, &limits).expect("a request")),
        "create.response" => body::<CreateResponse>(text),
        "ice.request" | "ice.request.end" => value(&parse_ice(text, &limits).expect("a request")),
        "client_secrets.request" | "client_secrets.request.empty" => {
            value(&parse_client_secret(text, &limits).expect("a request"))
        }
        "client_secrets.response" => body::<ClientSecretResponse>(text),
        "error" => body::<ErrorResponse>(text),
        "config" => body::<ConfigResponse>(text),
        "timeline" => timeline(text),
        other => panic!("no type is known for the fixture rest.{other}.json"),
    }
}

fn demo_rest(name: &str, text: &str) -> Value {
    use demo::{recording as files, rest};
    let limits = Limits::default();
    match name {
        "health" => body::<rest::Health>(text),
        "worker_health" => body::<rest::WorkerHealth>(text),
        "health_of_both" => body::<rest::HealthOfBoth>(text),
        "admin_apps" => body::<rest::AdminApps>(text),
        "app.switch" => value(&rest::parse_app_switch(text, &limits).expect("a switch")),
        "app.switched" => body::<rest::AppSwitched>(text),
        "eta" => body::<rest::EtaStatus>(text),
        "status" => body::<rest::ServiceStatus>(text),
        "workers" => body::<rest::Workers>(text),
        "cache" => body::<rest::CacheList>(text),
        "apps" => body::<rest::Apps>(text),
        "frontend_defaults" => body::<rest::FrontendDefaults>(text),
        "presets" => body::<rest::Presets>(text),
        "preset_audio" => body::<rest::PresetAudio>(text),
        "default_ref_audio" => body::<rest::DefaultRefAudio>(text),
        "queue" => body::<rest::QueueStatus>(text),
        "queue_ticket" | "queue_ticket.gone" => body::<rest::TicketStatus>(text),
        "done" => body::<rest::Done>(text),
        "ref_audio.list" => body::<rest::RefAudioList>(text),
        "ref_audio.upload" => value(&rest::parse_ref_audio_upload(text, &limits).expect("an upload")),
        "ref_audio.change" => body::<rest::RefAudioChange>(text),
        "upload_recording" => body::<rest::RecordingUploaded>(text),
        "comment" => json!({ "comment": rest::parse_comment(text, &limits).expect("a comment") }),
        "comment.saved" => body::<rest::CommentSaved>(text),
        "error" => body::<rest::ErrorResponse>(text),
        "meta" => body::<files::Meta>(text),
        "recording" => body::<files::Recording>(text),
        other => panic!("no type is known for the fixture rest.{other}.json"),
    }
}

fn round_trip(wire: &str, client: Reader, server: Reader, rest: fn(&str, &str) -> Value) -> BTreeSet<String> {
    let limits = Limits::default();
    let mut seen = BTreeSet::new();
    for (name, text) in fixtures(wire) {
        let expected: Value = serde_json::from_str(&text).expect("a fixture is JSON");
        let (side, rest_name) = name.split_once('.').expect("a fixture is named SIDE.TYPE[.VARIANT]");
        let got = match side {
            "client" => client(&text, &limits),
            "server" => server(&text, &limits),
            "rest" => Ok(rest(rest_name, &text)),
            other => panic!("{name}: `{other}` is not client, server or rest"),
        };
        assert_eq!(got.as_ref(), Ok(&expected), "{wire}/{name}");
        if let Some(kind) = expected.get("type").and_then(Value::as_str).filter(|_| side != "rest") {
            assert!(rest_name.starts_with(kind), "{wire}/{name} holds `{kind}`");
            seen.insert(format!("{side}.{kind}"));
        }
    }
    seen
}

fn all_types(client: &[&str], server: &[&str]) -> BTreeSet<String> {
    let named =
        |side: &'static str, types: &[&str]| types.iter().map(|kind| format!("{side}.{kind}")).collect::<Vec<_>>();
    named("client", client).into_iter().chain(named("server", server)).collect()
}

#[test]
fn live_messages_round_trip_and_none_is_missing() {
    let server: Reader = |text, limits| live::parse_server(text, limits.max_message_bytes).map(|m| value(&m));
    let seen = round_trip("live", live_client, server, live_rest);
    assert_eq!(seen, all_types(live::ClientEvent::TYPES, live::ServerEvent::TYPES));
}

#[test]
fn demo_messages_round_trip_and_none_is_missing() {
    let server: Reader = |text, limits| demo::parse_server(text, limits.max_message_bytes).map(|m| value(&m));
    let seen = round_trip("demo", demo_client, server, demo_rest);
    assert_eq!(seen, all_types(demo::ClientEvent::TYPES, demo::ServerEvent::TYPES));
}

#[test]
fn lenient_readings_mean_what_they_say() {
    for (wire, client) in [("live", live_client as Reader), ("demo", demo_client)] {
        let accepted = fixtures(&format!("{wire}/accepted"));
        assert!(!accepted.is_empty(), "{wire} has fixtures of lenient readings");
        for (name, text) in accepted {
            let case: Value = serde_json::from_str(&text).expect("a fixture is JSON");
            let got = client(&case["message"].to_string(), &Limits::default());
            assert_eq!(got.as_ref(), Ok(&case["means"]), "{wire}/accepted/{name}");
        }
    }
}

fn refused(wire: &str, readers: &[(&str, Reader)]) {
    let index: Value = serde_json::from_str(&read(&format!("{wire}/invalid/index.json"))).expect("the index is JSON");
    let number = |name: &str| index["limits"][name].as_f64().unwrap_or_else(|| panic!("limits.{name} is a number"));
    let limits = Limits {
        max_message_bytes: number("max_message_bytes") as usize,
        max_audio_s: number("max_audio_s"),
        max_image_bytes: number("max_image_bytes") as usize,
        max_images: number("max_images") as usize,
        max_voice_bytes: number("max_voice_bytes") as usize,
    };
    let mut listed = BTreeSet::new();
    for case in index["cases"].as_array().expect("a list of cases") {
        let text = |key: &str| case[key].as_str().map(str::to_owned);
        let file = text("file").expect("a case has a file");
        let entry = text("entry").expect("a case has an entry");
        let (_, reader) = readers.iter().find(|(name, _)| *name == entry).expect("a known entry");
        let Err(error) = reader(&read(&format!("{wire}/invalid/{file}")), &limits) else {
            panic!("{wire}/invalid/{file} was accepted");
        };
        assert_eq!(Some(error.code.as_str().to_owned()), text("code"), "{wire}/{file}: {error}");
        assert!(file.starts_with(error.code.as_str()), "{wire}/{file} is named by its code");
        assert_eq!(error.param, text("param"), "{wire}/{file}: {error}");
        assert_eq!(error.client_event_id, text("client_event_id"), "{wire}/{file}: {error}");
        assert!(error.message.len() <= 300, "{wire}/{file}: the message is short");
        listed.insert(file.trim_end_matches(".json").to_owned());
    }
    let present: BTreeSet<String> =
        fixtures(&format!("{wire}/invalid")).into_iter().map(|(name, _)| name).filter(|name| name != "index").collect();
    assert_eq!(listed, present, "the index lists every file");
}

#[test]
fn live_refusals_have_their_code_and_place() {
    use live::rest::{parse_client_secret, parse_create, parse_ice};
    refused(
        "live",
        &[
            ("client", live_client),
            ("create", |text, limits| parse_create(text, limits).map(|request| value(&request))),
            ("ice", |text, limits| parse_ice(text, limits).map(|request| value(&request))),
            ("client_secret", |text, limits| parse_client_secret(text, limits).map(|request| value(&request))),
        ],
    );
}

#[test]
fn demo_refusals_have_their_code_and_place() {
    use demo::rest::{parse_comment, parse_ref_audio_upload};
    refused(
        "demo",
        &[
            ("client", demo_client),
            ("comment", |text, limits| parse_comment(text, limits).map(Value::from)),
            ("ref_audio_upload", |text, limits| parse_ref_audio_upload(text, limits).map(|upload| value(&upload))),
        ],
    );
}

#[test]
fn refusals_become_the_error_message_of_each_wire() {
    let error = WireError::invalid("audio", "too odd").for_event(Some("e7"));
    let message = live::ServerMessage {
        event_id: Some("evt_1".into()),
        client_event_id: error.client_event_id.clone(),
        event: live::ServerEvent::refusal(&error),
    };
    let expected = json!({
        "type": "error", "event_id": "evt_1", "client_event_id": "e7",
        "error": {
            "type": "invalid_request_error", "code": "invalid_value", "message": "too odd", "param": "audio",
            "client_event_id": "e7",
        },
    });
    assert_eq!(value(&message), expected);
    assert_eq!(value(&demo::ServerEvent::refusal(&error)), json!({ "type": "error", "error": "too odd" }));
}

#[test]
fn every_code_is_named_once_and_has_a_category() {
    let names: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(names.len(), ErrorCode::ALL.len());
    for code in ErrorCode::ALL {
        assert_eq!(value(&code), Value::from(code.as_str()));
        assert!(code.error_type().ends_with("_error"));
    }
}
