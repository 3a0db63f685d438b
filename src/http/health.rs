//! What load balancers and operators ask: is it alive, is it ready, how is it doing.

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use metrics::gauge;

use crate::app::App;
use crate::error::{Error, FieldError, Kind, Result};
use crate::iam::Tokens;
use crate::instance::terminating::DRAIN_REASON;
use crate::store::publications;
use crate::telemetry;

/// How long the bus may take to tell its age: a database that is away must not hide the other metrics.
const PATIENCE: Duration = Duration::from_secs(1);

/// `GET /healthz`: the process answers. It asks nothing else: restarting us would not mend a database.
pub async fn healthz(State(app): State<App>, headers: HeaderMap) -> Response {
    app.dead_man.hear(&headers);
    axum::Json(serde_json::json!({"status": "ok"})).into_response()
}

/// `GET /readyz`: 200 when requests can be served, else 503 with a reason for each thing that is missing.
pub async fn readyz(State(app): State<App>, headers: HeaderMap) -> Result<Response> {
    app.dead_man.hear(&headers);
    let mut reasons = app.readiness.reasons().await;
    if app.stopping.is_cancelled() {
        reasons.push(FieldError { pointer: "process".to_owned(), detail: "is stopping".to_owned() });
    }
    if reasons.is_empty() {
        return Ok(axum::Json(serde_json::json!({"status": "ready"})).into_response());
    }
    let mut refusal = Error::new(Kind::Unavailable, "Not ready; see errors for why.");
    refusal.retry_after_s = Some(1);
    refusal.errors = reasons;
    Err(refusal)
}

/// `GET /metrics` on the loopback listener, in Prometheus' text format.
pub async fn metrics(State(app): State<App>) -> Response {
    for (name, pool) in [("writer", &app.writer), ("reader", &app.reader)] {
        let (size, idle) = (pool.size(), pool.num_idle() as u32);
        gauge!("database_connections", "pool" => name, "state" => "idle").set(idle);
        gauge!("database_connections", "pool" => name, "state" => "used").set(size.saturating_sub(idle));
    }
    if let Some(age) = app.tokens.as_ref().and_then(Tokens::age) {
        gauge!("salebell_database_token_age_seconds").set(age.num_seconds() as f64);
    }
    gauge!("database_connections_max").set(app.config.database.max_connections);
    let look = app.bus.age_and_dead();
    let found = match app.bus.outlives_database() {
        // An SQS that is slow says nothing about the database.
        true => tokio::time::timeout(PATIENCE, look).await.ok(),
        false => app.suspicion.limit(PATIENCE, look).await.ok(),
    };
    if let Some(Ok((age, dead))) = found {
        gauge!("bus_oldest_message_age_seconds").set(age);
        gauge!("bus_dead_messages").set(dead as f64);
    }
    gauge!("salebell_draining").set(f64::from(u8::from(app.stopping.is_cancelled())));
    if app.events_topic.is_some() {
        let age = publications::age(&app.writer, app.clock.now());
        if let Ok(Ok(age)) = app.suspicion.limit(PATIENCE, age).await {
            gauge!("events_oldest_unpublished_age_seconds").set(age);
        }
    }
    gauge!("build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    let handle = telemetry::metrics();
    handle.run_upkeep();
    let mut text = handle.render();
    write_process_metrics(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// `POST /drain` on the loopback listener: stop as after SIGTERM. `salebell terminating` asks for it.
pub async fn drain(State(app): State<App>, headers: HeaderMap) -> Response {
    let Some(reason) = headers.get(DRAIN_REASON).and_then(|reason| reason.to_str().ok()) else {
        return Error::malformed("A drain needs a reason.").into_response();
    };
    if !app.stopping.is_cancelled() {
        log::info!(target: "salebell::process", "told to drain: {reason:.100}");
        app.stopping.cancel();
    }
    StatusCode::ACCEPTED.into_response()
}

/// Memory and file descriptors, as proc(5) tells them.
fn write_process_metrics(text: &mut String) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    if let Some(rss) = kibibytes("VmRSS") {
        let _ = writeln!(
            text,
            "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}",
            rss * 1024
        );
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // Reading the folder opens one of its own.
        let open = open.count().saturating_sub(1);
        let _ = writeln!(text, "# TYPE process_open_fds gauge\nprocess_open_fds {open}");
    }
}
