//! A WebRTC client with a microphone, a loudspeaker and a data channel, made of the library that the server uses.
//!
//! For tests and benches, which speak to the server as a browser does. Owns one connection; must not know what the
//! messages mean or how packets become sound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use duologue_audio::opus::Encoder;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
use rtc::rtp;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCPeerConnectionState, RTCSessionDescription, Registry, SettingEngineBuilder, register_default_interceptors,
};

use super::connect::opus;
use super::{CHANNEL_LABEL, RtcError};

/// Longest wait for the network.
const PATIENCE: Duration = Duration::from_secs(20);
/// Not the number that the server would choose, so that a fixed one there would be noticed.
pub const PAYLOAD_TYPE: u8 = 96;
/// Packets that may wait to be heard, 20 s of them; newer ones are dropped, as a full socket does.
const HEARD_CAPACITY: usize = 1_000;
/// RTP ticks of a frame of 20 ms: the clock of Opus is 48 kHz.
const FRAME_TICKS: u32 = 960;

/// A packet as the client got it.
#[derive(Debug)]
pub struct Heard {
    /// When.
    pub at: Instant,
    /// The negotiated number of the codec.
    pub payload_type: u8,
    /// First packet after silence.
    pub marker: bool,
    /// Number of the packet.
    pub sequence: u16,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// Opus.
    pub payload: Vec<u8>,
}

/// What comes from the server.
#[derive(Debug)]
pub enum Incoming {
    /// On the data channel.
    Message(String),
    /// Of the server's voice.
    Packet(Heard),
}

struct ClientHandler {
    gathered: watch::Sender<bool>,
    state: watch::Sender<RTCPeerConnectionState>,
    heard: mpsc::Sender<Heard>,
}

#[async_trait]
impl PeerConnectionEventHandler for ClientHandler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        self.gathered.send_replace(state == RTCIceGatheringState::Complete);
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.state.send_replace(state);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(packet) = event {
                    let packet = Heard {
                        at: Instant::now(),
                        payload_type: packet.header.payload_type,
                        marker: packet.header.marker,
                        sequence: packet.header.sequence_number,
                        timestamp: packet.header.timestamp,
                        payload: packet.payload.to_vec(),
                    };
                    drop(heard.try_send(packet));
                }
            }
        });
    }
}

/// See the module.
pub struct Client {
    connection: Arc<dyn PeerConnection>,
    /// The data channel's events.
    pub channel: Arc<dyn DataChannel>,
    gathered: watch::Receiver<bool>,
    state: watch::Receiver<RTCPeerConnectionState>,
    /// Packets of the server's voice.
    pub heard: mpsc::Receiver<Heard>,
    /// Speaks to the server; a task of its own may take it.
    pub microphone: Option<Microphone>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Client").finish_non_exhaustive()
    }
}

fn failed(error: impl std::fmt::Display) -> RtcError {
    RtcError::Failed { reason: error.to_string() }
}

fn too_slow(what: &str) -> RtcError {
    RtcError::Failed { reason: format!("{what} took longer than {} s", PATIENCE.as_secs()) }
}

impl Client {
    /// A client with a socket at `address` (`127.0.0.1:0` for a server on this machine) that has met nobody yet.
    ///
    /// # Errors
    /// When the library or the codec cannot be set up.
    pub async fn new(address: &str) -> Result<Self, RtcError> {
        let (gathered_in, gathered) = watch::channel(false);
        let (state_in, state) = watch::channel(RTCPeerConnectionState::New);
        let (heard_in, heard) = mpsc::channel(HEARD_CAPACITY);
        let mut media = MediaEngine::default();
        let codec = RTCRtpCodecParameters { rtp_codec: opus(), payload_type: PAYLOAD_TYPE };
        media.register_codec(codec, RtpCodecKind::Audio).map_err(failed)?;
        let interceptors = register_default_interceptors(Registry::new(), &mut media).map_err(failed)?;
        let settings = SettingEngineBuilder::new()
            .with_include_loopback_candidate(true)
            .with_ice_connection_attempts(Some(Duration::from_millis(20)), Some(200))
            .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
            // As a browser, which sends what the server takes: pictures are longer than the 64 KiB that hold when nothing is said.
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(SctpMaxMessageSize::MAX_MESSAGE_SIZE))
            .build();
        let connection = PeerConnectionBuilder::new()
            .with_media_engine(media)
            .with_interceptor_registry(interceptors)
            .with_setting_engine(settings)
            .with_handler(Arc::new(ClientHandler { gathered: gathered_in, state: state_in, heard: heard_in }))
            .with_udp_addrs(vec![address.to_owned()])
            .build()
            .await
            .map_err(failed)?;
        let microphone = Microphone::new()?;
        connection.add_track(Arc::clone(&microphone.track)).await.map_err(failed)?;
        let channel = connection.create_data_channel(CHANNEL_LABEL, None).await.map_err(failed)?;
        let connection: Arc<dyn PeerConnection> = Arc::new(connection);
        Ok(Self { connection, channel, gathered, state, heard, microphone: Some(microphone) })
    }

    /// The SDP offer, with all candidates in it.
    ///
    /// # Errors
    /// When the library fails.
    pub async fn offer(&mut self) -> Result<String, RtcError> {
        let offer = self.connection.create_offer(None).await.map_err(failed)?;
        self.connection.set_local_description(offer).await.map_err(failed)?;
        let gathered = timeout(PATIENCE, self.gathered.wait_for(|done| *done)).await;
        gathered.map_err(|_| too_slow("looking for candidates"))?.map_err(failed)?;
        let local = self.connection.local_description().await;
        Ok(local.ok_or_else(|| failed("there is no local description"))?.sdp)
    }

    /// Takes the server's answer.
    ///
    /// # Errors
    /// When it is none.
    pub async fn accept(&mut self, answer: String) -> Result<(), RtcError> {
        let answer = RTCSessionDescription::answer(answer).map_err(failed)?;
        self.connection.set_remote_description(answer).await.map_err(failed)
    }

    /// Waits until the connection stands.
    ///
    /// # Errors
    /// When it does not come to that in 20 s.
    pub async fn connected(&mut self) -> Result<(), RtcError> {
        let connected = |state: &RTCPeerConnectionState| *state == RTCPeerConnectionState::Connected;
        let reached = timeout(PATIENCE, self.state.wait_for(connected)).await;
        reached.map_err(|_| too_slow("connecting"))?.map_err(failed)?;
        Ok(())
    }

    /// Waits until the data channel is open.
    ///
    /// # Errors
    /// When it does not open in 20 s.
    pub async fn opened(&mut self) -> Result<(), RtcError> {
        loop {
            match timeout(PATIENCE, self.channel.poll()).await.map_err(|_| too_slow("opening the data channel"))? {
                Some(DataChannelEvent::OnOpen) => return Ok(()),
                Some(_) => {}
                None => return Err(RtcError::Closed),
            }
        }
    }

    /// The next message of the data channel; `None` when it is closed.
    pub async fn message(&mut self) -> Option<String> {
        message(self.channel.as_ref()).await
    }

    /// The next message or packet; `None` when the data channel is closed.
    pub async fn next(&mut self) -> Option<Incoming> {
        tokio::select! {
            text = message(self.channel.as_ref()) => text.map(Incoming::Message),
            Some(packet) = self.heard.recv() => Some(Incoming::Packet(packet)),
        }
    }

    /// Hangs up.
    ///
    /// # Errors
    /// When the library fails.
    pub async fn close(self) -> Result<(), RtcError> {
        self.connection.close().await.map_err(failed)
    }
}

async fn message(channel: &dyn DataChannel) -> Option<String> {
    loop {
        match channel.poll().await? {
            DataChannelEvent::OnMessage(message) => return Some(String::from_utf8_lossy(&message.data).into_owned()),
            DataChannelEvent::OnClose => return None,
            _ => {}
        }
    }
}

/// The client's voice: frames of 20 ms become packets at once.
pub struct Microphone {
    track: Arc<dyn TrackLocal>,
    ssrc: u32,
    encoder: Encoder,
    frames: u32,
}

impl std::fmt::Debug for Microphone {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Microphone").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl Microphone {
    fn new() -> Result<Self, RtcError> {
        let ssrc = 4_711;
        let track = Arc::new(TrackLocalStaticRTP::new(MediaStreamTrack::new(
            "client".to_owned(),
            "microphone".to_owned(),
            "microphone".to_owned(),
            RtpCodecKind::Audio,
            vec![RTCRtpEncodingParameters {
                rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
                codec: opus(),
                ..Default::default()
            }],
        )));
        Ok(Self { track, ssrc, encoder: Encoder::new(0).map_err(failed)?, frames: 0 })
    }

    /// Sends 20 ms of mono sound at 24 kHz, [`duologue_audio::opus::ENCODER_FRAME`] samples.
    ///
    /// # Errors
    /// For a frame of another length, or when the connection is gone.
    pub async fn say(&mut self, frame: &[i16]) -> Result<(), RtcError> {
        let header = rtp::Header {
            version: 2,
            payload_type: PAYLOAD_TYPE,
            sequence_number: self.frames as u16,
            timestamp: self.frames.wrapping_mul(FRAME_TICKS),
            ssrc: self.ssrc,
            ..Default::default()
        };
        self.frames = self.frames.wrapping_add(1);
        let payload = self.encoder.encode(frame).map_err(failed)?.packet.into();
        self.track.write_rtp(rtp::Packet { header, payload }).await.map_err(failed)
    }
}
