//! `/v1/stores`: stores that sell games.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::answer::{Created, Tagged};
use super::extract::body::{Json, Params, Reference, bad_parameter};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, Patch};
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::ids::StoreId;
use crate::domain::observation::check_text;
use crate::domain::title;
use crate::error::{Error, Result};
use crate::store::offers::StoreRef;
use crate::store::stores::{self, Store, StoreFields};

/// Longest name, slug or reference, in characters.
const MAX_NAME: usize = 100;

/// A store in a response.
#[derive(Serialize)]
pub struct StoreResponse {
    pub id: StoreId,
    pub slug: String,
    pub name: String,
    pub url: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<Store> for StoreResponse {
    fn from(store: Store) -> Self {
        let Store { id, slug, name, url, created_at, updated_at } = store;
        StoreResponse { id, slug, name, url, created_at, updated_at }
    }
}

/// Reference to a store in the response for an offer, a deal or a price.
#[derive(Serialize)]
pub struct StoreRefResponse {
    pub id: StoreId,
    pub slug: String,
    pub name: String,
}

impl From<StoreRef> for StoreRefResponse {
    fn from(store: StoreRef) -> Self {
        StoreRefResponse { id: store.id, slug: store.slug, name: store.name }
    }
}

/// Body of a request that creates a store. Without `slug` one is derived from the name.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateStoreRequest {
    name: Option<String>,
    slug: Option<String>,
    url: Option<String>,
}

impl CreateStoreRequest {
    fn check(self) -> Result<StoreFields> {
        let mut fields = FieldChecks::default();
        let name = fields.text("name", self.name.as_deref(), MAX_NAME);
        let url = fields.optional_url("url", self.url.as_deref());
        let slug = match fields.optional_text("slug", self.slug.as_deref(), MAX_NAME) {
            Some(slug) if slug != title::slug(&slug) => {
                fields
                    .refuse("slug", "must be lower-case words with \"-\" between them, such as \"gog-com\"");
                slug
            }
            Some(slug) => slug,
            None => {
                let slug = title::slug(&name);
                if slug.is_empty() && !name.is_empty() {
                    fields.refuse("name", "must contain a letter or a digit");
                }
                slug
            }
        };
        fields.finish()?;
        Ok(StoreFields { slug, name, url })
    }
}

/// A merge patch of a store.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateStoreRequest {
    #[serde(default)]
    name: Patch<String>,
    #[serde(default)]
    slug: Patch<String>,
    #[serde(default)]
    url: Patch<String>,
}

impl UpdateStoreRequest {
    /// Applies the patch. A slug of `null` is derived from the name again.
    fn apply(self, store: &Store) -> Result<StoreFields> {
        CreateStoreRequest {
            name: self.name.apply(Some(store.name.clone())),
            slug: self.slug.apply(Some(store.slug.clone())),
            url: self.url.apply(store.url.clone()),
        }
        .check()
    }
}

/// No query parameters besides those of paging.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreParams {}

/// Finds the store that a query parameter names by its id, slug or name; `None` without the parameter.
///
/// # Errors
/// `Malformed` if there is no such store.
pub async fn named_store(app: &App, reference: Option<&str>) -> Result<Option<Store>> {
    let Some(reference) = reference else { return Ok(None) };
    if check_text(reference, MAX_NAME).is_err() {
        return Err(bad_parameter("store", "does not name a store"));
    }
    match stores::find_store(&app.reader, reference).await? {
        Some(store) => Ok(Some(store)),
        None => Err(bad_parameter("store", "does not name a store")),
    }
}

/// `GET /v1/stores`: all stores, ordered by slug.
pub async fn list(
    State(app): State<App>,
    Params(StoreParams {}): Params<StoreParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<StoreResponse>>> {
    let after: Option<String> = paging.after()?;
    let stores = stores::list_stores(&app.reader, after.as_deref(), paging.rows()).await?;
    let page = paging.page(stores, |store| store.slug.clone())?;
    Ok(if_none_match.answer(page.map(StoreResponse::from)))
}

/// `GET /v1/stores/{id}`. A slug may replace the id, here and in every path.
pub async fn show(
    State(app): State<App>,
    Reference(reference): Reference,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<StoreResponse>> {
    let store = stores::find_store(&app.reader, &reference).await?;
    let store = store.ok_or_else(|| Error::not_found("store"))?;
    Ok(if_none_match.answer(StoreResponse::from(store)))
}

/// `POST /v1/stores`: creates a store.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateStoreRequest>,
) -> Result<Created<StoreResponse>> {
    caller.require("catalogue:write")?;
    let store = stores::create_store(&app.writer, &request.check()?, app.clock.now()).await?;
    Ok(Created { location: format!("/v1/stores/{}", store.id), value: StoreResponse::from(store) })
}

/// `PATCH /v1/stores/{id}`: changes a store.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Reference(reference): Reference,
    if_match: IfMatch,
    Json(request): Json<UpdateStoreRequest>,
) -> Result<Tagged<StoreResponse>> {
    caller.require("catalogue:write")?;
    let id = find_id(&app, &reference).await?;
    let store = stores::update_store(&app.writer, id, app.clock.now(), |store| {
        if_match.check(&StoreResponse::from(store.clone()))?;
        request.apply(store)
    })
    .await?;
    Ok(Tagged::new(StoreResponse::from(store)))
}

/// `DELETE /v1/stores/{id}`: deletes a store with its offers.
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Reference(reference): Reference,
    if_match: IfMatch,
) -> Result<StatusCode> {
    caller.require("catalogue:write")?;
    let id = find_id(&app, &reference).await?;
    let check = |store: &Store| if_match.check(&StoreResponse::from(store.clone()));
    stores::delete_store(&app.writer, id, check).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find_id(app: &App, reference: &str) -> Result<StoreId> {
    let store = stores::find_store(&app.writer, reference).await?;
    store.map(|store| store.id).ok_or_else(|| Error::not_found("store"))
}
