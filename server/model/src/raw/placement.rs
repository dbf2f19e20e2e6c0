//! Which execution provider each node of a session was given to.

use std::ffi::{CStr, c_char};

use ort::AsPointer;
use ort::session::Session;
use ort::sys;

use super::tensor::check;

/// Entry of a session's settings, to be set to "1", without which ONNX Runtime keeps no record.
pub(crate) const RECORD_PLACEMENT: &str = "session.record_ep_graph_assignment_info";

/// A node as the graph was cut up between providers: what ONNX Runtime fuses or casts later is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) provider: String,
    pub(crate) name: String,
    pub(crate) operator: String,
}

/// Every node of a session that was made with [`RECORD_PLACEMENT`].
///
/// # Errors
/// ONNX Runtime's message.
pub(crate) fn placement(session: &Session) -> Result<Vec<Placed>, String> {
    let api = ort::api();
    let mut nodes = Vec::new();
    // SAFETY: the session is alive and borrowed; what it hands out lives as long as it. Every call fills what it is given.
    unsafe {
        let session = session.ptr();
        for subgraph in list(|first, count| (api.Session_GetEpGraphAssignmentInfo)(session, first, count))? {
            let provider = text(|out| (api.EpAssignedSubgraph_GetEpName)(subgraph, out))?;
            for node in list(|first, count| (api.EpAssignedSubgraph_GetNodes)(subgraph, first, count))? {
                nodes.push(Placed {
                    provider: provider.clone(),
                    name: text(|out| (api.EpAssignedNode_GetName)(node, out))?,
                    operator: text(|out| (api.EpAssignedNode_GetOperatorType)(node, out))?,
                });
            }
        }
    }
    Ok(nodes)
}

/// The array that a call of the API names by its first element and its length.
///
/// # Safety
/// `call` must be such a call: its status is the API's, and after success the array is there.
unsafe fn list<T>(
    call: impl FnOnce(*mut *const *const T, *mut usize) -> sys::OrtStatusPtr,
) -> Result<Vec<*const T>, String> {
    let (mut first, mut count) = (std::ptr::null(), 0);
    // SAFETY: the caller's promise.
    unsafe { check(call(&mut first, &mut count)) }?;
    if count == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: after success the array has so many elements; it is copied at once.
    Ok(unsafe { std::slice::from_raw_parts(first, count) }.to_vec())
}

/// The text that a call of the API gives.
///
/// # Safety
/// `call` must be such a call: its status is the API's, and after success the text is there and ends with a zero.
unsafe fn text(call: impl FnOnce(*mut *const c_char) -> sys::OrtStatusPtr) -> Result<String, String> {
    let mut text = std::ptr::null();
    // SAFETY: the caller's promise; the text is copied at once.
    unsafe {
        check(call(&mut text))?;
        Ok(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}
