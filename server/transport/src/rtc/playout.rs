//! What the model says and the client has not been sent yet.
//!
//! Owns the queue of one session, the fades at its cuts and the play head. Must not encode, pace or read a clock.

use std::collections::VecDeque;

use duologue_audio::opus::{ENCODER_FRAME, ENCODER_RATE_HZ};

/// Samples of a fade: 5 ms, enough that a cut does not click.
const FADE: usize = ENCODER_RATE_HZ as usize / 200;
/// Samples that may wait: 60 s. A turn is made faster than it is heard, but never a minute ahead.
const CAPACITY: usize = 60 * ENCODER_RATE_HZ as usize;

/// Samples that did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{dropped} samples did not fit into the playback queue of {CAPACITY}; they were dropped, the ones before are kept"
)]
pub struct PlayoutFull {
    /// How many, from the end of what was given.
    pub dropped: usize,
}

/// How far the newest turn that sounds has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlayHead {
    /// The turn of the last sample sent, as clients count turns.
    pub turn: u32,
    /// Milliseconds of that turn that were sent.
    pub played_ms: u64,
    /// Milliseconds that wait, of all turns.
    pub buffered_ms: u64,
}

#[derive(Debug)]
struct Piece {
    turn: u32,
    samples: Vec<i16>,
    at: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Playout {
    queue: VecDeque<Piece>,
    queued: usize,
    held: bool,
    /// Faded samples that still have to be sent after a cut.
    tail: Vec<i16>,
    /// The next samples begin with a fade in.
    fade_in: bool,
    /// The last frame ended in the middle of sound.
    sounding: bool,
    head: Option<(u32, u64)>,
}

impl Playout {
    /// Appends 24 kHz samples of a turn.
    ///
    /// # Errors
    /// [`PlayoutFull`] when a minute already waits: what fits is kept.
    pub fn play(&mut self, turn: u32, samples: &[i16]) -> Result<(), PlayoutFull> {
        let fits = samples.len().min(CAPACITY - self.queued);
        if fits > 0 {
            self.queue.push_back(Piece { turn, samples: samples[..fits].to_vec(), at: 0 });
            self.queued += fits;
        }
        if fits < samples.len() { Err(PlayoutFull { dropped: samples.len() - fits }) } else { Ok(()) }
    }

    /// Drops all that waits. What is sounding ends within 5 ms of samples.
    pub fn flush(&mut self) {
        self.cut();
        self.queue.clear();
        self.queued = 0;
        self.held = false;
        self.fade_in = false;
    }

    /// Stops within 5 ms of samples and keeps the rest.
    pub fn hold(&mut self) {
        if !self.held {
            self.cut();
            self.held = true;
        }
    }

    /// Goes on where [`Playout::hold`] stopped, with a fade in of 5 ms.
    pub fn unhold(&mut self) {
        if self.held {
            self.held = false;
            self.fade_in = true;
        }
    }

    /// The next 20 ms, filled up with zeros at the end of what there is; `None` when there is nothing to hear.
    pub fn frame(&mut self) -> Option<[i16; ENCODER_FRAME]> {
        let mut frame = [0; ENCODER_FRAME];
        let tail = std::mem::take(&mut self.tail);
        frame[..tail.len()].copy_from_slice(&tail);
        let mut filled = tail.len();
        if !self.held {
            let from = filled;
            filled += self.take(&mut frame[filled..]);
            if filled > from && std::mem::take(&mut self.fade_in) {
                fade(&mut frame[from..filled.min(from + FADE)], Ramp::Up);
            }
        }
        self.sounding = filled == ENCODER_FRAME;
        (filled > 0).then_some(frame)
    }

    /// How far playing has come; `None` before the first sample.
    pub fn head(&self) -> Option<PlayHead> {
        let (turn, played) = self.head?;
        Some(PlayHead { turn, played_ms: milliseconds(played), buffered_ms: milliseconds(self.queued as u64) })
    }

    /// Samples that wait.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Makes the tail for a cut at this moment, out of the samples that would have come next.
    fn cut(&mut self) {
        if self.sounding && !self.held && self.tail.is_empty() {
            let mut tail = vec![0; FADE];
            let length = self.take(&mut tail);
            tail.truncate(length);
            fade(&mut tail, Ramp::Down);
            self.tail = tail;
        }
    }

    /// Moves samples from the queue, as many as there are and fit.
    fn take(&mut self, out: &mut [i16]) -> usize {
        let mut filled = 0;
        while filled < out.len()
            && let Some(piece) = self.queue.front_mut()
        {
            let count = (piece.samples.len() - piece.at).min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&piece.samples[piece.at..piece.at + count]);
            piece.at += count;
            filled += count;
            self.queued -= count;
            self.head = match self.head {
                Some((turn, played)) if turn == piece.turn => Some((turn, played + count as u64)),
                _ => Some((piece.turn, count as u64)),
            };
            if piece.at == piece.samples.len() {
                self.queue.pop_front();
            }
        }
        filled
    }
}

#[derive(Clone, Copy)]
enum Ramp {
    Up,
    Down,
}

fn fade(samples: &mut [i16], ramp: Ramp) {
    let length = samples.len() as f32;
    for (index, sample) in samples.iter_mut().enumerate() {
        let share = (index as f32 + 0.5) / length;
        let gain = match ramp {
            Ramp::Up => share,
            Ramp::Down => 1.0 - share,
        };
        *sample = (f32::from(*sample) * gain) as i16;
    }
}

fn milliseconds(samples: u64) -> u64 {
    samples * 1_000 / u64::from(ENCODER_RATE_HZ)
}

#[cfg(test)]
mod tests;
