//! One client over WebRTC.
//!
//! Owns the peer connection, the tasks around it and their end. Must not know sessions: whoever drives it sees frames
//! of 20 ms, text messages and a sink for sound.
//!
//! ```text
//!  on_track ─────► receive::audio ─ Arrived, Audio ─┐
//!  on_data_channel ► receive::messages ─ Message ───┼──► events (bounded) ──► driver
//!  connection state ► supervise ── Connected, Stats ┘
//!  AudioSink ──► downlink::run ──► RTP          send_message ──► receive::send ──► data channel
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use webrtc::data_channel::DataChannel;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_remote::TrackRemote;
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionEventHandler, RTCIceCandidateInit, RTCIceGatheringState, RTCPeerConnectionState,
    RTCStatsReport, StatsSelector,
};

use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;

use super::RtcError;
use super::config::RtcConfig;
use super::connect::{self, Negotiated};
use super::downlink::{self, AudioSink};
use super::receive;
use super::sdp::{CANDIDATE_BYTES, CANDIDATES};
use super::uplink::{Uplink, UplinkStats};

/// Label of the data channel that carries events (OpenAI's name; the client creates it).
pub const CHANNEL_LABEL: &str = "oai-events";
/// Events that may wait for the driver: five seconds of audio. When it is full, audio frames are dropped and counted,
/// and messages wait in the client.
const EVENTS: usize = 512;
/// Messages that may wait for the client. A full queue is a client that does not read: [`RtcError::Backlog`].
const MESSAGES: usize = 1_024;
/// Bytes of one message to the client; what every browser takes.
const MESSAGE_BYTES: usize = 64 * 1024;
/// Tracks and channels that may wait to be looked at; further ones of a client that opens many are not seen.
const ARRIVALS: usize = 16;
/// How often [`RtcEvent::Stats`] comes.
const STATS_EVERY: Duration = Duration::from_secs(1);
/// Longest time for the messages that are queued when a session is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What a client does.
#[derive(Debug, Clone, PartialEq)]
pub enum RtcEvent {
    /// Media can flow. Comes once, first.
    Connected,
    /// The client opened its data channel; messages sent before wait for this.
    ChannelOpen,
    /// 20 ms of the user at 16 kHz, 320 samples within -1..1. From the first packet on one every 20 ms.
    Audio(Vec<f32>),
    /// What a packet holds, the moment it came, for a voice detector: the same sound comes as [`RtcEvent::Audio`] when
    /// it is due.
    Arrived(Vec<f32>),
    /// A text message.
    Message(String),
    /// A message that is not text; nothing of it is kept.
    NotText {
        /// Its length.
        bytes: usize,
    },
    /// How the connection does, once a second; left out when the driver lags.
    Stats(RtcStats),
    /// It is over and the port is free. Comes once, last.
    Disconnected(Disconnect),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// [`RtcPeer::close`], or the peer was dropped.
    Closed,
    /// The client closed its data channel or the connection.
    ByClient,
    /// Nothing came from the client for five seconds.
    Lost,
    /// The client did not connect in time.
    NeverConnected,
}

/// How a connection does. What the client lost is not in it: a client that talks reports that within its sender reports,
/// which the library does not read. Browsers know it themselves (`getStats`).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RtcStats {
    /// Round trip of the last connectivity check.
    pub round_trip_ms: Option<f32>,
    /// RTP packets sent.
    pub sent: u64,
    /// The way up.
    pub uplink: UplinkStats,
}

/// A candidate that trickles in, in the browser's terms (`RTCIceCandidateInit`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// `candidate:...`; empty for "no more candidates".
    pub candidate: String,
    /// The media section by name.
    pub sdp_mid: Option<String>,
    /// The media section by number.
    pub sdp_m_line_index: Option<u16>,
}

/// What can be done to a connection from anywhere; cheap to clone. It does not keep the connection open.
#[derive(Clone)]
pub struct RtcHandle {
    connection: Arc<dyn PeerConnection>,
    messages: mpsc::Sender<String>,
    sink: AudioSink,
    candidates: Arc<Mutex<usize>>,
    close: watch::Sender<bool>,
}

impl std::fmt::Debug for RtcHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RtcHandle").field("sink", &self.sink).finish_non_exhaustive()
    }
}

impl RtcHandle {
    /// Whether both are of one connection.
    pub fn is(&self, other: &Self) -> bool {
        self.close.same_channel(&other.close)
    }

    /// Where the model's voice goes.
    pub fn sink(&self) -> &AudioSink {
        &self.sink
    }

    /// Queues a text message; messages arrive in order. Before the client has opened its channel they wait.
    ///
    /// # Errors
    /// [`RtcError::Backlog`] when 1,024 wait, [`RtcError::MessageTooLarge`] above 64 KiB, [`RtcError::Closed`] after
    /// the end.
    pub fn send_message(&self, text: String) -> Result<(), RtcError> {
        if text.len() > MESSAGE_BYTES {
            return Err(RtcError::MessageTooLarge { bytes: text.len(), most: MESSAGE_BYTES });
        }
        self.messages.try_send(text).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RtcError::Backlog { waiting: MESSAGES },
            mpsc::error::TrySendError::Closed(_) => RtcError::Closed,
        })
    }

    /// A further candidate of the client. One with a name instead of an address (`.local`) is accepted and not used:
    /// the client's own checks tell its address.
    ///
    /// # Errors
    /// [`RtcError::Candidate`] for one that is too long, one too many, or not a candidate.
    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), RtcError> {
        let refuse = |reason: String| Err(RtcError::Candidate { reason });
        if candidate.candidate.len() > CANDIDATE_BYTES {
            return refuse(format!("it has {} bytes, at most {CANDIDATE_BYTES} are taken", candidate.candidate.len()));
        }
        {
            let mut count = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
            if *count >= CANDIDATES {
                return refuse(format!("{CANDIDATES} have come before it, more are not taken"));
            }
            *count += 1;
        }
        if candidate.candidate.is_empty() {
            return Ok(());
        }
        let init = RTCIceCandidateInit {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_m_line_index,
            ..Default::default()
        };
        self.connection.add_ice_candidate(init).await.or_else(|error| refuse(error.to_string()))
    }

    /// Ends the connection soon, after the messages that are queued. The end is seen in [`RtcPeer::event`].
    pub fn close(&self) {
        self.close.send_replace(true);
    }
}

/// A connection and what comes out of it. Dropping it closes the connection.
#[derive(Debug)]
pub struct RtcPeer {
    handle: RtcHandle,
    events: mpsc::Receiver<RtcEvent>,
    supervisor: Option<JoinHandle<()>>,
}

impl RtcPeer {
    /// Answers a client's offer. The answer holds all candidates of this side; the client may send its own in the
    /// offer, later ([`RtcHandle::add_candidate`]) or not at all.
    ///
    /// Must run within a tokio runtime.
    ///
    /// # Errors
    /// [`RtcError::Offer`] for an offer that cannot be answered, [`RtcError::NoPort`] when none is free,
    /// [`RtcError::Config`] for settings that cannot work.
    pub async fn answer(offer_sdp: &str, config: &RtcConfig) -> Result<(Self, String), RtcError> {
        config.validate()?;
        super::sdp::check_offer(offer_sdp)?;
        let (offer, config) = (offer_sdp.to_owned(), config.clone());
        // in a task of its own, so that a caller who goes away in the middle leaves no socket behind
        tokio::spawn(async move {
            let (arrivals_in, arrivals) = mpsc::channel(ARRIVALS);
            let (state_in, state) = watch::channel(RTCPeerConnectionState::New);
            let (gathered_in, gathered) = watch::channel(false);
            let handler = Handler { arrivals: arrivals_in, state: state_in, gathered: gathered_in };
            let negotiated = connect::negotiate(&offer, &config, Arc::new(handler), gathered).await?;
            let answer = negotiated.answer.clone();
            Ok((Self::start(negotiated, &config, arrivals, state), answer))
        })
        .await
        .map_err(|error| RtcError::Failed { reason: error.to_string() })?
    }

    fn start(
        negotiated: Negotiated,
        config: &RtcConfig,
        arrivals: mpsc::Receiver<Arrival>,
        state: watch::Receiver<RTCPeerConnectionState>,
    ) -> Self {
        let (events_in, events) = mpsc::channel(EVENTS);
        let (messages_in, messages) = mpsc::channel(MESSAGES);
        let (close, closing) = watch::channel(false);
        let handle = RtcHandle {
            connection: Arc::clone(&negotiated.connection),
            messages: messages_in,
            sink: AudioSink::default(),
            candidates: Arc::default(),
            close,
        };
        let supervisor = Supervisor {
            connection: negotiated.connection,
            sink: handle.sink.clone(),
            events: events_in,
            messages: Some(messages),
            closing,
            state,
            arrivals,
            uplink: Some(negotiated.uplink),
            uplink_stats: Arc::default(),
            tasks: JoinSet::new(),
            channel_tasks: JoinSet::new(),
            connect_timeout: config.connect_timeout(),
        };
        let downlink = Downlink { talk: negotiated.talk, track: negotiated.track, stream: negotiated.stream };
        Self { handle, events, supervisor: Some(tokio::spawn(supervisor.run(downlink))) }
    }

    /// For everything that goes to the client.
    pub fn handle(&self) -> &RtcHandle {
        &self.handle
    }

    /// The next event; `None` after [`RtcEvent::Disconnected`].
    pub async fn event(&mut self) -> Option<RtcEvent> {
        self.events.recv().await
    }

    /// Closes the connection after the messages that are queued, and waits until its port is free (at most about a
    /// second).
    pub async fn close(mut self) {
        self.handle.close();
        self.events.close();
        if let Some(supervisor) = self.supervisor.take() {
            // it fails only if the supervisor panicked, which the runtime has reported
            let _ = supervisor.await;
        }
    }
}

impl Drop for RtcPeer {
    fn drop(&mut self) {
        self.handle.close();
    }
}

/// What the library announces.
enum Arrival {
    Track(Arc<dyn TrackRemote>),
    Channel(Arc<dyn DataChannel>),
}

/// Called on the connection's own task, which must not wait for anything.
struct Handler {
    arrivals: mpsc::Sender<Arrival>,
    state: watch::Sender<RTCPeerConnectionState>,
    gathered: watch::Sender<bool>,
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.send_replace(true);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.state.send_replace(state);
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        if self.arrivals.try_send(Arrival::Channel(channel)).is_err() {
            tracing::debug!("a client opens more data channels than are looked at");
        }
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        if self.arrivals.try_send(Arrival::Track(track)).is_err() {
            tracing::debug!("a client sends more tracks than are looked at");
        }
    }
}

struct Downlink {
    talk: super::talk::Talk,
    track: Arc<dyn TrackLocal>,
    stream: downlink::Stream,
}

/// The task that sees a connection from the answer to its end.
struct Supervisor {
    connection: Arc<dyn PeerConnection>,
    sink: AudioSink,
    events: mpsc::Sender<RtcEvent>,
    /// Until the client opens its channel.
    messages: Option<mpsc::Receiver<String>>,
    closing: watch::Receiver<bool>,
    state: watch::Receiver<RTCPeerConnectionState>,
    arrivals: mpsc::Receiver<Arrival>,
    /// Until the client's first audio track.
    uplink: Option<Uplink>,
    uplink_stats: Arc<Mutex<UplinkStats>>,
    /// Stopped at the end.
    tasks: JoinSet<()>,
    /// The receiver of messages, which ends when the client closes its channel.
    channel_tasks: JoinSet<()>,
    connect_timeout: Duration,
}

impl Supervisor {
    async fn run(mut self, downlink: Downlink) {
        let mut sender = JoinSet::new();
        let cause = self.watch(downlink, &mut sender).await;
        if cause == Disconnect::Closed {
            // the last words: only if the sender is still heard
            let _ = tokio::time::timeout(CLOSE_WITHIN, sender.join_next()).await;
        }
        self.tasks.shutdown().await;
        self.channel_tasks.shutdown().await;
        sender.shutdown().await;
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "closing a WebRTC connection");
        }
        // who dropped the peer does not listen any more
        let _ = self.events.send(RtcEvent::Disconnected(cause)).await;
    }

    async fn watch(&mut self, downlink: Downlink, sender: &mut JoinSet<()>) -> Disconnect {
        let deadline = Instant::now() + self.connect_timeout;
        let mut downlink = Some(downlink);
        let mut stats = tokio::time::interval(STATS_EVERY);
        stats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut closing = self.closing.clone();
        loop {
            tokio::select! {
                biased;
                () = receive::asked_to_close(&mut closing) => return Disconnect::Closed,
                Ok(()) = self.state.changed() => {
                    let state = *self.state.borrow_and_update();
                    tracing::debug!(%state, "WebRTC");
                    match state {
                        RTCPeerConnectionState::Connected => {
                            let Some(Downlink { talk, track, stream }) = downlink.take() else { continue };
                            self.tasks.spawn(downlink::run(self.sink.clone(), talk, track, stream));
                            // an application that is gone is noticed by `closing`
                            let _ = self.events.send(RtcEvent::Connected).await;
                        }
                        RTCPeerConnectionState::Closed => return Disconnect::ByClient,
                        RTCPeerConnectionState::Failed if downlink.is_some() => return Disconnect::NeverConnected,
                        RTCPeerConnectionState::Disconnected | RTCPeerConnectionState::Failed => {
                            return Disconnect::Lost;
                        }
                        _ => {}
                    }
                }
                Some(arrival) = self.arrivals.recv() => self.arrived(arrival, sender).await,
                Some(_) = self.channel_tasks.join_next() => return Disconnect::ByClient,
                () = tokio::time::sleep_until(deadline), if downlink.is_some() => return Disconnect::NeverConnected,
                _ = stats.tick(), if downlink.is_none() => {
                    let report = self.connection.get_stats(std::time::Instant::now(), StatsSelector::None).await;
                    let uplink = *self.uplink_stats.lock().unwrap_or_else(PoisonError::into_inner);
                    // a driver that lags does without
                    let _ = self.events.try_send(RtcEvent::Stats(read_stats(&report, uplink)));
                }
            }
        }
    }

    async fn arrived(&mut self, arrival: Arrival, sender: &mut JoinSet<()>) {
        match arrival {
            Arrival::Track(track) if track.kind().await == RtpCodecKind::Audio => {
                let Some(uplink) = self.uplink.take() else { return };
                let stats = Arc::clone(&self.uplink_stats);
                self.tasks.spawn(receive::audio(track, uplink, self.events.clone(), stats));
            }
            Arrival::Channel(channel) if channel.label().await.is_ok_and(|label| label == CHANNEL_LABEL) => {
                let Some(messages) = self.messages.take() else { return };
                // before the tasks, so that it comes before the first message
                let _ = self.events.send(RtcEvent::ChannelOpen).await;
                sender.spawn(receive::send(Arc::clone(&channel), messages, self.closing.clone()));
                self.channel_tasks.spawn(receive::messages(channel, self.events.clone()));
            }
            Arrival::Track(_) => tracing::debug!("a client sends a track that is not audio"),
            Arrival::Channel(_) => tracing::debug!("a client opens a data channel that is not {CHANNEL_LABEL:?}"),
        }
    }
}

fn read_stats(report: &RTCStatsReport, uplink: UplinkStats) -> RtcStats {
    use webrtc::peer_connection::RTCStatsReportEntry as Entry;
    let mut stats = RtcStats { uplink, ..RtcStats::default() };
    for entry in report.iter() {
        match entry {
            Entry::IceCandidatePair(pair) if pair.nominated && pair.responses_received > 0 => {
                stats.round_trip_ms = Some((pair.current_round_trip_time * 1e3) as f32);
            }
            Entry::OutboundRtp(stream) => stats.sent += stream.sent_rtp_stream_stats.packets_sent,
            _ => {}
        }
    }
    stats
}
