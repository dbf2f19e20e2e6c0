//! What a voice and the stop button do to a reply, on virtual time and without a model (`live_sessions.rs` says how).

use duologue_tests::client::{Client, manager, ms};
use duologue_tests::scripted::{INPUT_RATE, Plan, ScriptedBackend};
use duologue_transport::{Limits, SessionCommand};

const LOUD: f32 = 0.5;

/// Reply 0 was held and then thrown away.
fn held_and_stopped(script: &[String]) {
    let place = |word: &str| script.iter().position(|line| line.contains(word));
    assert!(place("hold 0").is_some(), "{script:#?}");
    assert!(place("flush before 1 Voice") > place("hold 0"), "{script:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_voice_holds_at_once_and_interrupts_when_it_goes_on() {
    let plans = [Plan::Speak("one"), Plan::Speak("two"), Plan::Speak("three"), Plan::Speak("four")];
    let backend = ScriptedBackend::new(1, &plans).voice_above(-30.0);
    let manager = manager(backend, Limits::default());
    let mut client = Client::open(&manager);
    client.mic(2500, 0.0).await;
    client.script();
    let voice_at = client.now();
    client.mic(800, LOUD).await;
    client.mic(1500, 0.0).await;
    let script = client.script();
    let at = |word: &str| -> u64 {
        let line = script.iter().find(|line| line.contains(word)).unwrap_or_else(|| panic!("no {word} in {script:#?}"));
        line.split_whitespace().next().and_then(|time| time.parse().ok()).expect("a line begins with its time")
    };
    assert!(at("hold") - voice_at <= 150, "{script:#?}");
    assert!(at("flush before 1 Voice") - voice_at <= 600, "{script:#?}");
    assert!(script.iter().all(|line| !line.contains("audio 0 from") || at("audio 0 from") < at("hold")), "{script:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_voice_holds_when_it_arrives_and_the_model_hears_it_when_it_is_due() {
    let plans = [Plan::Speak("one"), Plan::Speak("two"), Plan::Speak("three")];
    let manager = manager(ScriptedBackend::new(1, &plans).voice_above(-30.0), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(2500, 0.0).await;
    client.script();

    let samples = vec![LOUD; INPUT_RATE as usize / 5];
    client.send(SessionCommand::Due(samples.clone())).await;
    client.listen(2600).await;
    assert!(client.script().iter().all(|line| !line.contains("hold")), "the detector does not hear what is due");

    client.send(SessionCommand::Arrived(vec![LOUD; INPUT_RATE as usize * 2 / 5])).await;
    client.listen(2601).await;
    let script = client.script();
    assert!(script.iter().any(|line| line == "2600 hold 0"), "{script:#?}");
    assert!(script.iter().all(|line| !line.contains("says three")), "its third second is not full: {script:#?}");
    client.send(SessionCommand::Due(samples.repeat(2))).await;
    client.listen(2602).await;
    let script = client.script();
    assert!(script.iter().any(|line| line.contains("says three")), "{script:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_voice_that_interrupts_the_end_of_a_reply_does_not_leave_the_client_held() {
    let backend = ScriptedBackend::new(1, &[Plan::End("one")]).voice_above(-30.0);
    let manager = manager(backend, Limits::default());
    let mut client = Client::open(&manager);
    // The reply is played from 1000 to 2000; its last packet left at 1700.
    client.mic(1840, 0.0).await;
    client.mic(900, LOUD).await;
    held_and_stopped(&client.script());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_and_stopped_is_the_reply_that_sounds() {
    // It begins 280 ms late and so ends after the unit that follows it, which listens.
    let backend = ScriptedBackend::new(1, &[Plan::Speak("one"), Plan::End("two")]);
    let manager = manager(backend.held_back(ms(280)).voice_above(-30.0), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(3040, 0.0).await;
    assert!(client.script().iter().all(|line| !line.contains("done")), "it is still being played");
    client.mic(900, LOUD).await;
    held_and_stopped(&client.script());
}

#[tokio::test(start_paused = true)]
async fn a_reply_after_an_interruption_in_a_pause_is_not_late() {
    let plans = [Plan::Speak("one"), Plan::Speak("two"), Plan::Speak("three"), Plan::Speak("four")];
    let manager = manager(ScriptedBackend::new(1, &plans), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(1500, 0.0).await;
    client.send(SessionCommand::Pause(ms(60_000))).await;
    client.listen(31_500).await;
    client.send(SessionCommand::Interrupt).await;
    client.listen(32_500).await;
    client.send(SessionCommand::Resume).await;
    client.script();
    client.mic(4000, 0.0).await;
    let script = client.script();
    let sound = script.iter().find(|line| line.contains("audio 1 from 0")).expect("the next reply sounds");
    let said = script.iter().find(|line| line.contains("says")).expect("it was decided");
    let at = |line: &str| line.split(' ').next().and_then(|time| time.parse::<u64>().ok()).expect("a time");
    assert_eq!(at(sound), at(said), "{script:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_cough_stops_playback_only_for_a_moment() {
    let backend = ScriptedBackend::new(1, &[Plan::Speak("one"), Plan::End("two")]).voice_above(-30.0);
    let manager = manager(backend, Limits::default());
    let mut client = Client::open(&manager);
    client.mic(2200, 0.0).await;
    client.mic(200, LOUD).await;
    client.mic(2600, 0.0).await;
    let script = client.script();
    assert!(script.iter().any(|line| line.ends_with("unhold")), "{script:#?}");
    assert!(script.iter().all(|line| !line.contains("flush")), "{script:#?}");
    let heard: u64 = script.iter().filter_map(|line| line.strip_suffix(" ms of 0")?.trim().parse::<u64>().ok()).sum();
    assert_eq!(heard, 2000, "nothing of the reply is lost: {script:#?}");
}

#[tokio::test(start_paused = true)]
async fn the_stop_button_flushes_and_the_next_unit_listens() {
    let plans = [Plan::Speak("one"), Plan::Speak("two"), Plan::Speak("three")];
    let manager = manager(ScriptedBackend::new(1, &plans), Limits::default());
    let mut client = Client::open(&manager);
    client.mic(1500, 0.0).await;
    client.send(SessionCommand::Interrupt).await;
    client.mic(2000, 0.0).await;
    let script = client.script();
    assert!(script.contains(&"1500 flush before 1 Client".to_owned()), "{script:#?}");
    assert!(script.contains(&"3000 unit 2 says three".to_owned()), "unit 1 must listen, unit 2 may speak: {script:#?}");
    assert!(script.iter().all(|line| !line.contains("says two")), "{script:#?}");
}
