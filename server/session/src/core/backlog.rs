//! Cutting user audio into units and keeping a bounded number of them.
//!
//! Must not pad or resample: the audio front end does.

use std::collections::VecDeque;
use std::time::Duration;

use super::types::{CoreConfig, Frame};

/// A unit whose audio is complete.
#[derive(Debug)]
pub(super) struct ReadyUnit {
    pub(super) audio: Vec<f32>,
    pub(super) frames: Vec<Frame>,
    pub(super) ready_at: Duration,
}

#[derive(Debug)]
pub(super) struct Backlog {
    unit_samples: usize,
    max_units: usize,
    max_frames: usize,
    ready: VecDeque<ReadyUnit>,
    collecting: Vec<f32>,
    frames: Vec<Frame>,
}

impl Backlog {
    pub(super) fn new(config: &CoreConfig) -> Self {
        Self {
            unit_samples: config.unit_samples,
            max_units: config.backlog_units,
            max_frames: config.frames_per_unit,
            ready: VecDeque::with_capacity(config.backlog_units),
            collecting: Vec::with_capacity(config.unit_samples),
            frames: Vec::new(),
        }
    }

    /// Takes samples up to the end of the unit being collected; returns the rest and whether a waiting unit had to go.
    pub(super) fn push_audio<'a>(&mut self, now: Duration, samples: &'a [f32]) -> (&'a [f32], bool) {
        let (taken, rest) = samples.split_at(samples.len().min(self.unit_samples - self.collecting.len()));
        self.collecting.extend_from_slice(taken);
        if self.collecting.len() < self.unit_samples {
            return (rest, false);
        }
        let full = self.ready.len() == self.max_units;
        if full {
            self.ready.pop_front();
        }
        let audio = std::mem::replace(&mut self.collecting, Vec::with_capacity(self.unit_samples));
        let frames = std::mem::take(&mut self.frames);
        self.ready.push_back(ReadyUnit { audio, frames, ready_at: now });
        (rest, full)
    }

    /// Takes a frame; returns whether an older one had to go.
    pub(super) fn push_frame(&mut self, frame: Frame) -> bool {
        self.frames.push(frame);
        let full = self.frames.len() > self.max_frames;
        if full {
            self.frames.remove(0);
        }
        full
    }

    pub(super) fn pop(&mut self) -> Option<ReadyUnit> {
        self.ready.pop_front()
    }
}
