//! Metrics for CloudWatch in its embedded metric format: JSON lines that CloudWatch Logs turns into metrics.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
//!
//! A line holds one value of each metric, so metrics with further dimensions have lines of their own. A counter reports
//! what was added since its last line. What could not be written is part of the next line.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use systemd_journal_logger::JournalLog;

use super::recorder::{self, Delta, Sample, Tallies};
use super::table::{CloudWatch, Metric, Service};
use crate::config::{EmfTarget, TelemetryConfig};

/// CloudWatch namespace of all metrics.
const NAMESPACE: &str = "Salebell";
/// Log target under which the journal shows the lines.
pub const TARGET: &str = "salebell::emf";
/// Maximum number of metrics of one line, as the format defines it.
const MAX_METRICS: usize = 100;
/// Maximum number of bytes of one line. The journal splits lines from stdout at 48 KiB; CloudWatch accepts 256 KiB.
const MAX_BYTES: usize = 40 * 1024;

/// Writes the metrics of this process.
#[derive(Clone)]
pub struct Reporter {
    target: EmfTarget,
    /// Interval between two writes.
    pub every: Duration,
    service: Service,
    environment: String,
    tallies: &'static Tallies,
    /// Held during a write: two concurrent ones would report the same values twice.
    writing: Arc<Mutex<()>>,
}

impl Reporter {
    /// Starts counting for CloudWatch; `None` if `telemetry.emf` is off.
    pub fn start(settings: &TelemetryConfig, service: Service) -> Option<Reporter> {
        if settings.emf == EmfTarget::Off {
            return None;
        }
        let tallies = recorder::start();
        super::metrics();
        Some(Reporter {
            target: settings.emf,
            every: settings.emf_every,
            service,
            environment: settings.environment.clone(),
            tallies,
            writing: Arc::default(),
        })
    }

    /// Writes everything that has changed since the last write. Blocks until the reader accepts it.
    ///
    /// # Errors
    /// Fails if there is no journal, or if stdout is closed. What was not written is part of the next call.
    pub fn write(&self, now: DateTime<Utc>) -> std::io::Result<()> {
        let _alone = self.writing.lock();
        for line in self.lines(self.tallies.news(), now) {
            match self.target {
                EmfTarget::Off => {}
                EmfTarget::Journal => send_to_journal(&line.text)?,
                EmfTarget::Stdout => {
                    let mut stdout = std::io::stdout().lock();
                    writeln!(stdout, "{}", line.text)?;
                    stdout.flush()?;
                }
            }
            line.news.iter().for_each(Delta::mark_written);
        }
        Ok(())
    }

    fn lines(&self, news: Vec<Delta>, now: DateTime<Utc>) -> Vec<Line> {
        let mut by_dimensions: BTreeMap<Vec<(&'static str, String)>, Vec<Delta>> = BTreeMap::new();
        for one in news {
            let dimensions = match one.series.metric.cloudwatch {
                CloudWatch::By(labels) => labels.iter().copied().zip(one.series.values.clone()).collect(),
                _ => Vec::new(),
            };
            by_dimensions.entry(dimensions).or_default().push(one);
        }
        let mut lines = Vec::new();
        for (dimensions, news) in by_dimensions {
            let (mut some, mut bytes) = (Vec::new(), 0);
            for one in news {
                // The name appears twice, once with its unit.
                let size = one.target().to_string().len() + 2 * one.series.metric.name.len() + 64;
                if some.len() == MAX_METRICS || bytes + size > MAX_BYTES {
                    lines.push(self.line(&dimensions, std::mem::take(&mut some), now));
                    bytes = 0;
                }
                bytes += size;
                some.push(one);
            }
            lines.push(self.line(&dimensions, some, now));
        }
        lines
    }

    fn line(&self, dimensions: &[(&'static str, String)], news: Vec<Delta>, now: DateTime<Utc>) -> Line {
        let labels: Vec<&str> = dimensions.iter().map(|(label, _)| *label).collect();
        let own = [&["service", "environment"], labels.as_slice()].concat();
        let directive = |dimensions: Vec<Vec<&str>>, wanted: fn(&Metric) -> bool| {
            let wanted = news.iter().map(|one| one.series.metric).filter(|metric| wanted(metric));
            let metrics: Vec<Value> =
                wanted.map(|metric| json!({"Name": metric.name, "Unit": metric.unit})).collect();
            let directive = json!({"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": metrics});
            (!metrics.is_empty()).then_some(directive)
        };
        let directives: Vec<Value> = [
            directive(vec![own], |metric| metric.cloudwatch != CloudWatch::Fleet),
            directive(vec![vec!["environment"]], |metric| metric.cloudwatch == CloudWatch::Fleet),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut root = Map::new();
        root.insert(
            "_aws".to_owned(),
            json!({"Timestamp": now.timestamp_millis(), "CloudWatchMetrics": directives}),
        );
        root.insert("service".to_owned(), self.service.name().into());
        root.insert("environment".to_owned(), self.environment.clone().into());
        root.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        root.extend(dimensions.iter().map(|(label, value)| ((*label).to_owned(), value.clone().into())));
        root.extend(news.iter().map(|one| (one.series.metric.name.to_owned(), one.target())));
        Line { text: Value::Object(root).to_string(), news }
    }
}

/// Text of a line, and the values that it reports.
struct Line {
    text: String,
    news: Vec<Delta>,
}

impl Delta {
    /// Value of a metric in a line. A distribution is an object, as AWS's own agent writes it: the specification only
    /// has arrays of at most a hundred values, which would take one line per hundred requests.
    fn target(&self) -> Value {
        match &self.sample {
            Sample::Added { added, .. } => json!(added),
            Sample::Level(level) => json!(level),
            Sample::Spread { values, counts, sum, .. } => json!({
                "Values": values,
                "Counts": counts,
                "Min": values.first(),
                "Max": values.last(),
                "Count": counts.iter().sum::<u64>(),
                "Sum": sum,
            }),
        }
    }
}

/// Sends a line to the journal as a message of its own. It bypasses the log, whose level might suppress it.
fn send_to_journal(text: &str) -> std::io::Result<()> {
    JournalLog::new()?.journal_send(
        &log::Record::builder().level(log::Level::Info).target(TARGET).args(format_args!("{text}")).build(),
    )
}

#[cfg(test)]
mod tests {
    use metrics::{Key, Label, Recorder};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::telemetry::recorder::Both;

    fn reporter() -> Reporter {
        let settings = TelemetryConfig {
            emf: EmfTarget::Stdout,
            emf_every: Duration::from_secs(60),
            environment: "prod".to_owned(),
        };
        Reporter::start(&settings, Service::Worker).unwrap()
    }

    #[test]
    fn a_line_stays_small_whatever_there_is_to_report() {
        let (reporter, recorder) = (reporter(), Both(PrometheusBuilder::new().build_recorder()));
        let metadata = metrics::Metadata::new("", metrics::Level::INFO, None);
        // All buckets, for far more pools than there will ever be.
        for pool in 0..300 {
            let labels = vec![Label::new("pool", pool.to_string())];
            let key = Key::from_parts("database_wait_seconds", labels);
            let histogram = recorder.register_histogram(&key, &metadata);
            (0..recorder::BUCKETS as i32).for_each(|bucket| histogram.record(0.00099 * 1.2_f64.powi(bucket)));
        }
        for metric in super::super::table::METRICS {
            let key = Key::from_name(metric.name);
            match metric.kind {
                super::super::table::MetricKind::Counter => {
                    recorder.register_counter(&key, &metadata).increment(7)
                }
                super::super::table::MetricKind::Gauge => recorder.register_gauge(&key, &metadata).set(7.5),
                super::super::table::MetricKind::Histogram => {
                    recorder.register_histogram(&key, &metadata).record(7.5);
                }
            }
        }
        let news = reporter.tallies.news();
        let all = news.len();
        let lines = reporter.lines(news, DateTime::UNIX_EPOCH);
        assert_eq!(lines.iter().map(|line| line.news.len()).sum::<usize>(), all);
        for line in &lines {
            assert!(line.text.len() < 48 * 1024 && line.news.len() <= MAX_METRICS, "{}", line.text.len());
            assert!(!line.text.contains('\n'));
        }
        // Metrics without further dimensions fit on one line.
        let main: Value = lines.iter().map(|line| serde_json::from_str(&line.text).unwrap()).next().unwrap();
        assert_eq!(main["salebell_notices_total"], 7);
        let directives = main["_aws"]["CloudWatchMetrics"].as_array().unwrap();
        let dimensions: Vec<String> = directives.iter().map(|one| one["Dimensions"].to_string()).collect();
        assert_eq!(dimensions, [r#"[["service","environment"]]"#, r#"[["environment"]]"#]);
    }
}
