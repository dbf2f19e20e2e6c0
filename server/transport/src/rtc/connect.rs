//! From an offer to an answer.
//!
//! Owns how the WebRTC library is set up. Must not outlive the negotiation: what it leaves is in [`Negotiated`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rtc::ice::mdns::MulticastDnsMode;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::media_engine::MIME_TYPE_OPUS;
use rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use tokio::sync::watch;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCSessionDescription, Registry, SettingEngineBuilder, register_default_interceptors,
};

use super::RtcError;
use super::config::RtcConfig;
use super::downlink::Stream;
use super::ports;
use super::sdp;
use super::talk::Talk;
use super::uplink::Uplink;

/// The library's own 200 ms between checks cost 150 ms until the first sound.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Checks of one pair before it is given up: four seconds.
const CHECKS: u16 = 200;
/// Without a packet for so long a connection is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// The library's step from "disconnected" to "failed"; ours ends at the first.
const FAILED_AFTER: Duration = Duration::from_secs(10);
/// Keeps address translations open.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Gathering only reads the own addresses; it takes a few milliseconds.
const GATHER_WITHIN: Duration = Duration::from_secs(5);
/// Largest message that a client may send: a picture of the camera fits.
const MESSAGE_BYTES: u32 = SctpMaxMessageSize::MAX_MESSAGE_SIZE;
/// Bytes that may be on their way to a client before the sender of messages waits.
const SEND_BUFFER: usize = 1024 * 1024;
/// What an offer without a better idea is answered with; the negotiated number is read back.
const OPUS_PAYLOAD_TYPE: u8 = 111;

/// A connection that waits for its client.
pub(super) struct Negotiated {
    pub(super) connection: Arc<dyn PeerConnection>,
    pub(super) answer: String,
    pub(super) track: Arc<dyn TrackLocal>,
    pub(super) stream: Stream,
    pub(super) talk: Talk,
    pub(super) uplink: Uplink,
}

/// Opens a port and answers `offer`. After an error nothing is left open.
pub(super) async fn negotiate(
    offer: &str,
    config: &RtcConfig,
    handler: Arc<dyn PeerConnectionEventHandler>,
    gathered: watch::Receiver<bool>,
) -> Result<Negotiated, RtcError> {
    let offer = RTCSessionDescription::offer(offer.to_owned()).map_err(offer_error)?;
    let connection = open(config, &handler).await?;
    let negotiated = answer(&connection, offer, config, gathered).await;
    if negotiated.is_err()
        && let Err(error) = connection.close().await
    {
        tracing::warn!(%error, "closing a WebRTC connection");
    }
    negotiated
}

fn offer_error(error: impl std::fmt::Display) -> RtcError {
    RtcError::Offer { reason: error.to_string() }
}

fn failed(error: impl std::fmt::Display) -> RtcError {
    RtcError::Failed { reason: error.to_string() }
}

/// Binds the first free port of the range.
async fn open(
    config: &RtcConfig,
    handler: &Arc<dyn PeerConnectionEventHandler>,
) -> Result<Arc<dyn PeerConnection>, RtcError> {
    let addresses = config.addresses();
    let mut last_error = None;
    for port in ports::candidates(config) {
        if !ports::is_free(&addresses, port) {
            continue;
        }
        let sockets = addresses.iter().map(|&ip| SocketAddr::new(ip, port)).collect();
        match build(config, sockets, Arc::clone(handler)).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last_error = Some(error.to_string()),
        }
    }
    Err(ports::exhausted(config, last_error))
}

async fn build(
    config: &RtcConfig,
    sockets: Vec<SocketAddr>,
    handler: Arc<dyn PeerConnectionEventHandler>,
) -> Result<Arc<dyn PeerConnection>, webrtc::error::Error> {
    let mut media = MediaEngine::default();
    let codec = RTCRtpCodecParameters { rtp_codec: opus(), payload_type: OPUS_PAYLOAD_TYPE };
    media.register_codec(codec, RtpCodecKind::Audio)?;
    let interceptors = register_default_interceptors(Registry::new(), &mut media)?;
    let settings = SettingEngineBuilder::new()
        .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS))
        .with_ice_timeouts(Some(LOST_AFTER), Some(FAILED_AFTER), Some(KEEP_ALIVE))
        .with_include_loopback_candidate(config.loopback || config.bind.iter().any(std::net::IpAddr::is_loopback))
        // a browser's hidden address shows itself in its first check; asking the network for it needs a socket each
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(MESSAGE_BYTES))
        .build();
    let connection = PeerConnectionBuilder::new()
        .with_configuration(RTCConfigurationBuilder::new().build())
        .with_media_engine(media)
        .with_setting_engine(settings)
        .with_interceptor_registry(interceptors)
        .with_handler(handler)
        .with_udp_addrs(sockets)
        .with_data_channel_send_buffer_limit(SEND_BUFFER)
        .build()
        .await?;
    Ok(Arc::new(connection))
}

/// RFC 7587 section 7: always 48000 and 2, whatever is sent. FEC is asked for; DTX is not, so that a browser's silence
/// comes as packets and not as a gap.
pub(super) fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: vec![],
    }
}

async fn answer(
    connection: &Arc<dyn PeerConnection>,
    offer: RTCSessionDescription,
    config: &RtcConfig,
    mut gathered: watch::Receiver<bool>,
) -> Result<Negotiated, RtcError> {
    let (ssrc, sequence, timestamp) = {
        let mut random = rand::rng();
        (random.random(), random.random(), random.random())
    };
    connection.set_remote_description(offer).await.map_err(offer_error)?;
    let track: Arc<dyn TrackLocal> = Arc::new(TrackLocalStaticRTP::new(MediaStreamTrack::new(
        "duologue".to_owned(),
        "voice".to_owned(),
        "voice".to_owned(),
        RtpCodecKind::Audio,
        vec![RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
            codec: opus(),
            ..Default::default()
        }],
    )));
    // fails when the codecs of the offer fit none of ours, whatever its lines say
    let sender = connection.add_track(Arc::clone(&track)).await.map_err(offer_error)?;
    let answer = connection.create_answer(None).await.map_err(offer_error)?;
    connection.set_local_description(answer).await.map_err(offer_error)?;
    tokio::time::timeout(GATHER_WITHIN, gathered.wait_for(|gathered| *gathered))
        .await
        .map_err(|_| failed(format!("the own addresses were not found within {} s", GATHER_WITHIN.as_secs())))?
        .map_err(failed)?;
    let answer = connection.local_description().await.ok_or_else(|| failed("there is no answer"))?.sdp;

    // a number of our own would be dropped by the library without an error: the client's offer decides
    let parameters = sender.get_parameters().await.map_err(failed)?;
    let codec = parameters.rtp_parameters.codecs.first().ok_or_else(|| offer_error("no codec in common"))?;
    let stream = Stream { payload_type: codec.payload_type, ssrc };

    let talk = Talk::new(config.expected_loss_percent, sequence, timestamp).map_err(failed)?;
    let uplink = Uplink::new().map_err(failed)?;
    let answer = match config.advertised_ip {
        Some(ip) => sdp::advertise(&answer, ip),
        None => answer,
    };
    Ok(Negotiated { connection: Arc::clone(connection), answer, track, stream, talk, uplink })
}
