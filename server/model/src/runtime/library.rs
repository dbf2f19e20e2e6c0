//! Where the ONNX Runtime library lies, and whether it can be used.
//!
//! Owns: the search order and the version check. Must not: create anything inside ONNX Runtime.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::path::{Path, PathBuf};

use crate::error::{ModelError, Result};

/// Environment variable naming the library; wins over ort's own.
pub const LIBRARY_VARIABLE: &str = "DUOLOGUE_ORT";
const ORT_VARIABLE: &str = "ORT_DYLIB_PATH";
/// The Python environment that `make exporter` creates, relative to the checkout.
const VENV: &str = "models/.venv";

/// Oldest version with the API this program is built for.
pub(crate) fn oldest_version() -> String {
    format!("1.{}", ort::MINOR_VERSION)
}

/// The library to use: `option`, then the environment, then beside the executable, then the checkout's Python
/// environment, searched upwards from the executable and from the current folder. A place that somebody named is
/// final: if it holds nothing usable, that is an error and not a reason to look elsewhere.
pub(crate) fn find(option: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = option {
        return Ok(path.to_path_buf());
    }
    for variable in [LIBRARY_VARIABLE, ORT_VARIABLE] {
        if let Some(path) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
            return Ok(PathBuf::from(path));
        }
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    if let Some(found) = beside.as_deref().and_then(newest_in) {
        return Ok(found);
    }
    let here = std::env::current_dir().ok();
    for start in [beside.as_deref(), here.as_deref()].into_iter().flatten() {
        if let Some(found) = start.ancestors().find_map(|folder| in_venv(&folder.join(VENV))) {
            return Ok(found);
        }
    }
    let mut searched = vec![format!("${LIBRARY_VARIABLE}"), format!("${ORT_VARIABLE}")];
    searched.extend(beside.iter().map(|folder| folder.display().to_string()));
    searched.push(format!("{VENV} above {}", beside.as_deref().unwrap_or(Path::new("the executable")).display()));
    searched.extend(here.iter().map(|folder| format!("{VENV} above {}", folder.display())));
    Err(ModelError::LibraryMissing { searched: searched.join(", ") })
}

/// Opens the library, which also proves that it is one, and returns its version.
pub(crate) fn version(path: &Path) -> Result<String> {
    let unusable =
        |reason: String| ModelError::LibraryUnusable { path: path.to_path_buf(), reason, wanted: oldest_version() };
    if !path.is_file() {
        return Err(unusable("there is no such file".to_owned()));
    }
    // SAFETY: loading runs the library's initialisers; the file was chosen by the user or by `make exporter`.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| unusable(error.to_string()))?;
    // SAFETY: the symbol has this signature in every version of ONNX Runtime; the returned tables and the version string
    // are static inside the library, which is still open here.
    let version = unsafe {
        let base = library
            .get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase")
            .map_err(|_| unusable("it does not export OrtGetApiBase, so it is another library".to_owned()))?;
        CStr::from_ptr(((*base()).GetVersionString)()).to_string_lossy().into_owned()
    };
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) < (1, ort::MINOR_VERSION) {
        return Err(ModelError::LibraryTooOld { path: path.to_path_buf(), found: version, wanted: oldest_version() });
    }
    Ok(version)
}

/// The newest library among the files of a folder, by version number in the name (`libonnxruntime.so.1.31.1`).
fn newest_in(folder: &Path) -> Option<PathBuf> {
    let stem = format!("{}onnxruntime", std::env::consts::DLL_PREFIX);
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| {
            let rest = name.strip_prefix(&stem);
            rest.is_some_and(|rest| rest.starts_with('.') && rest.contains(std::env::consts::DLL_SUFFIX))
        })
        .max_by_key(|name| name.split('.').filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<u32>>())
        .map(|name| folder.join(name))
}

fn in_venv(venv: &Path) -> Option<PathBuf> {
    let lib = std::fs::read_dir(venv.join("lib")).ok()?;
    lib.filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python")))
        .find_map(|python| newest_in(&python.join("site-packages/onnxruntime/capi")))
}
