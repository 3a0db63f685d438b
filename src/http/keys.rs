//! `/v1/keys`: a caller's own API keys.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{ShownOnce, Tagged};
use super::extract::body::{Id, Json, Params, present};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, Patch};
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::api_key::{self, Scope};
use crate::domain::ids::ApiKeyId;
use crate::domain::observation::Timestamp;
use crate::error::{Error, Kind, Problem, Result};
use crate::secrets;
use crate::store::keys::{self, Key, NewKey};

/// Longest name of a key, in characters.
const MAX_NAME: usize = 100;

/// Body of a request that creates a key.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "name": "price reports",
    "scopes": ["prices:write"],
    "expires_at": "2027-11-29T00:00:00Z",
}))]
#[serde(deny_unknown_fields)]
pub struct CreateKeyRequest {
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$"
    )]
    name: String,
    /// Scopes of the key, which the token of the request must have itself.
    #[serde(default)]
    #[schema(value_type = Vec<Scope>)]
    scopes: Vec<String>,
    /// Time in the future until which the key is valid; null: until it is revoked. It may not be later than the expiry
    /// of the API key that is the token of the request.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// A merge patch of a key.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"scopes": [], "expires_at": null}))]
#[serde(deny_unknown_fields)]
pub struct UpdateKeyRequest {
    #[serde(default, deserialize_with = "present")]
    #[schema(
        value_type = String,
        required = false,
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    )]
    name: Option<String>,
    /// Scopes of the key. The token of the request must have those that are new.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Vec<Scope>, required = false)]
    scopes: Option<Vec<String>>,
    /// Time in the future until which the key is valid; null: until it is revoked.
    #[serde(default)]
    #[schema(value_type = Option<Timestamp>)]
    expires_at: Patch<Timestamp>,
}

/// A key in a response, identified by the hint, its beginning.
#[derive(Serialize, ToSchema)]
#[schema(as = Key, example = json!({
    "id": "01a0b6f2-8888-7d3e-8a4b-1c2d3e4f5a6b",
    "name": "price reports",
    "hint": "sbk_Zq3x",
    "scopes": ["prices:write"],
    "created_at": "2026-11-29T10:00:00Z",
    "expires_at": "2027-11-29T00:00:00Z",
    "last_used_at": null,
}))]
pub struct KeyResponse {
    id: ApiKeyId,
    name: String,
    /// Beginning of the key.
    #[schema(pattern = "^sbk_[0-9A-Za-z]{4}$")]
    hint: String,
    #[schema(value_type = Vec<Scope>)]
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    /// Time until which the key is valid; null: until it is revoked.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// Time of the last use, accurate to a minute; null if the key was never used.
    #[schema(required)]
    last_used_at: Option<DateTime<Utc>>,
}

/// A key that was just created: the only response that contains the key itself.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedKey, example = json!({
    "id": "01a0b6f2-8888-7d3e-8a4b-1c2d3e4f5a6b",
    "name": "price reports",
    "hint": "sbk_Zq3x",
    "scopes": ["prices:write"],
    "created_at": "2026-11-29T10:00:00Z",
    "expires_at": "2027-11-29T00:00:00Z",
    "last_used_at": null,
    "key": "sbk_Zq3xExampleExampleExampleExampleExampleExampleExa",
}))]
pub struct CreatedKeyResponse {
    #[serde(flatten)]
    shown: KeyResponse,
    /// The key itself, which is a bearer token.
    #[schema(pattern = "^sbk_[0-9A-Za-z]{49}$")]
    key: String,
}

impl From<Key> for KeyResponse {
    fn from(key: Key) -> Self {
        let Key { id, name, hint, scopes, created_at, expires_at, last_used_at } = key;
        KeyResponse { id, name, hint, scopes, created_at, expires_at, last_used_at }
    }
}

/// No query parameters besides those of paging.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct KeyParams {}

/// Values of a new or patched key. No key may have more scopes, or live longer, than the token that creates it.
struct Wanted {
    name: String,
    scopes: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
}

impl Wanted {
    /// Checks the values. The key may keep what `current` already has: a patch of only the name needs no scope.
    fn check(mut self, caller: &Caller, current: Option<&Key>, now: DateTime<Utc>) -> Result<Wanted> {
        let mut fields = FieldChecks::default();
        self.name = fields.text("name", Some(&self.name), MAX_NAME);
        for (at, scope) in self.scopes.iter().enumerate() {
            if !api_key::SCOPES.contains(&scope.as_str()) {
                fields.refuse(
                    &format!("scopes/{at}"),
                    format!("must be one of {}", api_key::SCOPES.join(", ")),
                );
            }
        }
        let moved = current.is_none_or(|key| key.expires_at != self.expires_at);
        if moved && self.expires_at.is_some_and(|end| end <= now) {
            fields.refuse("expires_at", "must be in the future");
        }
        fields.finish()?;
        let has = |scope| current.is_some_and(|key| key.scopes.contains(scope));
        if let Some(scope) = self.scopes.iter().find(|scope| !caller.may(scope) && !has(scope)) {
            return Err(Error::new(Kind::Forbidden, format!("The token itself lacks the scope {scope}.")));
        }
        let longer =
            |key: &Key| key.expires_at.is_some_and(|end| self.expires_at.is_none_or(|wanted| wanted > end));
        // Otherwise a token with few scopes could reactivate an expired key with more.
        if let Some(key) = current.filter(|key| longer(key))
            && let Some(scope) = key.scopes.iter().find(|scope| !caller.may(scope))
        {
            let detail = format!("The token itself lacks the scope {scope} of the key that it would extend.");
            return Err(Error::new(Kind::Forbidden, detail));
        }
        // Otherwise a key that was issued for a day could create a permanent one.
        if let Some((_, Some(end))) = caller.key
            && moved
            && self.expires_at.is_none_or(|wanted| wanted > end)
        {
            return Err(Error::new(
                Kind::Forbidden,
                format!("The token itself expires at {}.", end.to_rfc3339()),
            ));
        }
        self.scopes.sort();
        self.scopes.dedup();
        Ok(self)
    }
}

/// Lists the caller's keys, the newest first.
#[utoipa::path(get, path = "/v1/keys", operation_id = "list_keys", tag = "account")]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(KeyParams {}): Params<KeyParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<KeyResponse>>> {
    let found = keys::list_keys(&app.writer, caller.account, paging.after()?, paging.rows()).await?;
    let page = paging.page(found, |key| key.id)?;
    Ok(if_none_match.answer(page.map(KeyResponse::from)))
}

/// Returns one of the caller's keys.
#[utoipa::path(get, path = "/v1/keys/{id}", operation_id = "get_key", tag = "account")]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ApiKeyId>,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<KeyResponse>> {
    let key = keys::find_key(&app.writer, caller.account, id).await?;
    Ok(if_none_match.answer(KeyResponse::from(key)))
}

/// Creates a key, which is returned only this once.
#[utoipa::path(
    post,
    path = "/v1/keys",
    operation_id = "create_key",
    tag = "account",
    responses(
        (
            status = 403,
            body = Problem,
            content_type = "application/problem+json",
            description = "The token itself lacks one of the scopes, or expires before the key would."
        ),
        (
            status = 409,
            body = Problem,
            content_type = "application/problem+json",
            description = "The account has as many keys as it may have, or a request with the same \
                `Idempotency-Key` is in flight."
        )
    )
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateKeyRequest>,
) -> Result<ShownOnce<CreatedKeyResponse>> {
    let now = app.clock.now();
    let CreateKeyRequest { name, scopes, expires_at } = request;
    let expires_at = expires_at.map(|end| end.0);
    let wanted = Wanted { name, scopes, expires_at }.check(&caller, None, now)?;
    let key = secrets::generate_api_key()?;
    let new = NewKey {
        name: &wanted.name,
        hint: &api_key::hint(&key),
        digest: &api_key::digest_of(key.expose_secret()),
        scopes: &wanted.scopes,
        expires_at: wanted.expires_at,
    };
    let _turn = app.files.uploads.turn(caller.account).await;
    let shown = KeyResponse::from(keys::create_key(&app.writer, caller.account, &new, now).await?);
    let location = format!("/v1/keys/{}", shown.id);
    let created = CreatedKeyResponse { shown, key: key.expose_secret().to_owned() };
    Ok(ShownOnce { location: Some(location), value: created })
}

/// Changes the name, scopes or expiry of a key.
#[utoipa::path(
    patch,
    path = "/v1/keys/{id}",
    operation_id = "update_key",
    tag = "account",
    responses((
        status = 403,
        body = Problem,
        content_type = "application/problem+json",
        description = "The token itself lacks one of the scopes that the key would gain or keep for longer, or \
            expires before the key would."
    ))
)]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ApiKeyId>,
    if_match: IfMatch,
    Json(request): Json<UpdateKeyRequest>,
) -> Result<Tagged<KeyResponse>> {
    let now = app.clock.now();
    let key = keys::update_key(&app.writer, caller.account, id, |key| {
        if_match.check(&KeyResponse::from(key.clone()))?;
        let wanted = Wanted {
            name: request.name.unwrap_or_else(|| key.name.clone()),
            scopes: request.scopes.unwrap_or_else(|| key.scopes.clone()),
            expires_at: request.expires_at.apply(key.expires_at.map(Timestamp)).map(|end| end.0),
        };
        let Wanted { name, scopes, expires_at } = wanted.check(&caller, Some(&key), now)?;
        Ok(Key { name, scopes, expires_at, ..key })
    })
    .await?;
    app.authenticator.forget_key(id);
    Ok(Tagged::new(KeyResponse::from(key)))
}

/// Deletes a key, which revokes it.
///
/// The key is refused from now on, by other processes within five seconds.
#[utoipa::path(delete, path = "/v1/keys/{id}", operation_id = "delete_key", tag = "account")]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<ApiKeyId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let check = |key: Key| if_match.check(&KeyResponse::from(key));
    keys::delete_key(&app.writer, caller.account, id, check).await?;
    app.authenticator.forget_key(id);
    Ok(StatusCode::NO_CONTENT)
}
