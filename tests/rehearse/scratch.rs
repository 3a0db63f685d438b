//! The folder of a rehearsal.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder that every user can pass through, removed on drop, along with those that killed rehearsals have left.
pub struct Scratch(PathBuf);

const PREFIX: &str = "salebell-rehearsal-";

impl Scratch {
    pub fn new() -> Scratch {
        for entry in std::fs::read_dir("/tmp").expect("/tmp").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(process) = name.strip_prefix(PREFIX)
                && !Path::new("/proc").join(process).exists()
            {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let folder = PathBuf::from(format!("/tmp/{PREFIX}{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder of this process");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        Scratch(folder)
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
