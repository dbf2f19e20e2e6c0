//! Numbers of the type that the estimator's caches have ("io" in BUNDLE.md), kept on the host as the graph wrote them.
//!
//! Owns: the choice of type. Must not: convert; a cache is only moved, and half the bytes is half the time.

use half::f16;

use crate::manifest::IoType;
use crate::raw::{Tensor, TensorMut};

#[derive(Debug, Clone)]
pub(super) enum Cells {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

/// Neighbouring frames that go to neighbouring slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) frame: usize,
    pub(super) slot: usize,
    pub(super) count: usize,
}

impl Cells {
    pub(super) fn zeroed(io: IoType, len: usize) -> Self {
        match io {
            IoType::Float32 => Cells::F32(vec![0.0; len]),
            IoType::Float16 => Cells::F16(vec![f16::ZERO; len]),
        }
    }

    pub(super) fn resize(&mut self, len: usize) {
        match self {
            Cells::F32(values) => values.resize(len, 0.0),
            Cells::F16(values) => values.resize(len, f16::ZERO),
        }
    }

    pub(super) fn tensor(&self, shape: &[i64]) -> Tensor<'_> {
        match self {
            Cells::F32(values) => Tensor::new(values, shape),
            Cells::F16(values) => Tensor::new(values, shape),
        }
    }

    pub(super) fn tensor_mut(&mut self, shape: &[i64]) -> TensorMut<'_> {
        match self {
            Cells::F32(values) => TensorMut::new(values, shape),
            Cells::F16(values) => TensorMut::new(values, shape),
        }
    }

    /// Takes over the values of another one of the same type and length.
    pub(super) fn copy_from(&mut self, other: &Cells) {
        match (self, other) {
            (Cells::F32(to), Cells::F32(from)) => to.copy_from_slice(from),
            (Cells::F16(to), Cells::F16(from)) => to.copy_from_slice(from),
            _ => mixed(),
        }
    }

    /// Copies frames of `fresh` `[lanes, frames, width]` into slots of this `[lanes, slots, width]`, the same in every
    /// lane.
    pub(super) fn put(&mut self, slots: usize, fresh: &Cells, frames: usize, width: usize, runs: &[Run]) {
        match (self, fresh) {
            (Cells::F32(to), Cells::F32(from)) => put(to, slots, from, frames, width, runs),
            (Cells::F16(to), Cells::F16(from)) => put(to, slots, from, frames, width, runs),
            _ => mixed(),
        }
    }
}

fn put<T: Copy>(to: &mut [T], slots: usize, from: &[T], frames: usize, width: usize, runs: &[Run]) {
    for (to, from) in to.chunks_exact_mut(slots * width).zip(from.chunks_exact(frames * width)) {
        for &Run { frame, slot, count } in runs {
            to[slot * width..][..count * width].copy_from_slice(&from[frame * width..][..count * width]);
        }
    }
}

fn mixed() -> ! {
    panic!("the caches of one bundle have one type. This is a bug.")
}
