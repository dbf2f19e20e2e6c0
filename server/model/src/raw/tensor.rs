//! Borrowed tensors and runs over them.

use std::ffi::{CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::OnceLock;

use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::sys;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    I32,
    I64,
}

impl Kind {
    /// Name as in the manifest (numpy's).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::F32 => "float32",
            Kind::F16 => "float16",
            Kind::I32 => "int32",
            Kind::I64 => "int64",
        }
    }

    /// Bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            Kind::F16 => 2,
            Kind::F32 | Kind::I32 => 4,
            Kind::I64 => 8,
        }
    }

    fn code(self) -> sys::ONNXTensorElementDataType {
        use sys::ONNXTensorElementDataType as Code;
        match self {
            Kind::F32 => Code::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            Kind::F16 => Code::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
            Kind::I32 => Code::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
            Kind::I64 => Code::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        }
    }
}

/// A number type that tensors hold. Every bit pattern of an implementor is a valid value.
pub(crate) trait Element: Copy + 'static {
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::F32;
}
impl Element for half::f16 {
    const KIND: Kind = Kind::F16;
}
impl Element for i32 {
    const KIND: Kind = Kind::I32;
}
impl Element for i64 {
    const KIND: Kind = Kind::I64;
}

/// Turns a status of the C API into its message.
///
/// # Safety
/// `status` must come straight from a call of ONNX Runtime's C API and must not be used again.
pub(super) unsafe fn check(status: sys::OrtStatusPtr) -> Result<(), String> {
    // SAFETY: the caller's promise is this function's requirement.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| error.message().to_owned())
}

/// The description of ordinary host memory, shared by all tensors.
pub(super) fn cpu_info() -> &'static MemoryInfo<'static> {
    static INFO: OnceLock<MemoryInfo<'static>> = OnceLock::new();
    INFO.get_or_init(|| {
        MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
            .expect("host memory can always be described. This is a bug.")
    })
}

/// An ONNX Runtime value over memory that somebody else owns.
#[repr(transparent)]
#[derive(Debug)]
pub(super) struct Value(NonNull<sys::OrtValue>);

// SAFETY: a value is a description (pointer, shape, type); ONNX Runtime lets any thread use or release it.
unsafe impl Send for Value {}

impl Value {
    /// # Safety
    /// `data` must be valid for `bytes` bytes of the memory that `info` describes for as long as the value is used in runs.
    pub(super) unsafe fn over(
        info: &MemoryInfo<'_>,
        data: *mut c_void,
        bytes: usize,
        shape: &[i64],
        kind: Kind,
    ) -> Value {
        let elements: i64 = shape.iter().product();
        assert_eq!(
            usize::try_from(elements).ok().and_then(|n| n.checked_mul(kind.size())),
            Some(bytes),
            "a tensor of shape {shape:?} of {} does not have {bytes} bytes. This is a bug.",
            kind.name()
        );
        let mut value = std::ptr::null_mut();
        // SAFETY: the shape slice outlives the call (it is copied), and the pointer is valid by this function's contract.
        let made = unsafe {
            check((ort::api().CreateTensorWithDataAsOrtValue)(
                info.ptr(),
                data,
                bytes,
                shape.as_ptr(),
                shape.len(),
                kind.code(),
                &mut value,
            ))
        };
        made.unwrap_or_else(|message| {
            panic!("a tensor over memory of the right size was refused: {message}. This is a bug.")
        });
        Value(NonNull::new(value).expect("success comes with a value. This is a bug."))
    }

    pub(super) fn as_ptr(&self) -> *const sys::OrtValue {
        self.0.as_ptr()
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: the pointer came from ONNX Runtime and is released once.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) }
    }
}

/// An input tensor over borrowed memory.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Tensor<'a>(Value, PhantomData<&'a ()>);

impl<'a> Tensor<'a> {
    /// `data` must have exactly as many elements as `shape`; anything else is a bug and panics.
    pub(crate) fn new<T: Element>(data: &'a [T], shape: &[i64]) -> Self {
        let pointer = data.as_ptr().cast_mut().cast();
        // SAFETY: the lifetime keeps the slice alive and unwritten; ONNX Runtime does not write to inputs.
        Tensor(unsafe { Value::over(cpu_info(), pointer, size_of_val(data), shape, T::KIND) }, PhantomData)
    }

    /// # Safety
    /// While the tensor exists the memory behind `value` must be alive, and unwritten but by a run that is given it as an
    /// output, too.
    pub(super) unsafe fn from_value(value: Value) -> Self {
        Tensor(value, PhantomData)
    }
}

/// An output tensor over mutably borrowed memory.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct TensorMut<'a>(Value, PhantomData<&'a mut ()>);

impl<'a> TensorMut<'a> {
    /// `data` must have exactly as many elements as `shape`; anything else is a bug and panics.
    pub(crate) fn new<T: Element>(data: &'a mut [T], shape: &[i64]) -> Self {
        let bytes = size_of_val(data);
        // SAFETY: the lifetime keeps the slice alive and unshared while the tensor exists.
        TensorMut(unsafe { Value::over(cpu_info(), data.as_mut_ptr().cast(), bytes, shape, T::KIND) }, PhantomData)
    }

    /// # Safety
    /// While the tensor exists the memory behind `value` must be alive, and unshared but with an input of the same run.
    pub(super) unsafe fn from_value(value: Value) -> Self {
        TensorMut(value, PhantomData)
    }
}

/// Runs a session once: `inputs` and `outputs` in the order of the names.
pub(crate) fn run(
    session: &mut Session,
    input_names: &[CString],
    inputs: &[Tensor<'_>],
    output_names: &[CString],
    outputs: &mut [TensorMut<'_>],
) -> Result<(), String> {
    assert_eq!(input_names.len(), inputs.len(), "one tensor per input. This is a bug.");
    assert_eq!(output_names.len(), outputs.len(), "one tensor per output. This is a bug.");
    let input_names: Vec<*const c_char> = input_names.iter().map(|name| name.as_ptr()).collect();
    let output_names: Vec<*const c_char> = output_names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: names and tensors outlive the call; Tensor and TensorMut are transparent over a non-null OrtValue pointer,
    // so slices of them are arrays of such pointers. Outputs given by the caller are filled, never replaced.
    unsafe {
        check((ort::api().Run)(
            session.ptr_mut(),
            std::ptr::null(),
            input_names.as_ptr(),
            inputs.as_ptr().cast(),
            inputs.len(),
            output_names.as_ptr(),
            output_names.len(),
            outputs.as_mut_ptr().cast(),
        ))
    }
}
