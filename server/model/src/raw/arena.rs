//! Long-lived buffers on the host or on a device.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use ort::AsPointer;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;

use super::tensor::{Element, Kind, Value, check, cpu_info};
use crate::error::{ModelError, Result};

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host,
    Cuda(u32),
}

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

/// Cache lines and vector registers of every supported CPU divide this.
const ALIGNMENT: usize = 64;

#[derive(Debug)]
enum Memory {
    Host { data: NonNull<u8>, layout: Layout },
    Device { data: NonNull<u8>, allocator: Allocator, info: MemoryInfo<'static> },
}

// SAFETY: the memory is owned and reached only through the arena; the allocator is used again only to free.
unsafe impl Send for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        match self {
            // SAFETY: allocated with the same layout, freed once.
            Memory::Host { data, layout } => unsafe { dealloc(data.as_ptr(), *layout) },
            Memory::Device { data, allocator, .. } => {
                // SAFETY: allocated by this allocator, freed once. A failure to free cannot be acted upon.
                let _ = unsafe { check((ort::api().AllocatorFree)(allocator.ptr().cast_mut(), data.as_ptr().cast())) };
            }
        }
    }
}

#[derive(Debug)]
struct Block {
    memory: Memory,
    kind: Kind,
    elements: usize,
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

    /// A zeroed buffer of `elements` (at least one) on the host.
    pub(crate) fn host(&mut self, what: &str, kind: Kind, elements: usize) -> Result<Buffer> {
        let bytes = elements.max(1) * kind.size();
        let refused = |reason: &str| ModelError::Allocation {
            what: what.to_owned(),
            bytes,
            place: "the host".to_owned(),
            reason: reason.to_owned(),
        };
        let layout = Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| refused("too large"))?;
        // SAFETY: the layout has a size above zero.
        let data = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(|| refused("out of memory"))?;
        Ok(self.add(Memory::Host { data, layout }, kind, elements))
    }

    /// A buffer of `elements` at `place`, zeroed on the host and with any content on a device; `session` must run on that
    /// place.
    pub(crate) fn at(
        &mut self,
        what: &str,
        place: Place,
        session: &Session,
        kind: Kind,
        elements: usize,
    ) -> Result<Buffer> {
        let Place::Cuda(ordinal) = place else { return self.host(what, kind, elements) };
        let bytes = elements.max(1) * kind.size();
        let refused = |reason: String| ModelError::Allocation {
            what: what.to_owned(),
            bytes,
            place: format!("cuda:{ordinal}"),
            reason,
        };
        let ordinal = i32::try_from(ordinal).map_err(|_| refused("no such device".to_owned()))?;
        let info = MemoryInfo::new(AllocationDevice::CUDA, ordinal, AllocatorType::Device, MemoryType::Default)
            .map_err(|error| refused(error.message().to_owned()))?;
        let allocator = Allocator::new(session, info.clone()).map_err(|error| refused(error.message().to_owned()))?;
        let mut data: *mut c_void = std::ptr::null_mut();
        // SAFETY: the allocator is alive; the result is checked.
        unsafe { check((ort::api().AllocatorAlloc)(allocator.ptr().cast_mut(), bytes, &mut data)) }.map_err(refused)?;
        let data = NonNull::new(data.cast::<u8>()).ok_or_else(|| refused("out of memory".to_owned()))?;
        Ok(self.add(Memory::Device { data, allocator, info }, kind, elements))
    }

    fn add(&mut self, memory: Memory, kind: Kind, elements: usize) -> Buffer {
        self.blocks.push(Block { memory, kind, elements });
        Buffer { arena: self.id, index: self.blocks.len() - 1 }
    }

    fn block(&self, buffer: Buffer) -> &Block {
        assert_eq!(buffer.arena, self.id, "a buffer of another arena. This is a bug.");
        &self.blocks[buffer.index]
    }

    fn host_data<T: Element>(&self, buffer: Buffer) -> (NonNull<T>, usize) {
        let block = self.block(buffer);
        assert_eq!(block.kind, T::KIND, "a buffer read as another type. This is a bug.");
        match &block.memory {
            Memory::Host { data, .. } => (data.cast(), block.elements),
            Memory::Device { .. } => panic!("device memory cannot be read directly. This is a bug."),
        }
    }

    /// The whole of a host buffer.
    pub(crate) fn slice<T: Element>(&self, buffer: Buffer) -> &[T] {
        let (data, elements) = self.host_data::<T>(buffer);
        // SAFETY: aligned, initialised (zeroed, then written by graphs or slices) memory of this many elements; the
        // shared borrow of the arena keeps writers (slice_mut and runs, which borrow it mutably) away.
        unsafe { std::slice::from_raw_parts(data.as_ptr(), elements) }
    }

    /// The whole of a host buffer, for writing.
    pub(crate) fn slice_mut<T: Element>(&mut self, buffer: Buffer) -> &mut [T] {
        let (data, elements) = self.host_data::<T>(buffer);
        // SAFETY: as in `slice`; the mutable borrow of the arena keeps everyone else away.
        unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), elements) }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether a buffer lies on the host.
    pub(super) fn on_host(&self, buffer: Buffer) -> bool {
        matches!(self.block(buffer).memory, Memory::Host { .. })
    }

    /// A value over a part of a buffer, to be used only in runs that borrow this arena mutably.
    pub(super) fn value(&self, view: &View<'_>) -> Value {
        let block = self.block(view.buffer);
        let elements =
            usize::try_from(view.shape.iter().product::<i64>()).expect("a shape is not negative. This is a bug.");
        assert!(view.offset + elements <= block.elements, "a view past the end of its buffer. This is a bug.");
        let (data, info) = match &block.memory {
            Memory::Host { data, .. } => (data, cpu_info()),
            Memory::Device { data, info, .. } => (data, info),
        };
        let size = block.kind.size();
        // SAFETY: inside the block by the assertion above; the block lives as long as the arena.
        unsafe {
            let start = data.as_ptr().add(view.offset * size);
            Value::over(info, start.cast(), elements * size, view.shape, block.kind)
        }
    }
}
