//! What stands somewhere just now: connections, memory, and how long the queues of the fleet have waited.
//!
//! It is looked at before metrics are told, by `/metrics` and for CloudWatch.

use std::time::{Duration, Instant};

use metrics::gauge;
use tokio::sync::Mutex;

use crate::app::AppState;
use crate::database::iam_tokens::Tokens;
use crate::store::{delivery_queue, dispatch, publications};

/// How long the bus and the database may take: one that is away must not hide the other metrics.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Shortest interval between two looks at the queues of one reporter, however often metrics are requested.
const FRESH: Duration = Duration::from_secs(5);

/// When the queues were last looked at.
#[derive(Default)]
pub struct Gauges(Mutex<Option<Instant>>);

impl Gauges {
    /// Sets all gauges that nobody sets as he goes along. Those that nobody can tell are no number (NaN).
    pub async fn look(&self, app: &AppState) {
        look_at_process(app);
        let mut last = self.0.lock().await;
        if last.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        look_at_queues(app).await;
        *last = Some(Instant::now());
    }
}

fn look_at_process(app: &AppState) {
    for (name, pool) in [("writer", &app.writer), ("reader", &app.reader)] {
        let (size, idle) = (pool.size(), pool.num_idle() as u32);
        gauge!("database_connections", "pool" => name, "state" => "idle").set(idle);
        gauge!("database_connections", "pool" => name, "state" => "used").set(size.saturating_sub(idle));
    }
    gauge!("database_connections_max").set(app.config.database.max_connections);
    if let Some(age) = app.log_in.tokens.as_ref().and_then(Tokens::age) {
        gauge!("salebell_database_token_age_seconds").set(age.num_seconds() as f64);
    }
    gauge!("salebell_draining").set(f64::from(u8::from(app.stopping.is_cancelled())));
    gauge!("build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    if let Some(bytes) = resident_memory() {
        gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // Reading the folder opens one of its own.
        gauge!("process_open_fds").set(open.count().saturating_sub(1) as f64);
    }
}

/// As proc(5) tells it.
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// All at once, so that together they take no longer than one.
async fn look_at_queues(app: &AppState) {
    let now = app.clock.now();
    let bus = async {
        let look = app.bus.age_and_dead();
        let found = if app.bus.outlives_database() {
            // An SQS that is slow says nothing about the database.
            tokio::time::timeout(PROBE_TIMEOUT, look).await.ok().and_then(Result::ok)
        } else {
            app.deadline.run(PROBE_TIMEOUT, look).await.ok()
        };
        gauge!("bus_oldest_message_age_seconds").set(found.map_or(f64::NAN, |(age, _)| age));
        gauge!("bus_dead_messages").set(found.map_or(f64::NAN, |(_, dead)| dead as f64));
    };
    let events = async {
        let age = app.deadline.run(PROBE_TIMEOUT, dispatch::age(&app.writer, now)).await;
        gauge!("events_oldest_undispatched_age_seconds").set(age.unwrap_or(f64::NAN));
    };
    let deliveries = async {
        let age = app.deadline.run(PROBE_TIMEOUT, delivery_queue::age(&app.writer, now)).await;
        gauge!("deliveries_oldest_due_age_seconds").set(age.unwrap_or(f64::NAN));
    };
    let publications = async {
        if app.events_topic.is_some() {
            let age = app.deadline.run(PROBE_TIMEOUT, publications::age(&app.writer, now)).await;
            gauge!("events_oldest_unpublished_age_seconds").set(age.unwrap_or(f64::NAN));
        }
    };
    tokio::join!(bus, events, deliveries, publications);
}
