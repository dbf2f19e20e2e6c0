//! kv_compact.onnx: moves cached rows to other positions after a window has dropped some (submodules.md 1.7, reference
//! utils.py:985-1130).
//!
//! Owns: scratch memory and the rotation. Must not: decide which rows go.
//!
//! Rows that move are turned by one constant angle per frequency, because all move by the same distance. Source and
//! destination overlap, and the destination is strided (one piece per head), so a layer takes two steps:
//! ```text
//! cache rows src of all heads --gather, rotate--> scratch [heads, n, width] --copy head by head--> cache rows dst..
//! ```

use std::ops::Range;

use super::{ANY, Graph, Use, dim, io_kind, port};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::raw::{Arena, Buffer, Kind, View};
use crate::runtime::Runtime;

/// The graph and the buffers it needs beside the cache.
#[derive(Debug)]
pub(crate) struct KvCompact {
    graph: Graph,
    io: Kind,
    scratch: Option<Scratch>,
}

/// Made at the first move: sessions without a window never need it.
#[derive(Debug, Clone, Copy)]
struct Scratch {
    rows: [Buffer; 2],
    index: Buffer,
    cos: Buffer,
    sin: Buffer,
}

const KEY: usize = 0;
const VALUE: usize = 1;
const INDEX: usize = 2;
const COS: usize = 3;
const SIN: usize = 4;

impl KvCompact {
    pub(crate) fn load(runtime: &Runtime, bundle: &Bundle) -> Result<Self> {
        let io = io_kind(bundle.manifest().io_dtype);
        let cache = [1, ANY, ANY, ANY];
        let angles = [ANY];
        let inputs = [
            port("key", io, &cache),
            port("value", io, &cache),
            port("index", Kind::I64, &[ANY]),
            port("cos", Kind::F32, &angles),
            port("sin", Kind::F32, &angles),
        ];
        let outputs = [port("key_out", io, &cache), port("value_out", io, &cache)];
        let graph = Graph::load(runtime, bundle, "kv_compact.onnx", Use::Chunk, &inputs, &outputs)?;
        Ok(KvCompact { graph, io, scratch: None })
    }

    /// Moves rows `src` to `dst` in every layer of `caches`, which lie in `arena`. `offset`: elements before the slot;
    /// `shape`: kv heads, capacity, head width.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn relocate(
        &mut self,
        arena: &mut Arena,
        caches: &[[Buffer; 2]],
        offset: usize,
        shape: [usize; 3],
        rope_theta: f64,
        src: Range<usize>,
        dst: usize,
    ) -> Result<()> {
        let [heads, capacity, width] = shape;
        let rows = src.len();
        let scratch = match self.scratch {
            Some(scratch) => scratch,
            None => *self.scratch.insert(self.make_scratch(arena, shape)?),
        };
        let distance = dst as f64 - src.start as f64;
        for layer in caches {
            set_index(arena, scratch, src.clone());
            set_angle(arena, scratch, distance, rope_theta);
            let whole = [1, dim(heads), dim(capacity), dim(width)];
            let moved = [1, dim(heads), dim(rows), dim(width)];
            let from = layer.map(|buffer| View { buffer, offset, shape: &whole });
            let to = scratch.rows.map(|buffer| View { buffer, offset: 0, shape: &moved });
            self.step(arena, scratch, rows, width, &from, &to)?;
            set_index(arena, scratch, 0..rows);
            set_angle(arena, scratch, 0.0, rope_theta);
            let piece = [1, 1, dim(rows), dim(width)];
            for head in 0..heads {
                let from = scratch.rows.map(|buffer| View { buffer, offset: head * rows * width, shape: &piece });
                let start = offset + (head * capacity + dst) * width;
                let to = layer.map(|buffer| View { buffer, offset: start, shape: &piece });
                self.step(arena, scratch, rows, width, &from, &to)?;
            }
        }
        Ok(())
    }

    fn make_scratch(&self, arena: &mut Arena, [heads, capacity, width]: [usize; 3]) -> Result<Scratch> {
        let what = "kv_compact scratch";
        let mut half = || arena.at(what, self.graph.place(), self.graph.session(), self.io, heads * capacity * width);
        let rows = [half()?, half()?];
        Ok(Scratch {
            rows,
            index: arena.host(what, Kind::I64, capacity)?,
            cos: arena.host(what, Kind::F32, width / 2)?,
            sin: arena.host(what, Kind::F32, width / 2)?,
        })
    }

    fn step(
        &mut self,
        arena: &mut Arena,
        scratch: Scratch,
        rows: usize,
        width: usize,
        from: &[View<'_>; 2],
        to: &[View<'_>; 2],
    ) -> Result<()> {
        let mut binding = self.graph.binding(arena)?;
        let angles = [dim(width / 2)];
        self.graph.bind_input(&mut binding, KEY, arena, &from[0])?;
        self.graph.bind_input(&mut binding, VALUE, arena, &from[1])?;
        let index = [dim(rows)];
        self.graph.bind_input(&mut binding, INDEX, arena, &View { buffer: scratch.index, offset: 0, shape: &index })?;
        self.graph.bind_input(&mut binding, COS, arena, &View { buffer: scratch.cos, offset: 0, shape: &angles })?;
        self.graph.bind_input(&mut binding, SIN, arena, &View { buffer: scratch.sin, offset: 0, shape: &angles })?;
        self.graph.bind_output(&mut binding, KEY, arena, &to[0])?;
        self.graph.bind_output(&mut binding, VALUE, arena, &to[1])?;
        self.graph.run_bound(&mut binding, arena)
    }
}

fn set_index(arena: &mut Arena, scratch: Scratch, rows: Range<usize>) {
    let start = rows.start;
    for (n, index) in arena.slice_mut::<i64>(scratch.index)[..rows.len()].iter_mut().enumerate() {
        *index = dim(start + n);
    }
}

/// cos and sin of `distance` positions, frequency j of the half-split rotary embedding being theta^(-2j / width).
fn set_angle(arena: &mut Arena, scratch: Scratch, distance: f64, rope_theta: f64) {
    let half = arena.slice::<f32>(scratch.cos).len();
    for j in 0..half {
        let angle = distance * rope_theta.powf(-(j as f64) / half as f64);
        arena.slice_mut::<f32>(scratch.cos)[j] = angle.cos() as f32;
        arena.slice_mut::<f32>(scratch.sin)[j] = angle.sin() as f32;
    }
}

#[cfg(test)]
mod tests;
