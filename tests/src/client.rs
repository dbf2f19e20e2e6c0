//! A client of a session without a wire, on virtual time: speaks, and notes what it is told and when.

use std::sync::Arc;
use std::time::Duration;

use duologue_session::barge_in::BargeInConfig;
use duologue_transport::pacer::Pace;
use duologue_transport::{
    Limits, SessionCommand, SessionEvent, SessionLink, SessionManager, SessionRequest, Visitor, Wire,
};
use tokio::time::{Instant, sleep_until};

use crate::scripted::{INPUT_RATE, ScriptedBackend};

/// Packets of 100 ms, 200 ms ahead.
pub const WIRE: Wire =
    Wire { name: "test", pace: Some(Pace { packet: Duration::from_millis(100), lead: Duration::from_millis(200) }) };
/// What a microphone sends at a time.
pub const MIC_PACKET: Duration = Duration::from_millis(20);

/// Milliseconds.
pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Sessions on `backend`, with the default rules of barge-in.
///
/// # Panics
/// If those are not valid.
pub fn manager(backend: ScriptedBackend, limits: Limits) -> SessionManager {
    SessionManager::new(Arc::new(backend), limits, BargeInConfig::default()).expect("the default rules are valid")
}

/// Somebody at the door.
///
/// # Panics
/// If there is no room.
pub fn enter(manager: &SessionManager) -> Visitor {
    manager.enter("somebody").expect("there is room")
}

/// A client: what it was told, in words, with the time of each.
#[derive(Debug)]
pub struct Client {
    /// Its hold on the session.
    pub link: SessionLink,
    /// When its clock began.
    pub began: Instant,
    said: Vec<String>,
    /// Audio of the reply being received, so that one line stands for its packets.
    audio: Option<(u32, u64, u64)>,
    /// Number of the last event.
    pub last: Option<u64>,
}

impl Client {
    /// The next free place.
    ///
    /// # Panics
    /// If there is none.
    pub fn open(manager: &SessionManager) -> Self {
        Self::with(enter(manager).open(&SessionRequest::default(), WIRE, None).expect("the script takes everybody"))
    }

    /// On a session that is open already.
    pub fn with(link: SessionLink) -> Self {
        Self { link, began: Instant::now(), said: Vec::new(), audio: None, last: None }
    }

    /// Its clock, in milliseconds.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn note(&mut self, event: &SessionEvent) {
        let now = self.now();
        if let SessionEvent::Audio { turn, start, samples } = event {
            let (from, to) = (*start, start + samples.len() as u64);
            match &mut self.audio {
                Some((playing, _, end)) if playing == turn && *end == from => *end = to,
                _ => {
                    self.audio_done();
                    self.said.push(format!("{now} audio {turn} from {}", from / 24));
                    self.audio = Some((*turn, from, to));
                }
            }
            return;
        }
        if !matches!(event, SessionEvent::Unit(_) | SessionEvent::Speech(_)) {
            self.audio_done();
        }
        let line = match event {
            SessionEvent::Unit(unit) if unit.stale => format!("unit {} stale", unit.unit),
            SessionEvent::Unit(unit) if unit.speaks => format!("unit {} says {}", unit.unit, unit.text),
            SessionEvent::Unit(_) | SessionEvent::Speech(_) => return,
            SessionEvent::Ready(_) => "ready".to_owned(),
            SessionEvent::TurnBegan { turn } => format!("reply {turn}"),
            SessionEvent::TurnDone { turn } => format!("reply {turn} done"),
            SessionEvent::Flush { turn, cause } => format!("flush before {turn} {cause:?}"),
            SessionEvent::Truncated { turn, heard, units } => {
                let units: Vec<String> = units.iter().map(|(unit, text)| format!("{unit}: {text}")).collect();
                format!("heard {} of {turn}, cut {units:?}", heard.as_millis())
            }
            SessionEvent::Hold { turn } => format!("hold {turn}"),
            SessionEvent::Unhold { .. } => "unhold".to_owned(),
            SessionEvent::Voice { speaking, .. } => format!("voice {speaking}"),
            SessionEvent::Closed(cause) => format!("closed {}", cause.detail()),
            other => format!("{other:?}"),
        };
        self.said.push(format!("{now} {line}"));
    }

    fn audio_done(&mut self) {
        if let Some((turn, from, to)) = self.audio.take() {
            self.said.push(format!("  {} ms of {turn}", (to - from) / 24));
        }
    }

    /// Listens until `until` (on the client's clock) or the end of the session.
    pub async fn listen(&mut self, until: u64) {
        let until = self.began + ms(until);
        while let Ok(Some(event)) = tokio::time::timeout_at(until, self.link.events.recv()).await {
            self.last = Some(event.seq);
            self.note(&event.event);
        }
        sleep_until(until).await;
    }

    /// # Panics
    /// If the session has ended.
    pub async fn send(&self, command: SessionCommand) {
        self.link.commands.send(command).await.expect("the session runs");
    }

    /// Speaks (or is silent) into the microphone for a while, listening meanwhile.
    pub async fn mic(&mut self, length: u64, level: f32) {
        for _ in 0..length / MIC_PACKET.as_millis() as u64 {
            let samples = (INPUT_RATE as usize * MIC_PACKET.as_millis() as usize) / 1000;
            self.listen(self.now() + MIC_PACKET.as_millis() as u64).await;
            self.send(SessionCommand::Audio(vec![level; samples])).await;
        }
        tokio::task::yield_now().await;
    }

    /// What it was told since it was last asked.
    pub fn script(&mut self) -> Vec<String> {
        self.audio_done();
        std::mem::take(&mut self.said)
    }
}
