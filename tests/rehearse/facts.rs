//! Versions and machine of a rehearsal, for its report.

use std::path::Path;
use std::process::Command;

/// A name and its value.
pub type Fact = (&'static str, String);

/// Gathers the facts, once at the end.
pub fn gather() -> Vec<Fact> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let processor = field(&read("/proc/cpuinfo"), "model name");
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let postgres =
        said(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/find-postgres.sh"), &[]) + "/postgres";
    vec![
        ("when", said("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])),
        (
            "machine",
            format!(
                "{processors} × {processor}, {:.0} GiB, Linux {}",
                memory as f64 / 1_048_576.0,
                kernel.trim()
            ),
        ),
        ("Salebell", format!("{} {}", env!("CARGO_PKG_VERSION"), commit())),
        (
            "around it",
            format!(
                "{}, {}, {}",
                version("haproxy", &said("haproxy", &["-v"])),
                version("PostgreSQL", &said(&postgres, &["--version"])),
                version("systemd-nspawn", &said("systemd-nspawn", &["--version"])),
            ),
        ),
    ]
}

/// The commit that is checked out, and whether there are further changes; empty without git.
fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    if !Path::new(folder).join(".git").exists() {
        return String::new();
    }
    said("git", &["-C", folder, "describe", "--always", "--dirty", "--exclude=*"])
}

/// The version number in a program's output, without the distribution's part.
fn version(name: &str, line: &str) -> String {
    let number =
        line.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_default();
    format!("{name} {}", number.split(['-', '+']).next().unwrap_or_default())
}

/// First line of a program's output; empty if it is not installed.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text =
        output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.lines().next().unwrap_or_default().trim().to_owned()
}
