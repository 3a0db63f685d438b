//! Imports go down only (see `src/lib.rs`): each folder and file may name only what is below it.

use std::fs;
use std::path::{Path, PathBuf};

/// What the sources of each module may import from the others. A module that is missing may import nothing new
/// without a decision: it fails below.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &["error"]),
    ("error", &[]),
    ("trace", &[]),
    ("config", &["domain", "secrets"]),
    ("secrets", &["domain", "error"]),
    ("activity", &["error", "store", "suspicion"]),
    ("failure", &[]),
    ("feed", &["domain", "failure", "tables"]),
    ("client", &["clock", "connection", "domain", "error", "failure"]),
    ("clock", &["error"]),
    ("connection", &[]),
    ("pulses", &[]),
    ("suspicion", &["error"]),
    ("telemetry", &["app", "config", "error"]),
    ("store", &["app", "connection", "domain", "error", "secrets", "suspicion"]),
    ("outbound", &["app", "aws", "config", "connection", "domain", "error", "store"]),
    ("sources", &["app", "config", "domain", "error"]),
    ("readiness", &["error", "store", "suspicion"]),
    ("gauges", &["app", "iam", "store"]),
    ("callers", &["activity", "app", "config", "domain", "error", "outbound", "store", "suspicion"]),
    (
        "app",
        &[
            "activity",
            "aws",
            "callers",
            "clock",
            "config",
            "cpu_time",
            "error",
            "iam",
            "gauges",
            "instance",
            "listeners",
            "outbound",
            "pulses",
            "readiness",
            "secrets",
            "store",
            "suspicion",
            "uploads",
        ],
    ),
    (
        "http",
        &[
            "app",
            "assembly",
            "callers",
            "config",
            "cpu_time",
            "domain",
            "error",
            "feed",
            "iam",
            "instance",
            "listeners",
            "outbound",
            "secrets",
            "store",
            "suspicion",
            "tables",
            "telemetry",
            "trace",
            "uploads",
            "weekly_report",
        ],
    ),
    // Not http: one surface knows nothing of the other.
    ("grpc", &["app", "error", "instance", "trace"]),
    ("aws", &["clock", "error"]),
    ("iam", &["aws", "clock", "error", "store"]),
    ("instance", &["app", "aws", "clock", "config", "error", "failure", "pulses", "secrets", "store"]),
    ("cpu_time", &["error"]),
    ("uploads", &["error"]),
    ("listeners", &["error"]),
    ("assembly", &["app", "error", "outbound", "store"]),
    ("tables", &["domain"]),
    ("weekly_report", &["domain", "error", "outbound", "store", "tables"]),
    (
        "worker",
        &[
            "app",
            "assembly",
            "config",
            "cpu_time",
            "domain",
            "error",
            "failure",
            "feed",
            "outbound",
            "pulses",
            "secrets",
            "sources",
            "store",
            "suspicion",
            "tables",
            "telemetry",
            "weekly_report",
        ],
    ),
    ("server", &["app", "config", "error", "grpc", "http", "telemetry"]),
    ("process", &["app", "config", "error", "pulses", "server", "telemetry"]),
    // These are callers of the whole, or clients of it from outside.
    ("dev", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
    ("bus_command", &["*"]),
    ("games_command", &["*"]),
    ("files_command", &["*"]),
    ("key_command", &["*"]),
    ("stats_command", &["*"]),
    ("report", &["*"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
}

/// The modules that follow `crate::` anywhere in a text, `use crate::{a, b::c}` too.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for after in text.split("crate::").skip(1) {
        let word = |text: &str| {
            text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
        };
        let Some(group) = after.strip_prefix('{') else {
            found.push(word(after));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push(word(std::mem::take(&mut item).trim())),
                _ if depth == 0 => item.push(c),
                _ => {}
            }
        }
        found.push(word(item.trim()));
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn imports_go_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{module} has no place in the layers yet"));
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        // Tests inside a module may look around.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect();
        for import in imports(&code) {
            // A type or macro at the crate's root is nobody's layer.
            let is_module = root.join(&import).is_dir() || root.join(format!("{import}.rs")).is_file();
            if is_module && import != module && allowed != &["*"] && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", inside.display()));
            }
        }
        if module == "domain" && text.contains("async fn") {
            wrong.push(format!("{} does I/O", inside.display()));
        }
        // app.rs asks a new connection what it is connected to; dev makes databases.
        if !matches!(module.as_str(), "store" | "app" | "dev") && text.contains("sqlx::query") {
            wrong.push(format!("{} holds SQL", inside.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_however_they_are_written() {
    let text = "use crate::{store, domain::money::Money,\n  app::{App, Clock}};\ncrate::error::chain(x)";
    assert_eq!(imports(text), ["store", "domain", "app", "error"]);
}

/// Starts programs of the machine, and need not run once more on another Debian.
const OF_ONE_VERSION: [(&str, &str); 2] = [
    ("webhooks", "libraries of pinned versions"),
    ("machine", "our own scripts, on the machine that they describe"),
];

#[test]
fn who_calls_programs_of_the_machine_is_tested_on_the_image_s_debian_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = fs::read_to_string(folder.join("outside-tools.txt")).unwrap();
    let mut files = Vec::new();
    sources(&folder.join("it"), &mut files);
    let (mut wrong, mut calling) = (Vec::new(), 0);
    for file in files.iter().filter(|file| file.parent().unwrap().ends_with("it")) {
        let module = file.file_stem().unwrap().to_string_lossy();
        let text = fs::read_to_string(file).unwrap();
        // What POSIX has is the same everywhere.
        let programs: Vec<&str> = text
            .split("Command::new(\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .filter(|program| !matches!(*program, "sh" | "sleep" | "true"))
            .collect();
        calling += usize::from(!programs.is_empty());
        let known = listed.lines().any(|line| line.starts_with(&format!("{module}::")))
            || OF_ONE_VERSION.iter().any(|(name, _)| *name == module);
        if !programs.is_empty() && !known {
            wrong.push(format!("{module} calls {programs:?}, and is not in tests/outside-tools.txt"));
        }
    }
    assert!(calling >= 3, "the search finds what there is");
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A name that no test has any more would select nothing.
    for line in listed.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split_whitespace().next().unwrap_or_default();
        let module = name.split("::").next().unwrap_or_default();
        let test = name.rsplit("::").next().unwrap_or_default();
        let text = fs::read_to_string(folder.join(format!("it/{module}.rs"))).unwrap_or_default();
        assert!(!text.is_empty() && text.contains(test), "{name} is no test");
    }
}
