//! One conversation in real time: the main loop of a measurement.
//!
//! Every 20 ms the speaker gives a packet, which is sent; whatever the server says in between is noted with its moment and
//! played. Nothing is judged here: [`crate::measure`] does that afterwards.

use std::time::{Duration, Instant};

use duologue_proto::live::{
    ClientEvent, Empty, InputFrameAppend, Playback, ServerEvent, SessionConfig, SessionSnapshot,
};
use duologue_proto::payload::Base64;
use tokio::time::{sleep_until, timeout};

use crate::client::{Client, Incoming, Target};
use crate::error::BenchError;
use crate::player::{Player, Sounds};
use crate::user::{Edge, Mark, PACKET_TIME, Speaker};
use crate::voice::Phone;

/// A page reports its play head every so many packets (240 ms).
const HEAD_PACKETS: u32 = 12;
/// Longest wait for the server's goodbye.
const GOODBYE: Duration = Duration::from_secs(10);

/// Something that was said, on the conversation's clock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// It was said into a reply, on purpose.
    pub interrupts: bool,
    /// Its first voiced sample.
    pub first_voiced: Option<Duration>,
    /// Its last voiced sample.
    pub last_voiced: Option<Duration>,
}

/// All that happened. The clock begins with the microphone.
#[derive(Debug)]
pub struct Conversation {
    /// What the server said of the session.
    pub started: SessionSnapshot,
    /// From the first packet to the network until the session was open.
    pub connect: Duration,
    /// What the user said.
    pub said: Vec<Said>,
    /// Interruptions that found no reply.
    pub skipped: usize,
    /// What the server said, without the sound.
    pub events: Vec<(Duration, ServerEvent)>,
    /// What was heard.
    pub sounds: Sounds,
    /// How long it was.
    pub length: Duration,
    /// How late the client itself was, at worst. A bench on a machine that is too slow measures itself.
    pub client_late: Duration,
}

/// What is shown to the model, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Camera<'a> {
    /// A JPEG or PNG file.
    pub picture: &'a [u8],
    /// Time between two.
    pub every: Duration,
}

/// Talks until the speaker has said everything, or for `limit`.
///
/// # Errors
/// When there is no session, or it ends before the user is done.
pub async fn converse(
    target: &Target,
    session: SessionConfig,
    mut speaker: Speaker<'_>,
    phone: Option<Phone>,
    camera: Option<Camera<'_>>,
    limit: Option<Duration>,
) -> Result<Conversation, BenchError> {
    let asked = Instant::now();
    let (mut client, started) = Client::connect(target, session, phone).await?;
    let mut notes = Notes { phone: client.phone(), player: client.player()?, said: Vec::new(), events: Vec::new() };
    let began = Instant::now();
    let mut late = Duration::ZERO;
    let (mut sent, mut shown) = (0, 0);
    loop {
        // A packet leaves when its last sample was taken.
        let due = PACKET_TIME * (sent + 1);
        tokio::select! {
            biased;
            () = sleep_until((began + due).into()) => {
                let now = began.elapsed();
                late = late.max(now.saturating_sub(due));
                notes.player.advance(now);
                if let Some(Camera { picture, every }) = camera
                    && now >= every * shown
                {
                    let image = Base64(picture.to_vec());
                    client.send(ClientEvent::InputFrameAppend(InputFrameAppend { image })).await?;
                    shown += 1;
                }
                let Some(packet) = speaker.next(notes.player.heard_for(now)) else { break };
                let interrupts = speaker.interrupts();
                client.say(&packet.samples).await?;
                packet.marks.iter().for_each(|mark| notes.mark(mark, PACKET_TIME * sent, interrupts));
                sent += 1;
                if sent % HEAD_PACKETS == 0 {
                    report_head(&mut client, notes.player.head()).await?;
                }
                if limit.is_some_and(|limit| due >= limit) {
                    break;
                }
            }
            incoming = client.next() => {
                let Some((at, incoming)) = incoming? else {
                    return Err(BenchError::session("talking", notes.why_closed()));
                };
                let flushed = matches!(&incoming, Incoming::Event(event) if matches!(**event, ServerEvent::Flush(_)));
                notes.note(at.saturating_duration_since(began), incoming);
                if flushed {
                    report_head(&mut client, notes.player.head()).await?;
                }
            }
        }
    }
    client.send(ClientEvent::SessionClose(Empty {})).await?;
    // What is still said counts; a connection that breaks now does not.
    let goodbye = async {
        while let Ok(Some((at, incoming))) = client.next().await {
            let last = matches!(&incoming, Incoming::Event(event) if matches!(**event, ServerEvent::SessionClosed(_)));
            notes.note(at.saturating_duration_since(began), incoming);
            if last {
                break;
            }
        }
    };
    drop(timeout(GOODBYE, goodbye).await);
    let Notes { player, said, events, .. } = notes;
    let sounds = player.sounds().clone();
    let (connect, length) = (began - asked, PACKET_TIME * sent);
    let skipped = speaker.skipped();
    Ok(Conversation { started, connect, said, skipped, events, sounds, length, client_late: late })
}

async fn report_head(client: &mut Client, head: Option<Playback>) -> Result<(), BenchError> {
    match head {
        Some(head) => client.send(ClientEvent::Playback(head)).await,
        None => Ok(()),
    }
}

/// What is written down while it goes on.
struct Notes {
    phone: Option<Phone>,
    player: Player,
    said: Vec<Said>,
    events: Vec<(Duration, ServerEvent)>,
}

impl Notes {
    fn mark(&mut self, mark: &Mark, packet_began: Duration, interrupts: bool) {
        if self.said.len() <= mark.said {
            self.said.resize(mark.said + 1, Said::default());
        }
        let said = &mut self.said[mark.said];
        said.interrupts = interrupts;
        let edge = match mark.edge {
            Edge::First => &mut said.first_voiced,
            Edge::Last => &mut said.last_voiced,
        };
        *edge = Some(packet_began + mark.at);
    }

    fn note(&mut self, now: Duration, incoming: Incoming) {
        match incoming {
            Incoming::Packet(packet) => self.player.packet(now, &packet),
            Incoming::Event(event) => match *event {
                ServerEvent::OutputAudioDelta(delta) => {
                    let (turn, start_ms) =
                        delta.duologue.map_or((0, 0), |place| (place.turn, place.start_ms.unwrap_or(0)));
                    let bytes = &delta.delta.0;
                    let samples = match self.phone {
                        Some(phone) => phone.law().decode(bytes),
                        None => bytes.as_chunks::<2>().0.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect(),
                    };
                    self.player.delta(now, turn, start_ms, samples);
                }
                event => {
                    self.player.event(now, &event);
                    self.events.push((now, event));
                }
            },
        }
    }

    /// Why the server hung up, as far as it said.
    fn why_closed(&self) -> String {
        let reason = self.events.iter().rev().find_map(|(_, event)| match event {
            ServerEvent::SessionClosed(closed) => closed.duologue.as_ref().map(|detail| detail.detail.clone()),
            ServerEvent::Error(error) => Some(error.error.message.clone()),
            _ => None,
        });
        format!("the server ended the session: {}", reason.as_deref().unwrap_or("no reason was given"))
    }
}
