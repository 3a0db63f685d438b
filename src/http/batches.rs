//! `/v1/batches/{id}`: the result of a report.

use std::collections::BTreeMap;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::Tagged;
use super::extract::body::Id;
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use crate::app::App;
use crate::domain::ids::BatchId;
use crate::domain::price::TransitionKind;
use crate::error::Result;
use crate::store::batches::{self, Batch};

/// The observations of a report, and what became of them: each is counted in one of `recorded` to `failed`.
#[derive(Serialize, ToSchema)]
#[schema(as = Batch, example = json!({
    "id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "created_at": "2026-11-20T12:00:00Z",
    "done": true,
    "accepted": 1,
    "rejected": 0,
    "recorded": 1,
    "unchanged": 0,
    "stale": 0,
    "quarantined": 0,
    "failed": 0,
    "new_lows": 0,
    "too_old_to_ring": 0,
    "transitions": {"sale.started": 1},
}))]
pub struct BatchResponse {
    id: BatchId,
    created_at: DateTime<Utc>,
    /// Whether the report was read to its end, and all of its observations are counted.
    done: bool,
    accepted: i64,
    rejected: i64,
    /// Observations that changed an offer's price.
    recorded: i64,
    /// Observations that repeated the known price.
    unchanged: i64,
    /// Observations older than the known price, which go into history only.
    stale: i64,
    /// Observations in quarantine as possible glitches.
    quarantined: i64,
    /// Observations that could not be recorded.
    failed: i64,
    /// Changes that were a new low.
    new_lows: i64,
    /// Observations that were too old to cause notices when they were reported.
    too_old_to_ring: i64,
    /// Changes by kind.
    #[schema(value_type = BTreeMap<TransitionKind, i64>)]
    transitions: BTreeMap<String, i64>,
}

/// Returns one of the caller's own batches.
#[utoipa::path(
    get,
    path = "/v1/batches/{id}",
    operation_id = "get_batch",
    tag = "prices",
    security(("token" = ["prices:write"]))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<BatchId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<BatchResponse>> {
    caller.require("prices:write")?;
    let batch = batches::get_batch(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(BatchResponse::from(batch)))
}

impl From<Batch> for BatchResponse {
    fn from(batch: Batch) -> Self {
        let counts = batch.counts;
        BatchResponse {
            id: batch.id,
            created_at: batch.created_at,
            done: batch.done,
            accepted: batch.accepted,
            rejected: batch.rejected,
            recorded: counts.recorded,
            unchanged: counts.unchanged,
            stale: counts.stale,
            quarantined: counts.quarantined,
            failed: counts.failed,
            new_lows: counts.new_lows,
            too_old_to_ring: counts.too_old_to_ring,
            transitions: counts.transitions,
        }
    }
}
