//! The table of metrics: limits of CloudWatch, and values of labels. `reference.rs` compares the page with the table, and
//! `source_rules.rs` the sources with it.

use std::collections::BTreeSet;

use salebell::domain::delivery::CANCELLED;
use salebell::telemetry::table::{CloudWatch, METRICS, MetricKind, VALUES};

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

fn values_of(metric: &str, label: &str) -> Vec<&'static str> {
    let listed = VALUES.iter().find(|one| one.metric == metric && one.label == label);
    listed.unwrap_or_else(|| panic!("no values of {metric} {label}")).values.to_vec()
}

/// Each value is a series that is paid for.
#[test]
fn every_dimension_of_cloudwatch_has_few_values_and_they_are_listed() {
    for metric in METRICS {
        let CloudWatch::By(labels) = metric.cloudwatch else { continue };
        for label in labels {
            // Its values are the parts of the log.
            if (metric.name, *label) != ("salebell_failures_total", "kind") {
                assert!(values_of(metric.name, label).len() <= 20, "{}", metric.name);
            }
        }
    }
    let listed: BTreeSet<_> = VALUES.iter().map(|one| (one.metric, one.label)).collect();
    assert_eq!(listed.len(), VALUES.len(), "a label stands twice");
    for one in VALUES {
        let metric = METRICS.iter().find(|metric| metric.name == one.metric).expect(one.metric);
        assert!(metric.labels.contains(&one.label), "{} has no {}", one.metric, one.label);
    }
}

#[test]
fn values_are_those_of_the_types_that_they_come_from() {
    let mut codes: Vec<String> = (0..=16).map(|code| format!("{:?}", tonic::Code::from(code))).collect();
    codes.push("aborted".to_owned());
    assert_eq!(values_of("grpc_requests_total", "code"), codes);
    assert_eq!(values_of("grpc_request_duration_seconds", "code"), codes);
    let cancelled: Vec<&str> = CANCELLED.iter().map(|reason| reason.name()).collect();
    assert_eq!(values_of("salebell_deliveries_cancelled_total", "reason"), cancelled);
}
