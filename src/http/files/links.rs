//! `/v1/files/{id}/links`: share links, by which a file can be fetched without a token.

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::domain::ids::{FileId, LinkId};
use crate::domain::observation::Timestamp;
use crate::error::{Error, Result};
use crate::http::answer::{ShownOnce, Tagged};
use crate::http::extract::body::{Id, Json, Params};
use crate::http::extract::caller::Caller;
use crate::http::extract::conditional::IfNoneMatch;
use crate::http::extract::fields::FieldChecks;
use crate::http::extract::page::{Page, Paging};
use crate::store::files;
use crate::store::files::links::{self, FileLink, NewLink};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateLinkRequest {
    /// Expiry of the link; by default that of the file.
    #[serde(default)]
    expires_at: Option<Timestamp>,
    /// Limit of the downloads; by default there is none.
    #[serde(default)]
    max_downloads: Option<i32>,
}

#[derive(Serialize)]
pub struct LinkResponse {
    id: LinkId,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    max_downloads: Option<i32>,
    /// Number of complete copies that were served, each in one response or in parts.
    downloads: i32,
    /// Bytes of all responses; those in progress count as if they were complete.
    bytes_served: i64,
}

/// A link that was just created: the only response that contains its path.
#[derive(Serialize)]
pub struct CreatedLinkResponse {
    #[serde(flatten)]
    link: LinkResponse,
    /// Path of the link, relative to the URL of this service.
    path: String,
}

impl From<FileLink> for LinkResponse {
    fn from(link: FileLink) -> LinkResponse {
        let FileLink { id, created_at, expires_at, max_downloads, downloads, bytes_served } = link;
        LinkResponse { id, created_at, expires_at, max_downloads, downloads, bytes_served }
    }
}

/// No query parameters besides those of paging.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkParams {}

/// `POST /v1/files/{id}/links`: creates a share link for a complete file.
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
    let created = CreatedLinkResponse { link: link.into(), path: format!("/d/{token}") };
    Ok(ShownOnce { location: None, value: created })
}

/// `GET /v1/files/{id}/links`: the links of a file, the newest first.
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

/// `DELETE /v1/files/{id}/links/{link}`: revokes a link.
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    path: Result<Path<(FileId, LinkId)>, PathRejection>,
) -> Result<Response> {
    // A value that is not a UUID identifies nothing.
    let Path((id, link)) = path.map_err(|_| Error::not_found("link"))?;
    let file = files::find_file(&app.writer, caller.account, id, app.clock.now()).await?;
    links::delete_link(&app.writer, file.id, link).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
