//! Health endpoints for load balancers and operators: liveness, readiness, metrics, drain.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::JsonAnswer;
use crate::app::App;
use crate::error::{Error, FieldError, Kind, Result};
use crate::instance::terminating::DRAIN_REASON;
use crate::telemetry;
use crate::telemetry::gauges::Gauges;

/// `GET /healthz`, also on the loopback listener: 200 if the process responds. It checks nothing else, because
/// restarting the process would not repair a database.
pub async fn healthz(State(app): State<App>, headers: HeaderMap) -> Response {
    app.health.dead_man.note_health_check(&headers);
    JsonAnswer(serde_json::json!({"status": "ok"})).into_response()
}

/// `GET /readyz`: 200 if requests can be served, else 503 with a reason for each failed check.
pub async fn readyz(State(app): State<App>, headers: HeaderMap) -> Result<Response> {
    app.health.dead_man.note_health_check(&headers);
    let mut reasons = app.health.readiness.reasons().await;
    if let Some(detail) = app.health.disk.reason() {
        reasons.push(FieldError { pointer: "disk".to_owned(), detail: detail.to_owned() });
    }
    if let Some(detail) = app.files.blobs.reason() {
        reasons.push(FieldError { pointer: "files".to_owned(), detail: detail.to_owned() });
    }
    if app.stopping.is_cancelled() {
        reasons.push(FieldError { pointer: "process".to_owned(), detail: "is stopping".to_owned() });
    }
    if reasons.is_empty() {
        return Ok(JsonAnswer(serde_json::json!({"status": "ready"})).into_response());
    }
    let mut refusal = Error::new(Kind::Unavailable, "Not ready; see errors for why.");
    refusal.retry_after_s = Some(1);
    refusal.errors = reasons;
    Err(refusal)
}

/// `GET /metrics` on the loopback listener: metrics in the text format of Prometheus.
pub async fn metrics(State(app): State<App>, Extension(gauges): Extension<Arc<Gauges>>) -> Response {
    gauges.refresh(&app).await;
    let handle = telemetry::metrics();
    handle.run_upkeep();
    let text = handle.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// `POST /drain` on the loopback listener: stops the process as after SIGTERM. `salebell terminating` calls it.
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
