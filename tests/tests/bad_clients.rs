//! Clients that do what they should not, on both wires and beside them. What `demo_wire.rs` and `live_wire.rs` show message by
//! message is not repeated. Asserted over real sockets, with a session beside them that must not notice:
//!
//! 1. connections beyond the limit hear 503 or are closed, and their places come back;
//! 2. a crowd that wants sessions all at once gets an answer each: a session, a place in the queue, or why not;
//! 3. a message that is too long is answered, one that is far too long ends its connection only;
//! 4. broken frames, halves of requests and silence cost nobody a session, and who only holds a place loses it;
//! 5. bodies of requests that make no sense are refused in the wire's shape, and no place is lost by them;
//! 6. audio in crumbs is heard, audio during a pause is not.

use std::collections::BTreeMap;
use std::time::Duration;

use duologue_proto::payload::Base64;
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::{PATIENCE, Server, Setup, Socket};
use duologue_transport::Limits;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

const LIVE: &str = "/v1/live/sessions";
const DEMO: &str = "/ws/duplex/adx_1";
/// How many "a thousand at once" are.
const CROWD: usize = 1000;

fn start() -> Value {
    json!({"type": "session.start", "session": {"model": "m", "duologue": {}}})
}

fn audio(samples: usize) -> Value {
    json!({"type": "session.input_audio.append", "audio": Base64(vec![0; 2 * samples])})
}

/// A session that goes on while others misbehave.
struct Bystander {
    socket: Socket,
    unit: u64,
}

impl Bystander {
    async fn open(server: &Server) -> Self {
        let mut socket = server.connect(LIVE).await;
        socket.send(&start()).await;
        socket.until("session.started").await;
        // The first unit needs a little more than a second.
        socket.send(&audio(2_400)).await;
        Self { socket, unit: 0 }
    }

    /// Another second is heard as ever.
    async fn goes_on(&mut self) {
        self.socket.send(&audio(24_000)).await;
        let unit = self.socket.until("duologue.unit").await;
        assert_eq!(unit["unit"], self.unit);
        self.unit += 1;
    }
}

fn listener(slots: usize) -> ScriptedBackend {
    ScriptedBackend::new(slots, &[])
}

/// As many connections as this process may have handles for, with both ends in it.
fn crowd() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let handles = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(CROWD);
    CROWD.min(handles.saturating_sub(200) / 2)
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_places_come_back() {
    let connections = 100;
    let setup = Setup { connections, ..Setup::default() };
    let server = Server::start_with(listener(2), Limits::default(), setup).await;
    let mut bystander = Bystander::open(&server).await;
    let mut silent = Vec::new();
    for _ in 1..connections {
        silent.push(server.plain().await);
    }
    let (status, body) = server.request("GET", "/livez", "").await;
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("server_busy")), "{body}");
    match connect_async(format!("ws://{}{LIVE}", server.address)).await {
        Err(SocketError::Http(answer)) => {
            assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].as_bytes()), (503, &b"5"[..]));
        }
        other => panic!("{other:?}"),
    }
    bystander.goes_on().await;

    for _ in 0..crowd() {
        silent.push(server.plain().await);
    }
    bystander.goes_on().await;
    let mut last = silent.pop().expect("a crowd");
    let heard = timeout(PATIENCE, last.read(&mut [0; 1])).await.expect("nobody waits in vain");
    assert!(!heard.is_ok_and(|bytes| bytes > 0), "closed unread");
    drop(silent);
    let free = async { while !lives(&server).await {} };
    timeout(PATIENCE, free).await.expect("the places come back");
    bystander.goes_on().await;
}

/// Whether `/livez` says so; a server that is still full may hang up at any point.
async fn lives(server: &Server) -> bool {
    let mut stream = server.plain().await;
    let mut answer = String::new();
    stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n").await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.0 200")
}

/// What a client of the crowd got in the end.
async fn outcome(address: String, path: &'static str, first: Option<String>) -> String {
    let mut socket = match connect_async(format!("ws://{address}{path}")).await {
        Ok((socket, _)) => socket,
        Err(SocketError::Http(answer)) => return format!("status {}", answer.status().as_u16()),
        Err(_) => return "closed".to_owned(),
    };
    if let Some(first) = first
        && socket.send(Message::text(first)).await.is_err()
    {
        return "closed".to_owned();
    }
    match timeout(PATIENCE, socket.next()).await {
        Ok(Some(Ok(Message::Text(text)))) => {
            let message: Value = serde_json::from_str(text.as_str()).expect("JSON");
            let why = message["error"]["code"].as_str().or(message["error"].as_str());
            why.or(message["type"].as_str()).expect("every message has a type").to_owned()
        }
        Ok(Some(Ok(Message::Close(Some(frame))))) => format!("close {}", u16::from(frame.code)),
        Ok(_) => "closed".to_owned(),
        Err(_) => "nothing".to_owned(),
    }
}

#[tokio::test]
async fn a_crowd_that_comes_at_once_gets_an_answer_each() {
    let limits = Limits { sessions_per_key: 40, queue: 20, ..Limits::default() };
    for (path, first, allowed) in [
        (LIVE, Some(start().to_string()), vec!["session.started", "duologue.queued", "rate_limited", "queue_full"]),
        (DEMO, None, vec!["queue_done", "queued", "close 1013"]),
    ] {
        let server =
            Server::start_with(listener(10), limits.clone(), Setup { connections: 300, ..Setup::default() }).await;
        let mut bystander = Bystander::open(&server).await;
        let mut all = JoinSet::new();
        for _ in 0..crowd() {
            all.spawn(outcome(server.address.to_string(), path, first.clone()));
        }
        let mut got: BTreeMap<String, usize> = BTreeMap::new();
        while let Some(outcome) = all.join_next().await {
            *got.entry(outcome.expect("no client panics")).or_default() += 1;
        }
        eprintln!("{path}: {got:?}");
        bystander.goes_on().await;
        for outcome in got.keys() {
            let at_the_door = ["status 429", "status 503", "closed"].contains(&outcome.as_str());
            let refused = outcome.starts_with("Queue full") || outcome.contains("which is its limit");
            assert!(at_the_door || refused || allowed.contains(&outcome.as_str()), "{outcome}");
        }
        assert!(got.contains_key(allowed[0]), "some came in: {got:?}");
        drop(bystander);
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_is_answered_and_a_huge_one_ends_its_connection() {
    let server = Server::start(listener(3), Limits::default()).await;
    let mut bystander = Bystander::open(&server).await;
    let limit = duologue_proto::wire::Limits::default().max_message_bytes;
    let mut socket = server.connect(LIVE).await;
    socket.send(&start()).await;
    socket.until("session.started").await;
    socket.send_text(&" ".repeat(limit + 1)).await;
    assert_eq!(socket.until("error").await["error"]["code"], "too_large");
    socket.send(&audio(26_400)).await;
    socket.until("duologue.unit").await;
    socket.try_send_text(&" ".repeat(2 * limit + 1)).await;
    while socket.next().await.is_some() {}
    bystander.goes_on().await;

    let mut early = server.connect(LIVE).await;
    early.send_text(&" ".repeat(limit + 1)).await;
    assert_eq!(early.until("error").await["error"]["code"], "too_large");
    assert!(early.next().await.is_none(), "nothing can follow");
}

/// A WebSocket of which the test makes the frames itself.
async fn raw(server: &Server, path: &str) -> TcpStream {
    let mut stream = server.plain().await;
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

#[tokio::test]
async fn broken_frames_and_half_requests_cost_nobody_a_session() {
    let server = Server::start(listener(3), Limits::default()).await;
    let mut bystander = Bystander::open(&server).await;
    let frames: [(&str, &[u8]); 6] = [
        ("a reserved opcode", &[0x83, 0x80, 0, 0, 0, 0]),
        ("no mask", &[0x81, 0x02, b'{', b'}']),
        ("reserved bits", &[0xf1, 0x80, 0, 0, 0, 0]),
        ("a ping of two parts", &[0x09, 0x80, 0, 0, 0, 0]),
        ("text that is no UTF-8", &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe]),
        ("a length beyond all bounds", &[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
    ];
    for path in [LIVE, "/ws/duplex"] {
        for (what, bytes) in frames {
            let mut stream = raw(&server, path).await;
            stream.write_all(bytes).await.expect("it reads");
            let mut rest = Vec::new();
            // A reset is an end, too.
            drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap_or_else(|_| panic!("{path}: {what}")));
        }
        // A client that dies in the middle of a frame.
        let mut stream = raw(&server, path).await;
        stream.write_all(&[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0, b'{']).await.expect("it reads");
        drop(stream);
    }
    for half in
        ["", "GET /v1/live/ses", "POST /v1/live/sessions HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{", "\0\0\0"]
    {
        let mut stream = server.plain().await;
        stream.write_all(half.as_bytes()).await.expect("it reads");
    }
    bystander.goes_on().await;
    let alone = async {
        while server.manager.load().busy > 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, alone).await.expect("only the bystander has a session");
}

/// The server's own limits are real time: 10 s for a request's head, 20 s for its body.
#[tokio::test]
async fn a_connection_that_says_nothing_or_not_all_is_closed() {
    let server = Server::start(listener(1), Limits::default()).await;
    let (mut silent, mut half) = (server.plain().await, server.plain().await);
    let head = format!("POST {LIVE} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000\r\n\r\n{{", server.address);
    half.write_all(head.as_bytes()).await.expect("it reads");
    let heard = timeout(PATIENCE, silent.read(&mut [0; 1])).await.expect("it is closed");
    assert!(!heard.is_ok_and(|bytes| bytes > 0), "without a word");
    let mut answer = [0; 12];
    timeout(PATIENCE, half.read_exact(&mut answer)).await.expect("it is answered").expect("in full");
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(lives(&server).await);
}

#[tokio::test]
async fn bodies_that_make_no_sense_are_refused_in_the_wires_shape() {
    let server = Server::start(listener(1), Limits::default()).await;
    let offer = |sdp: &str| json!({"session": {"model": "m"}, "transport": {"type": "webrtc", "sdp": sdp}}).to_string();
    let chromium = include_str!("../seeds/sdp_offer/chromium.sdp");
    let candidate = "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n";
    let limit = duologue_proto::wire::Limits::default().max_message_bytes;
    let cases = [
        (LIVE, "not json".to_owned(), 400, "invalid_json", Value::Null),
        (LIVE, "{}".to_owned(), 400, "missing_field", json!("session")),
        (LIVE, offer(""), 400, "invalid_value", json!("transport.sdp")),
        (LIVE, offer("garbage"), 400, "invalid_value", json!("transport.sdp")),
        (LIVE, offer(&format!("v=0\r\n{}", "\u{1f600}".repeat(99))), 400, "invalid_value", json!("transport.sdp")),
        (LIVE, offer(&chromium.replace("opus", "speex")), 400, "invalid_value", json!("transport.sdp")),
        (LIVE, offer(&format!("{chromium}{}", candidate.repeat(100))), 400, "invalid_value", json!("transport.sdp")),
        (LIVE, offer(&format!("{chromium}{}", candidate.repeat(10_000))), 413, "too_large", json!("transport.sdp")),
        (LIVE, " ".repeat(limit + 1), 413, "too_large", Value::Null),
        ("/v1/live/sessions/nobody/ice", r#"{"candidate": ""}"#.to_owned(), 404, "invalid_value", json!("id")),
        ("/v1/live/sessions/nobody/ice", "[]".to_owned(), 400, "invalid_json", Value::Null),
        ("/v1/live/sessions/nobody/hangup", String::new(), 404, "invalid_value", json!("id")),
        ("/v1/live/client_secrets", r#"{"expires_after": 1}"#.to_owned(), 400, "invalid_value", json!("expires_after")),
    ];
    for (path, body, status, code, param) in cases {
        let (got, error) = server.request("POST", path, &body).await;
        let start: String = body.chars().take(60).collect();
        assert_eq!((got, error["error"]["code"].as_str()), (status, Some(code)), "{path} {start}: {error}");
        assert_eq!(error["error"]["param"], param, "{path} {start}: {error}");
        assert_eq!(server.manager.load().busy, 0, "{path} {start}: the place is free");
    }
}

#[tokio::test]
async fn crumbs_are_heard_and_a_pause_is_deaf() {
    let server = Server::start(ScriptedBackend::new(1, &[Plan::End("one"), Plan::End("two")]), Limits::default()).await;
    let mut socket = server.connect(LIVE).await;
    socket.send(&start()).await;
    socket.until("session.started").await;
    // 50 ms at a time; the resampler's filter keeps a little back.
    for _ in 0..22 {
        socket.send(&audio(1_200)).await;
    }
    assert_eq!(socket.until("duologue.unit").await["text"], "one");
    socket.send(&json!({"type": "duologue.pause"})).await;
    socket.until("duologue.paused").await;
    for _ in 0..3 {
        socket.send(&audio(24_000)).await;
    }
    socket.send(&json!({"type": "duologue.ping", "id": 1, "t": 0.0})).await;
    loop {
        let message = socket.next().await.expect("the session goes on");
        assert_ne!(message["type"], "duologue.unit", "a pause hears nothing");
        if message["type"] == "duologue.pong" {
            break;
        }
    }
    socket.send(&json!({"type": "duologue.resume"})).await;
    socket.until("duologue.resumed").await;
    socket.send(&audio(24_000)).await;
    assert_eq!(socket.until("duologue.unit").await["text"], "two");
}
