//! Traces over OTLP/HTTP, end to end: the real program on the golden bundle, and a collector of this test's own.
//!
//! 1. A session leaves its span, with mode, wire and how it ended, and below it a span for each of its units, with the decision
//!    that the client was told and the times of the stages, and one for each reply.
//! 2. What leaves the machine holds no word of what was said, no instructions, no key and no resume token.
//! 3. Stopping the server sends what still waits. A collector that is away costs a session nothing.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use duologue_audio::wav;
use duologue_proto::payload::Base64;
use duologue_tests::server::Socket;
use duologue_tests::{bundle, command, golden};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};

const KEY: &str = "a-key-that-nobody-guesses";
const INSTRUCTIONS: &str = "You know a lot about artichokes.";
const LIMITS: wav::Limits = wav::Limits { min_seconds: 0.1, max_seconds: 1e3 };

/// Bodies that were posted.
type Posted = Arc<Mutex<Vec<Bytes>>>;

/// A collector on a free port: its address, and what it gets.
async fn collector() -> (String, Posted) {
    let posted = Posted::default();
    let kept = posted.clone();
    let take = async move |headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        kept.lock().unwrap().push(body);
    };
    let routes = Router::new().route("/v1/traces", post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, posted)
}

/// The program, until it is stopped.
struct Program {
    child: Child,
    address: String,
    log: thread::JoinHandle<String>,
}

impl Program {
    fn start(collector: &str) -> Self {
        let bundle = bundle();
        let endpoint = format!("otlp.endpoint={collector}");
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--set", &endpoint];
        let mut child = command(&[&arguments[..], &["--bundle", bundle.to_str().unwrap()]].concat())
            .env("DUOLOGUE_AUTH_KEYS", format!("phone:{KEY}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Read to its end, so that the program never waits for a reader.
        let mut stderr = child.stderr.take().unwrap();
        let log = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.strip_prefix("talk at http://")?.to_owned()));
        let address = address.expect("the program says where it listens");
        thread::spawn(move || lines.for_each(drop));
        Self { child, address, log }
    }

    /// Stops it as an operator does; its log.
    fn stop(mut self) -> String {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        assert!(self.child.wait().unwrap().success());
        self.log.join().unwrap()
    }
}

/// What a client was told of one session.
struct Told {
    id: String,
    resume_token: String,
    units: Vec<Value>,
}

/// Talks to the program until it has been heard to speak.
async fn converse(program: &Program) -> Told {
    let mut socket = Socket::open(&format!("ws://{}/v1/live/sessions?token={KEY}", program.address)).await;
    let format = json!({"format": {"type": "audio/pcm", "rate": 16000}});
    let wishes = json!({"barge_in": {"mode": "model"}, "sampling": {"seed": 1}});
    let session = json!({"model": "m", "instructions": INSTRUCTIONS, "audio": format, "duologue": wishes});
    socket.send(&json!({"type": "session.start", "session": session})).await;
    let started = socket.until("session.started").await;
    let pcm = wav::read_mono(&golden().join("inputs/public_input.wav"), LIMITS).unwrap();
    assert_eq!(pcm.rate_hz, 16_000);
    let (mut units, mut heard) = (Vec::new(), false);
    for (number, second) in pcm.samples.chunks_exact(16_000).enumerate() {
        let bytes = second.iter().flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes()).collect();
        socket.send(&json!({"type": "session.input_audio.append", "audio": Base64(bytes)})).await;
        // A unit looks ahead into the second behind its own.
        while units.len() < number {
            let message = socket.next().await.expect("the session goes on");
            match message["type"].as_str() {
                Some("duologue.unit") => units.push(message),
                Some("duologue.speech") => heard |= message["first"] == true,
                _ => {}
            }
        }
        if heard {
            break;
        }
    }
    assert!(heard, "the golden model speaks");
    socket.send(&json!({"type": "session.close"})).await;
    socket.until("session.closed").await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let session = &started["session"];
    Told { id: text(&session["id"]), resume_token: text(&session["duologue"]["resume_token"]), units }
}

/// Attributes by name, as JSON.
fn attributes(span: &Span) -> HashMap<&str, Value> {
    let value = |value: &Any| match value {
        Any::StringValue(text) => json!(text),
        Any::BoolValue(value) => json!(value),
        Any::IntValue(value) => json!(value),
        Any::DoubleValue(value) => json!(value),
        other => panic!("{other:?}"),
    };
    let pairs =
        span.attributes.iter().filter_map(|pair| Some((&*pair.key, value(pair.value.as_ref()?.value.as_ref()?))));
    pairs.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_leaves_its_spans_and_no_word() {
    let (address, posted) = collector().await;
    let program = Program::start(&address);
    let told = converse(&program).await;
    program.stop();

    let bodies = posted.lock().unwrap().clone();
    let secrets = [KEY, &told.resume_token, INSTRUCTIONS, "artichokes"];
    let words = told.units.iter().filter_map(|unit| unit["text"].as_str()).map(str::trim).filter(|text| text.len() > 3);
    for hidden in secrets.into_iter().chain(words) {
        let found = bodies.iter().any(|body| body.windows(hidden.len()).any(|part| part == hidden.as_bytes()));
        assert!(!found, "{hidden:?} has left the machine");
    }

    let requests = bodies.iter().map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap());
    let resources: Vec<_> = requests.flat_map(|request| request.resource_spans).collect();
    let service = resources[0].resource.as_ref().unwrap().attributes.iter().find(|pair| pair.key == "service.name");
    let name = service.and_then(|pair| pair.value.as_ref()?.value.clone());
    assert_eq!(name, Some(Any::StringValue("duologue".into())));
    let spans: Vec<Span> =
        resources.into_iter().flat_map(|part| part.scope_spans).flat_map(|scope| scope.spans).collect();
    assert!(spans.iter().all(|span| span.events.is_empty()), "lines of the log stay in the log");

    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let [session] = named("session")[..] else { panic!("one session: {spans:?}") };
    let said = attributes(session);
    for (name, value) in [
        ("gen_ai.conversation.id", &*told.id),
        ("gen_ai.request.model", "golden-tiny"),
        ("duologue.mode", "live"),
        ("duologue.wire", "websocket"),
        ("duologue.close_cause", "requested"),
    ] {
        assert_eq!(said.get(name), Some(&json!(value)), "{name}");
    }

    let mut units: Vec<_> = named("unit").into_iter().map(|span| (span, attributes(span))).collect();
    units.sort_by_key(|(_, said)| said["duologue.unit"].as_u64());
    for (unit, (span, said)) in told.units.iter().zip(&units) {
        assert_eq!((&span.parent_span_id, &span.trace_id), (&session.span_id, &session.trace_id));
        assert!(span.start_time_unix_nano < span.end_time_unix_nano);
        assert_eq!(
            (&said["duologue.unit"], &said["duologue.decision"]),
            (&unit["unit"], &unit["decision"]),
            "{said:?}"
        );
        assert_eq!(said["gen_ai.usage.output_tokens"], unit["tokens"]);
        let seconds = |name: &str| said[name].as_f64().unwrap();
        assert!(
            seconds("duologue.prefill_s") > 0.0 && seconds("duologue.mel_s") > 0.0 && seconds("duologue.apm_s") > 0.0
        );
        assert!(seconds("duologue.unit_s") >= seconds("duologue.prefill_s"));
    }
    assert!(units.len() >= told.units.len());

    // What was said last may not have been voiced when the client left.
    let voiced = |name: &str| units.iter().any(|(_, said)| said.get(name).is_some_and(|s| s.as_f64() > Some(0.0)));
    assert!(voiced("duologue.tts_s") && voiced("duologue.flow_s") && voiced("duologue.hift_s"));
    let replies = named("reply");
    assert!(!replies.is_empty() && replies.iter().all(|span| span.parent_span_id == session.span_id));
    let said: Vec<_> = replies.iter().map(|span| attributes(span)).collect();
    let heard = |said: &HashMap<_, Value>| said.get("duologue.ttfb_s").is_some_and(|s| s.as_f64() > Some(0.0));
    assert!(said.iter().any(heard), "{said:?} {:?}", told.units);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_a_session_nothing() {
    // A port that was free a moment ago and is nobody's now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let program = Program::start(&format!("http://{address}"));
    converse(&program).await;
    let log = program.stop();
    let complaints = log.lines().filter(|line| line.contains("the collector takes no traces")).count();
    assert!(complaints <= 1 && !log.contains("panicked"), "{log}");
}
