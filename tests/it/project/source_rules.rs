//! Rules that only the text of the sources can show; no other test parses it.
//!
//! The modules of `src/lib.rs` are layers in its order: each may import those below it, and no other. Only a few of
//! them contain SQL. Each recorded metric is in the table. Tests that call programs of the machine or need root are in
//! the lists that select them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use salebell::telemetry::table::{METRICS, MetricKind};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Modules that follow `crate::` anywhere in a text, including those in `use crate::{a, b::c}`.
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

/// Layers and their descriptions, from top to bottom: the lines of `src/lib.rs`.
fn layers() -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let mut description = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("pub mod ") {
            found.push((name.trim_end_matches(';').to_owned(), description.to_owned()));
        }
        description = line.strip_prefix("/// ").unwrap_or_default();
    }
    found
}

/// A source file: its layer, its path below `src`, its text, and its code without comments and tests.
struct Source {
    layer: String,
    path: PathBuf,
    text: String,
    code: String,
}

fn read_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 200);
    let read = |file: PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_owned();
        let first = path.components().next().unwrap().as_os_str().to_string_lossy();
        let layer = first.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&file).unwrap();
        // Tests inside a module may import any layer.
        let own = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = own.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.map(|line| format!("{line}\n")).collect();
        Source { layer, path, text, code }
    };
    files.into_iter().map(read).collect()
}

#[test]
fn imports_go_down_only() {
    let layers: Vec<String> = layers().into_iter().map(|(name, _)| name).collect();
    assert!(layers.len() >= 20 && layers.len() <= 24, "{layers:?}");
    let mut wrong = Vec::new();
    for source in read_sources() {
        // These two are not layers: `main` is above all of them, and `lib` is the list.
        if matches!(source.layer.as_str(), "main" | "lib") {
            continue;
        }
        let Some(own) = layers.iter().position(|name| *name == source.layer) else {
            wrong.push(format!("{} is in no layer", source.path.display()));
            continue;
        };
        for import in imports(&source.code) {
            if layers[..own].contains(&import) {
                wrong.push(format!("{} imports {import}, which stands above", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_architecture_page_shows_the_layers() {
    let page = include_str!("../../../docs/architecture.md");
    let rows: Vec<(String, String)> = page
        .lines()
        .skip_while(|line| *line != "| layer | what it is |")
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .map(|(name, description)| (name.to_owned(), description.to_owned()))
        .collect();
    assert_eq!(rows, layers());
    assert!(rows.iter().all(|(_, description)| !description.is_empty()));
}

#[test]
fn the_rules_do_no_io_and_sql_is_where_it_belongs() {
    let mut wrong = Vec::new();
    for Source { layer, path, code, .. } in read_sources() {
        if layer == "domain" && code.contains("async fn") {
            wrong.push(format!("{} does I/O", path.display()));
        }
        // `database` queries a new connection about the server; `salebell dev` creates databases.
        let may = matches!(layer.as_str(), "store" | "database") || path.starts_with("cli/dev");
        if !may && code.contains("sqlx::query") {
            wrong.push(format!("{} holds SQL", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_however_they_are_written() {
    let text = "use crate::{store, domain::money::Money,\n  app::{App, Clock}};\ncrate::error::chain(x)";
    assert_eq!(imports(text), ["store", "domain", "app", "error"]);
}

/// Metrics in the first argument of `counter!` and similar macros: name → kind of metric, and labels.
fn recorded() -> BTreeMap<String, (&'static str, BTreeSet<String>)> {
    let sources: String = read_sources().iter().flat_map(|source| source.text.split_whitespace()).collect();
    let mut found = BTreeMap::new();
    for kind in [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram] {
        for (at, start) in sources.match_indices(&format!("{}!(", kind.name())) {
            // A description, which records nothing.
            if sources[..at].ends_with("describe_") {
                continue;
            }
            let call = sources[at + start.len()..].split(").").next().unwrap();
            let mut words = call.split('"').skip(1).step_by(2);
            let name = words.next().unwrap();
            let labels = call.rsplit("=>").skip(1).map(|before| {
                let before = before.strip_suffix('"').expect(call);
                before[before.rfind('"').unwrap() + 1..].to_owned()
            });
            let entry = found.entry(name.to_owned()).or_insert((kind.name(), BTreeSet::new()));
            assert_eq!(entry.0, kind.name(), "{name} is recorded in two ways");
            entry.1.extend(labels);
        }
    }
    found
}

#[test]
fn the_table_has_every_metric_that_is_recorded() {
    let table: BTreeMap<_, _> = METRICS
        .iter()
        .map(|metric| {
            let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
            (metric.name.to_owned(), (metric.kind.name(), labels))
        })
        .collect();
    assert_eq!(table.len(), METRICS.len(), "a name stands twice");
    assert_eq!(recorded(), table);
}

/// Every file of tests: its module, such as `files::mounts`, and its text.
fn test_modules() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let of_tests = files.into_iter().filter(|file| !file.starts_with(root.join("support")));
    let read = |file: PathBuf| {
        let path = file.strip_prefix(&root).unwrap().with_extension("");
        (path.to_string_lossy().replace('/', "::"), fs::read_to_string(&file).unwrap())
    };
    of_tests.map(read).collect()
}

/// Modules that start programs of the machine, but need not run again on another version of Debian.
const OF_ONE_VERSION: [(&str, &str); 2] = [
    ("delivery::webhooks", "libraries of pinned versions"),
    ("project::machine", "our own scripts, on the machine that they describe"),
];

#[test]
fn modules_that_call_programs_of_the_machine_are_also_tested_on_the_debian_of_the_image() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside-tools.txt");
    let listed = fs::read_to_string(list).unwrap();
    let modules = test_modules();
    let (mut wrong, mut calling) = (Vec::new(), 0);
    for (module, text) in &modules {
        // POSIX programs are the same everywhere.
        let programs: Vec<&str> = text
            .split("Command::new(\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .filter(|program| !matches!(*program, "sh" | "sleep" | "true"))
            .collect();
        calling += usize::from(!programs.is_empty());
        let known = listed.lines().any(|line| line.starts_with(&format!("{module}::")))
            || OF_ONE_VERSION.iter().any(|(name, _)| name == module);
        if !programs.is_empty() && !known {
            wrong.push(format!("{module} calls {programs:?}, and is not in tests/outside-tools.txt"));
        }
    }
    assert!(calling >= 3, "the search finds what there is");
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A name that matches no test would select nothing.
    for line in listed.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split_whitespace().next().unwrap_or_default();
        let test = name.rsplit("::").next().unwrap_or_default();
        let there = |(module, text): &(String, String)| {
            name.starts_with(&format!("{module}::")) && text.contains(test)
        };
        assert!(modules.iter().any(there), "{name} is no test");
    }
}

#[test]
fn tests_that_boot_or_mount_are_listed_as_needing_root() {
    let script = fs::read_to_string("scripts/lib/describe-machine.sh").unwrap();
    let named = |begin: &str| -> Vec<&str> {
        let line = script.lines().find_map(|line| line.trim().strip_prefix(begin)).unwrap();
        line.trim_end_matches('"').split_whitespace().collect()
    };
    let (always, mounting) = (named("of_root=\""), named("of_root+=\""));
    let mut found = 0;
    for (module, text) in test_modules() {
        // This module contains the very words that it searches for.
        if module == "project::source_rules" {
            continue;
        }
        let boots = text.contains("support::appliance");
        let mounts = text.contains("unshare") || text.contains("support::journal");
        let listed = |names: &[&str]| names.iter().any(|name| name.starts_with(&format!("{module}::")));
        assert!(!boots || listed(&always), "{module} boots instances");
        assert!(!mounts || listed(&always) || listed(&mounting), "{module} mounts");
        found += usize::from(boots || mounts);
    }
    assert!(found >= 8, "{found}");
}
