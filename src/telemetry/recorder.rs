//! Recorder that counts for CloudWatch as well as Prometheus: the same values under fewer labels, together with how
//! much of them has been written already.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata};
use metrics::{Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;
use parking_lot::{Mutex, RwLock};

use super::table::{self, CloudWatch, Metric, MetricKind};

/// Upper bound of the first bucket of a distribution, in seconds. Faster values count as half of it.
const FIRST: f64 = 0.001;
/// Ratio of two successive bucket bounds. A value is reported with an error of at most 10 %, which is as much as
/// CloudWatch's own percentiles have.
const GROWTH: f64 = 1.2;
/// Number of buckets, which is the most values of one metric that a line may hold. The last one has everything beyond
/// 19 hours.
pub const BUCKETS: usize = 100;

/// One series: a metric, and the values of the labels that are dimensions in CloudWatch.
pub struct MetricSeries {
    pub metric: &'static Metric,
    /// Label values, in the order of the metric's `CloudWatch::By`.
    pub values: Vec<String>,
    figures: Figures,
}

enum Figures {
    Count(Count),
    /// Bits of an `f64`.
    Level(AtomicU64),
    Spread(Box<Spread>),
}

#[derive(Default)]
struct Count {
    total: AtomicU64,
    written: AtomicU64,
}

/// Distribution: the number of values in each bucket.
struct Spread {
    buckets: [Count; BUCKETS],
    /// Sum of all values, in microseconds.
    sum: Count,
}

/// Change of a series since its last line.
pub struct Delta {
    pub series: Arc<MetricSeries>,
    pub sample: Sample,
}

/// State of a series at one moment.
pub enum Sample {
    Added {
        added: u64,
        total: u64,
    },
    Level(f64),
    /// Values and how often each occurred; never empty.
    Spread {
        values: Vec<f64>,
        counts: Vec<u64>,
        sum: f64,
        totals: Box<[u64; BUCKETS]>,
        sum_total: u64,
    },
}

impl Count {
    fn add(&self, more: u64) {
        self.total.fetch_add(more, Ordering::Relaxed);
    }

    fn added(&self) -> (u64, u64) {
        let total = self.total.load(Ordering::Relaxed);
        (total.saturating_sub(self.written.load(Ordering::Relaxed)), total)
    }
}

impl Spread {
    fn add(&self, seconds: f64) {
        let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
        self.buckets[bucket_of(seconds)].add(1);
        self.sum.add((seconds * 1e6) as u64);
    }
}

fn bucket_of(seconds: f64) -> usize {
    if seconds > FIRST {
        ((seconds / FIRST).ln() / GROWTH.ln()).ceil().min((BUCKETS - 1) as f64) as usize
    } else {
        0
    }
}

/// Value that represents a bucket, rounded to the digits that are significant.
fn value_of(bucket: usize) -> f64 {
    let middle = if bucket == 0 { FIRST / 2.0 } else { FIRST * GROWTH.powf(bucket as f64 - 0.5) };
    (middle * 1e5).round() / 1e5
}

impl MetricSeries {
    fn new(metric: &'static Metric, values: Vec<String>) -> MetricSeries {
        let figures = match metric.kind {
            MetricKind::Counter => Figures::Count(Count::default()),
            MetricKind::Gauge => Figures::Level(AtomicU64::new(f64::NAN.to_bits())),
            MetricKind::Histogram => Figures::Spread(Box::new(Spread {
                buckets: std::array::from_fn(|_| Count::default()),
                sum: Count::default(),
            })),
        };
        MetricSeries { metric, values, figures }
    }

    /// Current state of the series; `None` if nothing has changed or the value is unknown.
    fn sample(&self) -> Option<Sample> {
        match &self.figures {
            Figures::Count(count) => {
                let (added, total) = count.added();
                Some(Sample::Added { added, total })
            }
            Figures::Level(bits) => {
                let level = f64::from_bits(bits.load(Ordering::Relaxed));
                level.is_finite().then_some(Sample::Level(level))
            }
            Figures::Spread(spread) => {
                // The sum is read first: if a value arrives in between, this line may count it, and the next one adds
                // its sum.
                let (sum, sum_total) = spread.sum.added();
                let mut totals = Box::new([0; BUCKETS]);
                let (mut values, mut counts) = (Vec::new(), Vec::new());
                for (bucket, count) in spread.buckets.iter().enumerate() {
                    let (added, total) = count.added();
                    totals[bucket] = total;
                    if added > 0 {
                        values.push(value_of(bucket));
                        counts.push(added);
                    }
                }
                let sum = sum as f64 / 1e6;
                (!values.is_empty()).then_some(Sample::Spread { values, counts, sum, totals, sum_total })
            }
        }
    }
}

impl Delta {
    /// Records that this change has been written: the next one starts here.
    pub fn mark_written(&self) {
        match (&self.series.figures, &self.sample) {
            (Figures::Count(count), Sample::Added { total, .. }) => {
                count.written.store(*total, Ordering::Relaxed);
            }
            (Figures::Spread(spread), Sample::Spread { totals, sum_total, .. }) => {
                for (count, total) in spread.buckets.iter().zip(totals.iter()) {
                    count.written.store(*total, Ordering::Relaxed);
                }
                spread.sum.written.store(*sum_total, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// All series of a process.
#[derive(Default)]
pub struct Tallies {
    /// Series by the key that Prometheus uses; several keys may share one series.
    known: RwLock<HashMap<Key, Option<Arc<MetricSeries>>>>,
    all: Mutex<Vec<Arc<MetricSeries>>>,
}

static TALLIES: OnceLock<Tallies> = OnceLock::new();

/// Starts counting for CloudWatch as well, from the first call on.
pub fn start() -> &'static Tallies {
    TALLIES.get_or_init(Tallies::default)
}

impl Tallies {
    /// Changes of all series, in the order of the table of metrics.
    pub fn news(&self) -> Vec<Delta> {
        let mut all = self.all.lock().clone();
        let place =
            |series: &MetricSeries| table::METRICS.iter().position(|one| one.name == series.metric.name);
        all.sort_by_key(|series| (place(series), series.values.clone()));
        let delta = |series: Arc<MetricSeries>| Some(Delta { sample: series.sample()?, series });
        all.into_iter().filter_map(delta).collect()
    }

    /// Series of a key; `None` if the metric does not go to CloudWatch.
    fn find(&self, key: &Key) -> Option<Arc<MetricSeries>> {
        if let Some(series) = self.known.read().get(key) {
            return series.clone();
        }
        let mut known = self.known.write();
        known.entry(key.clone()).or_insert_with(|| self.find_or_create(key)).clone()
    }

    fn find_or_create(&self, key: &Key) -> Option<Arc<MetricSeries>> {
        let metric = table::find(key.name())?;
        let labels = match metric.cloudwatch {
            CloudWatch::No => return None,
            CloudWatch::Fleet => &[][..],
            CloudWatch::By(labels) => labels,
        };
        let value = |label: &&str| {
            let found = key.labels().find(|one| one.key() == *label);
            // A dimension must have a value.
            found.map_or("none", |one| one.value()).to_owned()
        };
        let values: Vec<String> = labels.iter().map(value).collect();
        let mut all = self.all.lock();
        let same = |one: &&Arc<MetricSeries>| one.metric.name == metric.name && one.values == values;
        if let Some(series) = all.iter().find(same) {
            return Some(series.clone());
        }
        let series = Arc::new(MetricSeries::new(metric, values));
        all.push(series.clone());
        Some(series)
    }
}

/// Records for Prometheus, and for CloudWatch once that has been started.
pub struct Both(pub PrometheusRecorder);

/// A metric that is recorded in both.
struct Twice<T> {
    prometheus: T,
    series: Arc<MetricSeries>,
}

fn series_of(key: &Key) -> Option<Arc<MetricSeries>> {
    TALLIES.get()?.find(key)
}

impl Recorder for Both {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_counter(name, unit, description);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_gauge(name, unit, description);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_histogram(name, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let prometheus = self.0.register_counter(key, metadata);
        match series_of(key) {
            Some(series) => Counter::from_arc(Arc::new(Twice { prometheus, series })),
            None => prometheus,
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let prometheus = self.0.register_gauge(key, metadata);
        match series_of(key) {
            Some(series) => Gauge::from_arc(Arc::new(Twice { prometheus, series })),
            None => prometheus,
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let prometheus = self.0.register_histogram(key, metadata);
        match series_of(key) {
            Some(series) => Histogram::from_arc(Arc::new(Twice { prometheus, series })),
            None => prometheus,
        }
    }
}

impl CounterFn for Twice<Counter> {
    fn increment(&self, value: u64) {
        self.prometheus.increment(value);
        if let Figures::Count(count) = &self.series.figures {
            count.add(value);
        }
    }

    /// Not counted for CloudWatch, since several Prometheus counters may share one series. Salebell never calls it.
    fn absolute(&self, value: u64) {
        self.prometheus.absolute(value);
    }
}

impl Twice<Gauge> {
    fn change(&self, by: f64) {
        if let Figures::Level(bits) = &self.series.figures {
            let moved = |bits: u64| {
                let level = f64::from_bits(bits);
                // The value was unknown until now, so it starts from zero.
                Some((if level.is_nan() { by } else { level + by }).to_bits())
            };
            let _ = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
        }
    }
}

impl GaugeFn for Twice<Gauge> {
    fn increment(&self, value: f64) {
        self.prometheus.increment(value);
        self.change(value);
    }

    fn decrement(&self, value: f64) {
        self.prometheus.decrement(value);
        self.change(-value);
    }

    fn set(&self, value: f64) {
        self.prometheus.set(value);
        if let Figures::Level(bits) = &self.series.figures {
            bits.store(value.to_bits(), Ordering::Relaxed);
        }
    }
}

impl HistogramFn for Twice<Histogram> {
    fn record(&self, value: f64) {
        self.prometheus.record(value);
        if let Figures::Spread(spread) = &self.series.figures {
            spread.add(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::Label;

    use super::*;

    #[test]
    fn a_value_is_reported_within_a_tenth() {
        let mut seconds = FIRST * 1.01;
        while seconds < 60_000.0 {
            let value = value_of(bucket_of(seconds));
            assert!((value / seconds - 1.0).abs() < 0.11, "{seconds} is reported as {value}");
            seconds *= 1.01;
        }
        assert_eq!(value_of(bucket_of(0.0)), FIRST / 2.0);
        assert_eq!(bucket_of(1e9), BUCKETS - 1);
    }

    #[test]
    fn a_sample_is_reported_again_unless_it_was_written() {
        let tallies = Tallies::default();
        let key = |status: &'static str, route: &'static str| {
            let labels = vec![Label::new("status", status), Label::new("route", route)];
            Key::from_parts("http_requests_total", labels)
        };
        let count = |key: &Key| match &tallies.find(key).unwrap().figures {
            Figures::Count(count) => count.add(1),
            _ => panic!("it is a counter"),
        };
        let change = || match tallies.news().as_slice() {
            [Delta { sample: Sample::Added { added, .. }, .. }] => *added,
            other => panic!("{} series", other.len()),
        };
        // Two series in Prometheus, one in CloudWatch.
        count(&key("2xx", "/a"));
        count(&key("2xx", "/b"));
        assert_eq!(change(), 2);
        let news = tallies.news();
        count(&key("2xx", "/a"));
        assert_eq!(change(), 3, "nothing was written");
        news.iter().for_each(Delta::mark_written);
        assert_eq!(change(), 1);
        assert!(tallies.find(&Key::from_name("build_info")).is_none());
        assert!(tallies.find(&Key::from_name("something_else")).is_none());
    }

    #[test]
    fn a_distribution_reports_each_value_once() {
        let tallies = Tallies::default();
        let series = tallies.find(&Key::from_name("salebell_record_lag_seconds")).unwrap();
        assert!(tallies.news().is_empty());
        let Figures::Spread(spread) = &series.figures else { panic!("it is a histogram") };
        for seconds in [0.2, 0.2, 5.0, -1.0, f64::NAN] {
            spread.add(seconds);
        }
        let news = tallies.news();
        let Sample::Spread { values, counts, sum, .. } = &news[0].sample else { panic!("it is a histogram") };
        assert_eq!((values.len(), counts.as_slice()), (3, &[2, 2, 1][..]));
        assert!((sum - 5.4).abs() < 1e-3);
        news.iter().for_each(Delta::mark_written);
        assert!(tallies.news().is_empty());
    }
}
