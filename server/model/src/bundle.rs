//! A bundle folder: finding it, reading its manifest, checking its files.
//!
//! Owns: presence, sizes and checksums. Must not: load graphs (`graph`), or repair anything.

mod opset;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{ModelError, Result};
use crate::manifest::{FORMAT, FORMAT_VERSION, FileEntry, Manifest};

/// Name of the manifest inside a bundle.
pub const MANIFEST: &str = "manifest.json";
/// The bundle that comes with the project, relative to the checkout.
const OWN: &str = "models/mini/bundle";

/// An opened bundle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Bundle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    manifest: Manifest,
}

/// How far [`Bundle::verify_files`] has come.
#[derive(Debug, Clone, Copy)]
pub struct VerifyProgress<'a> {
    /// The file being read.
    pub file: &'a str,
    /// Bytes read of all files so far.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// Read before the whole manifest, so that another version is named instead of its unknown fields.
#[derive(Deserialize)]
struct Heading {
    format: Option<String>,
    format_version: Option<u64>,
}

impl Bundle {
    /// The folder to open when nobody names one: the small model of the project's own, searched upwards from the executable
    /// and from the current folder.
    ///
    /// # Errors
    /// [`ModelError::NoBundle`] with the places searched.
    pub fn own() -> Result<PathBuf> {
        let exe = std::env::current_exe().ok();
        let here = std::env::current_dir().ok();
        let starts = [exe.as_deref().and_then(Path::parent), here.as_deref()];
        own_above(starts.into_iter().flatten())
    }

    /// Opens the bundle in `dir`: reads and checks the manifest, and checks that every listed file is there with its
    /// size. Checksums are left to [`Bundle::verify_files`], which reads everything.
    ///
    /// # Errors
    /// [`ModelError::NoBundle`], [`ModelError::Manifest`] or [`ModelError::BundleFile`], naming file and remedy.
    pub fn open(dir: &Path) -> Result<Bundle> {
        let no_bundle = |reason: &str| ModelError::NoBundle { path: dir.to_path_buf(), reason: reason.to_owned() };
        if !dir.is_dir() {
            return Err(no_bundle("the folder does not exist"));
        }
        let path = dir.join(MANIFEST);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(no_bundle("manifest.json is missing"));
            }
            Err(error) => return Err(ModelError::Manifest { path, reason: error.to_string() }),
        };
        let refuse = |reason: String| ModelError::Manifest { path: path.clone(), reason };
        let heading: Heading =
            serde_json::from_str(&text).map_err(|error| refuse(format!("not a JSON object: {error}")))?;
        if heading.format.as_deref() != Some(FORMAT) {
            let found = heading.format.unwrap_or_else(|| "absent".to_owned());
            return Err(refuse(format!("format is {found}, expected {FORMAT}")));
        }
        if heading.format_version != Some(u64::from(FORMAT_VERSION)) {
            let found = heading.format_version.map_or("absent".to_owned(), |version| version.to_string());
            return Err(refuse(format!("format_version is {found}, this program reads version {FORMAT_VERSION}")));
        }
        let manifest: Manifest = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        manifest.check().map_err(refuse)?;
        for (name, entry) in &manifest.files {
            check_size(&dir.join(name), entry)?;
        }
        Ok(Bundle { inner: Arc::new(Inner { dir: dir.to_path_buf(), manifest }) })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Path of a file of the bundle, whether listed or not.
    pub fn path(&self, file: &str) -> PathBuf {
        self.inner.dir.join(file)
    }

    /// The wav of a reference voice: the named one, or the first.
    ///
    /// # Errors
    /// [`ModelError::Input`] listing the voices there are.
    pub fn voice(&self, name: Option<&str>) -> Result<PathBuf> {
        let voices = &self.manifest().voices;
        let found = match name {
            Some(name) => voices.iter().find(|voice| voice.name == name),
            None => voices.first(),
        };
        found.map(|voice| self.path(&voice.file)).ok_or_else(|| {
            let names: Vec<&str> = voices.iter().map(|voice| voice.name.as_str()).collect();
            let wanted = name.map_or("a default voice".to_owned(), |name| format!("voice {name:?}"));
            let listed = if names.is_empty() { "no voices".to_owned() } else { format!("only {}", names.join(", ")) };
            ModelError::input(
                "voice",
                format!("{wanted} was asked for, the bundle has {listed}; give a reference wav instead"),
            )
        })
    }

    /// The opset of a graph as its file states it; cheap, whatever the size of the graph.
    ///
    /// # Errors
    /// [`ModelError::BundleFile`] when the file is no ONNX graph or cannot be read.
    pub fn opset(&self, file: &str) -> Result<u64> {
        let path = self.path(file);
        let read = File::open(&path).and_then(|handle| opset::read(&mut BufReader::new(handle)));
        read.map_err(|error| ModelError::BundleFile { path, reason: format!("its opset cannot be read: {error}") })
    }

    /// Reads every file and compares its sha256 with the manifest. `progress` is called about every 8 MiB.
    ///
    /// # Errors
    /// [`ModelError::BundleFile`] for the first file that differs.
    pub fn verify_files(&self, progress: &mut dyn FnMut(VerifyProgress<'_>)) -> Result<()> {
        let files = &self.manifest().files;
        let total_bytes = files.values().map(|entry| entry.bytes).sum();
        let mut done_bytes = 0;
        let mut buffer = vec![0u8; 8 << 20];
        for (name, entry) in files {
            let path = self.path(name);
            check_size(&path, entry)?;
            let mut file = File::open(&path).map_err(ModelError::io(&path))?;
            let mut hasher = Sha256::new();
            loop {
                let read = file.read(&mut buffer).map_err(ModelError::io(&path))?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                done_bytes += read as u64;
                progress(VerifyProgress { file: name, done_bytes, total_bytes });
            }
            let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if found != entry.sha256 {
                let reason = format!("sha256 is {found}, the manifest says {}", entry.sha256);
                return Err(ModelError::BundleFile { path, reason });
            }
        }
        Ok(())
    }
}

fn check_size(path: &Path, entry: &FileEntry) -> Result<()> {
    let damaged = |reason: String| ModelError::BundleFile { path: path.to_path_buf(), reason };
    let found = match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => return Err(damaged("not a file".to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged("the file is missing".to_owned()));
        }
        Err(error) => return Err(damaged(error.to_string())),
    };
    if found < entry.bytes {
        return Err(damaged(format!("truncated: {found} bytes of {}", entry.bytes)));
    }
    if found > entry.bytes {
        return Err(damaged(format!("{found} bytes, the manifest says {}", entry.bytes)));
    }
    Ok(())
}

fn own_above<'a>(starts: impl Iterator<Item = &'a Path> + Clone) -> Result<PathBuf> {
    let mut folders = starts.clone().flat_map(Path::ancestors).map(|folder| folder.join(OWN));
    folders.find(|folder| folder.join(MANIFEST).is_file()).ok_or_else(|| ModelError::NoBundle {
        path: PathBuf::from(OWN),
        reason: format!(
            "no bundle is named (--bundle DIR) and the project's own is not above {}",
            starts.map(|start| start.display().to_string()).collect::<Vec<_>>().join(" or ")
        ),
    })
}

#[cfg(test)]
mod tests;
