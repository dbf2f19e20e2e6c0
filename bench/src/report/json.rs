//! A report as a file.

use std::path::Path;

use serde::Deserialize;

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
    let no_report = |error: serde_json::Error| refuse(path, format!("no report: {error}"));
    match serde_json::from_str(&text).map_err(no_report)? {
        Form { form: FORM } => serde_json::from_str(&text).map_err(no_report),
        Form { form } => Err(refuse(path, format!("a report of form {form}; this program reads form {FORM}"))),
    }
}

/// The one thing that reports of every form have.
#[derive(Deserialize)]
struct Form {
    form: u32,
}

fn refuse(path: &Path, reason: impl std::fmt::Display) -> BenchError {
    BenchError::Report { path: path.to_path_buf(), reason: reason.to_string() }
}
