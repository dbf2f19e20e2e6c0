//! A whole conversation over a network that loses 10 % of the packets and delays each by up to 200 ms, both ways, on virtual
//! time. Encoder, jitter buffers, playout and session are those of the WebRTC side; only the sockets between them are an
//! emulator with a seed.
//!
//! 1. Nothing panics and the session is not closed, whatever arrives when.
//! 2. The session's clock runs on: every second of the user becomes a unit.
//! 3. Every reply is heard for the most part, and an interruption stops the speech.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use duologue_audio::opus::{ENCODER_FRAME, Encoder};
use duologue_session::barge_in::BargeInConfig;
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_transport::live::WEBRTC;
use duologue_transport::rtc::playout::Playout;
use duologue_transport::rtc::talk::Talk;
use duologue_transport::rtc::uplink::{Uplink, UplinkStats};
use duologue_transport::{Limits, SessionCommand, SessionEvent, SessionLink, SessionManager, SessionRequest};
use tokio::time::{Instant, sleep_until};

/// One frame of either side, and one step of the test.
const STEP: Duration = Duration::from_millis(20);

/// A packet under way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    arrives: Duration,
    sequence: u16,
    timestamp: u32,
    payload: Vec<u8>,
}

/// One direction.
struct Network {
    loss_percent: u64,
    jitter_ms: u64,
    random: u64,
    under_way: BinaryHeap<Reverse<Packet>>,
    lost: u64,
    sent: u64,
}

impl Network {
    fn new(loss_percent: u64, jitter_ms: u64, seed: u64) -> Self {
        Self { loss_percent, jitter_ms, random: seed, under_way: BinaryHeap::new(), lost: 0, sent: 0 }
    }

    /// A number below `bound` (Knuth's linear congruential generator, high bits).
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn send(&mut self, now: Duration, sequence: u16, timestamp: u32, payload: Vec<u8>) {
        self.sent += 1;
        if self.below(100) < self.loss_percent {
            self.lost += 1;
            return;
        }
        let arrives = now + Duration::from_millis(self.below(self.jitter_ms + 1));
        self.under_way.push(Reverse(Packet { arrives, sequence, timestamp, payload }));
    }

    /// What has arrived, as a voice detector hears it.
    fn deliver(&mut self, now: Duration, to: &mut Uplink) -> Vec<f32> {
        let mut heard = Vec::new();
        while self.under_way.peek().is_some_and(|packet| packet.0.arrives <= now) {
            let Reverse(packet) = self.under_way.pop().expect("it was there");
            heard.extend(to.push(packet.arrives, 1, packet.sequence, packet.timestamp, &packet.payload));
        }
        heard
    }
}

/// What came of a conversation.
#[derive(Debug, Default)]
struct Outcome {
    units: u32,
    holds: u32,
    flushes: Vec<Duration>,
    closed: bool,
    /// Frames with sound at the client's ear, and frames that were played.
    heard: usize,
    played: usize,
    up: UplinkStats,
    down: UplinkStats,
    lost: (u64, u64),
}

/// Both ends of a call and the network between them.
struct Call {
    link: SessionLink,
    up: Network,
    down: Network,
    microphone: Encoder,
    server_ear: Uplink,
    playout: Playout,
    talk: Talk,
    client_ear: Uplink,
    frame: u32,
    began: Instant,
    outcome: Outcome,
}

/// A voice at 24 kHz from sample `start` on: a steady tone would be no speech to the encoder, and not be sent.
fn voice(start: u64, samples: usize) -> Vec<i16> {
    let at = |n: usize| {
        let time = (start + n as u64) as f64 / 24_000.0;
        let phase = std::f64::consts::TAU * 150.0 * time + 8.0 * (std::f64::consts::TAU * 5.0 * time).sin();
        let sound: f64 = (1..6u8).map(|n| (phase * f64::from(n)).sin() / f64::from(n)).sum();
        sound * (0.7 + 0.3 * (std::f64::consts::TAU * 3.0 * time).sin()) * 6_000.0
    };
    (0..samples).map(|n| at(n) as i16).collect()
}

fn sounds(frame: &[f32]) -> bool {
    frame.iter().map(|x| x * x).sum::<f32>() / frame.len() as f32 > 1e-4
}

impl Call {
    fn new(link: SessionLink, loss_percent: u64, jitter_ms: u64, seed: u64) -> Self {
        Self {
            link,
            up: Network::new(loss_percent, jitter_ms, seed),
            down: Network::new(loss_percent, jitter_ms, !seed),
            microphone: Encoder::new(10).expect("memory"),
            server_ear: Uplink::new().expect("memory"),
            playout: Playout::default(),
            talk: Talk::new(10, 0, 0).expect("memory"),
            client_ear: Uplink::new().expect("memory"),
            frame: 0,
            began: Instant::now(),
            outcome: Outcome::default(),
        }
    }

    /// 20 ms on both sides.
    async fn step(&mut self, loud: bool) {
        let now = self.began.elapsed();
        let start = u64::from(self.frame) * ENCODER_FRAME as u64;
        let said = if loud { voice(start, ENCODER_FRAME) } else { vec![0; ENCODER_FRAME] };
        let payload = self.microphone.encode(&said).expect("20 ms").packet;
        self.up.send(now, self.frame as u16, self.frame.wrapping_mul(960), payload);
        let arrived = self.up.deliver(now, &mut self.server_ear);
        let due = self.server_ear.tick();
        if !self.outcome.closed {
            drop(self.link.commands.send(SessionCommand::Arrived(arrived)).await);
            drop(self.link.commands.send(SessionCommand::Due(due)).await);
        }
        tokio::task::yield_now().await;
        while let Ok(event) = self.link.events.try_recv() {
            self.event(now, &event.event);
        }
        let sound = self.playout.frame();
        self.outcome.played += usize::from(sound.is_some());
        if let Some(packet) = self.talk.frame(sound.as_ref()).expect("libopus encodes") {
            self.down.send(now, packet.sequence, packet.timestamp, packet.payload);
        }
        self.down.deliver(now, &mut self.client_ear);
        self.outcome.heard += usize::from(sounds(&self.client_ear.tick()));
        self.frame += 1;
        sleep_until(self.began + STEP * self.frame).await;
    }

    fn event(&mut self, now: Duration, event: &SessionEvent) {
        match event {
            SessionEvent::Audio { turn, start, samples } => {
                self.playout.play(*turn, &voice(*start, samples.len())).expect("paced");
            }
            SessionEvent::Flush { .. } => {
                self.playout.flush();
                self.outcome.flushes.push(now);
            }
            SessionEvent::Hold { .. } => {
                self.playout.hold();
                self.outcome.holds += 1;
            }
            SessionEvent::Unhold { .. } => self.playout.unhold(),
            SessionEvent::Unit(_) => self.outcome.units += 1,
            SessionEvent::Closed(_) => self.outcome.closed = true,
            _ => {}
        }
    }

    async fn go_on(&mut self, length: Duration, loud: bool) {
        for _ in 0..length.as_millis() / STEP.as_millis() {
            self.step(loud).await;
        }
    }
}

/// The user says something, hears a reply, interrupts the next one, hears a third.
async fn conversation(loss_percent: u64, jitter_ms: u64, seed: u64) -> Outcome {
    let seconds = Duration::from_secs;
    let speak = Plan::Speak("and");
    let plans = [
        [Plan::Listen, Plan::Listen, speak, speak, Plan::End("so.")].as_slice(),
        &[Plan::Listen, speak, speak, speak, speak, speak, speak],
        &[Plan::Listen, Plan::Listen, speak, Plan::End("on.")],
    ]
    .concat();
    let backend = ScriptedBackend::new(1, &plans).voice_above(-30.0);
    let manager =
        SessionManager::new(Arc::new(backend), Limits::default(), BargeInConfig::default()).expect("valid rules");
    let visitor = manager.enter("caller").expect("there is room");
    let link = visitor.open(&SessionRequest::default(), WEBRTC, None).expect("the script takes everybody");
    let mut call = Call::new(link, loss_percent, jitter_ms, seed);
    call.go_on(seconds(2), true).await;
    call.go_on(seconds(6), false).await;
    let interruption = call.began.elapsed();
    call.go_on(seconds(2), true).await;
    call.go_on(seconds(10), false).await;
    call.outcome.flushes.iter_mut().for_each(|at| *at = at.saturating_sub(interruption));
    call.outcome.up = call.server_ear.stats();
    call.outcome.down = call.client_ear.stats();
    call.outcome.lost = (call.up.lost, call.down.lost);
    call.outcome
}

#[tokio::test(start_paused = true)]
async fn the_conversation_goes_on() {
    for (name, loss_percent, jitter_ms) in
        [("quiet", 0, 0), ("10 % loss", 10, 0), ("200 ms jitter", 0, 200), ("10 % loss, 200 ms jitter", 10, 200)]
    {
        for seed in 0..5 {
            let outcome = conversation(loss_percent, jitter_ms, seed).await;
            let share = outcome.heard as f64 / outcome.played as f64;
            eprintln!("{name}, seed {seed}: {:.0} % of the speech heard; {outcome:?}", 100.0 * share);
            assert!(!outcome.closed, "{name}, seed {seed}");
            assert!(outcome.units >= 19, "{name}, seed {seed}: {} units of 20 s", outcome.units);
            assert!(outcome.played > 300, "{name}, seed {seed}: both replies are played");
            assert!(share > 0.7, "{name}, seed {seed}: {share} of it is heard");
            let first = outcome.flushes.first().copied().unwrap_or(Duration::MAX);
            assert!(first < Duration::from_millis(1_200), "{name}, seed {seed}: interrupted after {first:?}");
        }
    }
}
