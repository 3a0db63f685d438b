//! The table of metrics: what CloudWatch can take of it, and what the page says.

use salebell::telemetry::table::{CloudWatch, Kind, METRICS};

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
