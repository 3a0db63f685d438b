//! `/v1/batches/{id}`: the result of a report.

use std::collections::BTreeMap;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::answer::Tagged;
use super::extract::body::Id;
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use crate::app::App;
use crate::domain::ids::BatchId;
use crate::error::Result;
use crate::store::batches::{self, Batch};

#[derive(Serialize)]
pub struct BatchResponse {
    id: BatchId,
    created_at: DateTime<Utc>,
    done: bool,
    accepted: i64,
    rejected: i64,
    recorded: i64,
    unchanged: i64,
    stale: i64,
    quarantined: i64,
    failed: i64,
    new_lows: i64,
    /// Observations that were too old to cause notices when they were reported.
    too_old_to_ring: i64,
    transitions: BTreeMap<String, i64>,
}

/// `GET /v1/batches/{id}`: one of the caller's own batches; requires `prices:write`.
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
