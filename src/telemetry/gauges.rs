//! Gauges that are polled: connections, memory, and how long the queues of the fleet have waited.
//!
//! They are refreshed before metrics are reported, for `/metrics` as well as for CloudWatch.

use std::time::{Duration, Instant};

use metrics::gauge;
use tokio::sync::Mutex;

use crate::app::AppState;
use crate::database::iam_tokens::Tokens;
use crate::database::reads::Server;
use crate::store::{delivery_queue, dispatch, publications};

/// Timeout of a query of the bus or the database: an unavailable one must not hold up the other metrics.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Shortest interval between two polls of the queues by one reporter, however often metrics are requested.
const FRESH: Duration = Duration::from_secs(5);

/// Time of the last poll of the queues.
#[derive(Default)]
pub struct Gauges(Mutex<Option<Instant>>);

impl Gauges {
    /// Refreshes the gauges that are polled rather than updated in place. Unknown values become NaN.
    pub async fn refresh(&self, app: &AppState) {
        set_process_gauges(app);
        let mut last = self.0.lock().await;
        if last.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        set_queue_gauges(app).await;
        *last = Some(Instant::now());
    }
}

fn set_process_gauges(app: &AppState) {
    for (name, pool) in [("writer", &app.writer), ("reader", app.reads.pool_of(Server::Reader))] {
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
        // Reading the folder opens a descriptor itself.
        gauge!("process_open_fds").set(open.count().saturating_sub(1) as f64);
    }
}

/// Resident memory of the process in bytes, from proc(5).
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// All queries run concurrently, so together they take no longer than the slowest.
async fn set_queue_gauges(app: &AppState) {
    let now = app.clock.now();
    let bus = async {
        let query = app.bus.age_and_dead();
        let found = if app.bus.outlives_database() {
            // A slow SQS says nothing about the database.
            tokio::time::timeout(PROBE_TIMEOUT, query).await.ok().and_then(Result::ok)
        } else {
            app.deadline.run(PROBE_TIMEOUT, query).await.ok()
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
