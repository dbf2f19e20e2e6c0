//! Asserted here, on virtual time:
//! 1. a voice pauses speech after `hold_ms` and stops it after `confirm_ms`; a shorter one lets it go on after `release_ms`;
//! 2. what was said before the agent began does not count, and the first moments of its speech ask for more evidence;
//! 3. an echo that is expected does not count; one that is louder than expected is learnt, and forgotten;
//! 4. whatever the detector says: no interruption without a hold and enough voice, every hold ends in bounded time,
//!    silence does nothing, orders alternate.

use proptest::prelude::*;

use super::*;

const AGENT_DBFS: f32 = -20.0;
/// Long after the grace window.
const BEGAN: Duration = Duration::ZERO;

/// A session and its clock: one frame after another.
struct Script {
    rules: BargeIn,
    frame: u32,
    playing: Option<Playing>,
}

impl Script {
    /// The agent has been speaking for two seconds, without echo.
    fn speaking() -> Self {
        let mut script = Self::silent();
        script.playing = Some(Playing { since: BEGAN, energy_dbfs: AGENT_DBFS });
        assert_eq!(script.frames(60, 0.01, -70.0), []);
        script
    }

    fn silent() -> Self {
        let rules = BargeIn::new(BargeInConfig::default()).expect("the defaults are valid");
        Self { rules, frame: 0, playing: None }
    }

    fn now(&self) -> Duration {
        FRAME * self.frame
    }

    fn push(&mut self, probability: f32, energy_dbfs: f32) -> Vec<Action> {
        self.frame += 1;
        let voice = VoiceFrame { probability, energy_dbfs };
        self.rules.push(self.now(), FrameEvidence { voice, playing: self.playing }).collect()
    }

    /// Pushes equal frames; returns the actions with the number of the frame (from 1) that brought them.
    fn frames(&mut self, count: u32, probability: f32, energy_dbfs: f32) -> Vec<(u32, Action)> {
        let number = |n: u32| move |action| (n, action);
        (1..=count).flat_map(|n| self.push(probability, energy_dbfs).into_iter().map(number(n))).collect()
    }
}

use Action::{Hold, Interrupt, Unhold, VoiceEnd, VoiceStart};

#[test]
fn a_voice_holds_and_then_interrupts() {
    let mut script = Script::speaking();
    // 64 ms and 512 ms: 500 ms in whole frames.
    assert_eq!(script.frames(30, 0.9, -25.0), [(2, VoiceStart), (2, Hold), (16, Interrupt)]);
    // The driver has not caught up yet: nothing more for this speech.
    assert_eq!(script.frames(20, 0.0, -70.0), [(8, VoiceEnd)]);
    assert_eq!(script.frames(20, 0.9, -25.0), [(2, VoiceStart)]);
}

#[test]
fn a_short_voice_lets_the_agent_go_on() {
    let mut script = Script::speaking();
    assert_eq!(script.frames(15, 0.9, -25.0), [(2, VoiceStart), (2, Hold)]);
    assert_eq!(script.frames(50, 0.05, -60.0), [(8, VoiceEnd), (8, Unhold)]);
    // The next voice counts from zero.
    assert_eq!(script.frames(14, 0.9, -25.0), [(2, VoiceStart), (2, Hold)]);
}

#[test]
fn a_click_does_nothing() {
    let mut script = Script::speaking();
    for _ in 0..20 {
        assert_eq!(script.frames(1, 0.99, -10.0), []);
        assert_eq!(script.frames(4, 0.1, -60.0), []);
    }
}

#[test]
fn a_gap_inside_a_voice_is_bridged_and_not_counted() {
    let mut script = Script::speaking();
    assert_eq!(script.frames(8, 0.9, -25.0), [(2, VoiceStart), (2, Hold)]);
    assert_eq!(script.frames(4, 0.1, -60.0), []);
    // Below the start, above the end.
    assert_eq!(script.frames(8, 0.4, -25.0), [(8, Interrupt)]);
}

#[test]
fn a_voice_that_comes_in_bits_is_let_go() {
    let mut script = Script::speaking();
    let mut actions = script.frames(3, 0.9, -25.0);
    for _ in 0..6 {
        actions.extend(script.frames(5, 0.1, -60.0));
        actions.extend(script.frames(1, 0.9, -25.0));
    }
    let orders: Vec<Action> = actions.into_iter().map(|(_, action)| action).collect();
    assert_eq!(orders, [VoiceStart, Hold, Unhold]);
}

#[test]
fn what_was_said_before_the_agent_began_does_not_count() {
    let mut script = Script::silent();
    assert_eq!(script.frames(40, 0.9, -25.0), [(2, VoiceStart)]);
    script.playing = Some(Playing { since: script.now(), energy_dbfs: AGENT_DBFS });
    // Talking on over the agent is an interruption like any other.
    assert_eq!(script.frames(20, 0.9, -25.0), [(2, Hold), (16, Interrupt)]);
}

#[test]
fn the_begin_of_a_speech_asks_for_more_and_is_not_deaf() {
    for (probability, energy_dbfs, hold) in [(0.95, -20.0, 2), (0.6, -20.0, 11), (0.95, -38.0, 11)] {
        let mut script = Script::silent();
        script.frames(10, 0.0, -70.0);
        script.playing = Some(Playing { since: script.now(), energy_dbfs: AGENT_DBFS });
        // The ninth frame ends within the 300 ms, the tenth after it: two from there.
        let held = script.frames(14, probability, energy_dbfs).into_iter().find(|(_, action)| *action == Hold);
        assert_eq!(held, Some((hold, Hold)), "probability {probability}, {energy_dbfs} dBFS");
    }
}

#[test]
fn a_hold_ends_by_the_clock_when_no_sound_comes() {
    let mut script = Script::speaking();
    assert_eq!(script.rules.timeout(), None);
    script.frames(2, 0.9, -25.0);
    let until = script.now() + BargeInConfig::default().longest_hold();
    assert_eq!(script.rules.timeout(), Some(until));
    assert_eq!(script.rules.tick(until - Duration::from_millis(1)), None);
    assert_eq!(script.rules.tick(until), Some(Unhold));
    assert_eq!((script.rules.timeout(), script.rules.tick(until)), (None, None));
}

#[test]
fn a_hold_ends_with_the_speech_that_was_held() {
    let mut script = Script::speaking();
    script.frames(5, 0.9, -25.0);
    script.playing = None;
    assert_eq!(script.frames(20, 0.9, -25.0), [(1, Unhold)]);
    let mut script = Script::speaking();
    script.frames(5, 0.9, -25.0);
    script.playing = Some(Playing { since: script.now(), energy_dbfs: AGENT_DBFS });
    let orders: Vec<Action> = script.frames(20, 0.9, -15.0).into_iter().map(|(_, action)| action).collect();
    assert_eq!(orders, [Unhold, Hold, Interrupt]);
}

#[test]
fn the_next_speech_can_be_interrupted_again() {
    let mut script = Script::speaking();
    script.frames(20, 0.9, -25.0);
    script.playing = None;
    script.frames(30, 0.0, -70.0);
    script.playing = Some(Playing { since: script.now(), energy_dbfs: AGENT_DBFS });
    script.frames(30, 0.0, -70.0);
    assert_eq!(script.frames(20, 0.9, -25.0), [(2, VoiceStart), (2, Hold), (16, Interrupt)]);
}

#[test]
fn an_expected_echo_is_no_voice_however_much_it_sounds_like_one() {
    let mut script = Script::silent();
    script.playing = Some(Playing { since: script.now(), energy_dbfs: AGENT_DBFS });
    for _ in 0..100 {
        assert_eq!(script.frames(5, 0.99, AGENT_DBFS - 26.0), []);
        assert_eq!(script.frames(3, 0.99, AGENT_DBFS - 40.0), []);
    }
    // Its source's pause does not uncover an echo that comes late.
    script.playing = Some(Playing { since: BEGAN, energy_dbfs: -90.0 });
    assert_eq!(script.frames(10, 0.99, AGENT_DBFS - 26.0), []);
    // Above it, a voice is heard.
    script.playing = Some(Playing { since: BEGAN, energy_dbfs: AGENT_DBFS });
    assert_eq!(script.frames(3, 0.99, AGENT_DBFS - 8.0), [(2, VoiceStart), (2, Hold)]);
}

#[test]
fn a_louder_echo_is_learnt_from_the_holds_it_causes() {
    let mut script = Script::silent();
    script.playing = Some(Playing { since: script.now(), energy_dbfs: AGENT_DBFS });
    let mut holds = 0;
    let mut held_for = 0;
    let mut last_hold = 0;
    for n in 0..2000 {
        // Held speech is not played: its echo ends 150 ms later.
        let echoes = held_for < 5;
        let (probability, energy_dbfs) = if echoes { (0.95, AGENT_DBFS - 2.0) } else { (0.02, -70.0) };
        held_for = if held_for > 0 { held_for + 1 } else { 0 };
        for action in script.push(probability, energy_dbfs) {
            match action {
                Hold => (held_for, holds, last_hold) = (1, holds + 1, n),
                Unhold => held_for = 0,
                Interrupt => panic!("an echo interrupted"),
                VoiceStart | VoiceEnd => {}
            }
        }
    }
    assert!(holds <= 8 && last_hold < 200, "{holds} holds, the last in frame {last_hold}");
    // Once the echo is gone (a headset is put on), the guard comes down again.
    assert_eq!(script.frames(120, 0.0, -70.0), []);
    assert_eq!(script.frames(3, 0.9, -25.0), [(2, VoiceStart), (2, Hold)]);
}

#[test]
fn one_backchannel_does_not_make_the_rules_deaf() {
    let mut script = Script::speaking();
    script.frames(10, 0.9, -30.0);
    script.frames(20, 0.0, -70.0);
    let before = script.rules.echo_return_db();
    assert!(before < -30.0, "{before}");
    assert_eq!(script.frames(16, 0.9, -30.0), [(2, VoiceStart), (2, Hold), (16, Interrupt)]);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let with = |change: fn(&mut BargeInConfig)| {
        let mut config = BargeInConfig::default();
        change(&mut config);
        BargeIn::new(config).expect_err("cannot work").to_string()
    };
    for (message, name) in [
        (with(|c| c.start_probability = f32::NAN), "start_probability"),
        (with(|c| c.end_probability = 0.6), "end_probability"),
        (with(|c| c.grace_probability = 0.4), "grace_probability"),
        (with(|c| c.hold_ms = 600), "hold_ms"),
        (with(|c| c.release_ms = 0), "release_ms"),
        (with(|c| c.confirm_ms = 60_000), "confirm_ms"),
        (with(|c| c.echo_margin_db = -1.0), "echo_margin_db"),
        (with(|c| c.echo_return_db = f32::INFINITY), "echo_return_db"),
    ] {
        assert!(message.starts_with(&format!("setting barge_in.{name}: ")), "{message}");
    }
    let read = serde_json::from_str::<BargeInConfig>(r#"{"hold_ms": 128}"#).expect("the rest has defaults");
    assert_eq!(read, BargeInConfig { hold_ms: 128, ..BargeInConfig::default() });
    assert!(serde_json::from_str::<BargeInConfig>(r#"{"holdms": 128}"#).is_err());
}

/// A frame of anything: the detector's word, its level, and what the agent does (stay, pause, stop, begin anew).
fn anything() -> impl Strategy<Value = (f32, f32, u8, f32)> {
    let probability = prop_oneof![0.0f32..=1.0, Just(0.99f32), Just(0.01f32)];
    (probability, -90.0f32..0.0, prop_oneof![8 => Just(0u8), 1 => 0u8..4], -60.0f32..0.0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn orders_are_sound_whatever_comes(steps in proptest::collection::vec((anything(), 1u32..12), 1..80)) {
        let mut script = Script::silent();
        let config = BargeInConfig::default();
        let longest = frames(u32::try_from(config.longest_hold().as_millis()).expect("short"));
        let mut held_since: Option<u32> = None;
        // Frames of the present speech that could be voice at all.
        let mut could_be_voice = 0;
        for ((probability, energy_dbfs, agent, agent_dbfs), count) in steps {
            script.playing = match (agent, script.playing) {
                (2, _) => None,
                (3, _) | (_, None) => Some(Playing { since: script.now(), energy_dbfs: agent_dbfs }),
                (_, Some(playing)) => Some(Playing { energy_dbfs: agent_dbfs, ..playing }),
            };
            if agent >= 2 {
                could_be_voice = 0;
            }
            for _ in 0..count {
                could_be_voice += u32::from(probability >= config.end_probability);
                for action in script.push(probability, energy_dbfs) {
                    match action {
                        Hold => {
                            prop_assert!(held_since.is_none() && script.playing.is_some());
                            prop_assert!(could_be_voice >= 2);
                            held_since = Some(script.frame);
                        }
                        Unhold => prop_assert!(held_since.take().is_some()),
                        Interrupt => {
                            prop_assert!(held_since.take().is_some());
                            prop_assert!(could_be_voice >= 16, "{could_be_voice} frames");
                            could_be_voice = 0;
                        }
                        VoiceStart | VoiceEnd => {}
                    }
                }
                prop_assert_eq!(script.rules.timeout().is_some(), held_since.is_some());
                if let Some(since) = held_since {
                    prop_assert!(script.frame - since <= longest);
                }
            }
        }
    }

    #[test]
    fn silence_does_nothing(frames in proptest::collection::vec((0.0f32..0.35, -120.0f32..0.0, anything()), 1..300)) {
        let mut script = Script::silent();
        for (probability, energy_dbfs, (_, _, agent, agent_dbfs)) in frames {
            let since = script.playing.map_or(script.now(), |playing| playing.since);
            script.playing = (agent != 2).then_some(Playing { since, energy_dbfs: agent_dbfs });
            prop_assert_eq!(script.push(probability, energy_dbfs), []);
        }
    }
}
