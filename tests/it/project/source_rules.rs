//! Rules that only the text of the sources can show; no other test parses it.
//!
//! The modules of `src/lib.rs`, and below them those of `core/src/lib.rs`, are layers in this order: each may import those
//! below it, and no other. No files import each other in a circle. Only a few of the layers contain SQL. Each recorded
//! metric is in the table. Tests that call programs of the machine or need root are in the lists that select them.

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

/// Paths that begin with `crate`, `super` or `self` anywhere in a text, each branch of a `use` tree by itself.
fn paths(text: &str) -> Vec<Vec<&str>> {
    let (mut found, mut rest) = (Vec::new(), text);
    let first = |text: &str| ["crate::", "super::", "self::"].iter().filter_map(|word| text.find(word)).min();
    while let Some(at) = first(rest) {
        let is_end_of_word = rest[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_:$".contains(c));
        rest = &rest[at..];
        rest = if is_end_of_word { &rest["self::".len()..] } else { branch(rest, &[], &mut found) };
    }
    found
}

/// Reads the branch of a `use` tree that the text begins with, and returns the text behind it.
fn branch<'t>(text: &'t str, trunk: &[&'t str], found: &mut Vec<Vec<&'t str>>) -> &'t str {
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            match rest.strip_prefix('}') {
                Some(behind) => return behind,
                None if rest.is_empty() => return rest,
                None => rest = branch(rest, trunk, found),
            }
            // The name of `as`.
            rest = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
        }
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let path = [trunk, &[&text[..end]]].concat();
    match text[end..].strip_prefix("::") {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic() || "_{".contains(c)) => {
            branch(rest, &path, found)
        }
        _ => {
            found.push(path);
            // At least one character, so that every search ends.
            &text[end.max(1).min(text.len())..]
        }
    }
}

/// Folders of sources, from top to bottom. The lower one is a crate of its own, which the upper one re-exports.
const FOLDERS: [&str; 2] = ["src", "core/src"];

/// Layers and their descriptions, from top to bottom: the lines of `lib.rs` in both folders.
fn layers() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text: String =
        FOLDERS.iter().map(|folder| fs::read_to_string(root.join(folder).join("lib.rs")).unwrap()).collect();
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

/// A source file: its layer, its path below its folder, its text, and its code without comments and tests.
struct Source {
    layer: String,
    path: PathBuf,
    text: String,
    code: String,
}

fn read_sources() -> Vec<Source> {
    let roots = FOLDERS.map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let mut files = Vec::new();
    roots.iter().for_each(|root| sources(root, &mut files));
    assert!(files.len() > 200);
    let read = |file: PathBuf| {
        let path = roots.iter().find_map(|root| file.strip_prefix(root).ok()).unwrap().to_owned();
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
        for import in paths(&source.code).iter().filter(|path| path[0] == "crate") {
            if layers[..own].iter().any(|above| import.get(1) == Some(&above.as_str())) {
                wrong.push(format!("{} imports {import:?}, which stands above", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Files that a file imports: module → modules. A path through a `pub use` leads to the file that has it.
fn file_imports() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let sources = read_sources();
    let module = |path: &Path| -> Vec<String> {
        let path = path.with_extension("");
        let names: Vec<_> = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        names.into_iter().filter(|name| name != "mod").collect()
    };
    let files: BTreeSet<Vec<String>> = sources.iter().map(|source| module(&source.path)).collect();
    let mut found = BTreeMap::new();
    for source in &sources {
        let own = module(&source.path);
        let absolute = |path: &Vec<&str>| -> Vec<String> {
            let ups = path.iter().filter(|name| **name == "super").count();
            let base = if path[0] == "crate" { &[] } else { &own[..own.len().saturating_sub(ups)] };
            let names = path.iter().filter(|name| !matches!(**name, "crate" | "super" | "self"));
            base.iter().cloned().chain(names.map(|name| (*name).to_owned())).collect()
        };
        let file = |path: Vec<String>| {
            (1..=path.len()).rev().map(|end| path[..end].to_vec()).find(|prefix| files.contains(prefix))
        };
        let children = files.iter().filter(|other| other.len() == own.len() + 1 && other.starts_with(&own));
        let used = children.filter(|child| {
            let name = format!("{}::", child[own.len()]);
            source.code.match_indices(&name).any(|(at, _)| {
                !source.code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_:".contains(c))
            })
        });
        let mut imports: BTreeSet<Vec<String>> = used.cloned().collect();
        imports
            .extend(paths(&source.code).iter().map(absolute).filter_map(file).filter(|other| *other != own));
        found.insert(own, imports);
    }
    found
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let mut left = file_imports();
    assert!(left.values().map(BTreeSet::len).sum::<usize>() > 500);
    // What imports nothing that is left, or is imported by nothing that is left, is in no circle.
    loop {
        let names: BTreeSet<_> = left.keys().cloned().collect();
        let imported: BTreeSet<_> = left.values().flatten().cloned().collect();
        left.retain(|name, imports| {
            imports.retain(|other| names.contains(other));
            !imports.is_empty() && imported.contains(name)
        });
        if left.len() == names.len() {
            break;
        }
    }
    assert!(left.is_empty(), "{left:#?}");
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
    let text = "use crate::{store::{self, bus as table}, app::{App, Clock}};\ncrate::error::chain(super::x(Self::y))";
    let found: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
    assert_eq!(
        found,
        [
            "crate::store::self",
            "crate::store::bus",
            "crate::app::App",
            "crate::app::Clock",
            "crate::error::chain",
            "super::x"
        ]
    );
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
