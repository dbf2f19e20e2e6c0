//! A report as a file.

use std::path::Path;

use super::{FORM, Report};
use crate::error::BenchError;

/// Writes a report.
///
/// # Errors
/// [`BenchError::Report`] when the file cannot be written.
pub fn write(path: &Path, report: &Report) -> Result<(), BenchError> {
    let text = serde_json::to_string(report).expect("a report is JSON. This is a bug.");
    std::fs::write(path, text + "\n").map_err(|error| refuse(path, error))
}

/// Reads a report.
///
/// # Errors
/// [`BenchError::Report`] when it is none, or one of another form.
pub fn read(path: &Path) -> Result<Report, BenchError> {
    let text = std::fs::read_to_string(path).map_err(|error| refuse(path, error))?;
    let report: Report = serde_json::from_str(&text).map_err(|error| refuse(path, format!("no report: {error}")))?;
    match report.form {
        FORM => Ok(report),
        other => Err(refuse(path, format!("a report of form {other}; this program reads form {FORM}"))),
    }
}

fn refuse(path: &Path, reason: impl std::fmt::Display) -> BenchError {
    BenchError::Report { path: path.to_path_buf(), reason: reason.to_string() }
}
