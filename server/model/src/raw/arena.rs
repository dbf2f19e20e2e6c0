//! Long-lived buffers of one graph group.

use std::sync::atomic::{AtomicU64, Ordering};

use ort::session::Session;

use super::block::{Block, Place};
use super::tensor::{Element, Kind, Value};
use crate::error::Result;

/// A buffer of an [`Arena`], by number; valid only with the arena that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    arena: u64,
    index: usize,
}

/// A tensor-shaped part of a buffer: `offset` elements from its start, contiguous.
#[derive(Debug)]
pub(crate) struct View<'s> {
    pub(crate) buffer: Buffer,
    pub(crate) offset: usize,
    pub(crate) shape: &'s [i64],
}

/// Owner of the buffers of one graph group. Buffers live as long as the arena and never move.
#[derive(Debug)]
pub(crate) struct Arena {
    id: u64,
    blocks: Vec<Block>,
}

impl Arena {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arena { id: NEXT.fetch_add(1, Ordering::Relaxed), blocks: Vec::new() }
    }

    /// A buffer as [`Block::host`] makes it.
    pub(crate) fn host(&mut self, what: &str, kind: Kind, elements: usize) -> Result<Buffer> {
        Ok(self.add(Block::host(what, kind, elements)?))
    }

    /// A buffer as [`Block::at`] makes it.
    pub(crate) fn at(
        &mut self,
        what: &str,
        place: Place,
        session: &Session,
        kind: Kind,
        elements: usize,
    ) -> Result<Buffer> {
        Ok(self.add(Block::at(what, place, session, kind, elements)?))
    }

    fn add(&mut self, block: Block) -> Buffer {
        self.blocks.push(block);
        Buffer { arena: self.id, index: self.blocks.len() - 1 }
    }

    fn index(&self, buffer: Buffer) -> usize {
        assert_eq!(buffer.arena, self.id, "a buffer of another arena. This is a bug.");
        buffer.index
    }

    /// The whole of a host buffer.
    pub(crate) fn slice<T: Element>(&self, buffer: Buffer) -> &[T] {
        self.blocks[self.index(buffer)].slice()
    }

    /// The whole of a host buffer, for writing.
    pub(crate) fn slice_mut<T: Element>(&mut self, buffer: Buffer) -> &mut [T] {
        let index = self.index(buffer);
        self.blocks[index].slice_mut()
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether a buffer lies on the host.
    pub(super) fn on_host(&self, buffer: Buffer) -> bool {
        self.blocks[self.index(buffer)].on_host()
    }

    /// A value over a part of a buffer, to be used only in runs that borrow this arena mutably.
    pub(super) fn value(&self, view: &View<'_>) -> Value {
        self.blocks[self.index(view.buffer)].value(view.offset, view.shape)
    }
}
