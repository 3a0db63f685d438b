//! Watch over the instance's own disk: if it stays full or unwritable, the instance requests its own replacement.
//!
//! ```text
//! every two seconds                → measure the free space, and write a few bytes
//! full for disk_full_s             → /readyz reports it
//!                                  → no other instance of the group is being replaced? → SetInstanceHealth Unhealthy
//! ```
//!
//! Such an instance can still serve nearly everything, and continues until the group has launched another. A store that
//! instances share is never checked: it is full for all of them. See docs/decisions/0025-full-disk.md.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use nix::sys::statvfs::statvfs;
use tokio::task::JoinHandle;

use super::replacement::{LONGEST_ROUND, PAUSE, RETRY, Replacement, ReplacementVerdict};
use crate::app::App;
use crate::config::{Config, FileStore};
use crate::error::{Result, chain};

/// Interval between two checks of the disk.
const TICK: Duration = Duration::from_secs(2);
/// Maximum time that counts as full between two checks. A process that was suspended has not checked the disk
/// meanwhile.
const LONGEST_TICK: Duration = Duration::from_secs(4);
/// Timeout of one check; a disk that takes longer counts as unwritable.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes written to find out whether the disk is writable.
const PROBE: [u8; 4096] = [0; 4096];

/// Time for which the disk has been full without a break, by the monotonic clock.
#[derive(Debug)]
struct Fullness {
    limit: Duration,
    lasts: Option<Duration>,
    updated_at: Instant,
    was_good: bool,
}

impl Fullness {
    fn new(limit: Duration, now: Instant) -> Fullness {
        Fullness { limit, lasts: None, updated_at: now, was_good: false }
    }

    /// Records whether a check found the disk `good`. One good check resets the time: being full for a moment is no
    /// reason to act.
    fn update(&mut self, good: bool, now: Instant) {
        let since = now.saturating_duration_since(self.updated_at).min(LONGEST_TICK);
        self.updated_at = now;
        self.was_good |= good;
        self.lasts = if good { None } else { Some(self.lasts.map_or(Duration::ZERO, |lasts| lasts + since)) };
    }

    /// Whether the disk has been full for longer than the limit.
    fn is_lasting(&self) -> bool {
        self.lasts.is_some_and(|lasts| lasts >= self.limit)
    }

    /// Whether `/readyz` reports the disk. An instance whose disk has never been good is not ready from the start.
    fn is_reported(&self) -> bool {
        self.is_lasting() || !self.was_good
    }
}

/// Checks the disk until `app.stopping`.
///
/// # Errors
/// Fails if the address of the instance metadata service is invalid.
pub async fn run(app: App) -> Result<()> {
    let Some(limit) = app.config.instance.disk_full else { return Ok(()) };
    let mut replacement = Replacement::new(app.clone())?;
    let heartbeat = app.health.watchdog.start("the look at the disk", LONGEST_ROUND);
    let mut fullness = Fullness::new(limit, Instant::now());
    let mut checks = DiskChecks::new(&app.config);
    let mut not_before = Instant::now();
    loop {
        heartbeat.beat();
        let found = tokio::select! {
            found = checks.next() => found,
            () = app.stopping.cancelled() => return Ok(()),
        };
        gauge!("salebell_disk_free_bytes").set(found.free.map_or(f64::NAN, |free| free as f64));
        let began = fullness.lasts.is_none();
        fullness.update(found.problem.is_none(), Instant::now());
        app.health
            .disk
            .report(found.problem.as_ref().map(|problem| problem.what).filter(|_| fullness.is_reported()));
        if let Some(problem) = found.problem.as_ref().filter(|_| began) {
            log::warn!(target: "salebell::disk", "the disk {problem}");
        }
        if let Some(problem) = found.problem.filter(|_| fullness.is_lasting() && Instant::now() >= not_before)
        {
            let verdict = tokio::select! {
                // No second check: the last one is seconds old at most, and a disk that has just gained space will fill
                // up again.
                verdict = replacement.request(|| true) => verdict,
                () = app.stopping.cancelled() => return Ok(()),
            };
            not_before = Instant::now() + RETRY;
            let seconds = fullness.lasts.unwrap_or_default().as_secs();
            let outcome = match verdict {
                Ok(ReplacementVerdict::Replaced) => {
                    // The group launches another instance first. If it has lost the request, it receives it again after
                    // the pause.
                    not_before = Instant::now() + PAUSE;
                    log::error!(target: "salebell::disk", "disk.full_s" = seconds;
                        "for {seconds} s the disk {problem}: this instance has itself replaced");
                    "replaced"
                }
                Ok(ReplacementVerdict::NotInService(state)) => {
                    log::warn!(target: "salebell::disk", "disk.full_s" = seconds;
                        "for {seconds} s the disk {problem}; the group wants this instance {state}");
                    "not_in_service"
                }
                Ok(ReplacementVerdict::HeldBack | ReplacementVerdict::CalledOff) => {
                    log::warn!(target: "salebell::disk", "disk.full_s" = seconds;
                        "for {seconds} s the disk {problem}; held back: another instance of the group is being replaced");
                    "held_back"
                }
                Err(failure) => {
                    log::error!(target: "salebell::disk", "disk.full_s" = seconds;
                        "for {seconds} s the disk {problem}, and this instance goes on: {}", chain(failure.as_ref()));
                    "failed"
                }
            };
            counter!("salebell_disk_replacements_total", "outcome" => outcome).increment(1);
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = app.stopping.cancelled() => return Ok(()),
        }
    }
}

/// Result of one check.
struct Found {
    /// Free bytes on the fullest disk; `None` if unknown.
    free: Option<u64>,
    problem: Option<Problem>,
}

/// Problem with the disk.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    what: &'static str,
    /// Detail for the log only.
    detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.detail)
    }
}

/// Runs one check at a time: each may block a thread for as long as the disk hangs.
struct DiskChecks {
    places: Places,
    under_way: Option<JoinHandle<Found>>,
}

impl DiskChecks {
    fn new(config: &Config) -> DiskChecks {
        let mut folders = vec![config.worker.scratch.clone()];
        let shared = match config.files.store {
            FileStore::Directory => Some(config.files.directory.clone()),
            // Upload parts are collected here until they are sent to S3.
            FileStore::S3 => {
                folders.push(config.files.directory.clone());
                None
            }
        };
        let places = Places { folders, shared, floor: config.instance.min_free_bytes };
        DiskChecks { places, under_way: None }
    }

    async fn next(&mut self) -> Found {
        let places = self.places.clone();
        let check = self.under_way.get_or_insert_with(|| tokio::task::spawn_blocking(move || places.check()));
        match tokio::time::timeout(DISK_TIMEOUT, check).await {
            Ok(ended) => {
                self.under_way = None;
                ended.unwrap_or_else(|panic| unknown("cannot be looked at", panic.to_string()))
            }
            Err(_) => unknown("does not answer", format!("within {} s", DISK_TIMEOUT.as_secs())),
        }
    }
}

fn unknown(what: &'static str, detail: String) -> Found {
    Found { free: None, problem: Some(Problem { what, detail }) }
}

/// Folders that the process writes to.
#[derive(Clone)]
struct Places {
    folders: Vec<PathBuf>,
    /// The shared store, if it is a directory. Other instances write to it and it outlives this one, so neither it nor
    /// its file system is checked.
    shared: Option<PathBuf>,
    /// Least number of free bytes that is enough.
    floor: u64,
}

impl Places {
    /// Checks every folder. Blocks the thread.
    fn check(&self) -> Found {
        // A shared store that hangs must not be touched: it hangs for all instances.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let shared = self.shared.as_deref().map(|shared| file_system(&mounts, shared));
        let (mut least, mut problem) = (None, None);
        for folder in &self.folders {
            if shared == Some(file_system(&mounts, folder)) {
                continue;
            }
            let found = probe(folder);
            if let Ok(free) = found {
                least = Some(least.map_or(free, |least: u64| least.min(free)));
            }
            let (what, detail) = match found {
                Ok(free) if free >= self.floor => continue,
                Ok(free) => ("has no room", format!("{free} bytes are free, fewer than {}", self.floor)),
                Err(error) => ("cannot be written to", error.to_string()),
            };
            let detail = format!("{}: {detail}", folder.display());
            problem.get_or_insert(Problem { what, detail });
        }
        Found { free: least, problem }
    }
}

/// Device of the file system that a folder is on, or will be once it exists, according to proc_pid_mountinfo(5). The
/// folder itself is not accessed.
fn file_system<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let find = |line: &'a str| {
        let mut fields = line.split(' ');
        let (device, point) = (fields.nth(2)?, fields.nth(1)?);
        folder.starts_with(point).then_some((point.len(), device))
    };
    mounts.lines().filter_map(find).max_by_key(|(length, _)| *length).map(|(_, device)| device)
}

/// Writes a few bytes to an unlinked file; returns the number of bytes still free.
fn probe(folder: &Path) -> io::Result<u64> {
    fs::create_dir_all(folder)?;
    // Not every file system supports O_TMPFILE. A file left behind by a kill between these lines is empty.
    let path = folder.join(format!(".salebell-probe-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    let mut file = File::create_new(&path)?;
    fs::remove_file(&path)?;
    file.write_all(&PROBE)?;
    let found = statvfs(folder)?;
    Ok(found.blocks_available() * found.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_disk_that_is_full_for_a_moment_does_not_count() {
        let mut now = Instant::now();
        let mut fullness = Fullness::new(60 * SECOND, now);
        let mut update = |good: bool, seconds: u32| {
            now += SECOND * seconds;
            fullness.update(good, now);
            (fullness.is_reported(), fullness.is_lasting())
        };
        assert_eq!(update(true, 2), (false, false));
        for _ in 0..30 {
            assert_eq!(update(false, 2), (false, false));
        }
        assert_eq!(update(true, 2), (false, false));
        // 60 s from the first check that found it full.
        for _ in 0..30 {
            assert_eq!(update(false, 2), (false, false));
        }
        assert_eq!(update(false, 2), (true, true));
        assert_eq!(update(true, 2), (false, false));
    }

    #[test]
    fn an_instance_without_free_space_is_not_ready_from_the_start() {
        let mut now = Instant::now();
        let mut fullness = Fullness::new(60 * SECOND, now);
        assert!(fullness.is_reported());
        for _ in 0..3 {
            now += 2 * SECOND;
            fullness.update(false, now);
            assert!(fullness.is_reported() && !fullness.is_lasting());
        }
        fullness.update(true, now);
        assert!(!fullness.is_reported());
    }

    #[test]
    fn a_process_that_was_stopped_between_two_checks_has_not_observed_an_hour() {
        let mut now = Instant::now();
        let mut fullness = Fullness::new(60 * SECOND, now);
        fullness.update(true, now);
        fullness.update(false, now);
        now += 3600 * SECOND;
        fullness.update(false, now);
        assert_eq!(fullness.lasts, Some(LONGEST_TICK));
    }

    #[test]
    fn a_folder_is_on_the_file_system_that_was_mounted_last_and_nearest() {
        let mounts = "21 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n\
                      30 21 0:26 / /var/lib/salebell/files rw - nfs4 127.0.0.1:/ rw\n\
                      31 21 259:1 /var/tmp/systemd-private/tmp /var/tmp rw - ext4 /dev/nvme0n1p1 rw\n\
                      32 30 0:27 / /var/lib/salebell/files rw - tmpfs small rw\n";
        let find = |folder: &str| file_system(mounts, Path::new(folder));
        assert_eq!(find("/var/tmp/not-made-yet"), Some("259:1"));
        assert_eq!(find("/var/lib/salebell"), Some("259:1"));
        assert_eq!(find("/var/lib/salebell/files-of-others"), Some("259:1"));
        assert_eq!(find("/var/lib/salebell/files/ab"), Some("0:27"));
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn the_file_system_of_a_shared_store_does_not_count() {
        let own = std::env::temp_dir();
        let check = |shared: Option<&str>| {
            // More than any disk has.
            let shared = shared.map(PathBuf::from);
            Places { folders: vec![own.clone()], shared, floor: u64::MAX }.check()
        };
        let full = check(None);
        assert!(full.free.is_some());
        assert_eq!(full.problem.unwrap().what, "has no room");
        assert!(check(Some("/proc")).problem.is_some(), "another file system");
        let same = check(own.to_str());
        assert_eq!((same.free, same.problem), (None, None));
        let gone = Places { folders: vec!["/proc/none".into()], shared: None, floor: 0 }.check();
        let problem = gone.problem.unwrap().to_string();
        assert!(problem.starts_with("cannot be written to (/proc/none: "), "{problem}");
    }
}
