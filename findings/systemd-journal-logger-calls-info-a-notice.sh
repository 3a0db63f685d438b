#!/usr/bin/env bash
# systemd-journal-logger 2.2.2 (crate), log 0.4: `info!` reaches the journal as PRIORITY=5 (notice) and `debug!` as 6 (info).
#
# Guess: the levels that syslog knows by name keep their names. Seen: every level below `warn` is shifted by one, so
# `journalctl -p info` shows debug lines, and whatever names an entry by its priority calls information a notice.
#
# Output seen:
#   error 3, warn 4, info 5, debug 6, trace 7
#
# Needs root: the journal's socket is one of its own, in a mount namespace. Ends with 0 when that is so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
log = "0.4"
systemd-journal-logger = "=2.2.2"
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::os::unix::net::UnixDatagram;

fn main() {
    std::fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    systemd_journal_logger::JournalLog::new().unwrap().install().unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    log::error!("error");
    log::warn!("warn");
    log::info!("info");
    log::debug!("debug");
    log::trace!("trace");
    journal.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let mut seen = Vec::new();
    let mut packet = vec![0; 1 << 16];
    while seen.len() < 5 {
        let length = journal.recv(&mut packet).unwrap();
        let text = String::from_utf8_lossy(&packet[..length]).into_owned();
        let Some(priority) = text.split("PRIORITY=").nth(1).and_then(|rest| rest.lines().next()) else { continue };
        let name = ["error", "warn", "info", "debug", "trace"][seen.len()];
        seen.push(format!("{name} {priority}"));
    }
    println!("{}", seen.join(", "));
    assert_eq!(seen.join(", "), "error 3, warn 4, info 5, debug 6, trace 7");
}
RUST
cd "$folder"
cargo build --quiet
unshare -m sh -c 'mount -t tmpfs finding /run && exec target/debug/finding'
