//! The table of metrics: limits of CloudWatch. `reference.rs` compares the page with the table, and `source_rules.rs`
//! the sources with it.

use salebell::telemetry::table::{CloudWatch, METRICS, MetricKind};

#[test]
fn metrics_sent_to_cloudwatch_fit_its_format() {
    for metric in METRICS {
        let CloudWatch::By(labels) = metric.cloudwatch else { continue };
        assert!(labels.iter().all(|label| metric.labels.contains(label)), "{}", metric.name);
        // Gauges cannot be added up over omitted labels.
        assert!(metric.kind != MetricKind::Gauge || labels == metric.labels, "{}", metric.name);
        // They appear beside each other in a line.
        let names = ["service", "environment", "version", "_aws"];
        assert!(!names.contains(&metric.name) && !labels.iter().any(|label| names.contains(label)));
        // The buckets are chosen for seconds.
        assert!(metric.kind != MetricKind::Histogram || metric.unit == "Seconds", "{}", metric.name);
    }
}
