//! Which execution provider each node of a session was given to.

use std::ffi::{CStr, c_char};

use ort::AsPointer;
use ort::session::Session;
use ort::sys;

use super::tensor::check;

/// Entry of a session's settings, to be set to "1", without which ONNX Runtime keeps no record.
pub(crate) const RECORD_PLACEMENT: &str = "session.record_ep_graph_assignment_info";

/// A node of an optimised graph.
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
    for subgraph in list(|first, count| unsafe {
        // SAFETY: the session is alive, the two places are written to.
        (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), first, count)
    })? {
        // SAFETY: the pointers that a session hands out live as long as it, and it is borrowed.
        let provider = text(|out| unsafe { (api.EpAssignedSubgraph_GetEpName)(subgraph, out) })?;
        let assigned = list(|first, count| unsafe { (api.EpAssignedSubgraph_GetNodes)(subgraph, first, count) })?;
        for node in assigned {
            nodes.push(Placed {
                provider: provider.clone(),
                name: text(|out| unsafe { (api.EpAssignedNode_GetName)(node, out) })?,
                operator: text(|out| unsafe { (api.EpAssignedNode_GetOperatorType)(node, out) })?,
            });
        }
    }
    Ok(nodes)
}

/// The array that a call of the API names by its first element and its length.
fn list<T>(call: impl FnOnce(*mut *const *const T, *mut usize) -> sys::OrtStatusPtr) -> Result<Vec<*const T>, String> {
    let (mut first, mut count) = (std::ptr::null(), 0);
    // SAFETY: the status is one of the API's.
    unsafe { check(call(&mut first, &mut count)) }?;
    if count == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: after success the array has so many elements; it is copied at once.
    Ok(unsafe { std::slice::from_raw_parts(first, count) }.to_vec())
}

fn text(call: impl FnOnce(*mut *const c_char) -> sys::OrtStatusPtr) -> Result<String, String> {
    let mut text = std::ptr::null();
    // SAFETY: the status is one of the API's; after success the text ends with a zero and is copied at once.
    unsafe {
        check(call(&mut text))?;
        Ok(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}
