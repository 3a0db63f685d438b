//! The table of metrics, against what the sources record and what the page says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use salebell::telemetry::table::{CloudWatch, Kind, METRICS};

fn read_sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, text)
        } else {
            text.push_str(&fs::read_to_string(path).unwrap())
        }
    }
}

/// What stands in `counter!("name"` and its like: name → what it is recorded as, and its labels.
fn recorded() -> BTreeMap<String, (&'static str, BTreeSet<String>)> {
    let mut sources = String::new();
    read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    let sources: String = sources.split_whitespace().collect();
    let mut found = BTreeMap::new();
    for kind in [Kind::Counter, Kind::Gauge, Kind::Histogram] {
        for (at, start) in sources.match_indices(&format!("{}!(", kind.name())) {
            // Which has no name of its own.
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

#[test]
fn what_goes_to_cloudwatch_can() {
    for metric in METRICS {
        let CloudWatch::By(labels) = metric.cloudwatch else { continue };
        assert!(labels.iter().all(|label| metric.labels.contains(label)), "{}", metric.name);
        // Values that are set cannot be added up over the labels that are left out.
        assert!(metric.kind != Kind::Gauge || labels == metric.labels, "{}", metric.name);
        // They stand beside each other in a line.
        let names = ["service", "environment", "version", "_aws"];
        assert!(!names.contains(&metric.name) && !labels.iter().any(|label| names.contains(label)));
        // The buckets are made for seconds.
        assert!(metric.kind != Kind::Histogram || metric.unit == "Seconds", "{}", metric.name);
    }
}

/// ``| `name` | counter, Seconds | `label`, … | how CloudWatch has it | … |``
#[test]
fn the_page_lists_every_metric() {
    let page = include_str!("../../../docs/operations.md");
    let code = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    for metric in METRICS {
        let cloudwatch = match metric.cloudwatch {
            CloudWatch::No => "–".to_owned(),
            CloudWatch::Fleet => "fleet".to_owned(),
            CloudWatch::By(&[]) => "service".to_owned(),
            CloudWatch::By(labels) => format!("service, {}", code(labels)),
        };
        let row = format!(
            "| `{}` | {}, {} | {} | {cloudwatch} | {} |",
            metric.name,
            metric.kind.name(),
            metric.unit,
            code(metric.labels),
            metric.help
        );
        let row = row.replace("|  |", "| |");
        assert!(page.contains(&row), "docs/operations.md lacks\n{row}");
    }
    let listed = page
        .lines()
        .filter(|line| ["| counter, ", "| gauge, ", "| histogram, "].iter().any(|kind| line.contains(kind)));
    assert_eq!(listed.count(), METRICS.len(), "docs/operations.md lists metrics that there are not");
}
