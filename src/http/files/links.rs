//! `/v1/files/{id}/links`: share links, by which a file can be fetched without a token.

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::domain::ids::{FileId, LinkId};
use crate::domain::observation::Timestamp;
use crate::error::{Error, Problem, Result};
use crate::http::answer::{ShownOnce, Tagged};
use crate::http::extract::body::{Id, Json, Params};
use crate::http::extract::caller::Caller;
use crate::http::extract::conditional::IfNoneMatch;
use crate::http::extract::fields::FieldChecks;
use crate::http::extract::page::{Page, Paging};
use crate::store::files;
use crate::store::files::links::{self, FileLink, NewLink};

/// Body of a request that creates a link.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"expires_at": "2026-12-06T10:00:00Z", "max_downloads": 3}))]
#[serde(deny_unknown_fields)]
pub struct CreateLinkRequest {
    /// Expiry of the link, in the future; by default that of the file.
    #[serde(default)]
    expires_at: Option<Timestamp>,
    /// Limit of the downloads; by default there is none.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    max_downloads: Option<i32>,
}

/// A share link of a file in a response.
#[derive(Serialize, ToSchema)]
#[schema(as = Link, example = json!({
    "id": "01a0b6f2-5555-7d3e-8a4b-1c2d3e4f5a6b",
    "created_at": "2026-11-29T10:00:00Z",
    "expires_at": "2026-12-06T10:00:00Z",
    "max_downloads": 3,
    "downloads": 1,
    "bytes_served": 146515,
}))]
pub struct LinkResponse {
    id: LinkId,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    /// Limit of the downloads; null: none.
    #[schema(required, minimum = 1)]
    max_downloads: Option<i32>,
    /// Number of complete copies that were served, each in one response or in parts.
    #[schema(minimum = 0)]
    downloads: i32,
    /// Bytes of all responses; those in progress count as if they were complete.
    #[schema(minimum = 0)]
    bytes_served: i64,
}

/// A link that was just created: the only response that contains its path.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedLink, example = json!({
    "id": "01a0b6f2-5555-7d3e-8a4b-1c2d3e4f5a6b",
    "created_at": "2026-11-29T10:00:00Z",
    "expires_at": "2026-12-06T10:00:00Z",
    "max_downloads": 3,
    "downloads": 0,
    "bytes_served": 0,
    "path": "/d/zkOM3rH0lq9cB8m3Yw0n1sJ4vT7xK2aPqE5fG6hU_dI",
    "url": "https://salebell.example.com/d/zkOM3rH0lq9cB8m3Yw0n1sJ4vT7xK2aPqE5fG6hU_dI",
}))]
pub struct CreatedLinkResponse {
    #[serde(flatten)]
    link: LinkResponse,
    /// Path of the link, relative to the URL of this service.
    #[schema(pattern = "^/d/[A-Za-z0-9_-]{43}$")]
    path: String,
    /// The same as an absolute URL; null: the service has no `server.public_url`.
    #[schema(required, format = "uri")]
    url: Option<String>,
}

impl From<FileLink> for LinkResponse {
    fn from(link: FileLink) -> LinkResponse {
        let FileLink { id, created_at, expires_at, max_downloads, downloads, bytes_served } = link;
        LinkResponse { id, created_at, expires_at, max_downloads, downloads, bytes_served }
    }
}

/// No query parameters besides those of paging.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkParams {}

/// Creates a share link to a complete file.
#[utoipa::path(
    post,
    path = "/v1/files/{id}/links",
    operation_id = "create_link",
    tag = "files",
    responses((
        status = 409,
        body = Problem,
        content_type = "application/problem+json",
        description = "The file is not complete yet, or has the maximum number of links, or the first \
            request with this `Idempotency-Key` is in flight."
    ))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    Json(request): Json<CreateLinkRequest>,
) -> Result<ShownOnce<CreatedLinkResponse>> {
    let now = app.clock.now();
    let file = files::find_file(&app.writer, caller.account, id, now).await?;
    let mut fields = FieldChecks::default();
    if request.expires_at.is_some_and(|end| end.0 <= now) {
        fields.refuse("expires_at", "must be in the future");
    }
    if request.max_downloads.is_some_and(|most| most < 1) {
        fields.refuse("max_downloads", "must be at least 1");
    }
    fields.finish()?;
    if !file.is_complete() {
        return Err(Error::conflict("The file is not complete yet."));
    }
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::internal("the system has no random bytes"))?;
    let token = URL_SAFE_NO_PAD.encode(random);
    let digest = digest(&SHA256, token.as_bytes());
    let new = NewLink {
        id: LinkId::now_v7(),
        digest: digest.as_ref(),
        // Extending the file later does not extend its links.
        expires_at: request.expires_at.map_or(file.expires_at, |end| end.0),
        max_downloads: request.max_downloads,
    };
    let _turn = app.files.uploads.turn(caller.account).await;
    let link = links::create_link(&app.writer, file.id, &new, now).await?;
    let path = format!("/d/{token}");
    let url = app.config.server.public_url.as_ref().map(|origin| origin.at(&path));
    let created = CreatedLinkResponse { link: link.into(), path, url };
    Ok(ShownOnce { location: None, value: created })
}

/// Lists the share links of a file, the newest first.
#[utoipa::path(get, path = "/v1/files/{id}/links", operation_id = "list_links", tag = "files")]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<FileId>,
    Params(LinkParams {}): Params<LinkParams>,
    paging: Paging,
    if_none_match: IfNoneMatch,
) -> Result<Tagged<Page<LinkResponse>>> {
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    let found = links::list_links(&app.writer, file.id, paging.after()?, paging.rows()).await?;
    let page = paging.page(found, |link| link.id)?;
    Ok(if_none_match.answer(page.map(LinkResponse::from)))
}

/// Deletes a share link, which ends its validity.
#[utoipa::path(
    delete,
    path = "/v1/files/{id}/links/{link}",
    operation_id = "delete_link",
    tag = "files",
    params(
        ("id" = inline(FileId), Path, description = "Id of the file."),
        ("link" = inline(LinkId), Path, description = "Id of the link.")
    )
)]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    path: Result<Path<(FileId, LinkId)>, PathRejection>,
) -> Result<StatusCode> {
    // A value that is not a UUID identifies nothing.
    let Path((id, link)) = path.map_err(|_| Error::not_found("link"))?;
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    links::delete_link(&app.writer, file.id, link).await?;
    Ok(StatusCode::NO_CONTENT)
}
