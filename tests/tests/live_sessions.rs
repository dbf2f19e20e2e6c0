//! Whole conversations on virtual time, without a model: what a client hears and when. `scripts.rs` has them as transcripts; here
//! are the properties that need more than reading.
//!
//! The backend follows a plan per unit and takes no time, so every time below is the server's own doing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use duologue_session::barge_in::BargeInConfig;
use duologue_session::{Mode, Schedule};
use duologue_tests::client::{Client, MIC_PACKET, WIRE, enter, manager, ms};
use duologue_tests::scripted::{INPUT_RATE, Plan, ScriptedBackend};
use duologue_transport::{
    CloseCause, Limits, ManagerError, Refusal, SessionCommand, SessionEvent, SessionManager, SessionRequest,
};
use tokio::time::{Instant, sleep, timeout};

/// Listens to silence for four seconds; returns when each packet of speech came and which samples of the reply it has.
async fn packets(backend: ScriptedBackend) -> Vec<(u64, std::ops::Range<u64>)> {
    packets_of(backend, &SessionRequest::default()).await
}

async fn packets_of(backend: ScriptedBackend, request: &SessionRequest) -> Vec<(u64, std::ops::Range<u64>)> {
    let manager = manager(backend, Limits::default());
    let mut client = Client::with(enter(&manager).open(request, WIRE, None).expect("the script takes everybody"));
    let commands = client.link.commands.clone();
    let microphone = tokio::spawn(async move {
        for _ in 0..4000 / MIC_PACKET.as_millis() {
            sleep(MIC_PACKET).await;
            let samples = vec![0.0; INPUT_RATE as usize * MIC_PACKET.as_millis() as usize / 1000];
            commands.send(SessionCommand::Audio(samples)).await.expect("the session runs");
        }
    });
    let (until, mut packets) = (client.began + ms(5000), Vec::new());
    while let Ok(Some(event)) = tokio::time::timeout_at(until, client.link.events.recv()).await {
        if let SessionEvent::Audio { start, samples, .. } = event.event {
            packets.push((client.now(), start..start + samples.len() as u64));
        }
    }
    microphone.await.expect("the microphone does not break");
    packets
}
#[tokio::test(start_paused = true)]
async fn a_long_reply_starts_late_enough_to_play_without_a_gap() {
    let plans = [Plan::Speak("one"), Plan::Speak("two"), Plan::End("three")];
    let packets = packets(ScriptedBackend::new(1, &plans).held_back(ms(280))).await;
    let began = packets[0].0;
    assert_eq!(began, 1280, "a unit of 1 s, and what the first unit owes");
    for (at, samples) in &packets {
        assert!(*at <= began + samples.start / 24, "sample {} came at {at}: {packets:?}", samples.start);
    }
    assert_eq!(packets.last().map(|(_, samples)| samples.end), Some(72_000), "nothing is lost");
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_one_unit_starts_at_once() {
    let packets = packets(ScriptedBackend::new(1, &[Plan::End("one")]).held_back(ms(280))).await;
    assert_eq!(packets[0].0, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_late_lets_nobody_in_until_it_is_calm() {
    let slow = ScriptedBackend::new(2, &[]).unit_time(ms(1500));
    let manager = manager(slow, Limits { queue: 1, calm: ms(10_000), ..Limits::default() });
    let mut client = Client::open(&manager);
    client.mic(3000, 0.0).await;

    let mut visitor = enter(&manager);
    let place = visitor.place().expect("there is a queue").expect("one of two places is free, but the machine is slow");
    assert_eq!(place.position, 1);
    client.send(SessionCommand::Pause(ms(60_000))).await;
    let from = Instant::now();
    while visitor.wait().await.expect("nobody is sent away").is_some() {}
    let waited = from.elapsed();
    assert!((ms(10_000)..ms(17_000)).contains(&waited), "{waited:?}, by steps of 3 s");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_audio_is_no_sign_of_a_late_server() {
    let manager = manager(ScriptedBackend::new(2, &[]).unit_time(ms(300)), Limits::default());
    let mut client = Client::open(&manager);
    // Before the session is ready, and four seconds at once: the last of them waits for longer than its second.
    client.send(SessionCommand::Audio(vec![0.0; 4 * INPUT_RATE as usize])).await;
    client.listen(3000).await;
    assert_eq!(manager.load().open, 2);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_pauses_for_want_of_sound_is_a_sign_of_a_late_server() {
    // It begins at once, for nobody said that its second unit's sound comes half a second late.
    let plans = [Plan::Speak("one"), Plan::Speak("two"), Plan::End("three")];
    let owing = ScriptedBackend::new(2, &plans).held_back(ms(500)).begins_ahead(ms(500), ms(0));
    let manager = manager(owing, Limits::default());
    let mut client = Client::open(&manager);
    let second = Client::open(&manager);
    client.mic(3000, 0.0).await;
    assert_eq!(manager.load().open, 1);
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_begins_ahead_starts_at_once_and_plays_without_a_gap() {
    let plans = [Plan::Speak("one"), Plan::Speak("two"), Plan::End("three")];
    let backend = ScriptedBackend::new(1, &plans).held_back(ms(280)).begins_ahead(ms(400), ms(400));
    let packets = packets(backend).await;
    assert_eq!(packets[0].0, 1000);
    for (at, samples) in &packets {
        assert!(*at <= 1000 + samples.start / 24, "sample {} came at {at}: {packets:?}", samples.start);
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_live_session_without_a_schedule_begins_ahead() {
    let schedule = Schedule { listen: 1, speak: 3, tokens: 5, codes: 25 };
    for request in [
        SessionRequest { mode: Mode::Fidelity, ..SessionRequest::default() },
        SessionRequest { schedule: Some(schedule), ..SessionRequest::default() },
    ] {
        let plans = [Plan::Speak("one"), Plan::Speak("two"), Plan::End("three")];
        let backend = ScriptedBackend::new(1, &plans).held_back(ms(280)).begins_ahead(ms(400), ms(0));
        assert_eq!(packets_of(backend, &request).await[0].0, 1280, "{request:?}");
    }
}

const FOUR_WORDS: [Plan; 2] = [Plan::Speak("one two three four"), Plan::Speak("five six")];

/// What the client is told of what was heard.
fn heard(script: &[String]) -> Vec<&str> {
    script.iter().filter_map(|line| Some(line.split_once(" heard ")?.1)).collect()
}

#[tokio::test(start_paused = true)]
async fn of_a_client_without_a_play_head_the_servers_pace_tells_what_was_heard() {
    let manager = manager(ScriptedBackend::new(1, &FOUR_WORDS), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(1500, 0.0).await;
    client.send(SessionCommand::Interrupt).await;
    client.mic(1000, 0.0).await;
    let script = client.script();
    assert_eq!(heard(&script), [r#"500 of 0, cut ["0: one two"]"#], "{script:#?}");
    assert!(script.iter().any(|line| line.starts_with("2000 heard")), "with the next unit: {script:#?}");
}

#[tokio::test(start_paused = true)]
async fn the_clients_last_word_tells_what_was_heard() {
    let manager = manager(ScriptedBackend::new(1, &FOUR_WORDS), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(1500, 0.0).await;
    client.send(SessionCommand::Playback { turn: 0, played: ms(100) }).await;
    client.send(SessionCommand::Interrupt).await;
    client.mic(100, 0.0).await;
    client.send(SessionCommand::Playback { turn: 0, played: ms(260) }).await;
    client.mic(900, 0.0).await;
    // Too late, and of a reply that never was.
    client.send(SessionCommand::Playback { turn: 0, played: ms(900) }).await;
    client.send(SessionCommand::Playback { turn: 9, played: ms(900) }).await;
    client.mic(1000, 0.0).await;
    let script = client.script();
    assert_eq!(heard(&script), [r#"260 of 0, cut ["0: one"]"#], "{script:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_only_still_played_is_cut_as_well() {
    let plans = [Plan::Speak("one two three four"), Plan::End("five six")];
    let manager = manager(ScriptedBackend::new(1, &plans), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(2700, 0.0).await;
    // The model is through with it; the listener hears its second half, a pause later.
    client.send(SessionCommand::Pause(ms(60_000))).await;
    client.listen(client.now() + 5_000).await;
    client.send(SessionCommand::Resume).await;
    client.listen(client.now() + 100).await;
    client.send(SessionCommand::Interrupt).await;
    client.mic(400, 0.0).await;
    let script = client.script();
    assert_eq!(heard(&script), [r#"1800 of 0, cut []"#], "most of the last word was heard: {script:#?}");
    assert!(script.iter().any(|line| line.contains("flush before 1")), "{script:#?}");
}

#[tokio::test(start_paused = true)]
async fn the_history_stays_whole_where_that_is_wanted() {
    let rules = BargeInConfig { cut_unheard: false, ..BargeInConfig::default() };
    let backend = Arc::new(ScriptedBackend::new(1, &FOUR_WORDS));
    let manager = SessionManager::new(backend, Limits::default(), rules).expect("valid rules");
    let mut client = Client::open(&manager);
    client.mic(1500, 0.0).await;
    client.send(SessionCommand::Interrupt).await;
    client.mic(1000, 0.0).await;
    assert!(heard(&client.script()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_typed_question_stops_the_reply_and_is_answered() {
    let manager = manager(ScriptedBackend::new(1, &[Plan::Speak("one"), Plan::Speak("two")]), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(1500, 0.0).await;
    client.send(SessionCommand::Text("what is new".into())).await;
    client.mic(2000, 0.0).await;
    let script = client.script();
    assert!(script.contains(&"1500 flush before 1 Client".to_owned()), "{script:#?}");
    assert!(script.contains(&"3000 unit 2 says what is new".to_owned()), "unit 1 closes the turn: {script:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_client_comes_back_and_misses_nothing() {
    let plans = [Plan::Speak("one"), Plan::End("two")];
    let manager = manager(ScriptedBackend::new(2, &plans), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(2000, 0.0).await;
    client.listen(2050).await;
    let (token, last) = (client.link.resume_token.clone(), client.last);
    let mut before = client.script();
    client.link.muted.store(true, Ordering::Relaxed);
    drop(client);
    sleep(ms(10_000)).await;
    let link = manager.resume(&token, last, WIRE).await.expect("30 s are not over");
    assert!(link.muted.load(Ordering::Relaxed), "who was muted stays so");
    let mut client = Client::with(link);
    client.listen(5000).await;
    before.extend(client.script());
    let heard: u64 = before.iter().filter_map(|line| line.strip_suffix(" ms of 0")?.trim().parse::<u64>().ok()).sum();
    assert_eq!(heard, 2000, "{before:#?}");
    assert!(before.iter().any(|line| line.ends_with("reply 0 done")), "{before:#?}");
    assert_eq!(before.iter().filter(|line| line.contains("says")).count(), 2, "nothing twice: {before:#?}");
    assert_eq!(manager.load().open, 2, "the reply stood still for the client; the server was not late");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_come_back_loses_its_session() {
    let manager = manager(ScriptedBackend::new(1, &[]), Limits::default());
    let client = Client::open(&manager);
    let token = client.link.resume_token.clone();
    drop(client);
    sleep(ms(30_500)).await;
    assert_eq!(manager.resume(&token, None, WIRE).await.unwrap_err(), ManagerError::ResumeExpired);
    assert_eq!(manager.load().busy, 0, "its slot is free");
}

#[tokio::test(start_paused = true)]
async fn a_pause_stands_still_and_ends_in_time() {
    let manager = manager(ScriptedBackend::new(1, &[Plan::Speak("one"), Plan::End("two")]), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(1300, 0.0).await;
    client.send(SessionCommand::Pause(ms(60_000))).await;
    client.mic(5000, 0.0).await;
    client.script();
    client.send(SessionCommand::Resume).await;
    client.listen(client.now() + 500).await;
    let script = client.script();
    assert!(script[0].ends_with("Resumed") && script[1].contains("audio 0 from"), "{script:#?}");
    client.send(SessionCommand::Pause(ms(2_000))).await;
    client.listen(client.now() + 3_000).await;
    assert!(client.script().last().is_some_and(|line| line.ends_with("closed pause timeout")));
}

#[tokio::test(start_paused = true)]
async fn the_queue_moves_up_and_its_length_is_bounded() {
    let limits = Limits { queue: 2, ..Limits::default() };
    let manager = manager(ScriptedBackend::new(1, &[]), limits);
    let first = Client::open(&manager);
    let mut second = enter(&manager);
    let third = enter(&manager);
    assert_eq!(manager.enter("somebody").unwrap_err(), Refusal::QueueFull { waiting: 2 });
    assert_eq!(third.place().unwrap().unwrap().position, 2);
    let began = Instant::now();
    assert_eq!(second.wait().await.unwrap().unwrap().position, 1);
    assert_eq!(began.elapsed(), ms(3000), "an update every three seconds");
    first.send(SessionCommand::Close(CloseCause::Requested)).await;
    assert_eq!(timeout(ms(100), second.wait()).await.expect("at once").unwrap(), None);
    assert_eq!(third.place().unwrap().unwrap().position, 1);
    drop(second);
    assert_eq!(third.place(), Ok(None), "who leaves before opening gives the place on");
}

#[tokio::test(start_paused = true)]
async fn one_key_cannot_take_all_places() {
    let limits = Limits { sessions_per_key: 2, ..Limits::default() };
    let manager = manager(ScriptedBackend::new(5, &[]), limits);
    let _held = [enter(&manager), enter(&manager)];
    assert_eq!(manager.enter("somebody").unwrap_err(), Refusal::KeyLimit { sessions: 2 });
    assert!(manager.enter("somebody else").is_ok());
}

#[tokio::test(start_paused = true)]
async fn draining_refuses_new_ones_and_lets_live_ones_finish() {
    let manager = manager(ScriptedBackend::new(2, &[]), Limits::default());
    let mut client = Client::open(&manager);
    let stopping = manager.clone();
    let drained = tokio::spawn(async move { stopping.drain(ms(5_000)).await });
    client.mic(1000, 0.0).await;
    assert_eq!(manager.enter("late").unwrap_err(), Refusal::Draining);
    client.mic(3900, 0.0).await;
    client.listen(6000).await;
    assert!(client.script().last().is_some_and(|line| line == "5000 closed server draining"));
    timeout(ms(10), drained).await.expect("all are gone").unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_had_a_place_before_the_server_began_to_stop_is_told_so() {
    let manager = manager(ScriptedBackend::new(2, &[]), Limits::default());
    let (visitor, undecided) = (enter(&manager), enter(&manager));
    let stopping = manager.clone();
    let drained = tokio::spawn(async move { stopping.drain(ms(5_000)).await });
    sleep(ms(1_000)).await;
    let link = visitor.open(&SessionRequest::default(), WIRE, None).expect("it had a place");
    let mut client = Client::with(link);
    client.mic(3_900, 0.0).await;
    client.listen(4_500).await;
    let script = client.script();
    assert!(script.iter().any(|line| line.starts_with("0 Draining(4s")), "{script:#?}");
    assert!(script.last().is_some_and(|line| line == "4000 closed server draining"), "{script:#?}");
    timeout(ms(5_000), drained).await.expect("who never opens keeps nobody waiting").unwrap();
    drop(undecided);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_nobody_speaks_or_it_has_lasted_long_enough() {
    let limits = Limits { idle: ms(5_000), session: ms(8_000), ..Limits::default() };
    let manager = manager(ScriptedBackend::new(2, &[]), limits);
    let mut silent = Client::open(&manager);
    silent.listen(6_000).await;
    assert_eq!(silent.script().last().map(String::as_str), Some("5000 closed idle"));
    // A jitter buffer goes on with silence when no packet comes.
    let mut gone = Client::open(&manager);
    for _ in 0..60 {
        gone.listen(gone.now() + 100).await;
        if gone.link.commands.send(SessionCommand::Due(vec![0.0; INPUT_RATE as usize / 10])).await.is_err() {
            break;
        }
    }
    assert_eq!(gone.script().last().map(String::as_str), Some("5000 closed idle"));
    let mut long = Client::open(&manager);
    for _ in 0..8 {
        long.mic(980, 0.0).await;
    }
    long.listen(9_000).await;
    assert_eq!(long.script().last().map(String::as_str), Some("8000 closed maximum duration reached"));
}

#[tokio::test(start_paused = true)]
async fn a_broken_backend_ends_one_session_with_its_reason() {
    let manager = manager(ScriptedBackend::new(2, &[Plan::Listen, Plan::Fail]), Limits::default());
    let (mut first, mut second) = (Client::open(&manager), Client::open(&manager));
    first.mic(2000, 0.0).await;
    first.listen(2_100).await;
    assert_eq!(first.script().last().map(String::as_str), Some("2000 closed the script broke"));
    second.mic(1000, 0.0).await;
    let script = second.script();
    assert!(script.len() == 1 && script[0].ends_with("ready"), "the other one does not notice: {script:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_task_breaks_gives_its_slot_back() {
    let manager = manager(ScriptedBackend::new(1, &[Plan::Panic]), Limits::default());
    let client = Client::open(&manager);
    client.send(SessionCommand::Audio(vec![0.0; INPUT_RATE as usize])).await;
    sleep(ms(10)).await;
    assert!(client.link.commands.is_closed() && manager.load().busy == 0);
    assert!(manager.enter("somebody").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_loses_its_session_and_nobody_waits() {
    let plans = [Plan::Speak("on and on"); 120];
    let manager = manager(ScriptedBackend::new(1, &plans), Limits::default());
    let client = Client::open(&manager);
    let mut second = manager.attach(&client.link.id, "somebody").await.expect("a second program");
    let heard = tokio::spawn(async move {
        let mut last = None;
        while let Some(event) = second.events.recv().await {
            last = Some(event.event);
        }
        last
    });
    for _ in 0..120 {
        sleep(ms(1000)).await;
        if client.link.commands.send(SessionCommand::Audio(vec![0.0; INPUT_RATE as usize])).await.is_err() {
            break;
        }
    }
    assert!(client.link.commands.is_closed(), "the session ended");
    assert_eq!(manager.load().busy, 0);
    let last = heard.await.expect("it reads");
    assert!(matches!(last, Some(SessionEvent::Closed(CloseCause::SlowClient))), "{last:?}");
}
