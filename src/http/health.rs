//! Health endpoints for load balancers and operators: liveness, readiness, metrics, drain.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::JsonAnswer;
use crate::app::App;
use crate::error::{Error, FieldError, Kind, Problem, Result};
use crate::health::reader::ReaderWatch;
use crate::instance::terminating::DRAIN_REASON;
use crate::telemetry;
use crate::telemetry::gauges::Gauges;

/// State of a process that responds.
#[derive(Serialize, ToSchema)]
#[schema(as = Health, example = json!({"status": "ok"}))]
pub struct HealthResponse {
    #[schema(inline)]
    status: Alive,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Alive {
    Ok,
}

/// State of a process that can serve requests.
#[derive(Serialize, ToSchema)]
#[schema(as = Readiness, example = json!({"status": "ready"}))]
pub struct ReadinessResponse {
    #[schema(inline)]
    status: Ready,
    /// What does not keep requests from being served, but is not as it should be: with the `pointer` `reader`, the
    /// database's reader does not serve, and the writer serves in its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<FieldError>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Ready {
    Ready,
}

/// Returns 200 if the process responds.
///
/// It checks nothing else, because restarting the process would not repair a database.
#[utoipa::path(get, path = "/healthz", operation_id = "get_health", tag = "service")]
pub async fn healthz(State(app): State<App>, headers: HeaderMap) -> JsonAnswer<HealthResponse> {
    app.health.dead_man.note_health_check(&headers);
    JsonAnswer(HealthResponse { status: Alive::Ok })
}

/// Returns 200 if requests can be served, else 503 with a reason for each failed check.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "get_readiness",
    tag = "service",
    responses((
        status = 503,
        body = Problem,
        content_type = "application/problem+json",
        description = "Requests cannot be served. Each of `errors` is a failed check: its `pointer` is \
            `database`, `migrations`, `disk`, `files` or `process`.",
        headers(("Retry-After" = u64, description = "Seconds after which a retry may succeed.")),
        example = json!({
            "type": "/problems/unavailable",
            "title": "Temporarily unavailable",
            "status": 503,
            "detail": "Not ready; see errors for why.",
            "instance": "01a0b6f2-9999-7d3e-8a4b-1c2d3e4f5a6b",
            "errors": [{"pointer": "database", "detail": "cannot be reached"}],
        })
    ))
)]
pub async fn readyz(State(app): State<App>, headers: HeaderMap) -> Result<JsonAnswer<ReadinessResponse>> {
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
        let notes = app.health.reader.iter().filter_map(ReaderWatch::note).collect();
        return Ok(JsonAnswer(ReadinessResponse { status: Ready::Ready, notes }));
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
