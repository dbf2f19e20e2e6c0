//! Where the voice detector's file lies.

use std::path::{Path, PathBuf};

use crate::error::{ModelError, Result};

/// Environment variable naming the file.
pub const DETECTOR_VARIABLE: &str = "DUOLOGUE_VAD";
/// Its name in the package, and here.
pub(super) const NAME: &str = "silero_vad.onnx";
/// Where `make vad` puts it, relative to the checkout.
const FOLDER: &str = "out/vad";

/// The file to use: `option`, then the environment, then beside the executable, then `out/vad` of the checkout, searched
/// upwards from the executable and from the current folder. A place that somebody named is final: if it holds nothing
/// usable, loading it is an error and not a reason to look elsewhere.
///
/// # Errors
/// [`ModelError::DetectorMissing`] with the places searched.
pub fn find(option: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = option {
        return Ok(path.to_path_buf());
    }
    if let Some(path) = std::env::var_os(DETECTOR_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let here = std::env::current_dir().ok();
    search(beside.as_deref(), here.as_deref())
}

pub(super) fn search(beside: Option<&Path>, here: Option<&Path>) -> Result<PathBuf> {
    let built = Path::new(FOLDER).join(NAME);
    let in_checkout = |start: &Path| start.ancestors().map(|folder| folder.join(&built)).find(|path| path.is_file());
    let found = beside.map(|folder| folder.join(NAME)).filter(|path| path.is_file());
    if let Some(path) = found.or_else(|| [beside, here].into_iter().flatten().find_map(in_checkout)) {
        return Ok(path);
    }
    let mut searched = vec![format!("${DETECTOR_VARIABLE}")];
    searched.extend(beside.map(|folder| folder.display().to_string()));
    let above = |folder: &Path| format!("{FOLDER} above {}", folder.display());
    searched.extend([beside, here].into_iter().flatten().map(above));
    Err(ModelError::DetectorMissing { searched: searched.join(", ") })
}
