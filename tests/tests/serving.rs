//! What surrounds the wires: keys, origins, rates, metrics, logs. Asserted over real sockets:
//!
//! 1. without a key nobody comes in once there are keys, and a client secret opens sessions but makes no secrets;
//! 2. pages of other hosts are turned away, and browsers are told so before they send anything;
//! 3. an address that floods is told to wait, a connection that floods is closed with 1008;
//! 4. `/metrics` counts what happened;
//! 5. the log of a session at info level holds neither its words nor its instructions.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use axum_server::Handle;
use duologue_proto::payload::Base64;
use duologue_session::barge_in::BargeInConfig;
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::Server;
use duologue_transport::http::auth::{ApiKey, Identity, KeyRing, MAX_SECRETS, Scope, hash_key};
use duologue_transport::http::origin::Origins;
use duologue_transport::http::rate::RateLimits;
use duologue_transport::http::{AppState, Settings, router, tls};
use duologue_transport::rtc::{IceServer, RtcConfig};
use duologue_transport::{Limits, SessionManager};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{connect_async, tungstenite::protocol::frame::coding::CloseCode};

const KEY: &str = "a-key-that-nobody-guesses";
const PATH: &str = "/v1/live/sessions";

/// WebRTC with a server that anybody may use and one that has a password.
fn webrtc() -> RtcConfig {
    let ice = |address: &str, credential: Option<&str>| IceServer {
        urls: vec![address.to_owned()],
        username: credential.map(|_| "duologue".to_owned()),
        credential: credential.map(str::to_owned),
    };
    let ice_servers = vec![ice("stun:stun.example.com", None), ice("turn:turn.example.com", Some("a-turn-password"))];
    RtcConfig { ice_servers, ..RtcConfig::default() }
}

/// All keys of a server: one.
fn one_key() -> KeyRing {
    KeyRing::new(vec![ApiKey { name: "phone".to_owned(), hash: hash_key(KEY) }])
}

/// A server with one key, served as the program serves it.
fn guarded(rates: RateLimits) -> String {
    guarded_by(one_key(), rates)
}

fn guarded_by(keys: KeyRing, rates: RateLimits) -> String {
    let backend = ScriptedBackend::new(2, &[Plan::Speak("hello"), Plan::End("world")]);
    let manager = SessionManager::new(Arc::new(backend), Limits::default(), BargeInConfig::default()).unwrap();
    let settings = Settings {
        keys,
        origins: Origins::new(&["https://app.example.com".to_owned()], false).unwrap(),
        rates,
        messages: duologue_proto::wire::Limits::default(),
        assets: |_| None,
        demo_pages: None,
        webrtc: Some(webrtc()),
        recordings: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(tls::serve(listener, router(AppState::new(manager, settings)), None, 512, Handle::new()));
    address.to_string()
}

/// Head and body of the answer to a request with these header lines.
async fn request(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{lines}");
    let text = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

/// The status of a refused WebSocket, or the one that was opened.
async fn socket(
    address: &str,
    headers: &[(&'static str, &str)],
) -> Result<tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>, u16> {
    let mut request = format!("ws://{address}{PATH}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn keys_and_secrets_open_the_door() {
    let address = guarded(RateLimits::default());
    let secrets = "/v1/live/client_secrets";
    let (head, body) = request(&address, "POST", secrets, &[], "{}").await;
    assert!(head.starts_with("http/1.1 401") && head.contains("www-authenticate: bearer"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["error"]["code"], "unauthorized");
    assert_eq!(socket(&address, &[]).await.err(), Some(401));
    assert_eq!(socket(&address, &[("authorization", "Bearer wrong")]).await.err(), Some(401));

    let bearer = format!("Bearer {KEY}");
    let (head, body) = request(&address, "POST", secrets, &[("authorization", &bearer)], "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}\n{body}");
    let secret = serde_json::from_str::<Value>(&body).unwrap()["value"].as_str().unwrap().to_owned();
    let protocol = format!("duologue.key.{secret}");
    drop(socket(&address, &[("sec-websocket-protocol", &protocol)]).await.expect("a secret opens a session"));
    let (head, _) = request(&address, "POST", secrets, &[("authorization", &format!("Bearer {secret}"))], "").await;
    assert!(head.starts_with("http/1.1 401"), "a secret makes no secret: {head}");
}

#[tokio::test]
async fn too_many_secrets_are_not_the_keys_fault() {
    let ring = one_key();
    let holder = Identity { name: "phone".to_owned(), scope: Scope::Full, subprotocol: None };
    for _ in 0..MAX_SECRETS {
        ring.make_secret(&holder, 600).unwrap();
    }
    let address = guarded_by(ring, RateLimits::default());
    let bearer = [("authorization", &*format!("Bearer {KEY}"))];
    let (head, body) = request(&address, "POST", "/v1/live/client_secrets", &bearer, "").await;
    assert!(head.starts_with("http/1.1 429") && head.contains("retry-after: "), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["error"]["code"], "rate_limited");
}

#[tokio::test]
async fn the_password_of_a_turn_server_is_for_those_with_a_key() {
    let address = guarded(RateLimits::default());
    let path = "/v1/duologue/config";
    let (_, body) = request(&address, "GET", path, &[], "").await;
    assert!(body.contains("stun.example.com") && !body.contains("a-turn-password"), "{body}");
    let (_, body) = request(&address, "GET", path, &[("authorization", &format!("Bearer {KEY}"))], "").await;
    assert!(body.contains("a-turn-password"), "{body}");
}

#[tokio::test]
async fn pages_of_other_hosts_are_turned_away() {
    let address = guarded(RateLimits::default());
    let bearer = format!("Bearer {KEY}");
    let status = async |origin: &str| {
        socket(&address, &[("authorization", &bearer), ("origin", origin)]).await.err().unwrap_or(101)
    };
    assert_eq!(status("https://evil.example.com").await, 403);
    assert_eq!(status("null").await, 403);
    assert_eq!(status("https://app.example.com").await, 101);
    assert_eq!(status(&format!("http://{address}")).await, 101);

    let preflight = async |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        request(&address, "OPTIONS", "/v1/live/client_secrets", &headers, "").await.0
    };
    let head = preflight("https://app.example.com").await;
    assert!(head.contains("access-control-allow-origin: https://app.example.com"), "{head}");
    assert!(head.contains("access-control-allow-headers: authorization,content-type"), "{head}");
    let head = preflight("https://evil.example.com").await;
    assert!(!head.contains("access-control-allow-origin"), "{head}");
}

#[tokio::test]
async fn floods_are_slowed_down() {
    let slow = RateLimits { request_burst: 5.0, requests_per_s: 0.1, ..RateLimits::default() };
    let address = guarded(slow);
    for _ in 0..5 {
        assert!(request(&address, "GET", "/livez", &[], "").await.0.starts_with("http/1.1 200"));
    }
    let (head, body) = request(&address, "GET", "/livez", &[], "").await;
    assert!(head.starts_with("http/1.1 429") && head.contains("retry-after: "), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["error"]["code"], "rate_limited");

    let narrow = RateLimits { message_burst: 3.0, messages_per_s: 1.0, offences: 4, ..RateLimits::default() };
    let address = guarded(narrow);
    let mut socket = socket(&address, &[("authorization", &format!("Bearer {KEY}"))]).await.unwrap();
    let start = json!({"type": "session.start", "session": {"model": "m"}}).to_string();
    for text in std::iter::once(start).chain(vec!["{}".to_owned(); 20]) {
        // Behind the close nothing is read any more.
        if socket.send(Message::text(text)).await.is_err() {
            break;
        }
    }
    let (mut limited, mut code) = (0, None);
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) => limited += usize::from(text.contains("rate_limited")),
            Message::Close(frame) => code = frame.map(|frame| frame.code),
            _ => {}
        }
    }
    assert_eq!((limited, code), (4, Some(CloseCode::Policy)));
}

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// On one thread, so that the log of this test is its own.
#[tokio::test(flavor = "current_thread")]
async fn a_session_is_counted_and_logged_without_its_words() {
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    duologue_transport::http::metrics::install();

    let server = Server::start(ScriptedBackend::new(1, &[Plan::End("pineapple")]), Limits::default()).await;
    let mut socket = server.connect(PATH).await;
    let session = json!({"model": "m", "instructions": "speak of artichokes", "duologue": {}});
    socket.send(&json!({"type": "session.start", "session": session})).await;
    socket.until("session.started").await;
    let audio = Base64(vec![0; 3 * 24_000]);
    socket.send(&json!({"type": "session.input_audio.append", "audio": audio})).await;
    assert!(socket.until("duologue.unit").await["text"].as_str().unwrap().contains("pineapple"));
    socket.send(&json!({"type": "session.close"})).await;
    socket.until("session.closed").await;
    server.idle().await;

    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("session over"), "{log}");
    assert!(!log.contains("pineapple") && !log.contains("artichokes"), "{log}");

    let (status, text) = server.request("GET", "/metrics", "").await;
    let text = text.as_str().unwrap();
    assert_eq!(status, 200);
    for part in [
        "duologue_sessions_total{outcome=\"requested\"} 1",
        "duologue_sessions{mode=\"live\"} ",
        "duologue_step_seconds_count{stage=\"total\",state=\"speak\"} 1",
        "duologue_ttfb_seconds_count 1",
        "# TYPE duologue_queue_length gauge",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}
