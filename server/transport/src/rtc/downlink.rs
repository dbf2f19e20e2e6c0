//! Sends what the model says, 20 ms at a time, against tokio's clock.
//!
//! Owns the task that ties queue, metronome and encoder to an RTP track. The decisions are theirs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use duologue_audio::opus::ENCODER_FRAME;
use rtc::rtp;
use tokio::time::Instant;
use webrtc::media_stream::track_local::TrackLocal;

use super::metronome::Metronome;
use super::playout::{PlayHead, Playout, PlayoutFull};
use super::talk::{Outgoing, Talk};

/// What the model says goes in here; cheap to clone. Nothing in it waits for the network.
#[derive(Debug, Clone, Default)]
pub struct AudioSink {
    playout: Arc<Mutex<Playout>>,
}

impl AudioSink {
    /// Appends 24 kHz samples of a turn.
    ///
    /// # Errors
    /// [`PlayoutFull`] when a minute already waits: what fits is kept, the rest is dropped.
    pub fn play(&self, turn: u32, samples: &[i16]) -> Result<(), PlayoutFull> {
        self.lock().play(turn, samples)
    }

    /// Drops all that waits; what sounds fades out within the next packet.
    pub fn flush(&self) {
        self.lock().flush();
    }

    /// Pauses within the next packet and keeps what waits.
    pub fn hold(&self) {
        self.lock().hold();
    }

    /// Goes on after [`AudioSink::hold`].
    pub fn unhold(&self) {
        self.lock().unhold();
    }

    /// How far playing has come; `None` before the first sample. What was sent is heard some 50 ms later (network and
    /// the client's jitter buffer).
    pub fn head(&self) -> Option<PlayHead> {
        self.lock().head()
    }

    fn frame(&self) -> Option<[i16; ENCODER_FRAME]> {
        self.lock().frame()
    }

    fn lock(&self) -> MutexGuard<'_, Playout> {
        // a panic elsewhere leaves a queue that is still a queue
        self.playout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The RTP numbers of one outgoing stream that do not change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) payload_type: u8,
    pub(super) ssrc: u32,
}

/// Runs until the connection is closed.
pub(super) async fn run(sink: AudioSink, mut talk: Talk, track: Arc<dyn TrackLocal>, stream: Stream) {
    let start = Instant::now();
    let mut metronome = Metronome::new(std::time::Duration::ZERO);
    loop {
        let due = metronome.due(start.elapsed());
        if due.skipped > 0 {
            tracing::debug!(frames = due.skipped, "sending audio fell behind");
            talk.skip(due.skipped);
        }
        for _ in 0..due.frames {
            match talk.frame(sink.frame().as_ref()) {
                Ok(None) => {}
                Ok(Some(packet)) => {
                    if track.write_rtp(rtp_packet(packet, stream)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot encode audio; the client will hear nothing more");
                    return;
                }
            }
        }
        tokio::time::sleep_until(start + due.next).await;
    }
}

fn rtp_packet(packet: Outgoing, stream: Stream) -> rtp::Packet {
    rtp::Packet {
        header: rtp::Header {
            version: 2,
            marker: packet.marker,
            payload_type: stream.payload_type,
            sequence_number: packet.sequence,
            timestamp: packet.timestamp,
            ssrc: stream.ssrc,
            ..Default::default()
        },
        payload: packet.payload.into(),
    }
}
