//! A WebRTC client with a microphone, a loudspeaker and a data channel, made of the library that the server uses.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use duologue_audio::opus::{ENCODER_FRAME, Encoder};
use duologue_transport::rtc::CHANNEL_LABEL;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::media_engine::MIME_TYPE_OPUS;
use rtc::rtp;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCPeerConnectionState, RTCSessionDescription, Registry, SettingEngineBuilder, register_default_interceptors,
};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Not the number that the server would choose, so that a fixed one there would be noticed.
pub const PAYLOAD_TYPE: u8 = 96;

/// A packet as the client got it.
#[derive(Debug)]
pub struct Heard {
    pub payload_type: u8,
    pub marker: bool,
    pub timestamp: u32,
    pub payload: Vec<u8>,
}

struct ClientHandler {
    gathered: watch::Sender<bool>,
    state: watch::Sender<RTCPeerConnectionState>,
    heard: mpsc::UnboundedSender<Heard>,
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
                    let _ = heard.send(Heard {
                        payload_type: packet.header.payload_type,
                        marker: packet.header.marker,
                        timestamp: packet.header.timestamp,
                        payload: packet.payload.to_vec(),
                    });
                }
            }
        });
    }
}

/// See the module.
pub struct Client {
    connection: Arc<dyn PeerConnection>,
    track: Arc<dyn TrackLocal>,
    ssrc: u32,
    pub channel: Arc<dyn DataChannel>,
    gathered: watch::Receiver<bool>,
    state: watch::Receiver<RTCPeerConnectionState>,
    pub heard: mpsc::UnboundedReceiver<Heard>,
    talking: Option<JoinHandle<()>>,
}

fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: vec![],
    }
}

impl Client {
    pub async fn new() -> Self {
        let (gathered_in, gathered) = watch::channel(false);
        let (state_in, state) = watch::channel(RTCPeerConnectionState::New);
        let (heard_in, heard) = mpsc::unbounded_channel();
        let mut media = MediaEngine::default();
        let codec = RTCRtpCodecParameters { rtp_codec: opus(), payload_type: PAYLOAD_TYPE };
        media.register_codec(codec, RtpCodecKind::Audio).unwrap();
        let interceptors = register_default_interceptors(Registry::new(), &mut media).unwrap();
        let settings = SettingEngineBuilder::new()
            .with_include_loopback_candidate(true)
            .with_ice_connection_attempts(Some(Duration::from_millis(20)), Some(200))
            .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
            .build();
        let connection = PeerConnectionBuilder::new()
            .with_media_engine(media)
            .with_interceptor_registry(interceptors)
            .with_setting_engine(settings)
            .with_handler(Arc::new(ClientHandler { gathered: gathered_in, state: state_in, heard: heard_in }))
            .with_udp_addrs(vec!["127.0.0.1:0"])
            .build()
            .await
            .unwrap();
        let ssrc = 4_711;
        let track: Arc<dyn TrackLocal> = Arc::new(TrackLocalStaticRTP::new(MediaStreamTrack::new(
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
        connection.add_track(Arc::clone(&track)).await.unwrap();
        let channel = connection.create_data_channel(CHANNEL_LABEL, None).await.unwrap();
        let connection: Arc<dyn PeerConnection> = Arc::new(connection);
        Self { connection, track, ssrc, channel, gathered, state, heard, talking: None }
    }

    pub async fn offer(&mut self) -> String {
        let offer = self.connection.create_offer(None).await.unwrap();
        self.connection.set_local_description(offer).await.unwrap();
        timeout(PATIENCE, self.gathered.wait_for(|done| *done)).await.unwrap().unwrap();
        self.connection.local_description().await.unwrap().sdp
    }

    pub async fn accept(&self, answer: String) {
        self.connection.set_remote_description(RTCSessionDescription::answer(answer).unwrap()).await.unwrap();
    }

    pub async fn reaches(&mut self, wanted: RTCPeerConnectionState) {
        timeout(PATIENCE, self.state.wait_for(|state| *state == wanted)).await.unwrap().unwrap();
    }

    /// Says `samples` at 24 kHz from now on, again and again.
    pub fn talk(&mut self, samples: Vec<i16>) {
        let (track, ssrc) = (Arc::clone(&self.track), self.ssrc);
        self.talking = Some(tokio::spawn(async move {
            let mut encoder = Encoder::new(0).unwrap();
            let mut interval = tokio::time::interval(Duration::from_millis(20));
            for (index, frame) in samples.chunks_exact(ENCODER_FRAME).cycle().enumerate() {
                interval.tick().await;
                let header = rtp::Header {
                    version: 2,
                    payload_type: PAYLOAD_TYPE,
                    sequence_number: index as u16,
                    timestamp: index as u32 * 960,
                    ssrc,
                    ..Default::default()
                };
                let payload = encoder.encode(frame).unwrap().packet.into();
                if track.write_rtp(rtp::Packet { header, payload }).await.is_err() {
                    return;
                }
            }
        }));
    }

    pub async fn message(&self) -> String {
        loop {
            match timeout(PATIENCE, self.channel.poll()).await.unwrap() {
                Some(DataChannelEvent::OnMessage(message)) => return String::from_utf8(message.data.to_vec()).unwrap(),
                Some(_) => {}
                None => panic!("the data channel ended"),
            }
        }
    }

    pub async fn opened(&self) {
        while !matches!(timeout(PATIENCE, self.channel.poll()).await.unwrap(), Some(DataChannelEvent::OnOpen)) {}
    }

    pub async fn close(mut self) {
        if let Some(talking) = self.talking.take() {
            talking.abort();
        }
        self.connection.close().await.unwrap();
    }
}
