//! One piece of memory for numbers of one type, on the host or on a device.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use ort::AsPointer;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{Session, SharedSessionInner};

use super::tensor::{Element, Kind, Tensor, TensorMut, Value, check, cpu_info};
use crate::error::{ModelError, Result};

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host,
    Cuda(u32),
}

/// Cache lines and vector registers of every supported CPU divide this.
const ALIGNMENT: usize = 64;

#[derive(Debug)]
enum Memory {
    Host { data: NonNull<u8>, layout: Layout },
    Device { data: NonNull<u8>, allocator: Allocator, info: MemoryInfo<'static>, _session: Arc<SharedSessionInner> },
}

// SAFETY: the memory is owned and reached only through its block; the allocator, which takes a lock of its own, is used again
// only to free, and the session, to which it belongs, only to live as long.
unsafe impl Send for Memory {}
// SAFETY: through a shared block the memory is only read (by graphs as their input, or as a slice), and the allocator is not
// touched.
unsafe impl Sync for Memory {}

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

/// Memory that graphs read and write. It never moves.
#[derive(Debug)]
pub(crate) struct Block {
    memory: Memory,
    kind: Kind,
    elements: usize,
}

impl Block {
    /// A zeroed block of `elements` (at least one) on the host. `what` is for messages.
    pub(crate) fn host(what: &str, kind: Kind, elements: usize) -> Result<Block> {
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
        Ok(Block { memory: Memory::Host { data, layout }, kind, elements })
    }

    /// A block of `elements` at `place`, zeroed on the host and with any content on a device; `session` must run on that
    /// place.
    pub(crate) fn at(what: &str, place: Place, session: &Session, kind: Kind, elements: usize) -> Result<Block> {
        let Place::Cuda(ordinal) = place else {
            let block = Block::host(what, kind, elements)?;
            // What a device may have there, for the tests to notice whoever reads it.
            #[cfg(test)]
            block.fill_with_nothing();
            return Ok(block);
        };
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
        let memory = Memory::Device { data, allocator, info, _session: session.inner() };
        Ok(Block { memory, kind, elements })
    }

    /// Sets every bit: floating point numbers are NaN then.
    #[cfg(test)]
    fn fill_with_nothing(&self) {
        let Memory::Host { data, layout } = &self.memory else { return };
        // SAFETY: the whole of our own memory, which nobody else has seen yet.
        unsafe { data.as_ptr().write_bytes(0xff, layout.size()) };
    }

    /// Elements that fit.
    pub(crate) fn len(&self) -> usize {
        self.elements
    }

    /// Its first elements as an input; `shape` must not ask for more than there are.
    pub(crate) fn tensor(&self, shape: &[i64]) -> Tensor<'_> {
        // SAFETY: the lifetime keeps the block alive and unwritten.
        unsafe { Tensor::from_value(self.value(0, shape)) }
    }

    /// Its first elements as an output; `shape` must not ask for more than there are.
    pub(crate) fn tensor_mut(&mut self, shape: &[i64]) -> TensorMut<'_> {
        // SAFETY: the lifetime keeps the block alive and unshared.
        unsafe { TensorMut::from_value(self.value(0, shape)) }
    }

    /// Its first elements as input and output of one run. Only for outputs that BUNDLE.md allows to be the same memory as
    /// their input: the graph reads no element of it after it wrote the output's.
    pub(crate) fn in_place(&mut self, shape: &[i64]) -> (Tensor<'_>, TensorMut<'_>) {
        // SAFETY: as above for both; nothing but the run sees the two together.
        unsafe { (Tensor::from_value(self.value(0, shape)), TensorMut::from_value(self.value(0, shape))) }
    }

    /// Its first elements as an input and those right behind them as an output of one run.
    pub(crate) fn append(&mut self, past: &[i64], new: &[i64]) -> (Tensor<'_>, TensorMut<'_>) {
        let offset = usize::try_from(past.iter().product::<i64>()).expect("a shape is not negative. This is a bug.");
        // SAFETY: two parts that do not overlap, each borrowed as in `tensor` and `tensor_mut`.
        unsafe { (Tensor::from_value(self.value(0, past)), TensorMut::from_value(self.value(offset, new))) }
    }

    /// The whole of a host block.
    pub(crate) fn slice<T: Element>(&self) -> &[T] {
        // SAFETY: aligned, initialised (zeroed, then written by graphs or slices) memory of this many elements; the shared
        // borrow keeps writers away.
        unsafe { std::slice::from_raw_parts(self.host_data().as_ptr(), self.elements) }
    }

    /// The whole of a host block, for writing.
    pub(crate) fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as in `slice`; the mutable borrow keeps everyone else away.
        unsafe { std::slice::from_raw_parts_mut(self.host_data().as_ptr(), self.elements) }
    }

    /// Whether it lies on the host.
    pub(super) fn on_host(&self) -> bool {
        matches!(self.memory, Memory::Host { .. })
    }

    /// A value over the elements from `offset` on, to be used only while this block is borrowed as that use asks for.
    pub(super) fn value(&self, offset: usize, shape: &[i64]) -> Value {
        let elements = usize::try_from(shape.iter().product::<i64>()).expect("a shape is not negative. This is a bug.");
        assert!(offset + elements <= self.elements, "a view past the end of its block. This is a bug.");
        let (data, info) = match &self.memory {
            Memory::Host { data, .. } => (data, cpu_info()),
            Memory::Device { data, info, .. } => (data, info),
        };
        let size = self.kind.size();
        // SAFETY: inside the block by the assertion above; the block outlives the value's use by this function's contract.
        unsafe {
            let start = data.as_ptr().add(offset * size);
            Value::over(info, start.cast(), elements * size, shape, self.kind)
        }
    }

    fn host_data<T: Element>(&self) -> NonNull<T> {
        assert_eq!(self.kind, T::KIND, "a block read as another type. This is a bug.");
        match &self.memory {
            Memory::Host { data, .. } => data.cast(),
            Memory::Device { .. } => panic!("device memory cannot be read directly. This is a bug."),
        }
    }
}
