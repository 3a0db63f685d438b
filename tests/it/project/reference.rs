//! The pages of docs/reference/ that `salebell reference` prints are up to date.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;
use salebell::cli::Arguments;
use salebell::cli::reference::ReferencePage;
use salebell::config::Config;
use salebell::config::settings::AREAS;
use salebell::error::{Error, Kind};

#[test]
fn the_pages_are_what_the_program_prints() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    for page in ReferencePage::ALL {
        let kept = std::fs::read_to_string(folder.join(format!("{}.md", page.name()))).unwrap_or_default();
        assert!(
            kept == page.render(Arguments::command()),
            "docs/reference/{}.md is another: make reference",
            page.name()
        );
    }
}

/// `Reader` asserts that the table has every key that is read: otherwise any test that reads a configuration fails.
#[test]
fn every_setting_of_the_table_is_read() {
    let settings = || AREAS.iter().flat_map(|area| area.settings);
    let keys: BTreeSet<&str> = settings().map(|setting| setting.key).collect();
    assert_eq!(keys.len(), settings().count(), "a key stands twice");
    for area in AREAS {
        assert!(area.settings.iter().all(|setting| setting.key.starts_with(&format!("{}.", area.name))));
    }
    let name = |key: &str| format!("SALEBELL_{}", key.replace('.', "__").to_uppercase());
    let environment = keys.iter().map(|key| (name(key), "1".to_owned()));
    let problems = Config::load(None, environment).expect_err("1 is no value of server.listen").to_string();
    assert!(problems.contains("server.listen"), "{problems}");
    assert!(!problems.contains("is unknown"), "{problems}");
    // With only its defaults, the configuration lacks only a database.
    let problems = Config::load(None, []).unwrap_err().0;
    assert!(matches!(&problems[..], [one] if one.starts_with("database.url ")), "{problems:?}");
}

/// A new kind does not compile until `explanations::explain` has it; the list is beside the enum.
#[test]
fn every_kind_of_problem_is_listed_once() {
    let types: BTreeSet<String> =
        Kind::ALL.into_iter().map(|kind| Error::new(kind, "").problem().r#type).collect();
    assert_eq!(types.len(), Kind::ALL.len());
}
