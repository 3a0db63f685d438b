//! `/v1/channels`: the destinations of notices.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

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
use crate::error::Result;
use crate::secrets;
use crate::store::Creation;
use crate::store::channels::{self, Channel, ChannelKind, ChannelState, NewChannel};
use crate::store::deliveries;

/// How long the previous secret also signs after a rotation.
const OLD_SECRET_SIGNS_FOR: TimeDelta = TimeDelta::hours(24);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateChannelRequest {
    kind: ChannelKind,
    name: String,
    url: String,
}

/// A merge patch of a channel.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateChannelRequest {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    url: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverChannelRequest {
    /// Start of the time whose dead deliveries are tried again; without it none are.
    #[serde(default)]
    since: Option<Timestamp>,
}

#[derive(Serialize)]
pub struct ChannelResponse {
    id: ChannelId,
    kind: ChannelKind,
    name: String,
    url: String,
    state: ChannelState,
    disabled_reason: Option<DisabledReason>,
    failing_since: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A channel and its secret, which is returned only when it is created.
#[derive(Serialize)]
pub struct ChannelWithSecretResponse {
    #[serde(flatten)]
    channel: ChannelResponse,
    secret: String,
    /// Time until which the previous secret also signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_secret_until: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
pub struct RecoverChannelResponse {
    #[serde(flatten)]
    channel: ChannelResponse,
    /// Number of deliveries that are pending again.
    recovered: i64,
}

/// Result of a test.
#[derive(Serialize)]
pub struct TestChannelResponse {
    delivered: bool,
    status: Option<u16>,
    duration_ms: i32,
    error: Option<String>,
    /// Beginning of the receiver's response, if it was not a success.
    response: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListDeliveriesParams {
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

/// `POST /v1/channels`: creates a channel, or returns the existing one of this kind and URL. Only a new channel is
/// returned with its secret.
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

/// `GET /v1/channels`: the caller's channels.
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelParams {}

/// `GET /v1/channels/{id}`: one of the caller's channels.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ChannelId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<ChannelResponse>> {
    let channel = channels::find_channel(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(ChannelResponse::from(channel)))
}

/// `PATCH /v1/channels/{id}`: changes the name or URL of a channel.
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

/// `DELETE /v1/channels/{id}`: deletes a channel with its deliveries.
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

/// `POST /v1/channels/{id}/test`: sends a test object at once, and reports the result. There is one attempt, also on
/// a disabled channel, and it does not count as a delivery.
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

/// `POST /v1/channels/{id}/rotate-secret`: creates a new secret for a channel.
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

/// `POST /v1/channels/{id}/recover`: enables a channel again, and retries its dead deliveries.
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

/// `GET /v1/channels/{id}/deliveries`: the deliveries of a channel.
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
