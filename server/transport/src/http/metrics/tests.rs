use std::sync::Arc;

use duologue_session::{SpeechTimings, UnitTimings};

use super::*;

/// What `/metrics` shows after `calls` on a recorder of their own.
fn counted(calls: impl FnOnce()) -> String {
    let recorder = builder().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        describe();
        calls();
    });
    recorder.handle().render()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn unit_event(speaks: bool) -> UnitEvent {
    UnitEvent {
        unit: 3,
        turn: 0,
        speaks,
        is_listen: !speaks,
        end_of_turn: false,
        text: "a secret".to_owned(),
        stale: false,
        ready_at: ms(4000),
        unit_time: ms(1200),
        deadline_missed: speaks,
        timings: UnitTimings { apm: ms(20), prefill: ms(30), generate: ms(150), ..UnitTimings::default() },
        tokens: 9,
        kv_tokens: 700,
        vision_slices: 0,
        vision_tokens: 0,
    }
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
}

#[test]
fn sessions_are_counted_in_and_out() {
    let text = counted(|| {
        session_opened(Mode::Live);
        session_opened(Mode::Live);
        session_closed(Mode::Live, &CloseCause::Failed("a very long story".to_owned()));
        session_refused(&Refusal::QueueFull { waiting: 7 });
        queue_length(7);
        build_info("1.2.3", "tiny", "int4", "cuda:0");
    });
    has(&text, "duologue_sessions{mode=\"live\"} 1");
    has(&text, "duologue_sessions_total{outcome=\"failed\"} 1");
    has(&text, "duologue_sessions_total{outcome=\"refused_queue_full\"} 1");
    has(&text, "duologue_queue_length 7");
    has(&text, "duologue_build_info{bundle=\"tiny\",precision=\"int4\",device=\"cuda:0\",version=\"1.2.3\"} 1");
    assert!(!text.contains("story"), "labels have few values");
}

#[test]
fn a_unit_fills_the_histograms_of_its_stages() {
    let text = counted(|| {
        unit(&unit_event(true), 1.0);
        unit(&unit_event(false), 1.0);
    });
    has(&text, "duologue_step_seconds_bucket{stage=\"llm\",state=\"speak\",le=\"0.2\"} 1");
    has(&text, "duologue_step_seconds_bucket{stage=\"llm\",state=\"speak\",le=\"0.1\"} 0");
    has(&text, "duologue_step_seconds_count{stage=\"total\",state=\"listen\"} 1");
    has(&text, "duologue_rtf_bucket{part=\"unit\",le=\"0.2\"} 2");
    has(&text, "duologue_deadline_missed_total 1");
    has(&text, "duologue_kv_tokens_count 2");
    assert!(!text.contains("vision") && !text.contains("a secret"), "{text}");
}

#[test]
fn speech_is_timed_by_piece_and_by_reply() {
    let timings = SpeechTimings { tts: ms(60), flow: ms(30), hift: ms(10) };
    let piece = |samples, ttfb| SpeechEvent {
        unit: 3,
        turn: 0,
        start: 0,
        samples,
        audio_tokens: 25,
        done: false,
        ttfb,
        timings,
    };
    let text = counted(|| {
        speech(&piece(24_000, Some(ms(320))), 24_000);
        speech(&piece(0, None), 24_000);
    });
    has(&text, "duologue_ttfb_seconds_count 1");
    has(&text, "duologue_step_seconds_bucket{stage=\"token2wav\",state=\"speak\",le=\"0.05\"} 2");
    has(&text, "duologue_rtf_bucket{part=\"speech\",le=\"0.1\"} 1");
    has(&text, "duologue_rtf_count{part=\"speech\"} 1");
}

fn packet(turn: u32, samples: usize) -> Packet {
    Packet { turn, start: 0, samples: vec![0; samples].into() }
}

#[test]
fn barge_in_is_timed_from_the_begin_of_the_voice() {
    let text = counted(|| {
        let mut session = SessionMetrics::new(1.0, 24_000);
        session.event(ms(1000), &SessionEvent::Voice { speaking: true, at: ms(1000) });
        session.event(ms(1090), &SessionEvent::Hold { turn: 0 });
        session.event(ms(1460), &SessionEvent::Flush { turn: 1, cause: FlushCause::Voice });
        session.event(ms(2000), &SessionEvent::Voice { speaking: false, at: ms(2000) });
        // Neither the client's button nor a flush without a voice is a barge-in.
        session.event(ms(3000), &SessionEvent::Flush { turn: 2, cause: FlushCause::Client });
        session.event(ms(3100), &SessionEvent::Flush { turn: 3, cause: FlushCause::Voice });
        session.event(ms(3200), &SessionEvent::UnitDropped);
        session.event(ms(3300), &SessionEvent::Unit(Arc::new(unit_event(true))));
    });
    has(&text, "duologue_barge_in_seconds_bucket{action=\"hold\",le=\"0.1\"} 1");
    has(&text, "duologue_barge_in_seconds_count{action=\"interrupt\"} 1");
    has(&text, "duologue_dropped_total{what=\"unit\"} 1");
    has(&text, "duologue_kv_tokens_count 1");
}

#[test]
fn only_silence_within_a_reply_is_a_gap() {
    let text = counted(|| {
        let mut session = SessionMetrics::new(1.0, 24_000);
        session.audio(&packet(0, 2400), ms(100));
        session.audio(&packet(0, 2400), ms(200));
        assert_eq!(session.audio(&packet(0, 2400), ms(550)), ms(250));
        // Held for a second, then another reply after a long pause.
        session.stands_still();
        session.audio(&packet(0, 2400), ms(1650));
        session.audio(&packet(1, 2400), ms(9000));
    });
    has(&text, "duologue_audio_gap_seconds_total 0.25");
}

#[test]
fn every_name_is_described_and_installing_twice_does_no_harm() {
    install();
    install();
    queue_length(0);
    assert!(render().contains("# HELP duologue_queue_length Clients that wait for a session"));
}
