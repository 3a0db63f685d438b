//! The table of metrics: what CloudWatch can take of it. `reference.rs` compares the page with the table, and
//! `source_rules.rs` what the sources record.

use salebell::telemetry::table::{CloudWatch, METRICS, MetricKind};

#[test]
fn what_goes_to_cloudwatch_can() {
    for metric in METRICS {
        let CloudWatch::By(labels) = metric.cloudwatch else { continue };
        assert!(labels.iter().all(|label| metric.labels.contains(label)), "{}", metric.name);
        // Values that are set cannot be added up over the labels that are left out.
        assert!(metric.kind != MetricKind::Gauge || labels == metric.labels, "{}", metric.name);
        // They stand beside each other in a line.
        let names = ["service", "environment", "version", "_aws"];
        assert!(!names.contains(&metric.name) && !labels.iter().any(|label| names.contains(label)));
        // The buckets are made for seconds.
        assert!(metric.kind != MetricKind::Histogram || metric.unit == "Seconds", "{}", metric.name);
    }
}
