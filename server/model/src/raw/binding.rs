//! Inputs and outputs of a graph bound once to buffers of an arena.

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::Arc;

use ort::AsPointer;
use ort::session::{Session, SharedSessionInner};
use ort::sys;

use super::arena::{Arena, View};
use super::tensor::{Value, check};

#[derive(Debug)]
struct Bound {
    value: Value,
    /// Host memory feeding a graph on a device is copied when it is bound, so it has to be bound again before each run.
    stale_after_write: bool,
}

/// A prepared run: which buffer feeds which input, and where each output goes.
#[derive(Debug)]
pub(crate) struct Binding {
    binding: NonNull<sys::OrtIoBinding>,
    arena: u64,
    inputs: Vec<Option<Bound>>,
    outputs: Vec<Option<Value>>,
    on_device: bool,
    /// A binding points into its session.
    session: Arc<SharedSessionInner>,
}

// SAFETY: a binding has no thread affinity; it is reached only through `&mut`.
unsafe impl Send for Binding {}

impl Binding {
    /// `on_device`: the session does not run on the host.
    pub(crate) fn new(
        session: &Session,
        arena: &Arena,
        inputs: usize,
        outputs: usize,
        on_device: bool,
    ) -> Result<Self, String> {
        let mut binding = std::ptr::null_mut();
        // SAFETY: the session is alive; it is kept alive by the Arc stored below.
        unsafe { check((ort::api().CreateIoBinding)(session.ptr().cast_mut(), &mut binding)) }?;
        Ok(Binding {
            binding: NonNull::new(binding).expect("success comes with a binding. This is a bug."),
            arena: arena.id(),
            inputs: (0..inputs).map(|_| None).collect(),
            outputs: (0..outputs).map(|_| None).collect(),
            on_device,
            session: session.inner(),
        })
    }

    /// Feeds input number `index`, called `name`, from a view; replaces an earlier one.
    pub(crate) fn input(&mut self, index: usize, name: &CStr, arena: &Arena, view: &View<'_>) -> Result<(), String> {
        assert_eq!(self.arena, arena.id(), "a binding belongs to one arena. This is a bug.");
        let value = arena.value(view);
        // SAFETY: binding, name and value are alive. ONNX Runtime keeps a shared reference to the tensor description;
        // the memory behind it is owned by the arena, which every run borrows.
        unsafe { check((ort::api().BindInput)(self.binding.as_ptr(), name.as_ptr(), value.as_ptr())) }?;
        self.inputs[index] = Some(Bound { value, stale_after_write: self.on_device && arena.on_host(view.buffer) });
        Ok(())
    }

    /// Sends output number `index`, called `name`, to a view; replaces an earlier one.
    pub(crate) fn output(&mut self, index: usize, name: &CStr, arena: &Arena, view: &View<'_>) -> Result<(), String> {
        assert_eq!(self.arena, arena.id(), "a binding belongs to one arena. This is a bug.");
        let value = arena.value(view);
        // SAFETY: as for inputs.
        unsafe { check((ort::api().BindOutput)(self.binding.as_ptr(), name.as_ptr(), value.as_ptr())) }?;
        self.outputs[index] = Some(value);
        Ok(())
    }

    /// Runs the graph. The mutable borrow of the arena proves that nobody holds a reference into a buffer.
    pub(crate) fn run<N: AsRef<CStr>>(
        &mut self,
        session: &mut Session,
        input_names: &[N],
        arena: &mut Arena,
    ) -> Result<(), String> {
        assert_eq!(self.arena, arena.id(), "a binding belongs to one arena. This is a bug.");
        assert_eq!(self.session.ptr(), session.ptr(), "a binding belongs to one session. This is a bug.");
        for (bound, name) in self.inputs.iter().zip(input_names) {
            let bound = bound.as_ref().expect("every input is bound before a run. This is a bug.");
            if bound.stale_after_write {
                // SAFETY: as in `input`.
                unsafe {
                    check((ort::api().BindInput)(self.binding.as_ptr(), name.as_ref().as_ptr(), bound.value.as_ptr()))
                }?;
            }
        }
        assert!(self.outputs.iter().all(Option::is_some), "every output is bound before a run. This is a bug.");
        // SAFETY: all bound memory belongs to `arena`, which is borrowed mutably for the duration of the run.
        unsafe { check((ort::api().RunWithBinding)(session.ptr_mut(), std::ptr::null(), self.binding.as_ptr())) }?;
        if self.on_device {
            // SAFETY: the binding is alive.
            unsafe { check((ort::api().SynchronizeBoundOutputs)(self.binding.as_ptr())) }?;
        }
        Ok(())
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: created once, released once, before the session it points into.
        unsafe { (ort::api().ReleaseIoBinding)(self.binding.as_ptr()) }
    }
}
