#!/usr/bin/env bash
# The first random number that a process asks aws-lc-rs for costs tens of milliseconds of processor time; with getrandom(2)
# it is microseconds.
#
# Versions: aws-lc-rs 1.19.0 on aws-lc-sys 0.47.0, the provider that rustls takes by default.
# Behaviour: AWS-LC seeds itself once a process by the noise of the processor's timing (jitterentropy, compiled without
# optimisation in a release build too), unless it was built with AWS_LC_SYS_NO_JITTER_ENTROPY=1. Every TLS handshake and
# every `aws_lc_rs::rand::fill` may be the first.
# Seen on 2026-11-30:
#   VERSIONS-AND-FIGURES
# Consequence: five short processes of one boot pay for it five times; one that only wanted a random pause pays as much as one
# that shakes hands.
#
# Ends with 0 while that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "first"
version = "0.0.0"
edition = "2024"
[dependencies]
aws-lc-rs = { version = "=1.19.0", default-features = false, features = ["aws-lc-sys"] }
aws-lc-sys = "=0.47.0"
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::time::Duration;

/// The processor time of this process so far.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn main() {
    let mut bytes = [0; 16];
    let mut spend = |what: &str| {
        let before = spent();
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        let took = spent() - before;
        println!("{what} random number: {:.2} ms", took.as_secs_f64() * 1000.0);
        took
    };
    let (first, second) = (spend("first"), spend("second"));
    assert!(first > Duration::from_millis(5) && first > 3 * second, "the behaviour has changed");
}
RUST
CARGO_TARGET_DIR="$folder/target" cargo run --release --quiet --manifest-path "$folder/Cargo.toml"
