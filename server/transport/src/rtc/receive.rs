//! The tasks that turn what a client sends into events.
//!
//! Owns the loops over the audio track and the data channel. What they decide is in [`super::uplink`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};

use super::metronome::FRAME;
use super::peer::RtcEvent;
use super::uplink::{Uplink, UplinkStats};

/// How long a closing session waits for its last messages to be acknowledged.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Receives audio: an event for each packet, and one of 20 ms in every 20 ms from the first packet on, until the track
/// ends. Events that the application does not take in time are dropped and counted: late sound is worth nothing.
pub(super) async fn audio(
    track: Arc<dyn TrackRemote>,
    mut uplink: Uplink,
    events: mpsc::Sender<RtcEvent>,
    stats: Arc<Mutex<UplinkStats>>,
) {
    let start = Instant::now();
    let mut ticks = None;
    loop {
        tokio::select! {
            event = track.poll() => match event {
                Some(TrackRemoteEvent::OnRtpPacket(packet)) => {
                    let header = &packet.header;
                    let heard = uplink.push(
                        start.elapsed(), header.ssrc, header.sequence_number, header.timestamp, &packet.payload,
                    );
                    if !heard.is_empty() && events.try_send(RtcEvent::Arrived(heard)).is_err() {
                        uplink.frame_dropped();
                    }
                    if ticks.is_none() {
                        let mut interval = tokio::time::interval(FRAME);
                        // a late machine must still give one frame for each 20 ms: the session's clock counts them
                        interval.set_missed_tick_behavior(MissedTickBehavior::Burst);
                        ticks = Some(interval);
                    }
                }
                Some(TrackRemoteEvent::OnEnded) | None => return,
                Some(_) => {}
            },
            () = next_tick(&mut ticks) => {
                if events.try_send(RtcEvent::Audio(uplink.tick())).is_err() {
                    uplink.frame_dropped();
                }
                *stats.lock().unwrap_or_else(PoisonError::into_inner) = uplink.stats();
            }
        }
    }
}

async fn next_tick(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Waits for the request to close, or for all who could ask to be gone.
pub(super) async fn asked_to_close(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await.is_ok();
}

/// Receives messages until the client closes the channel. An application that does not take them makes the client
/// wait: nothing is dropped.
pub(super) async fn messages(channel: Arc<dyn DataChannel>, events: mpsc::Sender<RtcEvent>) {
    while let Some(event) = channel.poll().await {
        let event = match event {
            DataChannelEvent::OnMessage(message) => match String::from_utf8(message.data.to_vec()) {
                Ok(text) if message.is_string => RtcEvent::Message(text),
                _ => RtcEvent::NotText { bytes: message.data.len() },
            },
            DataChannelEvent::OnClose => return,
            _ => continue,
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Sends messages in order. At the end (`closing`) what is queued still goes out, as far as the client takes it.
pub(super) async fn send(
    channel: Arc<dyn DataChannel>,
    mut queue: mpsc::Receiver<String>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            text = queue.recv() => {
                let Some(text) = text else { break };
                if let Err(error) = channel.send_text(&text).await {
                    tracing::debug!(%error, "the data channel is closed");
                    return;
                }
            }
            () = asked_to_close(&mut closing) => break,
        }
    }
    let deadline = Instant::now() + LAST_WORDS;
    while Instant::now() < deadline && channel.outstanding_bytes().await.is_ok_and(|bytes| bytes > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
