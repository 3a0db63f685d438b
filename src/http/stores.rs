//! `/v1/stores`: stores that sell games.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Created, Tagged};
use super::extract::body::{Json, Params, Reference};
use super::extract::caller::Caller;
use super::extract::conditional::{IfMatch, IfNoneMatch};
use super::extract::fields::{FieldChecks, Patch};
use super::extract::page::{Page, Paging};
use crate::app::App;
use crate::domain::ids::StoreId;
use crate::domain::title;
use crate::error::{Error, Problem, Result};
use crate::store::offers::StoreRef;
use crate::store::stores::{self, Store, StoreFields};

/// Longest name, slug or reference, in characters.
const MAX_NAME: usize = 100;

/// A store in a response.
#[derive(Serialize, ToSchema)]
#[schema(as = Store, example = json!({
    "id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "slug": "gog-com",
    "name": "GOG.com",
    "url": "https://gog.example/",
    "created_at": "2026-03-01T10:00:00Z",
    "updated_at": "2026-03-01T10:00:00Z",
}))]
pub struct StoreResponse {
    pub id: StoreId,
    /// Name in URLs and reports; no two stores have the same.
    pub slug: String,
    pub name: String,
    /// Its page on the web.
    #[schema(required)]
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
#[derive(Serialize, ToSchema)]
#[schema(as = StoreReference)]
pub struct StoreRefResponse {
    pub id: StoreId,
    /// Name in URLs and reports.
    pub slug: String,
    pub name: String,
}

impl From<StoreRef> for StoreRefResponse {
    fn from(store: StoreRef) -> Self {
        StoreRefResponse { id: store.id, slug: store.slug, name: store.name }
    }
}

/// Body of a request that creates a store.
#[derive(Default, Deserialize, ToSchema)]
#[schema(example = json!({"name": "GOG.com", "url": "https://gog.example/"}))]
#[serde(deny_unknown_fields)]
pub struct CreateStoreRequest {
    /// Name, which must contain a letter or a digit if there is no slug.
    #[schema(
        value_type = String,
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    )]
    name: Option<String>,
    /// Name in URLs and reports: lower-case words with `-` between them. Without one, it is derived from the name.
    #[schema(max_length = 100, pattern = r"^([a-z0-9]+(-[a-z0-9]+)*)?$")]
    slug: Option<String>,
    /// Its page on the web.
    #[schema(format = "uri", max_length = 2000, pattern = r"^https?://[^/?#]")]
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
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"name": "GOG", "slug": null}))]
#[serde(deny_unknown_fields)]
pub struct UpdateStoreRequest {
    #[serde(default)]
    #[schema(
        value_type = String,
        required = false,
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    )]
    name: Patch<String>,
    /// Name in URLs and reports: lower-case words with `-` between them. Null: it is derived from the name again.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 100, pattern = r"^([a-z0-9]+(-[a-z0-9]+)*)?$")]
    slug: Patch<String>,
    /// Its page on the web.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "uri", max_length = 2000, pattern = r"^https?://[^/?#]")]
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
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreParams {}

/// Lists all stores, ordered by slug.
#[utoipa::path(get, path = "/v1/stores", operation_id = "list_stores", tag = "catalogue")]
pub async fn list(
    State(app): State<App>,
    Params(StoreParams {}): Params<StoreParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<StoreResponse>>> {
    let after: Option<String> = paging.after()?;
    let stores = stores::list_stores(app.reader(), after.as_deref(), paging.rows()).await?;
    let page = paging.page(stores, |store| store.slug.clone())?;
    Ok(if_none_match.answer(page.map(StoreResponse::from)))
}

/// Returns a store.
#[utoipa::path(get, path = "/v1/stores/{id}", operation_id = "get_store", tag = "catalogue")]
pub async fn show(
    State(app): State<App>,
    Reference(reference): Reference,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<StoreResponse>> {
    let store = stores::find_store(app.reader(), &reference).await?;
    let store = store.ok_or_else(|| Error::not_found("store"))?;
    Ok(if_none_match.answer(StoreResponse::from(store)))
}

/// Creates a store.
#[utoipa::path(
    post,
    path = "/v1/stores",
    operation_id = "create_store",
    tag = "catalogue",
    responses((
        status = 409,
        body = Problem,
        content_type = "application/problem+json",
        description = "A store with this slug already exists, or \
            an earlier request with the same `Idempotency-Key` is still in flight.",
    )),
    security(("token" = ["catalogue:write"])),
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateStoreRequest>,
) -> Result<Created<StoreResponse>> {
    caller.require("catalogue:write")?;
    let store = stores::create_store(&app.writer, &request.check()?, app.clock.now()).await?;
    Ok(Created { location: format!("/v1/stores/{}", store.id), value: StoreResponse::from(store) })
}

/// Changes a store.
#[utoipa::path(
    patch,
    path = "/v1/stores/{id}",
    operation_id = "update_store",
    tag = "catalogue",
    responses((
        status = 409,
        body = Problem,
        content_type = "application/problem+json",
        description = "Another store has this slug.",
    )),
    security(("token" = ["catalogue:write"])),
)]
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

/// Deletes a store with its offers and their history.
#[utoipa::path(
    delete,
    path = "/v1/stores/{id}",
    operation_id = "delete_store",
    tag = "catalogue",
    security(("token" = ["catalogue:write"])),
)]
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
