//! `/v1/deliveries/{id}`: one notice on its way to one channel, with its attempts.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{JsonAnswer, Tagged};
use super::extract::body::Id;
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use crate::app::App;
use crate::domain::delivery::{DeliveryReason, DeliveryState};
use crate::domain::ids::{ChannelId, DeliveryId, NoticeId};
use crate::error::{Problem, Result};
use crate::store::deliveries::{self, Delivery, DeliveryTry};

/// A delivery in a response: one notice on its way to one channel.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery, example = json!({
    "id": "01a0b6f2-4444-7d3e-8a4b-1c2d3e4f5a6b",
    "notice_id": "01a0b6f2-5555-7d3e-8a4b-1c2d3e4f5a6b",
    "channel_id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "state": "pending",
    "reason": null,
    "attempt_count": 1,
    "next_attempt_at": "2026-11-29T10:05:02.5Z",
    "created_at": "2026-11-29T10:00:01Z",
    "finished_at": null,
}))]
pub struct DeliveryResponse {
    /// Id of the delivery, which each of its attempts has as `webhook-id`.
    id: DeliveryId,
    notice_id: NoticeId,
    channel_id: ChannelId,
    state: DeliveryState,
    /// Why the delivery is dead or cancelled; null if it is neither.
    #[schema(required)]
    reason: Option<DeliveryReason>,
    #[schema(minimum = 0)]
    attempt_count: i32,
    /// Time of the next attempt; null if there will be none.
    #[schema(required)]
    next_attempt_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// Time at which the delivery was delivered, dead or cancelled; null while it is pending.
    #[schema(required)]
    finished_at: Option<DateTime<Utc>>,
}

/// A delivery with its attempts.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryWithAttempts, example = json!({
    "id": "01a0b6f2-4444-7d3e-8a4b-1c2d3e4f5a6b",
    "notice_id": "01a0b6f2-5555-7d3e-8a4b-1c2d3e4f5a6b",
    "channel_id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "state": "pending",
    "reason": null,
    "attempt_count": 1,
    "next_attempt_at": "2026-11-29T10:05:02.5Z",
    "created_at": "2026-11-29T10:00:01Z",
    "finished_at": null,
    "attempts": [{
        "number": 1,
        "attempted_at": "2026-11-29T10:00:02Z",
        "duration_ms": 130,
        "status": 503,
        "error": "the receiver answered 503",
        "response": "down for maintenance",
    }],
}))]
pub struct DeliveryWithAttemptsResponse {
    #[serde(flatten)]
    delivery: DeliveryResponse,
    /// Attempts, the oldest first; of many, the last 50.
    attempts: Vec<AttemptResponse>,
}

/// One attempt of a delivery.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
struct AttemptResponse {
    /// Number of the attempt, from 1.
    #[schema(minimum = 1)]
    number: i32,
    attempted_at: DateTime<Utc>,
    #[schema(minimum = 0)]
    duration_ms: i32,
    /// HTTP status of the response; null if there was none.
    #[schema(required, minimum = 100, maximum = 999)]
    status: Option<u16>,
    /// Why the attempt failed; null if it succeeded.
    #[schema(required)]
    error: Option<String>,
    /// Beginning of the response to a failed attempt.
    #[schema(required, max_length = 1000)]
    response: Option<String>,
}

impl From<Delivery> for DeliveryResponse {
    fn from(delivery: Delivery) -> Self {
        DeliveryResponse {
            id: delivery.id,
            notice_id: delivery.notice_id,
            channel_id: delivery.channel_id,
            next_attempt_at: delivery.next_attempt_at,
            state: delivery.state,
            reason: delivery.reason,
            attempt_count: delivery.attempts,
            created_at: delivery.created_at,
            finished_at: delivery.finished_at,
        }
    }
}

impl From<(Delivery, Vec<DeliveryTry>)> for DeliveryWithAttemptsResponse {
    fn from((delivery, attempts): (Delivery, Vec<DeliveryTry>)) -> Self {
        let attempts = attempts
            .into_iter()
            .map(|attempt| AttemptResponse {
                number: attempt.number,
                attempted_at: attempt.at,
                duration_ms: attempt.duration_ms,
                status: attempt.status,
                error: attempt.error,
                response: attempt.response,
            })
            .collect();
        DeliveryWithAttemptsResponse { delivery: delivery.into(), attempts }
    }
}

/// Returns a delivery with its attempts.
#[utoipa::path(get, path = "/v1/deliveries/{id}", operation_id = "get_delivery", tag = "channels")]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<DeliveryId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<DeliveryWithAttemptsResponse>> {
    let found = deliveries::find_delivery(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(DeliveryWithAttemptsResponse::from(found)))
}

/// Makes a delivery due now, regardless of its state.
///
/// Its price is checked again before it is sent, and its schedule of retries begins again.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{id}/redeliver",
    operation_id = "redeliver_delivery",
    tag = "channels",
    responses((
        status = 409,
        body = Problem,
        content_type = "application/problem+json",
        description = "The channel is disabled and must be recovered first, or a request with the same \
            `Idempotency-Key` is in flight."
    ))
)]
pub async fn redeliver(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<DeliveryId>,
) -> Result<JsonAnswer<DeliveryWithAttemptsResponse>> {
    let due = deliveries::redeliver(&app.writer, caller.account, id, app.clock.now()).await?;
    Ok(JsonAnswer(due.into()))
}
