//! `/v1/channels`: the destinations of notices.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{JsonAnswer, OrExisting, Renewed, ShownOnce, Tagged};
use super::deliveries::DeliveryResponse;
use super::extract::body::{Id, Json, Params, present};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, MAX_URL};
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::delivery::{DeliveryState, DisabledReason};
use crate::domain::ids::ChannelId;
use crate::domain::observation::{Timestamp, check_text};
use crate::error::{Problem, Result};
use crate::secrets;
use crate::store::Creation;
use crate::store::channels::{self, Channel, ChannelKind, ChannelState, NewChannel};
use crate::store::deliveries;

/// How long the previous secret also signs after a rotation.
const OLD_SECRET_SIGNS_FOR: TimeDelta = TimeDelta::hours(24);

/// Body of a request that creates a channel.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"kind": "webhook", "name": "mine", "url": "https://example.com/hook"}))]
#[serde(deny_unknown_fields)]
pub struct CreateChannelRequest {
    kind: ChannelKind,
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$"
    )]
    name: String,
    /// URL that receives the messages: at most 2,000 bytes, with `https`, a public address, and neither a user name, a
    /// password nor a fragment. The setting `webhook.allow_http` allows `http` as well.
    #[schema(
        min_length = 1,
        max_length = 2000,
        format = "uri",
        pattern = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s#]+$"
    )]
    url: String,
}

/// A merge patch of a channel.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"name": "the new server", "url": "https://example.com/salebell"}))]
#[serde(deny_unknown_fields)]
pub struct UpdateChannelRequest {
    #[serde(default, deserialize_with = "present")]
    #[schema(
        value_type = String,
        required = false,
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    )]
    name: Option<String>,
    /// URL that receives the messages: at most 2,000 bytes, with `https`, a public address, and neither a user name, a
    /// password nor a fragment. The setting `webhook.allow_http` allows `http` as well.
    #[serde(default, deserialize_with = "present")]
    #[schema(
        value_type = String,
        required = false,
        min_length = 1,
        max_length = 2000,
        format = "uri",
        pattern = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s#]+$",
    )]
    url: Option<String>,
}

/// Body of a request that enables a channel again.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"since": "2026-11-27T00:00:00Z"}))]
#[serde(deny_unknown_fields)]
pub struct RecoverChannelRequest {
    /// Deliveries created at this time or later are tried again if they are dead, or were cancelled because the channel
    /// was disabled; null: none.
    #[serde(default)]
    since: Option<Timestamp>,
}

/// A channel in a response: a destination of notices.
#[derive(Serialize, ToSchema)]
#[schema(as = Channel, example = json!({
    "id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "kind": "webhook",
    "name": "mine",
    "url": "https://example.com/hook",
    "state": "active",
    "disabled_reason": null,
    "failing_since": null,
    "created_at": "2026-11-29T10:00:00Z",
    "updated_at": "2026-11-29T10:00:00Z",
}))]
pub struct ChannelResponse {
    id: ChannelId,
    kind: ChannelKind,
    name: String,
    url: String,
    state: ChannelState,
    /// Why the channel is disabled; null while it is active.
    #[schema(required)]
    disabled_reason: Option<DisabledReason>,
    /// Time since which no delivery has succeeded; null if the last one succeeded.
    #[schema(required)]
    failing_since: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A channel with a new secret, which no other response contains.
#[derive(Serialize, ToSchema)]
#[schema(as = ChannelWithSecret, example = json!({
    "id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "kind": "webhook",
    "name": "mine",
    "url": "https://example.com/hook",
    "state": "active",
    "disabled_reason": null,
    "failing_since": null,
    "created_at": "2026-11-29T10:00:00Z",
    "updated_at": "2026-11-29T10:00:00Z",
    "secret": "whsec_NWJmZDI0ZjBjYTQxZDRhYTg0YmZhMmE4ZGQ5YjVjMjA=",
}))]
pub struct ChannelWithSecretResponse {
    #[serde(flatten)]
    channel: ChannelResponse,
    /// Key that verifies signatures, as libraries of Standard Webhooks take it: `whsec_` and 32 bytes in base64.
    #[schema(pattern = "^whsec_[0-9A-Za-z+/]{43}=$")]
    secret: String,
    /// Time until which the previous secret also signs; absent if the channel has just been created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    previous_secret_until: Option<DateTime<Utc>>,
}

/// A channel that was enabled again.
#[derive(Serialize, ToSchema)]
#[schema(as = RecoveredChannel, example = json!({
    "id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "kind": "webhook",
    "name": "mine",
    "url": "https://example.com/hook",
    "state": "active",
    "disabled_reason": null,
    "failing_since": null,
    "created_at": "2026-11-29T10:00:00Z",
    "updated_at": "2026-11-30T08:15:00Z",
    "recovered": 12,
}))]
pub struct RecoverChannelResponse {
    #[serde(flatten)]
    channel: ChannelResponse,
    /// Number of deliveries that are pending again.
    #[schema(minimum = 0)]
    recovered: i64,
}

/// Result of a test.
#[derive(Serialize, ToSchema)]
#[schema(as = ChannelTest, example = json!({
    "delivered": false,
    "status": 404,
    "duration_ms": 48,
    "error": "the receiver answered 404",
    "response": "There is nothing at this path.",
}))]
pub struct TestChannelResponse {
    /// Whether the receiver answered with a 2xx status.
    delivered: bool,
    /// HTTP status of the receiver's response; null if there was none.
    #[schema(required, minimum = 100, maximum = 999)]
    status: Option<u16>,
    #[schema(minimum = 0)]
    duration_ms: i32,
    /// Why the attempt failed; null if it succeeded.
    #[schema(required)]
    error: Option<String>,
    /// Beginning of the receiver's response, if it was not a success.
    #[schema(required, max_length = 1000)]
    response: Option<String>,
}

/// Filters of the deliveries of a channel.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListDeliveriesParams {
    /// Only deliveries in this state.
    state: Option<DeliveryState>,
}

impl From<Channel> for ChannelResponse {
    fn from(channel: Channel) -> Self {
        ChannelResponse {
            id: channel.id,
            kind: channel.kind,
            name: channel.name,
            url: channel.url,
            state: channel.state,
            disabled_reason: channel.disabled_reason,
            failing_since: channel.failing_since,
            created_at: channel.created_at,
            updated_at: channel.updated_at,
        }
    }
}

/// Creates a channel, or returns the existing one of this kind and URL.
///
/// Only a new channel is returned with its secret.
#[utoipa::path(
    post,
    path = "/v1/channels",
    operation_id = "create_channel",
    tag = "channels",
    responses((
        status = 409,
        body = Problem,
        content_type = "application/problem+json",
        description = "The account has as many channels as it may have, or a request with the same \
            `Idempotency-Key` is in flight."
    ))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateChannelRequest>,
) -> Result<OrExisting<ShownOnce<ChannelWithSecretResponse>, ChannelResponse>> {
    check(&app, Some(&request.name), Some(&request.url))?;
    let ChannelKind::Webhook = request.kind;
    let id = ChannelId::now_v7();
    let secret = secrets::generate_webhook_secret()?;
    let new = NewChannel {
        id,
        kind: request.kind,
        name: request.name.trim(),
        url: &request.url,
        sealed_secret: &app.keyring.seal_secret(id.0, &secret)?,
    };
    let limit = app.config.webhook.channels_per_account;
    let _turn = app.files.uploads.turn(caller.account).await;
    let created = channels::create_channel(&app.writer, caller.account, &new, limit, app.clock.now()).await?;
    let channel = match created {
        Creation::Made(channel) => channel,
        Creation::Found(channel) => {
            let location = format!("/v1/channels/{}", channel.id);
            return Ok(OrExisting::Existing { location, value: channel.into() });
        }
    };
    let body = ChannelWithSecretResponse {
        channel: channel.into(),
        secret: secrets::show_webhook_secret(&secret),
        previous_secret_until: None,
    };
    Ok(OrExisting::New(ShownOnce { location: Some(format!("/v1/channels/{id}")), value: body }))
}

/// Lists the caller's channels, the newest first.
#[utoipa::path(get, path = "/v1/channels", operation_id = "list_channels", tag = "channels")]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    paging: Paging,
    Params(ChannelParams {}): Params<ChannelParams>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<ChannelResponse>>> {
    let found = channels::list_channels(&app.writer, caller.account, paging.after()?, paging.rows()).await?;
    let page = paging.page(found, |channel| channel.id)?;
    Ok(if_none_match.answer(page.map(ChannelResponse::from)))
}

/// Query parameters of the list: none besides those of paging; any other is refused.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelParams {}

/// Returns one of the caller's channels.
#[utoipa::path(get, path = "/v1/channels/{id}", operation_id = "get_channel", tag = "channels")]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ChannelId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<ChannelResponse>> {
    let channel = channels::find_channel(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(ChannelResponse::from(channel)))
}

/// Changes the name or URL of a channel.
#[utoipa::path(patch, path = "/v1/channels/{id}", operation_id = "update_channel", tag = "channels")]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ChannelId>,
    if_match: IfMatch,
    Json(request): Json<UpdateChannelRequest>,
) -> Result<Tagged<ChannelResponse>> {
    check(&app, request.name.as_deref(), request.url.as_deref())?;
    let mut transaction = app.writer.begin().await?;
    let current = channels::lock_channel(&mut transaction, caller.account, id).await?;
    if_match.check(&ChannelResponse::from(current.clone()))?;
    let name = request.name.as_deref().map_or(current.name.as_str(), str::trim);
    let url = request.url.as_deref().unwrap_or(&current.url);
    let changed =
        channels::update_channel(&mut transaction, caller.account, id, name, url, app.clock.now()).await?;
    transaction.commit().await?;
    Ok(Tagged::new(ChannelResponse::from(changed)))
}

/// Deletes a channel with its deliveries.
#[utoipa::path(delete, path = "/v1/channels/{id}", operation_id = "delete_channel", tag = "channels")]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ChannelId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let check = |current: Channel| if_match.check(&ChannelResponse::from(current));
    channels::delete_channel(&app.writer, caller.account, id, check, app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a test message at once, and reports the result.
///
/// There is one attempt, also on a disabled channel, and it does not count as a delivery.
#[utoipa::path(
    post,
    path = "/v1/channels/{id}/test",
    operation_id = "test_channel",
    tag = "channels",
    responses((
        status = 429,
        body = Problem,
        content_type = "application/problem+json",
        description = "The channel was tested less than two seconds ago, or the account has sent too many requests.",
        headers(("Retry-After" = u64, description = "Seconds after which a retry may succeed."))
    ))
)]
pub async fn test(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ChannelId>,
) -> Result<JsonAnswer<TestChannelResponse>> {
    let now = app.clock.now();
    let target = channels::find_test_target(&app.writer, caller.account, id, now).await?;
    let secrets = app.keyring.open_secrets(id.0, &target.secret, target.previous_secret.as_deref())?;
    let receiver = app.webhooks.receiver(&target.url, &secrets);
    let attempt = app.webhooks.send_test(id, &receiver, now).await?;
    Ok(JsonAnswer(TestChannelResponse {
        delivered: attempt.succeeded(),
        status: attempt.status,
        duration_ms: attempt.duration_ms,
        error: attempt.error,
        response: attempt.answer,
    }))
}

/// Creates a new secret for a channel.
///
/// The previous secret also signs for 24 hours, so that the receiver can be changed meanwhile.
#[utoipa::path(
    post,
    path = "/v1/channels/{id}/rotate-secret",
    operation_id = "rotate_channel_secret",
    tag = "channels"
)]
pub async fn rotate_secret(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ChannelId>,
) -> Result<Renewed<ChannelWithSecretResponse>> {
    let secret = secrets::generate_webhook_secret()?;
    let sealed = app.keyring.seal_secret(id.0, &secret)?;
    let now = app.clock.now();
    let until = now + OLD_SECRET_SIGNS_FOR;
    let channel = channels::rotate_secret(&app.writer, caller.account, id, &sealed, until, now).await?;
    let body = ChannelWithSecretResponse {
        channel: channel.into(),
        secret: secrets::show_webhook_secret(&secret),
        previous_secret_until: Some(until),
    };
    Ok(Renewed(body))
}

/// Enables a channel again, and retries its dead deliveries.
#[utoipa::path(post, path = "/v1/channels/{id}/recover", operation_id = "recover_channel", tag = "channels")]
pub async fn recover(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ChannelId>,
    Json(request): Json<RecoverChannelRequest>,
) -> Result<JsonAnswer<RecoverChannelResponse>> {
    let since = request.since.map(|since| since.0);
    let (channel, recovered) =
        channels::recover_channel(&app.writer, caller.account, id, since, app.clock.now()).await?;
    Ok(JsonAnswer(RecoverChannelResponse { channel: channel.into(), recovered }))
}

/// Lists the deliveries of a channel, the newest first.
#[utoipa::path(
    get,
    path = "/v1/channels/{id}/deliveries",
    operation_id = "list_channel_deliveries",
    tag = "channels"
)]
pub async fn list_deliveries(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ChannelId>,
    paging: Paging,
    Params(params): Params<ListDeliveriesParams>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<DeliveryResponse>>> {
    let found = deliveries::list_deliveries(
        &app.writer,
        caller.account,
        id,
        params.state,
        paging.after()?,
        paging.rows(),
    )
    .await?;
    let page = paging.page(found, |delivery| delivery.id)?;
    Ok(if_none_match.answer(page.map(DeliveryResponse::from)))
}

fn check(app: &App, name: Option<&str>, url: Option<&str>) -> Result<()> {
    let mut fields = FieldChecks::default();
    if name.is_some() {
        fields.text("name", name, 100);
    }
    // The URL is stored as it was given, and its parser ignores control characters, so the text is checked too.
    let check_url = |url: &str| check_text(url, MAX_URL).and_then(|()| app.webhooks.check_url(url));
    if let Some(Err(problem)) = url.map(check_url) {
        fields.refuse("url", problem);
    }
    fields.finish()
}
