//! Recordings: what both sides said on one time axis, and what the server told the client meanwhile.
//!
//! A recording is a folder `<id>/` with `audio.wav` (16-bit stereo, left the user, right the model) and `timeline.json`
//! (`proto/LIVE.md`). It exists under its name only when it is complete. Off unless the server allows it and the client
//! agrees; old ones go by age and by size.

mod shelf;
mod track;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use duologue_proto::live::BundleInfo;
use duologue_proto::live::rest::{RecordedEvent, RecordingTimeline};

use crate::driver::{Sequenced, SessionEvent};
use crate::live::LiveCodec;

pub use shelf::{Shelf, ShelfLimits};
use track::StereoTrack;

/// The stereo wav of a recording.
pub const AUDIO: &str = "audio.wav";
/// What happened, beside it.
pub const TIMELINE: &str = "timeline.json";

/// Rate of the audio file: that of the reply.
const RATE_HZ: u32 = 24_000;
/// Entries that may wait for the disk: several seconds of a conversation. When full, the recording is given up and says so.
const CAPACITY: usize = 512;

/// What a recording is made of.
#[derive(Debug)]
pub struct Recording {
    /// Its id.
    pub id: String,
    /// Folder of all recordings.
    pub dir: PathBuf,
    /// Rate of the user audio.
    pub user_rate_hz: u32,
    /// Length of a unit.
    pub unit_ms: u32,
    /// The model.
    pub bundle: BundleInfo,
    /// Turns session events into the wire's.
    pub codec: LiveCodec,
}

/// One entry for the writer.
#[derive(Debug)]
enum Entry {
    User { until: Duration, samples: Vec<f32> },
    Reply { from: Duration, samples: Vec<i16> },
    Stopped { at: Duration },
    Event { at: Duration, event: Box<SessionEvent> },
}

/// The session's end of a recording: takes what happens and never waits.
#[derive(Debug)]
pub struct Recorder {
    id: String,
    sender: Option<SyncSender<Entry>>,
    /// An entry was lost: what is written is not the conversation.
    given_up: Arc<AtomicBool>,
}

impl Recorder {
    /// Begins a recording; its files are written by a thread of its own.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn begin(recording: Recording) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(CAPACITY);
        let id = recording.id.clone();
        let partial = recording.dir.join(format!(".{id}.partial"));
        fs::create_dir_all(&partial)?;
        let writer = Writer::new(recording, partial)?;
        let given_up = Arc::new(AtomicBool::new(false));
        let lost = given_up.clone();
        thread::Builder::new().name("recording".into()).spawn(move || writer.run(&receiver, &lost))?;
        Ok(Self { id, sender: Some(sender), given_up })
    }

    /// User audio that was complete at `until` on the session's clock.
    pub fn user(&mut self, until: Duration, samples: &[f32]) {
        self.put(Entry::User { until, samples: samples.to_vec() });
    }

    /// Speech that is played from `from` on.
    pub fn reply(&mut self, from: Duration, samples: &[i16]) {
        self.put(Entry::Reply { from, samples: samples.to_vec() });
    }

    /// Playback stopped: what was to be played after `at` is not heard.
    pub fn stopped(&mut self, at: Duration) {
        self.put(Entry::Stopped { at });
    }

    /// What the client is told.
    pub fn event(&mut self, at: Duration, event: &SessionEvent) {
        if !matches!(event, SessionEvent::Audio { .. }) {
            self.put(Entry::Event { at, event: Box::new(event.clone()) });
        }
    }

    fn put(&mut self, entry: Entry) {
        let Some(sender) = &self.sender else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(entry) {
            tracing::error!(recording = %self.id, "the disk cannot keep up or failed; the recording is given up");
            self.given_up.store(true, Ordering::Relaxed);
            self.sender = None;
        }
    }
}

/// Writes one recording.
struct Writer {
    recording: Recording,
    partial: PathBuf,
    track: StereoTrack<BufWriter<File>>,
    events: Vec<RecordedEvent>,
    started_at: f64,
    seq: u64,
}

impl Writer {
    fn new(recording: Recording, partial: PathBuf) -> io::Result<Self> {
        let file = BufWriter::new(File::create(partial.join(AUDIO))?);
        let track = StereoTrack::new(file, recording.user_rate_hz, RATE_HZ)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { recording, partial, track, events: Vec::new(), started_at: now.as_secs_f64(), seq: 0 })
    }

    fn run(mut self, entries: &Receiver<Entry>, given_up: &AtomicBool) {
        let (id, partial) = (self.recording.id.clone(), self.partial.clone());
        let written = entries.iter().try_for_each(|entry| self.take(entry)).and_then(|()| {
            match given_up.load(Ordering::Relaxed) {
                true => Err(io::Error::other("an entry was lost")),
                false => self.finish(),
            }
        });
        if let Err(error) = written {
            tracing::error!(recording = %id, %error, "the recording was not kept");
            if let Err(error) = fs::remove_dir_all(&partial) {
                tracing::error!(recording = %id, %error, "and what there was of it could not be removed");
            }
        }
    }

    fn take(&mut self, entry: Entry) -> io::Result<()> {
        match entry {
            Entry::User { until, samples } => self.track.user(until, &samples),
            Entry::Reply { from, samples } => self.track.reply(from, &samples),
            Entry::Stopped { at } => {
                self.track.stopped(at);
                Ok(())
            }
            Entry::Event { at, event } => {
                let numbered = Sequenced { seq: self.seq, event: *event };
                self.seq += 1;
                let at_ms = at.as_millis() as u64;
                let messages = self.recording.codec.send(&numbered);
                self.events.extend(messages.into_iter().map(|message| RecordedEvent { at_ms, event: message.event }));
                Ok(())
            }
        }
    }

    fn finish(self) -> io::Result<()> {
        let Recording { id, dir, unit_ms, bundle, .. } = self.recording;
        let duration_ms = self.track.finish()?;
        let timeline = RecordingTimeline {
            id: id.clone(),
            started_at: self.started_at,
            duration_ms,
            sample_rate: RATE_HZ,
            unit_ms,
            bundle,
            events: self.events,
        };
        let mut file = BufWriter::new(File::create(self.partial.join(TIMELINE))?);
        serde_json::to_writer(&mut file, &timeline)?;
        file.flush()?;
        fs::rename(&self.partial, Path::new(&dir).join(id))
    }
}
