//! Folders for tests that need files, removed afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A new folder under /tmp that every user can pass through, removed on drop.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let folder = PathBuf::from(format!("/tmp/salebell-test-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
