//! The modules of `src/lib.rs` are layers in its order: each may import those that stand below it, and no other.

use std::fs;
use std::path::{Path, PathBuf};

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

/// The layers and what each is, from top to bottom: the lines of `src/lib.rs`.
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

/// A source file: its layer, its path below `src`, and its code without comments and tests.
struct Source {
    layer: String,
    path: PathBuf,
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
        // Tests inside a module may look around.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.map(|line| format!("{line}\n")).collect();
        Source { layer, path, code }
    };
    files.into_iter().map(read).collect()
}

#[test]
fn imports_go_down_only() {
    let layers: Vec<String> = layers().into_iter().map(|(name, _)| name).collect();
    assert!(layers.len() >= 20 && layers.len() <= 24, "{layers:?}");
    let mut wrong = Vec::new();
    for source in read_sources() {
        // These two are not layers: `main` stands above all, and `lib` is the list.
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
    for Source { layer, path, code } in read_sources() {
        if layer == "domain" && code.contains("async fn") {
            wrong.push(format!("{} does I/O", path.display()));
        }
        // `database` asks a new connection what it is connected to; `salebell dev` makes databases.
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

/// Starts programs of the machine, and need not run once more on another Debian.
const OF_ONE_VERSION: [(&str, &str); 2] = [
    ("delivery::webhooks", "libraries of pinned versions"),
    ("project::machine", "our own scripts, on the machine that they describe"),
];

#[test]
fn who_calls_programs_of_the_machine_is_tested_on_the_image_s_debian_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = fs::read_to_string(folder.join("outside-tools.txt")).unwrap();
    let root = folder.join("it");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut calling) = (Vec::new(), 0);
    for file in files.iter().filter(|file| !file.starts_with(root.join("support"))) {
        let path = file.strip_prefix(&root).unwrap().with_extension("");
        let module = path.to_string_lossy().replace('/', "::");
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
        let module = name.split("::").take(2).collect::<Vec<_>>().join("/");
        let test = name.rsplit("::").next().unwrap_or_default();
        let text = fs::read_to_string(root.join(format!("{module}.rs"))).unwrap_or_default();
        assert!(!text.is_empty() && text.contains(test), "{name} is no test");
    }
}
