//! State of the file system that `files.directory` must be on. A separate thread, which may hang with the file system,
//! polls it. Callers receive the last result and never block.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc::ESTALE;
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;

/// Interval between two checks. On EFS each check is a request that is billed as 4 KiB.
const PAUSE: Duration = Duration::from_secs(5);
/// Timeout after which the file system counts as unavailable. A call to an NFS file system that hangs may never return.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Text in `/readyz` for a file system that hangs.
const HANGS: &str = "does not answer";

/// Last known state of a mounted file system.
#[derive(Clone)]
pub struct Mount {
    seen: Arc<Mutex<Seen>>,
    timeout: Duration,
}

#[derive(Default)]
struct Seen {
    problem: Option<&'static str>,
    /// Start of the check in progress.
    since: Option<Instant>,
    /// Whether it has been logged that the file system hangs.
    hang_logged: bool,
}

/// Error of an operation while the file system of `files.directory` is unavailable: nothing was read or written.
#[derive(Debug)]
pub struct MountUnavailable(&'static str);

impl fmt::Display for MountUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file system of files.directory {}", self.0)
    }
}

impl std::error::Error for MountUnavailable {}

/// Whether an operation failed only because the file system is not mounted or does not answer.
pub fn is_unavailable(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<MountUnavailable>())
        || error.kind() == io::ErrorKind::TimedOut
        || error.raw_os_error() == Some(ESTALE)
}

/// Problem found by a check: a short text, and the details for the log.
type Problem = (&'static str, String);

impl Mount {
    /// Checks the file system once, and then polls it for as long as the result is in use.
    ///
    /// # Errors
    /// The file system is unavailable now.
    pub fn watch(path: &Path) -> io::Result<Mount> {
        let owned = path.to_owned();
        probe(path).map_err(|(_, detail)| io::Error::other(detail))?;
        Mount::watch_with(PAUSE, MOUNT_TIMEOUT, move || probe(&owned))
    }

    /// A mount that is not polled, with a fixed problem.
    #[cfg(test)]
    pub fn found(problem: Option<&'static str>) -> Mount {
        Mount { seen: Arc::new(Mutex::new(Seen { problem, ..Seen::default() })), timeout: MOUNT_TIMEOUT }
    }

    #[cfg(test)]
    pub fn becomes(&self, problem: Option<&'static str>) {
        self.seen.lock().problem = problem;
    }

    fn watch_with(
        pause: Duration,
        timeout: Duration,
        probe: impl Fn() -> Result<(), Problem> + Send + 'static,
    ) -> io::Result<Mount> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watched = Arc::downgrade(&seen);
        std::thread::Builder::new().name("files-mount".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(pause);
                // All handles were dropped.
                let Some(seen) = watched.upgrade() else { return };
                seen.lock().since = Some(Instant::now());
                drop(seen);
                let found = probe();
                let Some(seen) = watched.upgrade() else { return };
                seen.lock().note(found);
            }
        })?;
        Ok(Mount { seen, timeout })
    }

    /// Problem of the file system in a few words, which may be shown to any client.
    pub fn reason(&self) -> Option<&'static str> {
        let mut seen = self.seen.lock();
        if seen.since.is_none_or(|since| since.elapsed() < self.timeout) {
            return seen.problem;
        }
        if !std::mem::replace(&mut seen.hang_logged, true) {
            log::error!(target: "salebell::files", "the file system of files.directory {HANGS}: uploads are refused");
        }
        Some(HANGS)
    }

    /// Refuses work on an unavailable file system.
    ///
    /// # Errors
    /// `MountUnavailable`: the file system is unavailable according to the last check.
    pub fn check(&self) -> io::Result<()> {
        self.reason().map_or(Ok(()), |what| Err(io::Error::other(MountUnavailable(what))))
    }
}

impl Seen {
    fn note(&mut self, found: Result<(), Problem>) {
        let before = self.problem.is_some() || self.hang_logged;
        (self.since, self.hang_logged) = (None, false);
        self.problem = found.as_ref().err().map(|(what, _)| *what);
        match found {
            Err((_, detail)) if !before => {
                log::error!(target: "salebell::files", "{detail}: uploads are refused");
            }
            Ok(()) if before => {
                log::info!(target: "salebell::files", "the file system of files.directory is there again");
            }
            _ => {}
        }
    }
}

/// Checks the file system once. Blocks for as long as the file system does.
fn probe(path: &Path) -> Result<(), Problem> {
    let named = |detail: String| format!("files.directory {}: {detail}", path.display());
    match is_mounted(path) {
        Ok(true) => {}
        Ok(false) => {
            let detail = "files.mounted is set, and no file system is mounted there";
            return Err(("is not mounted", named(detail.to_owned())));
        }
        Err(error) => return Err(("cannot be looked at", named(error.to_string()))),
    }
    // NFS caches the attributes of a folder for half a minute, but requests the free space each time.
    statvfs(path).map(drop).map_err(|error| ("cannot be looked at", named(error.to_string())))
}

/// Whether a file system is mounted there. If not, the directory is on the root's file system.
fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(!is_of_root(&fs::metadata(path)?)?)
}

fn is_of_root(found: &fs::Metadata) -> io::Result<bool> {
    Ok(found.dev() == fs::metadata("/")?.dev())
}

/// Checks whether a file system is mounted there. Blocks.
///
/// # Errors
/// Errors of the file system; `MountUnavailable`: nothing is mounted there.
pub fn require_mounted(path: &Path) -> io::Result<()> {
    match is_mounted(path) {
        Ok(false) => Err(io::Error::other(MountUnavailable("is not mounted"))),
        outcome => outcome.map(drop),
    }
}

/// Checks whether an open file is on a mounted file system: it may have been unmounted before the file was opened, and
/// mounted again since.
///
/// # Errors
/// Errors of the file system; `MountUnavailable`: the file is on the root's file system.
pub fn require_elsewhere(found: &fs::Metadata) -> io::Result<()> {
    if is_of_root(found)? { Err(io::Error::other(MountUnavailable("is not mounted"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Polls until a condition holds, because a thread must first make progress.
    fn eventually(what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_directory_that_nothing_is_mounted_on_is_refused() {
        assert!(Mount::watch(Path::new("/proc")).is_ok());
        let refused = |path| Mount::watch(Path::new(path)).err().unwrap().to_string();
        assert_eq!(
            refused("/"),
            "files.directory /: files.mounted is set, and no file system is mounted there"
        );
        assert!(refused("/proc/none").starts_with("files.directory /proc/none: No such file"));
        assert!(is_unavailable(&require_mounted(Path::new("/")).unwrap_err()));
        assert!(require_mounted(Path::new("/proc")).is_ok());
        assert!(require_elsewhere(&fs::metadata("/proc").unwrap()).is_ok());
        assert!(is_unavailable(&require_elsewhere(&fs::metadata("/").unwrap()).unwrap_err()));
    }

    #[test]
    fn a_file_system_that_hangs_is_unavailable_and_keeps_no_caller_waiting() {
        let (answer, results) = mpsc::channel::<Result<(), Problem>>();
        let (pause, timeout) = (Duration::from_millis(1), Duration::from_millis(50));
        let mount = Mount::watch_with(pause, timeout, move || results.recv().unwrap_or(Ok(()))).unwrap();
        assert!(mount.check().is_ok(), "before its time is over");
        eventually("it hangs", || mount.reason() == Some(HANGS));
        let began = Instant::now();
        let error = mount.check().unwrap_err();
        assert!(began.elapsed() < timeout, "{:?}", began.elapsed());
        assert!(is_unavailable(&error), "{error}");
        assert_eq!(error.to_string(), "the file system of files.directory does not answer");
        // The file system answers with an error first, and then without one.
        answer.send(Err(("cannot be looked at", "an error".to_owned()))).unwrap();
        eventually("it is away", || mount.seen.lock().problem.is_some());
        answer.send(Ok(())).unwrap();
        eventually("it is back", || mount.check().is_ok());
        // The thread ends with the last handle.
        let seen = Arc::downgrade(&mount.seen);
        drop(mount);
        assert!(seen.upgrade().is_none());
        drop(answer);
    }

    #[test]
    fn a_mount_that_gave_up_is_unavailable_and_a_full_disk_is_not() {
        assert!(is_unavailable(&io::Error::from_raw_os_error(nix::libc::ETIMEDOUT)));
        assert!(is_unavailable(&io::Error::from_raw_os_error(ESTALE)));
        assert!(!is_unavailable(&io::Error::from_raw_os_error(nix::libc::ENOSPC)));
        assert!(!is_unavailable(&io::Error::other("something else")));
    }
}
