//! Tensors over memory that we own, and runs over them: nearly all unsafe code of the project (the crate's text lists the
//! rest).
//!
//! Owns: the calls of ONNX Runtime's C API that the `ort` crate offers no usable form of. Must not: know a graph.
//!
//! Two ways to run a graph:
//! - `run` over borrowed slices and [`Block`]s ([`Tensor`], [`TensorMut`]): lifetimes keep it safe; a few allocations a call.
//! - [`Binding`] over an [`Arena`]: everything is made once, a step only writes numbers and runs. The arena owns every
//!   buffer and a run borrows it mutably, so no reference into a buffer can be alive while the graph writes.
//!
//! `ort`'s own `IoBinding::bind_input` is not used: in 2.0.0-rc.15 it deadlocks for tensors over borrowed memory.

mod arena;
mod binding;
mod block;
mod placement;
mod tensor;

pub(crate) use arena::{Arena, Buffer, View};
pub(crate) use binding::Binding;
pub(crate) use block::{Block, Place};
pub(crate) use placement::{Placed, RECORD_PLACEMENT, placement};
pub(crate) use tensor::{Kind, Tensor, TensorMut, run};
