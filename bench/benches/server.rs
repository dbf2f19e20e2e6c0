//! What the server costs beside the model: real sockets on loopback, a backend whose units take no time.
//!
//! 1. From the last sample of a second of user audio, sent on a WebSocket, to the unit's event and to the first sample of the
//!    reply at the client; several sessions in real time.
//! 2. Resident memory of sessions that do nothing, their clients' side included (all run in this process).
//! 3. From the POST of an offer to the first audio packet at a WebRTC client.
#![allow(missing_docs, clippy::print_stdout)]

use std::time::{Duration, Instant};

use duologue_bench::resources::resident_now_mib;
use duologue_proto::payload::Base64;
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::{PATIENCE, Server, Socket};
use duologue_transport::Limits;
use duologue_transport::rtc::client::Client;
use serde_json::json;
use tokio::time::timeout;

const PATH: &str = "/v1/live/sessions";
const SESSIONS: usize = 16;
const SECONDS: usize = 40;
const IDLE_SESSIONS: usize = 200;
const CALLS: usize = 30;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        overhead().await;
        memory().await;
        first_packet().await;
    });
}

/// Median, 99th percentile and largest.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    let (p50, p95, p99, worst) = (at(0.5), at(0.95), at(0.99), at(1.0));
    println!("{what}: p50 {p50:.2} ms, p95 {p95:.2}, p99 {p99:.2}, worst {worst:.2} ({} times)", times.len());
}

fn limits(sessions: usize) -> Limits {
    Limits { sessions_per_key: sessions, ..Limits::default() }
}

async fn open(server: &Server) -> Socket {
    let mut socket = server.connect(PATH).await;
    let format = json!({"type": "audio/pcm", "rate": 16_000});
    let session = json!({"model": "m", "audio": {"format": format}, "duologue": {}});
    socket.send(&json!({"type": "session.start", "session": session})).await;
    socket.until("session.started").await;
    socket
}

async fn overhead() {
    let plans: Vec<Plan> = [Plan::Listen, Plan::End("yes")].into_iter().cycle().take(SECONDS).collect();
    let server = Server::start(ScriptedBackend::new(SESSIONS, &plans), limits(SESSIONS)).await;
    let mut talks = Vec::new();
    for number in 0..SESSIONS {
        let socket = open(&server).await;
        // Their seconds do not end together, as people's do not.
        let offset = Duration::from_secs_f64(number as f64 / SESSIONS as f64);
        talks.push(tokio::spawn(talk(socket, offset)));
    }
    let (mut units, mut firsts) = (Vec::new(), Vec::new());
    for talk in talks {
        let (unit, first) = talk.await.expect("a session goes on");
        units.extend(unit);
        firsts.extend(first);
    }
    println!("{SESSIONS} sessions in real time, {SECONDS} s, WebSocket");
    report("  last sample sent to unit event", units);
    report("  last sample sent to first sound of the reply", firsts);
}

/// Speaks for [`SECONDS`]; times of all units, and of those that begin a reply.
async fn talk(mut socket: Socket, offset: Duration) -> (Vec<Duration>, Vec<Duration>) {
    let packet = json!({"type": "session.input_audio.append", "audio": Base64(vec![0; 2 * 1_600])});
    let (mut units, mut firsts) = (Vec::new(), Vec::new());
    tokio::time::sleep(offset).await;
    let began = Instant::now();
    for second in 0..SECONDS {
        let mut sent = began;
        for tenth in 1..=10u32 {
            let due = began + Duration::from_secs(second as u64) + Duration::from_millis(100) * tenth;
            tokio::time::sleep_until(due.into()).await;
            sent = Instant::now();
            socket.send(&packet).await;
        }
        let unit = socket.until("duologue.unit").await;
        units.push(sent.elapsed());
        if unit["decision"] == "speak" {
            socket.until("session.output_audio.delta").await;
            firsts.push(sent.elapsed());
        }
    }
    (units, firsts)
}

fn resident_mib() -> f64 {
    resident_now_mib().expect("Linux tells the memory of a process")
}

async fn memory() {
    let server = Server::start(ScriptedBackend::new(IDLE_SESSIONS, &[]), limits(IDLE_SESSIONS)).await;
    let before = resident_mib();
    let mut all = Vec::new();
    for _ in 0..IDLE_SESSIONS {
        all.push(open(&server).await);
    }
    let grown = resident_mib() - before;
    println!(
        "{IDLE_SESSIONS} idle sessions with their clients: {grown:.1} MiB ({:.0} KiB each)",
        grown * 1024.0 / IDLE_SESSIONS as f64
    );
}

async fn first_packet() {
    let server = Server::start(ScriptedBackend::new(CALLS, &[]), limits(CALLS)).await;
    let (mut answers, mut firsts) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let mut client = Client::new("127.0.0.1:0").await.expect("a client");
        let offer = client.offer().await.expect("an offer");
        let body = json!({"session": {"model": "m"}, "transport": {"type": "webrtc", "sdp": offer}}).to_string();
        let posted = Instant::now();
        let (status, answer) = server.request("POST", PATH, &body).await;
        assert_eq!(status, 201, "{answer}");
        answers.push(posted.elapsed());
        let answer = answer["transport"]["sdp"].as_str().expect("an answer").to_owned();
        client.accept(answer).await.expect("it is SDP");
        timeout(PATIENCE, client.heard.recv()).await.expect("packets come").expect("the track goes on");
        firsts.push(posted.elapsed());
        client.close().await.expect("it hangs up");
    }
    println!("WebRTC on loopback");
    report("  POST to answer", answers);
    report("  POST to first audio packet at the client", firsts);
}
