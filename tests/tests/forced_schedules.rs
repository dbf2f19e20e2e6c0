//! Forced schedules from the wire to the graphs.
//!
//! 1. The engine keeps to the pattern with weights that would never choose it, for two sessions in different phases at once; every
//!    speaking unit has its words, its codes and its sound, and the rest is computed as ever.
//! 2. A pattern that a unit has no room for is refused by name.
//! 3. `talk` takes one, and its timeline says so in its first line.
//! 4. The server refuses one unless it was started for it, and then says so in `session.started` and `session.updated`.

use duologue_engine::{OpenOptions, PrepareWork};
use duologue_proto::forced_schedule::ForcedSchedule;
use duologue_proto::timeline::{Decision, TimelineEvent};
use duologue_session::{Mode, Schedule, SpeechOrder};
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::{Server, Socket};
use duologue_tests::sessions::{begin, engine, greedy, heard, user_audio};
use duologue_tests::{bundle, golden, succeed};
use duologue_transport::Limits;
use serde_json::{Value, json};

const PATTERN: Schedule = Schedule { listen: 1, speak: 2, tokens: 4, codes: 20 };
const SAMPLES_PER_CODE: usize = 960;

#[test]
fn the_engine_keeps_to_the_pattern() {
    let engine = engine(2);
    let mut config = greedy(&engine, Mode::Live);
    config.schedule = Some(PATTERN);
    let mut sessions = [begin(&engine, &config), begin(&engine, &config)];
    let mut audio = [user_audio(0), user_audio(7)];
    let mut heard_samples = [0; 2];
    for round in 0..9 {
        // The second session begins a unit later, so that one listens while the other speaks.
        let running = if round == 0 { 1 } else { 2 };
        for number in 0..running {
            let input = heard(audio[number].next().unwrap());
            sessions[number].start_unit(input).unwrap();
        }
        for (number, session) in sessions.iter_mut().enumerate().take(running) {
            let position = (round - number) % 3;
            let unit = session.finish_unit().unwrap();
            let end = &unit.report.end;
            assert_eq!(end.speaks(), position != 0, "session {number}, round {round}");
            heard_samples[number] += unit.samples.len();
            if position == 0 {
                assert_eq!((unit.codes.len(), unit.samples.len()), (0, 0));
                continue;
            }
            let last = position == 2;
            assert_eq!(end.speech, if last { SpeechOrder::EndTurn } else { SpeechOrder::Continue });
            assert_eq!(end.speech_ids.len(), PATTERN.tokens + usize::from(last));
            assert_eq!(unit.codes.len(), PATTERN.codes);
            // Every token but the terminator was decoded, and is in the cache.
            assert_eq!(unit.report.kv_generate - unit.report.kv_prefill, end.tokens.len() - 1);
            assert!(unit.first_sound.is_some_and(|first| first <= unit.unit_time));
            assert!(!unit.speech.tts.is_zero() && !unit.speech.flow.is_zero() && !unit.speech.hift.is_zero());
            if last {
                assert_eq!(
                    heard_samples[number],
                    2 * PATTERN.codes * SAMPLES_PER_CODE,
                    "all codes of a turn are heard"
                );
                heard_samples[number] = 0;
            }
        }
    }
}

#[test]
fn a_pattern_without_room_is_refused_by_name() {
    let engine = engine(1);
    let mut config = greedy(&engine, Mode::Live);
    config.speech = None;
    config.schedule = Some(Schedule { tokens: 100, ..PATTERN });
    let prompt = PrepareWork { prefix: vec![1], suffix: vec![], reference: None, voice: None };
    let options = OpenOptions { prompt, record_window: false, wake: None };
    let error = engine.open(&config, options).unwrap_err().to_string();
    assert!(error.contains("schedule.tokens") && error.contains("1..=16"), "{error}");
}

#[test]
fn talk_says_in_its_first_line_that_the_pattern_was_forced() {
    let dir = tempfile::tempdir().unwrap();
    let (reply, timeline) = (dir.path().join("reply.wav"), dir.path().join("timeline.jsonl"));
    let (bundle, input) = (bundle(), golden().join("inputs/public_input.wav"));
    let [bundle, input, reply, timeline_path] = [&bundle, &input, &reply, &timeline].map(|path| path.to_str().unwrap());
    let arguments = ["talk", "--device", "cpu", "--bundle", bundle, "--input", input, "--output", reply];
    let schedule = ["--timeline", timeline_path, "--schedule", "listen=2,speak=1,tokens=3,codes=25"];
    let printed = succeed(&[&arguments[..], &schedule].concat());
    assert!(printed.contains("forced schedule listen=2,speak=1,tokens=3,codes=25"), "{printed}");
    let text = std::fs::read_to_string(&timeline).unwrap();
    let mut events = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let Some(TimelineEvent::Session { forced_schedule, .. }) = events.next() else { panic!("no first line: {text}") };
    assert_eq!(forced_schedule, Some(ForcedSchedule { listen: 2, speak: 1, tokens: 3, codes: 25 }));
    let decisions: Vec<Decision> = events
        .filter_map(|event| if let TimelineEvent::Unit(unit) = event { Some(unit.decision) } else { None })
        .collect();
    assert!(decisions.len() > 6);
    for (number, decision) in decisions.into_iter().enumerate() {
        assert_eq!(decision, if number % 3 == 2 { Decision::Speak } else { Decision::Listen }, "unit {number}");
    }
}

async fn ask(backend: ScriptedBackend) -> (Server, Socket, Value) {
    let server = Server::start(backend, Limits::default()).await;
    let mut socket = server.connect("/v1/live/sessions").await;
    let schedule = json!({"listen": 1, "speak": 3, "tokens": 5, "codes": 25});
    let session = json!({"model": "m", "duologue": {"forced_schedule": schedule}});
    socket.send(&json!({"type": "session.start", "session": session})).await;
    (server, socket, schedule)
}

#[tokio::test]
async fn a_server_for_people_refuses() {
    let (_server, mut socket, _) = ask(ScriptedBackend::new(1, &[Plan::Speak("hello")])).await;
    let error = socket.until("error").await["error"].clone();
    assert_eq!(error["code"], "unsupported");
    assert_eq!(error["param"], "session.duologue.forced_schedule");
    assert!(error["message"].as_str().unwrap().contains("bench.forced_schedules = true"), "{error}");
}

#[tokio::test]
async fn a_server_for_measurements_says_what_it_was_told() {
    let backend = ScriptedBackend::new(1, &[Plan::Speak("hello")]).forced_schedules();
    let (_server, mut socket, schedule) = ask(backend).await;
    let started = socket.until("session.started").await;
    assert_eq!(started["session"]["duologue"]["forced_schedule"], schedule);
    socket.send(&json!({"type": "session.update", "session": {}})).await;
    let updated = socket.until("session.updated").await;
    assert_eq!(updated["session"]["duologue"]["forced_schedule"], schedule);
}
