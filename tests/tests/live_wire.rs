//! The OpenAI Live wire end to end: a real server on a free port, a real WebSocket, a backend that follows a script.

use std::time::Duration;

use duologue_proto::payload::Base64;
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::{Server, Setup, Socket};
use duologue_transport::Limits;
use duologue_transport::record::{Shelf, ShelfLimits};
use serde_json::{Value, json};

const PATH: &str = "/v1/live/sessions";

/// A script that speaks for two seconds and listens ever after.
fn hello() -> ScriptedBackend {
    ScriptedBackend::new(2, &[Plan::Speak("hello"), Plan::End("world")])
}

fn start(extra: &Value) -> Value {
    let mut session = json!({"model": "gpt-live-1"});
    session.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"type": "session.start", "session": session})
}

/// Audio of silence, in the default format (s16le at 24 kHz).
fn silence(seconds: f64) -> Value {
    let audio = Base64(vec![0; (seconds * 24_000.0) as usize * 2]);
    json!({"type": "session.input_audio.append", "audio": audio})
}

async fn open(server: &Server, extra: Value) -> (Socket, Value) {
    let mut socket = server.connect(PATH).await;
    socket.send(&start(&extra)).await;
    let started = socket.until("session.started").await;
    (socket, started)
}

fn samples_of(delta: &Value) -> Vec<i16> {
    let text = delta["delta"].as_str().expect("base64");
    let bytes = Base64::decode(text, usize::MAX).expect("base64").0;
    bytes.as_chunks::<2>().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect()
}

#[tokio::test]
async fn a_plain_client_hears_the_reply_and_nothing_it_does_not_know() {
    let server = Server::start(hello(), Limits::default()).await;
    let (mut socket, started) = open(&server, json!({})).await;
    assert_eq!(started["session"]["status"], "active");
    assert!(started["session"]["duologue"].is_null());
    for _ in 0..21 {
        socket.send(&silence(0.1)).await;
    }
    let (mut heard, mut text) = (Vec::new(), String::new());
    while heard.len() < 48_000 {
        let message = socket.next().await.expect("the session goes on");
        match message["type"].as_str().unwrap() {
            "session.output_audio.delta" => heard.extend(samples_of(&message)),
            "session.output_transcript.delta" => text.push_str(message["delta"].as_str().unwrap()),
            other => panic!("a plain client does not know {other}"),
        }
    }
    assert_eq!((heard.len(), text.as_str()), (48_000, "helloworld"));
    let loudest = heard.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
    assert!((7_900..8_100).contains(&loudest), "the tone comes as it was made: {loudest}");
    socket.send(&json!({"type": "session.close"})).await;
    assert_eq!(socket.until("session.closed").await["reason"], "close_requested");
    assert!(socket.next().await.is_none());
    server.idle().await;
}

#[tokio::test]
async fn a_plain_client_is_told_the_words_with_their_sound() {
    let plans = [Plan::Speak(" one two three four"), Plan::End(" five six seven eight")];
    let server = Server::start(ScriptedBackend::new(1, &plans), Limits::default()).await;
    let (mut socket, _) = open(&server, json!({})).await;
    socket.send(&silence(1.05)).await;
    let (mut text, mut samples, mut since_words, mut longest) = (String::new(), 0, 0, 0);
    while samples < 48_000 {
        let message = socket.next().await.expect("the session goes on");
        if message["type"] == "session.output_audio.delta" {
            let length = samples_of(&message).len();
            (samples, since_words) = (samples + length, since_words + length);
            longest = longest.max(since_words);
            // The user's next second is complete when the first of the reply is all but said, as in a conversation.
            if (samples - length..samples).contains(&21_600) {
                socket.send(&silence(1.05)).await;
            }
        } else {
            let [start, end] = ["start_ms", "end_ms"].map(|name| message[name].as_u64().expect("a time"));
            assert!(start < end && end <= start + 400, "{message}");
            since_words = 0;
            text.push_str(message["delta"].as_str().expect("words"));
        }
    }
    assert_eq!(text, " one two three four five six seven eight");
    assert!(longest < 24_000 * 8 / 10, "{longest} samples without a word: pipecat takes that for the end of the turn");
}

#[tokio::test]
async fn our_own_client_is_told_of_units_speech_and_turns() {
    let server = Server::start(hello(), Limits::default()).await;
    let (mut socket, started) = open(&server, json!({"duologue": {}})).await;
    let told = &started["session"]["duologue"];
    assert_eq!((told["unit_ms"].as_u64(), told["resumed"].as_bool()), (Some(1000), Some(false)));
    for _ in 0..3 {
        socket.send(&silence(1.0)).await;
    }
    let unit = socket.until("duologue.unit").await;
    assert_eq!((unit["unit"].as_u64(), unit["decision"].as_str()), (Some(0), Some("speak")));
    let speech = socket.until("duologue.speech").await;
    // The first piece has its latency with it; how long that is depends on the machine.
    assert_eq!(speech["first"], true, "{speech}");
    assert!(speech["ttfb_ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{speech}");
    let delta = socket.until("session.output_audio.delta").await;
    assert_eq!(delta["duologue"], json!({"turn": 0, "start_ms": 0}));
    let done = socket.until("duologue.turn").await;
    assert_eq!((done["turn"].as_u64(), done["state"].as_str()), (Some(0), Some("done")));
}

#[tokio::test]
async fn the_stop_button_flushes() {
    let plans = [Plan::Speak("a"); 9];
    let server = Server::start(ScriptedBackend::new(1, &plans), Limits::default()).await;
    let (mut socket, _) = open(&server, json!({"duologue": {}})).await;
    socket.send(&silence(1.2)).await;
    socket.until("session.output_audio.delta").await;
    socket.send(&json!({"type": "duologue.interrupt"})).await;
    let flush = socket.until("duologue.flush").await;
    assert_eq!((flush["turn"].as_u64(), flush["cause"].as_str()), (Some(1), Some("client")));
    socket.send(&json!({"type": "duologue.ping", "id": 7, "t": 1.5})).await;
    let pong = loop {
        let message = socket.next().await.expect("the session goes on");
        assert_ne!(message["type"], "session.output_audio.delta", "nothing is heard after the flush");
        if message["type"] == "duologue.pong" {
            break message;
        }
    };
    assert_eq!((pong["id"].as_u64(), pong["t"].as_f64()), (Some(7), Some(1.5)));
}

#[tokio::test]
async fn a_phones_formats_work_both_ways() {
    for kind in ["audio/pcmu", "audio/pcma"] {
        let server = Server::start(hello(), Limits::default()).await;
        let format = json!({"audio": {"format": {"type": kind, "rate": 8000}}});
        let (mut socket, _) = open(&server, format).await;
        let audio = Base64(vec![0xff; 8_400]);
        socket.send(&json!({"type": "session.input_audio.append", "audio": audio})).await;
        let delta = socket.until("session.output_audio.delta").await;
        let bytes = Base64::decode(delta["delta"].as_str().unwrap(), usize::MAX).unwrap().0;
        assert!((700..=800).contains(&bytes.len()), "100 ms at 8 kHz, one byte each: {}", bytes.len());
    }
}

#[tokio::test]
async fn every_linear_rate_carries_the_same_tone() {
    for rate in [8_000, 12_000, 16_000, 24_000] {
        let server = Server::start(hello(), Limits::default()).await;
        let format = json!({"audio": {"format": {"type": "audio/pcm", "rate": rate}}});
        let (mut socket, _) = open(&server, format).await;
        let audio = Base64(vec![0; rate * 2 * 21 / 10]);
        socket.send(&json!({"type": "session.input_audio.append", "audio": audio})).await;
        let mut heard = Vec::new();
        while heard.len() < rate * 3 / 2 {
            heard.extend(samples_of(&socket.until("session.output_audio.delta").await));
        }
        let second = &heard[rate / 4..rate * 5 / 4];
        let upward = second.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
        let loudest = second.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
        assert!((439..=441).contains(&upward), "440 Hz at {rate} Hz: {upward}");
        assert!((7_800..8_200).contains(&loudest), "as loud as it was made at {rate} Hz: {loudest}");
    }
}

#[tokio::test]
async fn a_picture_for_a_model_that_does_not_see_is_refused_and_the_session_goes_on() {
    let server = Server::start(hello().blind(), Limits::default()).await;
    let (mut socket, _) = open(&server, json!({"duologue": {}})).await;
    socket.send(&json!({"type": "duologue.input_frame.append", "image": Base64(vec![1; 9])})).await;
    assert_eq!(socket.until("error").await["error"]["code"], "unsupported");
    socket.send(&silence(1.1)).await;
    assert_eq!(socket.until("duologue.unit").await["decision"], "speak");
}

#[tokio::test]
async fn a_lost_connection_is_taken_up_where_it_broke() {
    let server = Server::start(hello(), Limits::default()).await;
    let (mut socket, started) = open(&server, json!({"duologue": {}})).await;
    let token = started["session"]["duologue"]["resume_token"].as_str().unwrap().to_owned();
    socket.send(&silence(2.1)).await;
    let mut heard = samples_of(&socket.until("session.output_audio.delta").await);
    let second = socket.until("session.output_audio.delta").await;
    heard.extend(samples_of(&second));
    let last = second["event_id"].as_str().expect("audio has an id").to_owned();
    drop(socket);
    let (mut socket, resumed) =
        open(&server, json!({"duologue": {"resume_token": token, "last_event_id": last}})).await;
    assert_eq!(resumed["session"]["id"], started["session"]["id"]);
    assert_eq!(resumed["session"]["duologue"]["resumed"], true);
    while heard.len() < 48_000 {
        let delta = socket.until("session.output_audio.delta").await;
        let start_ms = delta["duologue"]["start_ms"].as_u64().unwrap();
        assert_eq!(start_ms * 24, heard.len() as u64, "nothing twice, nothing lost");
        heard.extend(samples_of(&delta));
    }
    socket.send(&json!({"type": "session.close"})).await;
    socket.until("session.closed").await;
    server.idle().await;
    let mut late = server.connect(PATH).await;
    late.send(&start(&json!({"duologue": {"resume_token": token}}))).await;
    assert_eq!(late.until("error").await["error"]["code"], "resume_expired");
}

#[tokio::test]
async fn who_waits_hears_of_it_and_comes_in() {
    let server = Server::start(ScriptedBackend::new(1, &[]), Limits::default()).await;
    let (mut first, _) = open(&server, json!({})).await;
    let mut second = server.connect(PATH).await;
    second.send(&start(&json!({"duologue": {}}))).await;
    let queued = second.until("duologue.queued").await;
    assert_eq!((queued["position"].as_u64(), queued["queue_length"].as_u64()), (Some(1), Some(1)));
    // A plain client sends its microphone while it waits.
    for _ in 0..40 {
        second.send(&silence(0.02)).await;
    }
    first.send(&json!({"type": "session.close"})).await;
    let mut told = 0;
    loop {
        match second.next().await.expect("it comes in")["type"].as_str() {
            Some("duologue.queued") => told += 1,
            Some("session.started") => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(told <= 2, "it is told of changes and every 3 s, not {told} times");
}

#[tokio::test]
async fn a_recording_is_made_only_with_consent_and_holds_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let limits = ShelfLimits { age: Duration::from_secs(60), bytes: 1 << 30 };
    let shelf = Shelf::open(folder.path(), limits).unwrap();
    let server =
        Server::start_with(hello(), Limits::default(), Setup { recordings: Some(shelf), ..Setup::default() }).await;
    let (mut quiet, started) = open(&server, json!({"duologue": {}})).await;
    assert!(started["session"]["duologue"]["recording_id"].is_null());
    quiet.send(&json!({"type": "session.close"})).await;

    let (mut socket, started) = open(&server, json!({"duologue": {"record": true}})).await;
    let id = started["session"]["duologue"]["recording_id"].as_str().expect("it is recorded").to_owned();
    socket.send(&silence(1.1)).await;
    for _ in 0..10 {
        socket.until("session.output_audio.delta").await;
    }
    socket.send(&json!({"type": "session.close"})).await;
    socket.until("session.closed").await;
    let path = format!("/v1/duologue/recordings/{id}/timeline");
    let timeline = loop {
        match server.request("GET", &path, "").await {
            (200, timeline) => break timeline,
            (404, _) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => panic!("{other:?}"),
        }
    };
    let kinds: Vec<&str> =
        timeline["events"].as_array().unwrap().iter().filter_map(|e| e["event"]["type"].as_str()).collect();
    assert!(kinds.contains(&"duologue.unit") && kinds.contains(&"session.output_transcript.delta"), "{kinds:?}");
    let mut wav = hound::WavReader::open(folder.path().join(&id).join("audio.wav")).unwrap();
    assert_eq!((wav.spec().channels, wav.spec().sample_rate), (2, 24_000));
    let right: Vec<i16> = wav.samples::<i16>().skip(1).step_by(2).map(|sample| sample.unwrap()).collect();
    let loud = right.iter().filter(|sample| sample.unsigned_abs() > 1000).count();
    assert!(loud > 15_000, "{loud} loud samples of a second of speech");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the one without consent left nothing");
    assert_eq!(server.request("GET", "/v1/duologue/recordings/../../etc/timeline", "").await.0, 404);
}

#[tokio::test]
async fn what_is_wrong_is_said_and_costs_nothing_else() {
    let server = Server::start(hello(), Limits::default()).await;
    let mut early = server.connect(PATH).await;
    early.send(&silence(0.1)).await;
    assert_eq!(early.until("error").await["error"]["code"], "audio_before_start");
    assert!(early.next().await.is_none(), "nothing can follow");

    let (mut socket, _) = open(&server, json!({"duologue": {}})).await;
    let wrong = [
        ("not json", "invalid_json", Value::Null),
        ("[1]", "invalid_json", Value::Null),
        (r#"{"type": "session.sing"}"#, "unknown_event", json!("type")),
        (r#"{"event_id": "e1"}"#, "missing_field", json!("type")),
        (r#"{"type": "session.input_audio.append"}"#, "missing_field", json!("audio")),
        (r#"{"type": "session.input_audio.append", "audio": "!!"}"#, "invalid_value", json!("audio")),
        (r#"{"type": "session.input_audio.append", "audio": "AAAA"}"#, "invalid_value", json!("audio")),
        (r#"{"type": "duologue.input_frame.append", "image": "AAAA"}"#, "invalid_value", json!("image")),
        (r#"{"type": "response.create"}"#, "unsupported", json!("type")),
    ];
    for (text, code, param) in wrong {
        socket.send_text(text).await;
        let error = &socket.until("error").await["error"];
        assert_eq!((error["code"].as_str(), &error["param"]), (Some(code), &param), "{text}");
    }
    socket.send_bytes(vec![1, 2, 3]).await;
    assert_eq!(socket.until("error").await["error"]["code"], "invalid_json");
    socket.send(&start(&json!({}))).await;
    assert_eq!(socket.until("error").await["error"]["code"], "already_started");
    // the resampler's filter keeps 10 ms back
    socket.send(&silence(1.1)).await;
    assert_eq!(socket.until("duologue.unit").await["text"], "hello", "the session went on");
}

#[tokio::test]
async fn wishes_that_cannot_be_met_name_their_field() {
    let server = Server::start(hello(), Limits::default()).await;
    let wrong = [
        (json!({"audio": {"output": {"voice": "nobody"}}}), "session.audio.output.voice"),
        (json!({"audio": {"format": {"type": "audio/pcm", "rate": 44100}}}), "session.audio.format"),
        (json!({"duologue": {"voice_reference": "UklGRg=="}}), "session.duologue.voice_reference"),
        (json!({"duologue": {"sampling": {"temperature": 9}}}), "session.duologue.sampling.temperature"),
        (json!({"instructions": "refuse me"}), "session.instructions"),
    ];
    for (session, param) in wrong {
        let mut socket = server.connect(PATH).await;
        socket.send(&start(&session)).await;
        let error = socket.until("error").await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
    server.idle().await;
    let (_socket, _) = open(&server, json!({"audio": {"output": {"voice": "marin"}}})).await;
}

#[tokio::test]
async fn two_hundred_idle_sessions_are_held_and_let_go() {
    let limits = Limits { sessions_per_key: 200, ..Limits::default() };
    let server = Server::start(ScriptedBackend::new(200, &[]), limits).await;
    let mut all = Vec::new();
    for _ in 0..200 {
        all.push(open(&server, json!({})).await.0);
    }
    assert_eq!(server.manager.load().busy, 200);
    for socket in &mut all {
        socket.send(&json!({"type": "session.close"})).await;
    }
    for socket in &mut all {
        socket.until("session.closed").await;
    }
    server.idle().await;
}

#[tokio::test]
async fn the_health_routes_tell_a_load_balancer() {
    let server = Server::start(hello(), Limits::default()).await;
    assert_eq!(server.request("GET", "/livez", "").await.0, 200);
    assert_eq!(server.request("GET", "/readyz", "").await.0, 200);
    let (status, config) = server.request("GET", "/v1/duologue/config", "").await;
    assert_eq!((status, config["transports"].clone()), (200, json!(["webrtc", "websocket"])));
    let manager = server.manager.clone();
    manager.drain(Duration::from_secs(1)).await;
    assert_eq!(server.request("GET", "/readyz", "").await.0, 503);
    let (status, error) = server.request("GET", "/nowhere", "").await;
    assert_eq!((status, error["error"]["code"].as_str()), (404, Some("invalid_value")));
}
