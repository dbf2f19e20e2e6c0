//! The WebRTC side against a client made of the same library, over 127.0.0.1.
//!
//! 1. It connects, sound flows both ways with its energy, messages flow both ways in order.
//! 2. A flush and a hold stop sound at the client within 40 ms of packets.
//! 3. Offers that make no sense or are too large are refused with the reason; so are too many candidates.
//! 4. Who ends it tells the other side, last messages arrive, and the port is free afterwards.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use duologue_audio::opus::{DECODER_FRAME, Decoder, ENCODER_FRAME};
use duologue_transport::rtc::client::{Client, Heard, PAYLOAD_TYPE};
use duologue_transport::rtc::{Candidate, Disconnect, PortRange, RtcConfig, RtcError, RtcEvent, RtcPeer, RtcStats};
use tokio::time::timeout;
use webrtc::data_channel::DataChannelEvent;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> RtcConfig {
    RtcConfig { bind: vec![], ..RtcConfig::default() }
}

async fn new_client() -> Client {
    Client::new("127.0.0.1:0").await.unwrap()
}

/// Says `samples` at 24 kHz from now on, again and again, until the client is gone.
fn talk(client: &mut Client, samples: Vec<i16>) {
    let mut microphone = client.microphone.take().expect("it talks once");
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        for frame in samples.chunks_exact(ENCODER_FRAME).cycle() {
            interval.tick().await;
            if microphone.say(frame).await.is_err() {
                return;
            }
        }
    });
}

async fn message(client: &mut Client) -> String {
    timeout(PATIENCE, client.message()).await.expect("a message in time").expect("the data channel is open")
}

async fn connected() -> (Client, RtcPeer) {
    connected_with(&config()).await
}

async fn connected_with(config: &RtcConfig) -> (Client, RtcPeer) {
    let mut client = new_client().await;
    let offer = client.offer().await.unwrap();
    let (mut peer, answer) = RtcPeer::answer(&offer, config).await.unwrap();
    client.accept(answer).await.unwrap();
    client.connected().await.unwrap();
    wait(&mut peer, |event| matches!(event, RtcEvent::Connected).then_some(())).await;
    (client, peer)
}

/// The first event that `pick` wants.
async fn wait<T>(peer: &mut RtcPeer, mut pick: impl FnMut(&RtcEvent) -> Option<T>) -> T {
    timeout(PATIENCE, async {
        loop {
            let event = peer.event().await.expect("events go on");
            if let Some(found) = pick(&event) {
                return found;
            }
            assert!(!matches!(event, RtcEvent::Disconnected(_)), "{event:?}");
        }
    })
    .await
    .expect("it happens in time")
}

/// A tone of 440 Hz at 24 kHz with a root mean square of 0.35 of full scale; 480 samples hold no whole number of its
/// periods, so that frames do not fall into a rhythm.
fn tone(samples: usize) -> Vec<i16> {
    (0..samples).map(|n| ((n as f32 / 24_000.0 * 440.0 * std::f32::consts::TAU).sin() * 16_384.0) as i16).collect()
}

fn rms(samples: &[f32]) -> f32 {
    (samples.iter().map(|x| x * x).sum::<f32>() / samples.len().max(1) as f32).sqrt()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_and_messages_flow_both_ways() {
    let started = Instant::now();
    let (mut client, mut peer) = connected().await;
    let connected_ms = started.elapsed().as_millis();

    // to the client: the negotiated payload type, 20 ms clock, marker first, full energy
    peer.handle().sink().play(5, &tone(24_000 * 2)).unwrap();
    let mut decoder = Decoder::new().unwrap();
    let mut loudness = Vec::new();
    let mut timestamps = Vec::new();
    let mut first_ms = None;
    while loudness.len() < 60 {
        let heard = timeout(PATIENCE, client.heard.recv()).await.unwrap().unwrap();
        first_ms.get_or_insert(started.elapsed().as_millis());
        assert_eq!(heard.payload_type, PAYLOAD_TYPE);
        assert_eq!(heard.marker, timestamps.is_empty());
        timestamps.push(heard.timestamp);
        let frame = decoder.decode(&heard.payload).unwrap();
        assert_eq!(frame.len(), DECODER_FRAME);
        loudness.push(rms(&frame));
    }
    eprintln!("connected after {connected_ms} ms, first packet at the client after {} ms", first_ms.unwrap());
    // a machine that stalls leaves time out; the clock must show it
    let steps: Vec<u32> = timestamps.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.iter().all(|&step| step % 960 == 0 && (960..960 * 100).contains(&step)), "{steps:?}");
    let loud = loudness.iter().filter(|&&x| (0.25..0.45).contains(&x)).count();
    assert!(loud >= 50, "{loud} of 60 frames: {loudness:?}");
    let head = peer.handle().sink().head().unwrap();
    assert_eq!(head.turn, 5);
    assert!(head.played_ms + head.buffered_ms == 2_000 && head.played_ms >= 1_100, "{head:?}");

    // from the client: 20 ms frames with its energy, each of which arrived before
    talk(&mut client, tone(24_000));
    let (mut frames, mut loud, mut arrived) = (0, 0, 0);
    while loud < 80 {
        let frame = wait(&mut peer, |event| match event {
            RtcEvent::Arrived(frame) => {
                arrived += u32::from((0.25..0.45).contains(&rms(frame)));
                None
            }
            RtcEvent::Audio(frame) => Some(frame.clone()),
            _ => None,
        })
        .await;
        assert_eq!(frame.len(), DECODER_FRAME);
        frames += 1;
        loud += u32::from((0.25..0.45).contains(&rms(&frame)));
        assert!(frames < 500, "only {loud} of {frames} frames are loud");
    }
    assert!(arrived >= 70, "{loud} loud frames were due, {arrived} arrived");

    // messages, in order, those sent before the channel opened included
    for n in 0..50 {
        peer.handle().send_message(format!("{{\"down\":{n}}}")).unwrap();
    }
    for n in 0..50 {
        assert_eq!(message(&mut client).await, format!("{{\"down\":{n}}}"));
        client.channel.send_text(&format!("up {n}")).await.unwrap();
    }
    for n in 0..50 {
        let text = wait(&mut peer, |event| match event {
            RtcEvent::Message(text) => Some(text.clone()),
            _ => None,
        })
        .await;
        assert_eq!(text, format!("up {n}"));
    }
    client.channel.send(b"\x00\xff\x01"[..].into()).await.unwrap();
    let bytes = wait(&mut peer, |event| match event {
        RtcEvent::NotText { bytes } => Some(*bytes),
        _ => None,
    })
    .await;
    assert_eq!(bytes, 3);
    let large = "x".repeat(64 * 1024 + 1);
    assert!(matches!(peer.handle().send_message(large), Err(RtcError::MessageTooLarge { .. })));

    let stats: RtcStats = wait(&mut peer, |event| match event {
        RtcEvent::Stats(stats) if stats.uplink.received > 100 => Some(*stats),
        _ => None,
    })
    .await;
    eprintln!("{stats:?}");
    assert!(stats.sent >= 60);
    // how long it takes is the machine's; that it was measured is not
    assert!(stats.round_trip_ms.is_some_and(|ms| ms.is_finite() && ms >= 0.0), "{stats:?}");
    assert_eq!((stats.uplink.corrupt, stats.uplink.dropped_frames), (0, 0));

    peer.close().await;
    client.close().await.unwrap();
}

/// Decodes what the client hears.
struct Listener {
    decoder: Decoder,
}

impl Listener {
    /// The next packet and whether there is sound in it.
    async fn hear(&mut self, client: &mut Client, within: Duration) -> Option<(Heard, bool)> {
        let heard = timeout(within, client.heard.recv()).await.ok()??;
        let loud = rms(&self.decoder.decode(&heard.payload).unwrap()) > 0.03;
        Some((heard, loud))
    }

    /// Waits for `count` packets with sound.
    async fn until_loud(&mut self, client: &mut Client, count: u64) {
        let mut loud_packets = 0;
        while loud_packets < count {
            let (_, loud) = self.hear(client, PATIENCE).await.expect("packets go on");
            loud_packets += u64::from(loud);
        }
    }

    /// Packets with sound until packets stop.
    async fn rest(&mut self, client: &mut Client) -> u64 {
        let mut loud_packets = 0;
        while let Some((_, loud)) = self.hear(client, Duration::from_secs(1)).await {
            loud_packets += u64::from(loud);
        }
        loud_packets
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_and_a_hold_stop_sound_within_40_ms() {
    let (mut client, mut peer) = connected().await;
    let handle = peer.handle().clone();
    tokio::spawn(async move { while peer.event().await.is_some() {} });
    let mut listener = Listener { decoder: Decoder::new().unwrap() };

    for (turn, stop) in [(1, "flush"), (2, "hold")] {
        handle.sink().play(turn, &tone(24_000 * 5)).unwrap();
        listener.until_loud(&mut client, 20).await;
        match stop {
            "flush" => handle.sink().flush(),
            _ => handle.sink().hold(),
        }
        // packets that were sent before are on their way; what counts is what is sent after, in packets, because this
        // test may itself be late
        let head = handle.sink().head().unwrap();
        let loud_ms = 20 * (20 + listener.rest(&mut client).await);
        eprintln!("{stop}: {} ms were played, {loud_ms} ms heard", head.played_ms);
        assert!(loud_ms <= head.played_ms + 40, "{stop}: {loud_ms} ms heard of {} ms", head.played_ms);
        assert_eq!(handle.sink().head().unwrap(), head, "{stop}: nothing is played afterwards");
        assert_eq!(head.buffered_ms > 0, stop == "hold", "{head:?}");
        assert_eq!(head.turn, turn);
    }

    // held sound goes on, as a new spurt
    handle.sink().unhold();
    let (first, loud) = listener.hear(&mut client, PATIENCE).await.expect("packets again");
    assert!(first.marker);
    assert!(loud || listener.hear(&mut client, PATIENCE).await.is_some_and(|(_, loud)| loud));
    client.close().await.unwrap();
}

fn reason(error: RtcError) -> String {
    match error {
        RtcError::Offer { reason } => reason,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn offers_that_cannot_be_answered_are_refused_with_the_reason() {
    let offer = new_client().await.offer().await.unwrap();
    let refused = async |offer: &str| reason(RtcPeer::answer(offer, &config()).await.map(|_| ()).unwrap_err());
    assert!(refused("").await.contains("v=0"));
    assert!(refused("garbage").await.contains("v=0"));
    assert!(refused(&format!("v=0\r\n{}", "a=\u{1f600}".repeat(100))).await.contains("no audio"));
    assert!(refused(&offer.replace("opus", "speex")).await.contains("opus/48000/2"));
    let candidate = "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n";
    let many = refused(&format!("{offer}{}", candidate.repeat(10_000))).await;
    assert!(many.contains("bytes"), "{many}");
    let hundred = refused(&format!("{offer}{}", candidate.repeat(100))).await;
    assert!(hundred.contains("candidates"), "{hundred}");

    // whatever is cut off or bent: an answer or an error, never a panic
    let lines: Vec<&str> = offer.lines().collect();
    for cut in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(cut);
        for bent in [format!("{}\r\n", lines[..cut].join("\r\n")), format!("{}\r\n", without.join("\r\n"))] {
            match RtcPeer::answer(&bent, &config()).await {
                Ok((peer, answer)) => {
                    assert!(answer.starts_with("v=0"));
                    peer.close().await;
                }
                Err(error) => assert!(matches!(error, RtcError::Offer { .. }), "without line {cut}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn candidates_that_trickle_in_are_limited() {
    let mut client = new_client().await;
    let offer = client.offer().await.unwrap();
    let (peer, answer) = RtcPeer::answer(&offer, &config()).await.unwrap();
    assert!(answer.contains("a=candidate:"));
    let candidate = |candidate: &str| Candidate {
        candidate: candidate.to_owned(),
        sdp_mid: Some("0".to_owned()),
        sdp_m_line_index: Some(0),
    };
    let handle = peer.handle();
    handle.add_candidate(candidate("candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host")).await.unwrap();
    handle.add_candidate(candidate("candidate:1 1 udp 2130706431 a-b-c.local 5000 typ host")).await.unwrap();
    handle.add_candidate(candidate("")).await.unwrap();
    for garbage in ["candidate:x y z", "nonsense", &"x".repeat(5_000)] {
        let error = handle.add_candidate(candidate(garbage)).await.unwrap_err();
        assert!(matches!(error, RtcError::Candidate { .. }), "{error}");
    }
    let mut refused = 0;
    for n in 0..10_000 {
        let good = format!("candidate:1 1 udp 2130706431 192.0.2.1 {} typ host", 1_024 + n);
        refused += usize::from(handle.add_candidate(candidate(&good)).await.is_err());
    }
    assert!(refused >= 9_936, "{refused} refused");
    peer.close().await;
    client.close().await.unwrap();
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn one_port(port: u16) -> RtcConfig {
    RtcConfig { ports: Some(PortRange { first: port, last: port }), ..config() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_message_arrives_and_the_port_is_free_after_a_close() {
    let port = free_port();
    let (mut client, peer) = connected_with(&one_port(port)).await;
    client.opened().await.unwrap();
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_err(), "the port is in use");
    let mut second = new_client().await;
    let offer = second.offer().await.unwrap();
    let error = RtcPeer::answer(&offer, &one_port(port)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, RtcError::NoPort { .. }), "{error}");
    assert!(error.to_string().contains(&port.to_string()));

    for n in 0..200 {
        peer.handle().send_message(format!("{n}")).unwrap();
    }
    let handle = peer.handle().clone();
    let started = Instant::now();
    peer.close().await;
    eprintln!("closed after {} ms", started.elapsed().as_millis());
    UdpSocket::bind(("127.0.0.1", port)).expect("the port is free");
    assert_eq!(handle.send_message("late".to_owned()), Err(RtcError::Closed));
    for n in 0..200 {
        assert_eq!(message(&mut client).await, n.to_string());
    }
    client.close().await.unwrap();
    second.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_is_not_taken_for_a_lost_one() {
    let port = free_port();
    let (mut client, mut peer) = connected_with(&one_port(port)).await;
    client.opened().await.unwrap();
    wait(&mut peer, |event| matches!(event, RtcEvent::ChannelOpen).then_some(())).await;
    client.close().await.unwrap();
    // its goodbye ended it, not the silence after it: that would be `Lost`
    assert_eq!(wait_for_end(&mut peer).await, Disconnect::ByClient);
    UdpSocket::bind(("127.0.0.1", port)).expect("the port is free");
    assert_eq!(peer.event().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_peer_frees_its_port_and_the_client_notices() {
    let port = free_port();
    let (mut client, peer) = connected_with(&one_port(port)).await;
    client.opened().await.unwrap();
    drop(peer);
    // it is told: packets that stay away make the client's library give up after 30 s only, longer than this waits
    let closed = async { while !matches!(client.channel.poll().await, Some(DataChannelEvent::OnClose) | None) {} };
    timeout(PATIENCE, closed).await.expect("the client notices");
    timeout(PATIENCE, async {
        while UdpSocket::bind(("127.0.0.1", port)).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the port becomes free");
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_connects_is_given_up() {
    let offer = new_client().await.offer().await.unwrap();
    let config = RtcConfig { connect_timeout_s: 1, ..config() };
    let (mut peer, _) = RtcPeer::answer(&offer, &config).await.unwrap();
    assert_eq!(wait_for_end(&mut peer).await, Disconnect::NeverConnected);
}

async fn wait_for_end(peer: &mut RtcPeer) -> Disconnect {
    timeout(PATIENCE, async {
        loop {
            if let RtcEvent::Disconnected(cause) = peer.event().await.expect("the end is announced") {
                return cause;
            }
        }
    })
    .await
    .expect("it ends")
}
