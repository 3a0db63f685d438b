//! Rules that only the text of the sources can show; no other test parses it.
//!
//! The modules of `src/lib.rs`, and below them those of `core/src/lib.rs`, are layers in this order: each may import those
//! below it, and no other. No files import each other in a circle. Only a few of the layers contain SQL. Each recorded
//! metric, with the values of its labels, and each line of the log is in the tables that `salebell reference` prints; other
//! tests and pages rely on those. Pages that sources name are there. Tests that call programs of the machine or need root
//! are in the lists that select them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use salebell::telemetry::log_table::{FIELDS, MESSAGES, PARTS};
use salebell::telemetry::table::{METRICS, MetricKind, VALUES};

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
        let own = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = own.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.map(|line| format!("{line}\n")).collect();
        Source { layer, path, text, code }
    };
    files.into_iter().map(read).collect()
}

#[test]
fn imports_go_down_only() {
    let layers: Vec<String> = layers().into_iter().map(|(name, _)| name).collect();
    assert!(layers.len() >= 20 && layers.len() <= 25, "{layers:?}");
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

/// A call of `counter!` and similar macros.
struct Recording {
    kind: MetricKind,
    name: String,
    /// Label → its value, where that is a literal.
    labels: BTreeMap<String, Option<String>>,
    /// The file with the call, below its folder.
    path: PathBuf,
}

fn recordings(sources: &[Source]) -> Vec<Recording> {
    let mut found = Vec::new();
    for source in sources {
        let text: String = source.text.split_whitespace().collect();
        for kind in [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram] {
            for (at, start) in text.match_indices(&format!("{}!(", kind.name())) {
                // A description, which records nothing.
                if text[..at].ends_with("describe_") {
                    continue;
                }
                let call = text[at + start.len()..].split(").").next().unwrap();
                let parts: Vec<&str> = call.split("=>").collect();
                let labels = parts.windows(2).map(|pair| {
                    let before = pair[0].strip_suffix('"').expect(call);
                    let value = pair[1].strip_prefix('"').and_then(|value| value.split('"').next());
                    (before[before.rfind('"').unwrap() + 1..].to_owned(), value.map(str::to_owned))
                });
                let name = call.split('"').nth(1).unwrap().to_owned();
                found.push(Recording { kind, name, labels: labels.collect(), path: source.path.clone() });
            }
        }
    }
    found
}

#[test]
fn the_table_has_every_metric_that_is_recorded() {
    let table: BTreeMap<&str, (MetricKind, BTreeSet<&str>)> = METRICS
        .iter()
        .map(|metric| (metric.name, (metric.kind, metric.labels.iter().copied().collect())))
        .collect();
    assert_eq!(table.len(), METRICS.len(), "a name stands twice");
    let recordings = recordings(&read_sources());
    let mut recorded: BTreeMap<&str, (MetricKind, BTreeSet<&str>)> = BTreeMap::new();
    for one in &recordings {
        let entry = recorded.entry(&one.name).or_insert((one.kind, BTreeSet::new()));
        assert_eq!(entry.0, one.kind, "{} is recorded in two ways", one.name);
        entry.1.extend(one.labels.keys().map(String::as_str));
    }
    assert_eq!(recorded, table);
}

/// Files, below their folder, that have a label's values as words where the file that records the metric has not.
const VALUES_ELSEWHERE: [(&str, &str, &str); 4] = [
    ("database_wait_seconds", "pool", "app/mod.rs"),
    ("salebell_transitions_total", "kind", "domain/price.rs"),
    ("salebell_deliveries_cancelled_total", "reason", "domain/delivery.rs"),
    ("salebell_channels_disabled_total", "reason", "domain/delivery.rs"),
];

#[test]
fn the_values_of_labels_are_those_that_are_recorded() {
    let sources = read_sources();
    let recordings = recordings(&sources);
    let mut wrong = Vec::new();
    for one in VALUES {
        let recording = recordings.iter().filter(|recording| recording.name == one.metric);
        let literals = recording.clone().filter_map(|recording| recording.labels.get(one.label)?.as_deref());
        for value in literals.filter(|value| !one.values.contains(value)) {
            wrong.push(format!("{} has {}={value}, which is not in the table", one.metric, one.label));
        }
        // gRPC's own words (`metrics.rs`).
        if one.label == "code" {
            continue;
        }
        let elsewhere =
            VALUES_ELSEWHERE.iter().find(|(metric, label, _)| (*metric, *label) == (one.metric, one.label));
        let files: Vec<&Path> = match elsewhere {
            Some((.., file)) => vec![Path::new(file)],
            None => recording.map(|recording| recording.path.as_path()).collect(),
        };
        let code: String = sources
            .iter()
            .filter(|source| files.contains(&source.path.as_path()))
            .map(|source| &*source.code)
            .collect();
        for value in one.values.iter().filter(|value| !code.contains(&format!("\"{value}\""))) {
            wrong.push(format!("{} never has {}={value}", one.metric, one.label));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Arguments of a call, from behind its opening bracket, and how many of them come before a `;`.
fn arguments(text: &str) -> (Vec<&str>, usize) {
    let (mut depth, mut is_text, mut is_escaped, mut begin) = (0, false, false, 0);
    let (mut found, mut before_semicolon) = (Vec::new(), 0);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_text = !is_text,
            _ if is_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ',' | ';' | ')' if depth == 0 => {
                found.push(text[begin..at].trim());
                begin = at + 1;
                if c == ';' {
                    before_semicolon = found.len();
                }
                if c == ')' {
                    return (found, before_semicolon);
                }
            }
            _ => {}
        }
    }
    panic!("a call without an end: {text:.100}")
}

/// What the sources log: the levels of each part, the parts of each field, and the texts of each part.
#[derive(Default)]
struct Logged {
    levels: BTreeMap<String, BTreeSet<String>>,
    fields: BTreeMap<String, BTreeSet<String>>,
    texts: Vec<(String, String)>,
}

impl Logged {
    /// Adds a call of a macro of `log` in the name of some parts.
    fn add(&mut self, parts: &[String], levels: &BTreeSet<String>, call: &str) {
        let (arguments, before_semicolon) = arguments(call);
        for part in parts {
            self.levels.entry(part.clone()).or_default().extend(levels.iter().cloned());
            for (name, _) in arguments[..before_semicolon].iter().filter_map(|one| one.split_once(" = ")) {
                let name = name.trim_matches('"').to_owned();
                self.fields.entry(name).or_default().insert(part.clone());
            }
            let texts = arguments.iter().skip(before_semicolon).filter(|one| one.starts_with('"'));
            self.texts.extend(texts.map(|text| (part.clone(), (*text).to_owned())));
        }
    }
}

/// The part in `"salebell::part"`, at the beginning of a text.
fn part_in(text: &str) -> Option<String> {
    let name = text.strip_prefix("\"salebell::")?.split('"').next()?;
    name.chars().all(|c| c.is_ascii_lowercase() || c == '_').then(|| name.to_owned())
}

fn logged(sources: &[Source]) -> Logged {
    let mut found = Logged::default();
    let of_driver: Vec<String> = sources
        .iter()
        .flat_map(|source| source.code.split("LOG_TARGET: &'static str = ").skip(1).filter_map(part_in))
        .collect();
    assert!(of_driver.len() >= 5, "the search finds what there is");
    for source in sources {
        // Where the level is a variable, it is one of those that the file names.
        let of_file: BTreeSet<String> = source
            .code
            .split("log::Level::")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphabetic()).next())
            .map(str::to_lowercase)
            .collect();
        for (at, _) in source.code.match_indices("log::") {
            let Some((level, call)) = source.code[at + 5..].split_once("!(") else { continue };
            let levels = match level {
                "log" => of_file.clone(),
                "error" | "warn" | "info" | "debug" | "trace" => BTreeSet::from([level.to_owned()]),
                _ => continue,
            };
            let target = call.trim_start().strip_prefix("target: ").unwrap_or_default();
            let parts = match part_in(target) {
                Some(part) => vec![part],
                None if target.starts_with("T::LOG_TARGET") => of_driver.clone(),
                None => panic!("{} logs without a target of ours: {call:.60}", source.path.display()),
            };
            found.add(&parts, &levels, call);
        }
        if source.code.contains("log::Record::builder()") {
            let part = source.code.split("const TARGET: &str = ").nth(1).and_then(part_in).unwrap();
            found.levels.entry(part).or_default().extend(of_file);
        }
    }
    found
}

#[test]
fn the_table_of_the_log_has_every_part_and_field_and_the_messages_that_are_searched_for() {
    let sources = read_sources();
    let Logged { levels, fields, texts } = logged(&sources);
    let in_table: BTreeMap<String, BTreeSet<String>> = PARTS
        .iter()
        .map(|part| {
            let levels = part.levels.iter().map(|level| level.as_str().to_lowercase());
            (part.name.to_owned(), levels.collect())
        })
        .collect();
    assert_eq!(levels, in_table);
    assert!(PARTS.is_sorted_by_key(|part| part.name) && PARTS.iter().all(|part| part.levels.is_sorted()));
    let in_table: BTreeMap<String, BTreeSet<String>> = FIELDS
        .iter()
        .map(|field| (field.name.to_owned(), field.parts.iter().map(|part| (*part).to_owned()).collect()))
        .collect();
    assert_eq!(fields, in_table);
    for message in MESSAGES {
        let is_there = match message.part {
            Some(part) => texts.iter().any(|(of, text)| of == part && text.contains(message.text)),
            // The table has it too.
            None => sources.iter().filter(|source| source.code.contains(message.text)).count() >= 2,
        };
        assert!(is_there, "nothing logs {:?}", message.text);
    }
}

#[test]
fn pages_that_sources_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "core", "tests", "benches"] {
        sources(&root.join(folder), &mut files);
    }
    let (mut found, mut wrong) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("docs/") {
            let is_inside = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_/.-".contains(c));
            let rest = &text[at..];
            let end =
                rest.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "/-".contains(c)));
            let Some(end) = end.filter(|end| !is_inside && rest[*end..].starts_with(".md")) else { continue };
            found += 1;
            let page = format!("{}.md", &rest[..end]);
            if !root.join(&page).exists() {
                wrong.push(format!("{} names {page}", file.display()));
            }
        }
    }
    assert!(found >= 10, "the search finds what there is");
    assert!(wrong.is_empty(), "{wrong:#?}");
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
