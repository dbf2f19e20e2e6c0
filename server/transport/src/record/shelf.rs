//! The folder of all recordings: finding one, and letting old ones go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShelfLimits {
    /// Older ones go.
    pub age: Duration,
    /// While all together are larger, the oldest goes.
    pub bytes: u64,
}

/// The recordings of a server.
#[derive(Debug, Clone)]
pub struct Shelf {
    dir: PathBuf,
    limits: ShelfLimits,
}

impl Shelf {
    /// Also removes what an earlier server left unfinished: nobody finds it, and no limit counts it.
    ///
    /// # Errors
    /// When the folder cannot be made, or what is left in it not removed.
    pub fn open(dir: &Path, limits: ShelfLimits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name.ends_with(".partial") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { dir: dir.to_path_buf(), limits })
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How much is kept.
    pub fn limits(&self) -> ShelfLimits {
        self.limits
    }

    /// A file of a complete recording; `None` when there is no such recording. An id that is no plain name finds nothing.
    pub fn file(&self, id: &str, file: &str) -> Option<PathBuf> {
        let plain =
            !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        let path = self.dir.join(id).join(file);
        (plain && path.is_file()).then_some(path)
    }

    /// Removes what is too old or too much; `now` is the time to measure age by. Returns the ids removed.
    ///
    /// # Errors
    /// When the folder cannot be read or a recording cannot be removed.
    pub fn tidy(&self, now: SystemTime) -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && entry.file_type()?.is_dir() {
                let size: u64 =
                    fs::read_dir(entry.path())?.map(|file| Ok(file?.metadata()?.len())).sum::<io::Result<_>>()?;
                all.push((entry.metadata()?.modified()?, name, size));
            }
        }
        all.sort();
        let mut total: u64 = all.iter().map(|(_, _, size)| size).sum();
        let mut removed = Vec::new();
        for (made, name, size) in all {
            let age = now.duration_since(made).unwrap_or_default();
            if age > self.limits.age || total > self.limits.bytes {
                fs::remove_dir_all(self.dir.join(&name))?;
                total -= size;
                removed.push(name);
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(bytes: u64) -> (tempfile::TempDir, Shelf) {
        let dir = tempfile::tempdir().unwrap();
        let limits = ShelfLimits { age: Duration::from_secs(3600), bytes };
        let shelf = Shelf::open(dir.path(), limits).unwrap();
        for name in ["a", "b", ".c.partial"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("audio.wav"), [0; 100]).unwrap();
        }
        (dir, shelf)
    }

    #[test]
    fn a_recording_is_found_by_its_plain_name_only() {
        let (_dir, shelf) = shelf(1000);
        assert!(shelf.file("a", "audio.wav").is_some());
        for id in ["", "..", "../a", "a/../a", ".c.partial", "nothing"] {
            assert!(shelf.file(id, "audio.wav").is_none(), "{id}");
        }
    }

    #[test]
    fn what_was_left_unfinished_goes_at_the_next_start() {
        let (dir, shelf) = shelf(1000);
        assert!(dir.path().join(".c.partial").exists());
        Shelf::open(dir.path(), shelf.limits()).unwrap();
        assert!(!dir.path().join(".c.partial").exists() && shelf.file("a", "audio.wav").is_some());
    }

    #[test]
    fn age_and_size_let_recordings_go() {
        let (_dir, shelf) = shelf(1000);
        assert_eq!(shelf.tidy(SystemTime::now()).unwrap(), Vec::<String>::new());
        let later = SystemTime::now() + Duration::from_secs(4000);
        assert_eq!(shelf.tidy(later).unwrap().len(), 2);
        let (_dir, small) = self::shelf(150);
        assert_eq!(small.tidy(SystemTime::now()).unwrap().len(), 1);
        assert!(small.file("b", "audio.wav").is_some() || small.file("a", "audio.wav").is_some());
    }
}
