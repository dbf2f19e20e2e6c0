//! A second program attached to a session, over real sockets.
//!
//! 1. It hears what the session does but no sound, and may do what its client may, but for the sound; answers are its own.
//! 2. It needs the session's key; another's session looks like none; only a few may come, and who leaves makes room.
//! 3. It works on a session over WebRTC as well.

use std::time::Duration;

use duologue_proto::payload::Base64;
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::{PATIENCE, Server, Setup, Socket};
use duologue_transport::Limits;
use duologue_transport::http::auth::{ApiKey, hash_key};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite};

const PATH: &str = "/v1/live/sessions";
const KEYS: [&str; 2] = ["a-key-that-nobody-guesses", "another-key-of-that-kind"];

fn backend() -> ScriptedBackend {
    ScriptedBackend::new(2, &[Plan::Speak("hello"); 9])
}

/// Starts a session on this socket; its name.
async fn start(socket: &mut Socket) -> String {
    let session = json!({"model": "m", "instructions": "Be brief.", "duologue": {}});
    socket.send(&json!({"type": "session.start", "session": session})).await;
    let started = socket.until("session.started").await;
    started["session"]["id"].as_str().expect("a name").to_owned()
}

/// The refusal of a WebSocket: status and code.
async fn refusal(url: &str) -> (u16, String) {
    match connect_async(url).await {
        Err(tungstenite::Error::Http(answer)) => {
            let body = answer.body().as_deref().unwrap_or_default();
            let body: Value = serde_json::from_slice(body).expect("the wire's shape");
            (answer.status().as_u16(), body["error"]["code"].as_str().expect("a code").to_owned())
        }
        other => panic!("it should be refused: {other:?}"),
    }
}

#[tokio::test]
async fn it_hears_all_but_the_sound_and_has_a_say() {
    let server = Server::start(backend(), Limits::default()).await;
    let mut client = server.connect(PATH).await;
    let id = start(&mut client).await;
    let mut second = server.connect(&format!("{PATH}/{id}/attach")).await;
    let session = &second.next().await.expect("it is told what it is attached to")["session"];
    assert_eq!((&session["id"], &session["duologue"]["resumed"]), (&json!(id), &json!(true)));
    assert_eq!((&session["duologue"]["resume_token"], &session["instructions"]), (&json!(""), &Value::Null));

    let audio = Base64(vec![0; 58_000]);
    client.send(&json!({"type": "session.input_audio.append", "audio": audio})).await;
    client.until("session.output_audio.delta").await;
    second.send(&json!({"type": "duologue.interrupt"})).await;
    let flush = client.until("duologue.flush").await;
    let mut kinds = Vec::new();
    loop {
        let message = second.next().await.expect("the session goes on");
        let kind = message["type"].as_str().expect("a type").to_owned();
        if kind == "duologue.flush" {
            assert_eq!(message["event_id"], flush["event_id"], "both count alike");
            break;
        }
        kinds.push(kind);
    }
    assert_eq!(kinds[..4], ["duologue.turn", "duologue.unit", "session.output_transcript.delta", "duologue.speech"]);
    assert!(!kinds.iter().any(|kind| kind == "session.output_audio.delta"), "{kinds:?}");

    for (message, code) in [
        (json!({"type": "session.input_audio.append", "audio": "AAA="}), "unsupported"),
        (json!({"type": "session.input_audio.mute"}), "unsupported"),
        (json!({"type": "duologue.playback", "turn": 0, "played_ms": 1, "buffered_ms": 0}), "unsupported"),
        (json!({"type": "session.start", "session": {"model": "m"}}), "already_started"),
    ] {
        second.send(&message).await;
        assert_eq!(second.until("error").await["error"]["code"], code, "{message}");
    }
    second.send(&json!({"type": "duologue.ping", "id": 1, "t": 2.0})).await;
    second.until("duologue.pong").await;
    drop(second);

    client.send(&json!({"type": "duologue.ping", "id": 3, "t": 4.0})).await;
    let own = loop {
        let message = client.next().await.expect("the session goes on");
        assert_ne!(message["type"], "error", "the errors were the other's");
        if message["type"] == "duologue.pong" {
            break message;
        }
    };
    assert_eq!(own["id"], 3);
    client.send(&json!({"type": "session.close"})).await;
    client.until("session.closed").await;
    server.idle().await;
}

#[tokio::test]
async fn it_needs_the_key_of_the_session_and_room() {
    let keys = KEYS.iter().map(|key| ApiKey { name: format!("of {key}"), hash: hash_key(key) }).collect();
    let server = Server::start_with(backend(), Limits::default(), Setup { keys, ..Setup::default() }).await;
    let url = |path: &str, key: &str| format!("ws://{}{PATH}{path}?token={key}", server.address);
    let mut client = Socket::open(&url("", KEYS[0])).await;
    let path = format!("/{}/attach", start(&mut client).await);

    assert_eq!(refusal(&url(&path, "wrong")).await, (401, "unauthorized".to_owned()));
    let unknown = (404, "invalid_value".to_owned());
    assert_eq!(refusal(&url(&path, KEYS[1])).await, unknown);
    assert_eq!(refusal(&url("/sess_none/attach", KEYS[0])).await, unknown);

    let mut attached = Vec::new();
    for _ in 0..Limits::default().sidebands {
        attached.push(Socket::open(&url(&path, KEYS[0])).await);
    }
    assert_eq!(refusal(&url(&path, KEYS[0])).await, (429, "rate_limited".to_owned()));
    drop(attached.pop());
    let room = async {
        while connect_async(url(&path, KEYS[0])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, room).await.expect("who leaves makes room");
}

#[tokio::test]
async fn it_works_on_a_session_over_webrtc() {
    let server = Server::start(backend(), Limits::default()).await;
    let offer = include_str!("../seeds/sdp_offer/chromium.sdp");
    let wish = json!({"session": {"model": "m"}, "transport": {"type": "webrtc", "sdp": offer}});
    let (status, created) = server.request("POST", PATH, &wish.to_string()).await;
    assert_eq!(status, 201, "{created}");
    let id = created["session"]["id"].as_str().expect("a name");
    let mut second = server.connect(&format!("{PATH}/{id}/attach")).await;
    assert_eq!(second.until("session.started").await["session"]["id"], id);
    second.send(&json!({"type": "session.close"})).await;
    assert_eq!(second.until("session.closed").await["reason"], "close_requested");
    assert_eq!(second.closed().await.0, 1000);
    server.idle().await;
}
