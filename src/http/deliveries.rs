//! `/v1/deliveries/{id}`: one notice on its way to one channel, with its attempts.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::answer::{JsonAnswer, Tagged};
use super::extract::body::Id;
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use crate::app::App;
use crate::domain::delivery::{DeliveryReason, DeliveryState};
use crate::domain::ids::{ChannelId, DeliveryId, NoticeId};
use crate::error::Result;
use crate::store::deliveries::{self, Delivery, DeliveryTry};

#[derive(Serialize)]
pub struct DeliveryResponse {
    id: DeliveryId,
    notice_id: NoticeId,
    channel_id: ChannelId,
    state: DeliveryState,
    /// Why the delivery is dead or cancelled.
    reason: Option<DeliveryReason>,
    attempt_count: i32,
    /// Time of the next attempt; `null` if there will be none.
    next_attempt_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
pub struct DeliveryWithAttemptsResponse {
    #[serde(flatten)]
    delivery: DeliveryResponse,
    attempts: Vec<AttemptResponse>,
}

#[derive(Serialize)]
struct AttemptResponse {
    number: i32,
    attempted_at: DateTime<Utc>,
    duration_ms: i32,
    /// HTTP status of the response; `null` if there was none.
    status: Option<u16>,
    error: Option<String>,
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

/// `GET /v1/deliveries/{id}`: a delivery with its attempts.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<DeliveryId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<DeliveryWithAttemptsResponse>> {
    let found = deliveries::find_delivery(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(DeliveryWithAttemptsResponse::from(found)))
}

/// `POST /v1/deliveries/{id}/redeliver`: makes a delivery due now, regardless of its state. Its price is checked again
/// before it is sent.
pub async fn redeliver(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<DeliveryId>,
) -> Result<JsonAnswer<DeliveryWithAttemptsResponse>> {
    let due = deliveries::redeliver(&app.writer, caller.account, id, app.clock.now()).await?;
    Ok(JsonAnswer(due.into()))
}
