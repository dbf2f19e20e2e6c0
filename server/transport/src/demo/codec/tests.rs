//! Lock-step under any order of events, and what a client may do wrong.

use std::sync::Arc;
use std::time::Duration;

use duologue_proto::demo::StepResult;
use duologue_proto::payload::FloatAudio;
use duologue_session::{Duplex, PreparedReport, SpeechTimings, UnitTimings};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::driver::{SpeechEvent, UnitEvent};
use crate::pacer::ReplyStart;

const UNIT: usize = 16_000;

fn info() -> BackendInfo {
    BackendInfo {
        name: "script".into(),
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
        voices: Vec::new(),
        cloning: None,
        vision: true,
        typed: false,
        suggestions: vec![],
        default_instructions: String::new(),
        context_tokens: 8192,
        forced_schedules: false,
    }
}

fn at(ms: u64) -> Moment {
    Moment { clock: Duration::from_millis(ms), unix_s: 1_795_000_000.0 + ms as f64 / 1e3 }
}

fn fresh() -> DemoCodec {
    DemoCodec::new(&info(), MessageLimits::default())
}

fn running() -> DemoCodec {
    let mut codec = fresh();
    let reactions = codec.receive(r#"{"type":"prepare"}"#, at(0)).expect("a session is asked for");
    assert!(matches!(reactions[..], [Reaction::Open(_)]) && codec.waiting());
    let ready = SessionEvent::Ready(PreparedReport { kv_len: 50, from_cache: false, took: Duration::ZERO });
    assert_eq!(said(&codec.event(&ready, at(0))), [json!({"type": "prepared", "prompt_length": 50})]);
    codec
}

/// What the client is told.
fn said(reactions: &[Reaction]) -> Vec<serde_json::Value> {
    let reply = |reaction: &Reaction| match reaction {
        Reaction::Reply(event) => Some(serde_json::to_value(event).expect("wire types are JSON")),
        _ => None,
    };
    reactions.iter().filter_map(reply).collect()
}

fn results(reactions: &[Reaction]) -> Vec<StepResult> {
    let result = |reaction: &Reaction| match reaction {
        Reaction::Reply(ServerEvent::Result(result)) => Some((**result).clone()),
        _ => None,
    };
    reactions.iter().filter_map(result).collect()
}

fn samples_of(reactions: &[Reaction]) -> usize {
    let audio = |reaction: &Reaction| match reaction {
        Reaction::Command(SessionCommand::Audio(samples)) => samples.len(),
        _ => 0,
    };
    reactions.iter().map(audio).sum()
}

fn chunk(samples: usize) -> String {
    json!({"type": "audio_chunk", "audio_base64": FloatAudio(vec![0.1; samples])}).to_string()
}

fn unit(unit: u32, text: Option<&str>) -> SessionEvent {
    let ms = Duration::from_millis;
    SessionEvent::Unit(Arc::new(UnitEvent {
        unit,
        turn: 0,
        speaks: text.is_some(),
        is_listen: text.is_none(),
        end_of_turn: false,
        text: text.unwrap_or_default().to_owned(),
        stale: false,
        ready_at: Duration::ZERO,
        unit_time: ms(40),
        deadline_missed: false,
        timings: UnitTimings { prefill: ms(50), generate: ms(20), ..UnitTimings::default() },
        tokens: 3,
        kv_tokens: 100 + unit as usize,
        vision_slices: 1,
        vision_tokens: 64,
    }))
}

fn speech(unit: u32, samples: usize, audio_tokens: usize, done: bool) -> SessionEvent {
    let ms = Duration::from_millis;
    SessionEvent::Speech(SpeechEvent {
        unit,
        turn: 0,
        start: 0,
        samples,
        audio_tokens,
        done,
        ttfb: None,
        timings: SpeechTimings { tts: ms(10), flow: ms(4), hift: ms(1) },
    })
}

fn audio(samples: usize) -> SessionEvent {
    SessionEvent::Audio { turn: 0, start: 0, samples: vec![16_384; samples].into() }
}

fn refused(codec: &mut DemoCodec, text: &str) -> WireError {
    codec.receive(text, at(0)).expect_err(text)
}

#[test]
fn a_listening_second_is_answered_by_its_unit() {
    let mut codec = running();
    let reactions = codec.receive(&chunk(UNIT), at(1000)).expect("a chunk");
    assert_eq!(samples_of(&reactions), UNIT);
    assert!(codec.waiting() && said(&reactions).is_empty());
    let reactions = codec.event(&unit(0, None), at(1086));
    let [result] = &results(&reactions)[..] else { panic!("one result: {reactions:?}") };
    assert!(result.is_listen && result.text.is_empty() && result.audio_data.is_none() && !result.end_of_turn);
    assert_eq!((result.current_time, result.wall_clock_ms, result.kv_cache_length), (1, 86.0, 100));
    assert_eq!((result.cost_llm_ms, result.cost_all_ms, result.cost_tts_ms), (Some(20.0), Some(20.0), None));
    assert_eq!((result.n_tokens, result.n_tts_tokens), (Some(3), Some(0)));
    assert_eq!((result.vision_slices, result.vision_tokens), (1, 64));
    assert_eq!(result.server_send_ts, Some(1_795_000_001.086));
    assert!(!codec.waiting());
}

#[test]
fn a_speaking_unit_is_answered_with_all_its_speech() {
    let mut codec = running();
    codec.receive(&chunk(UNIT), at(0)).expect("a chunk");
    let mut reactions = Vec::new();
    for event in [
        // The first piece overtakes the unit's report.
        speech(0, 100, 10, false),
        audio(100),
        unit(0, Some("Hello")),
        speech(0, 200, 25, true),
    ] {
        reactions.extend(codec.event(&event, at(100)));
    }
    assert!(results(&reactions).is_empty(), "200 samples are still to come");
    let reactions = codec.event(&audio(200), at(167));
    let [result] = &results(&reactions)[..] else { panic!("one result: {reactions:?}") };
    assert_eq!((result.is_listen, result.text.as_str()), (false, "Hello"));
    let speech = result.audio_data.as_ref().expect("speech");
    assert!(speech.0.len() == 300 && speech.0.iter().all(|sample| *sample == 0.5));
    assert_eq!((result.cost_tts_ms, result.cost_token2wav_ms), (Some(20.0), Some(10.0)));
    assert_eq!((result.cost_all_ms, result.n_tts_tokens), (Some(50.0), Some(25)));
}

#[test]
fn short_chunks_are_answered_at_once_until_one_completes_the_unit() {
    let mut codec = running();
    for number in 1..20 {
        let reactions = codec.receive(&chunk(800), at(50 * number)).expect("50 ms");
        let [result] = &results(&reactions)[..] else { panic!("one result: {reactions:?}") };
        assert!(result.is_listen && result.cost_all_ms.is_none() && result.n_tokens == Some(0));
        assert_eq!((result.current_time, result.kv_cache_length), (number, 50));
    }
    assert!(said(&codec.receive(&chunk(800), at(1000)).expect("the last 50 ms")).is_empty());
    assert_eq!(results(&codec.event(&unit(0, None), at(1010)))[0].current_time, 20);
}

#[test]
fn a_long_chunk_is_fed_unit_by_unit_and_answered_once() {
    let mut codec = running();
    let mut fed = samples_of(&codec.receive(&chunk(2 * UNIT + 500), at(0)).expect("2 s and a bit"));
    assert_eq!(fed, UNIT, "the second unit waits for the first");
    let mut answers = Vec::new();
    for event in [unit(0, Some("one ")), speech(0, 10, 5, true), audio(10), unit(1, Some("two"))] {
        let reactions = codec.event(&event, at(1));
        fed += samples_of(&reactions);
        answers.extend(results(&reactions));
    }
    assert!(answers.is_empty());
    codec.event(&speech(1, 20, 7, true), at(2));
    let reactions = codec.event(&audio(20), at(3));
    fed += samples_of(&reactions);
    let [result] = &results(&reactions)[..] else { panic!("one result: {reactions:?}") };
    assert_eq!((result.text.as_str(), result.n_tts_tokens), ("one two", Some(12)));
    assert_eq!(result.audio_data.as_ref().map(|speech| speech.0.len()), Some(30));
    assert_eq!(fed, 2 * UNIT + 500);
}

#[test]
fn a_client_that_wants_no_speech_gets_none() {
    let mut codec = fresh();
    codec.receive(r#"{"type":"prepare","config":{"generate_audio":false}}"#, at(0)).expect("a session");
    codec.event(&SessionEvent::Ready(PreparedReport { kv_len: 50, from_cache: false, took: Duration::ZERO }), at(0));
    codec.receive(&chunk(UNIT), at(0)).expect("a chunk");
    codec.event(&unit(0, Some("Hello")), at(1));
    codec.event(&speech(0, 5, 5, true), at(2));
    let result = results(&codec.event(&audio(5), at(3))).remove(0);
    assert!(result.audio_data.is_none() && result.text == "Hello");
}

#[test]
fn speech_that_was_thrown_away_is_not_waited_for() {
    let mut codec = running();
    codec.receive(&chunk(UNIT), at(0)).expect("a chunk");
    codec.event(&speech(0, 5, 5, false), at(1));
    codec.event(&unit(0, Some("Hello")), at(1));
    let flush = SessionEvent::Flush { turn: 1, cause: crate::driver::FlushCause::Client };
    assert_eq!(results(&codec.event(&flush, at(2))).len(), 1);
}

#[test]
fn commands_go_ahead_of_the_audio_that_they_are_for() {
    let mut codec = running();
    let mut png = Vec::new();
    let picture = image::RgbImage::from_pixel(4, 3, image::Rgb([1, 2, 3]));
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).expect("memory takes it");
    let frame = Base64(png);
    let message = json!({
        "type": "audio_chunk", "audio_base64": FloatAudio(vec![0.0; UNIT]), "force_listen": true,
        "frame_base64_list": [frame, frame], "max_slice_nums": 2
    });
    let reactions = codec.receive(&message.to_string(), at(0)).expect("all is well");
    let [first, second, third, fourth] = &reactions[..] else { panic!("four commands: {reactions:?}") };
    for picture in [first, second] {
        let Reaction::Command(SessionCommand::Frame(frame)) = picture else { panic!("a picture: {picture:?}") };
        assert_eq!((frame.width, frame.max_slices), (4, 2));
    }
    assert!(matches!(third, Reaction::Command(SessionCommand::ForceListen)));
    assert!(matches!(fourth, Reaction::Command(SessionCommand::Audio(_))));
    codec.event(&unit(0, None), at(1));

    let alone = json!({"type": "video_frame", "frame": frame}).to_string();
    for _ in 0..4 {
        assert!(matches!(codec.receive(&alone, at(2)).expect("room")[..], [Reaction::Command(_)]));
    }
    let error = refused(&mut codec, &alone);
    assert!(error.message.contains("5 images for one unit"), "{error}");
}

#[test]
fn pausing_is_acknowledged_before_anything_else_is_taken() {
    let mut codec = running();
    let reactions = codec.receive(r#"{"type":"pause","timeout":1e300}"#, at(0)).expect("any length");
    assert!(matches!(reactions[..], [Reaction::Command(SessionCommand::Pause(_))]) && codec.waiting());
    let paused = SessionEvent::Paused { timeout: Duration::from_secs(60) };
    assert_eq!(said(&codec.event(&paused, at(0))), [json!({"type": "paused", "timeout": 60.0})]);
    assert_eq!(refused(&mut codec, &chunk(UNIT)).message, "Worker is paused");
    codec.receive(r#"{"type":"resume"}"#, at(0)).expect("it goes on");
    assert_eq!(said(&codec.event(&SessionEvent::Resumed, at(0))), [json!({"type": "resumed"})]);
    codec.receive(&chunk(UNIT), at(0)).expect("a chunk");
}

#[test]
fn a_pause_that_is_too_long_ends_the_session_with_its_length() {
    let mut codec = running();
    codec.receive(r#"{"type":"pause","timeout":2}"#, at(0)).expect("a pause");
    codec.event(&SessionEvent::Paused { timeout: Duration::from_secs(2) }, at(0));
    let reactions = codec.event(&SessionEvent::Closed(CloseCause::PauseTimeout), at(2000));
    assert_eq!(said(&reactions), [json!({"type": "timeout", "reason": "Pause timeout (2.0s)"})]);
    assert!(matches!(reactions[1], Reaction::Close { code: 1000, reason: "Pause timeout" }));
}

#[test]
fn a_broken_session_answers_its_chunk_with_the_error() {
    let mut codec = running();
    codec.receive(&chunk(UNIT), at(0)).expect("a chunk");
    let reactions = codec.event(&SessionEvent::Closed(CloseCause::Failed("the graph broke".into())), at(1));
    assert_eq!(said(&reactions), [json!({"type": "error", "error": "the graph broke"})]);
    assert!(matches!(reactions[1], Reaction::Close { code: 1011, .. }) && codec.waiting());
}

#[test]
fn stop_says_goodbye_in_every_state() {
    for (mut codec, running) in [(fresh(), false), (running(), true)] {
        let reactions = codec.receive(r#"{"type":"stop"}"#, at(0)).expect("a goodbye");
        assert_eq!(said(&reactions), [json!({"type": "stopped"})]);
        assert!(matches!(reactions.last(), Some(Reaction::Close { code: 1000, .. })));
        let closes = matches!(reactions[0], Reaction::Command(SessionCommand::Close(CloseCause::Requested)));
        assert_eq!(closes, running);
        assert!(codec.waiting(), "nothing more is taken");
    }
}

#[test]
fn the_wrong_order_is_told_and_changes_nothing() {
    let mut codec = fresh();
    for text in [&chunk(UNIT)[..], r#"{"type":"pause"}"#, r#"{"type":"resume"}"#] {
        let error = refused(&mut codec, text);
        assert_eq!(error.code, ErrorCode::AudioBeforeStart);
        assert!(error.message.contains("send `prepare` first"), "{error}");
    }
    codec.receive(r#"{"type":"prepare"}"#, at(0)).expect("still welcome");
    codec.not_opened();
    codec.receive(r#"{"type":"prepare"}"#, at(0)).expect("a second try after a refusal");

    let mut codec = running();
    assert_eq!(refused(&mut codec, r#"{"type":"prepare"}"#).code, ErrorCode::AlreadyStarted);
    codec.receive(&chunk(UNIT), at(0)).expect("the session goes on");
}

#[test]
fn bad_messages_are_refused_in_the_demos_words_and_the_session_goes_on() {
    let mut codec = running();
    let odd = json!({"type": "audio_chunk", "audio_base64": Base64(vec![0; 6])}).to_string();
    let nan = json!({"type": "audio_chunk", "audio_base64": Base64(f32::NAN.to_le_bytes().to_vec())}).to_string();
    let picture = json!({"type": "audio_chunk", "audio_base64": FloatAudio(vec![0.0]), "frame_base64_list": [Base64(vec![1; 9])]});
    for (text, words) in [
        ("", "one JSON object"),
        ("[1]", "one JSON object"),
        (r#"{"type":"audio_chunk""#, "not valid JSON"),
        (r#"{"type":"tea"}"#, "Unknown message type: tea"),
        (r#"{"type":"audio_chunk"}"#, "Missing audio_base64"),
        (r#"{"type":"audio_chunk","audio_base64":""}"#, "Missing audio_base64"),
        (r#"{"type":"audio_chunk","audio_base64":"%%%%"}"#, "not standard base64"),
        (&odd, "not whole samples"),
        (&nan, "must be a finite number"),
        (&chunk(16_000 * 11), "s are allowed"),
        (&picture.to_string(), "not a JPEG or PNG file"),
        (r#"{"type":"pause","timeout":-1}"#, "not in"),
    ] {
        let error = refused(&mut codec, text);
        assert!(error.message.contains(words), "{text:.60}: {error}");
    }
    let reactions = codec.receive(&chunk(UNIT), at(0)).expect("a chunk");
    assert_eq!(samples_of(&reactions), UNIT, "nothing of the refused audio was heard");
}

#[test]
fn deprecated_and_diagnostic_messages_do_nothing() {
    let mut codec = running();
    let reactions = codec.receive(r#"{"type":"interrupt"}"#, at(0)).expect("an answer");
    assert_eq!(said(&reactions), [json!({"type": "interrupted"})]);
    assert!(codec.receive(r#"{"type":"client_diagnostic","ahead":[1,2]}"#, at(0)).expect("swallowed").is_empty());
}

/// What a unit does in a generated session: how many samples each piece of its speech has, and how many of these pieces
/// come before the unit's report.
type UnitPlan = (Vec<u8>, usize);

/// The events of a unit in an order that the driver may choose: a piece's samples come some time after its announcement.
fn events_of(number: u32, (pieces, early): &UnitPlan, late_audio: bool) -> Vec<SessionEvent> {
    let report = unit(number, (!pieces.is_empty()).then_some("word "));
    let (mut events, mut held) = (Vec::new(), Vec::new());
    for (index, samples) in pieces.iter().enumerate() {
        if index == early % (pieces.len() + 1) {
            events.push(report.clone());
        }
        events.push(speech(number, (*samples).into(), 5 * (index + 1), index + 1 == pieces.len()));
        let sound = (*samples > 0).then(|| audio((*samples).into()));
        if late_audio { held.extend(sound) } else { events.extend(sound) }
    }
    if early % (pieces.len() + 1) == pieces.len() {
        events.push(report);
    }
    events.extend(held);
    // What the demo has no word for must not disturb.
    events.push(SessionEvent::TurnDone { turn: 0 });
    events
}

proptest! {
    /// Whatever the sizes of the chunks and the order of the events: each chunk gets one result before the next chunk is
    /// taken, all samples arrive in order, and all speech and text goes back.
    #[test]
    fn each_chunk_gets_exactly_one_result(
        chunks in prop::collection::vec(prop_oneof![1usize..1200, 14_000usize..18_000, 30_000usize..70_000], 1..25),
        plans in prop::collection::vec((prop::collection::vec(0u8..20, 0..4), 0usize..5), 1..12),
        late_audio in any::<bool>(),
    ) {
        let mut codec = running();
        let (mut heard, mut units, mut spoken, mut words) = (0, 0, 0, 0);
        let (mut returned, mut text) = (0, String::new());
        for (number, samples) in chunks.iter().enumerate() {
            prop_assert!(!codec.waiting());
            let mut reactions = codec.receive(&chunk(*samples), at(0)).expect("a chunk");
            heard += samples_of(&reactions);
            while codec.waiting() {
                prop_assert_eq!(heard / UNIT, units + 1, "the session has got exactly one more unit");
                let plan = &plans[units % plans.len()];
                spoken += plan.0.iter().map(|samples| usize::from(*samples)).sum::<usize>();
                words += usize::from(!plan.0.is_empty());
                for event in events_of(units as u32, plan, late_audio) {
                    let more = codec.event(&event, at(1));
                    heard += samples_of(&more);
                    reactions.extend(more);
                }
                units += 1;
            }
            let answers = results(&reactions);
            prop_assert_eq!(answers.len(), 1);
            prop_assert_eq!(answers[0].current_time, number as u64 + 1);
            returned += answers[0].audio_data.as_ref().map_or(0, |speech| speech.0.len());
            text.push_str(&answers[0].text);
        }
        prop_assert_eq!(heard, chunks.iter().sum::<usize>());
        prop_assert_eq!(units, heard / UNIT);
        prop_assert_eq!((returned, text.len()), (spoken, words * 5));
    }
}
