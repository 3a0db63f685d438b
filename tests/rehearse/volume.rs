//! An instance's own disk: a small volume instead of this machine's disk, so a scenario can fill it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Size in bytes. It occupies memory as far as it is written to.
const SIZE: u64 = 1 << 30;

/// Gives a folder of boot-instance.sh a disk for the instance's changes.
pub fn attach(folder: &Path) {
    let disk = folder.join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={SIZE},mode=755"), "volume"])
        .arg(&disk)
        .status();
    assert!(mounted.is_ok_and(|status| status.success()), "a disk of {SIZE} bytes is mounted");
    // Both must be on the same file system.
    for part in ["changes", "work"] {
        std::fs::create_dir(disk.join(part)).expect("a folder");
        symlink(disk.join(part), folder.join(part)).expect("its name");
    }
}

/// Removes the disk with its content.
pub fn detach(folder: &Path) {
    let _ = Command::new("umount").args(["--quiet", "--lazy"]).arg(folder.join("disk")).status();
}
