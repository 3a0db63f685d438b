//! An instance's own disk: as large as a small volume and not as this machine's, so that it can be full.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// In bytes. It is memory, as far as it is written to.
const SIZE: u64 = 1 << 30;

/// Gives a folder of boot-instance.sh a disk for what the instance changes.
pub fn attach(folder: &Path) {
    let disk = folder.join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={SIZE},mode=755"), "volume"])
        .arg(&disk)
        .status();
    assert!(mounted.is_ok_and(|status| status.success()), "a disk of {SIZE} bytes is mounted");
    // The two must be on one file system.
    for part in ["changes", "work"] {
        std::fs::create_dir(disk.join(part)).expect("a folder");
        symlink(disk.join(part), folder.join(part)).expect("its name");
    }
}

/// What is on it is gone.
pub fn detach(folder: &Path) {
    let _ = Command::new("umount").args(["--quiet", "--lazy"]).arg(folder.join("disk")).status();
}
