//! `/problems`: a page for each kind of problem, at the path that is the `type` of its problem documents.

pub mod explanations;

use askama::Template;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use self::explanations::{example, explain, find_kind};
use super::extract::conditional::IfNoneMatch;
use super::pages::{Marked, respond_either};
use crate::error::{Error, Kind, Problem, Result};

/// A kind of problem.
#[derive(Serialize, ToSchema)]
#[schema(as = ProblemKind, example = json!({
    "type": "/problems/unauthenticated",
    "title": "Valid token required",
    "status": 401,
    "meaning": "The request has no token, or one that is invalid, expired or revoked.",
    "remedy": "Send `Authorization: Bearer <token>` with a valid API key or access token.",
    "example": {
        "type": "/problems/unauthenticated",
        "title": "Valid token required",
        "status": 401,
        "detail": "The token is not valid.",
        "instance": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    },
}))]
struct ProblemKindResponse {
    /// The `type` of its problem documents, which is the path of its page too.
    #[schema(pattern = "^/problems/[a-z-]+$")]
    r#type: String,
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// Circumstances in which a request gets such a problem.
    meaning: &'static str,
    /// What the sender of the request can do.
    remedy: &'static str,
    /// A whole problem document.
    example: Problem,
}

impl From<Kind> for ProblemKindResponse {
    fn from(kind: Kind) -> Self {
        let (explanation, example) = (explain(kind), example(kind));
        ProblemKindResponse {
            r#type: example.r#type.clone(),
            title: kind.title(),
            status: example.status,
            meaning: explanation.meaning,
            remedy: explanation.remedy,
            example,
        }
    }
}

/// All kinds of problems.
#[derive(Serialize, ToSchema)]
#[schema(as = ProblemKinds, example = json!({"items": [ProblemKindResponse::from(Kind::Unauthenticated)]}))]
struct ProblemKindsResponse {
    /// Every kind, ordered by HTTP status.
    items: Vec<ProblemKindResponse>,
}

#[derive(Template)]
#[template(path = "problems.html")]
struct ListPage {
    rows: Vec<Row>,
}

/// A kind in the list.
struct Row {
    address: String,
    title: &'static str,
    status: u16,
    meaning: Marked,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct KindPage {
    address: String,
    title: &'static str,
    status: u16,
    meaning: Marked,
    remedy: Marked,
    /// The example as JSON on several lines.
    example: String,
}

/// Lists all kinds of problems.
#[utoipa::path(
    get,
    path = "/problems",
    operation_id = "list_problems",
    tag = "service",
    responses((
        status = 200,
        description = "Every kind of problem, in the format that `Accept` prefers.",
        content((ProblemKindsResponse = "application/json"), (String = "text/html")),
        headers(
            ("ETag" = String, description = "Version of the list, for `If-None-Match`."),
            ("Vary" = String, description = "`accept`: the format depends on it.")
        )
    ))
)]
pub async fn list(headers: HeaderMap, if_none_match: IfNoneMatch) -> Result<Response> {
    let items: Vec<ProblemKindResponse> = Kind::ALL.into_iter().map(ProblemKindResponse::from).collect();
    let row = |kind: &ProblemKindResponse| Row {
        address: kind.r#type.clone(),
        title: kind.title,
        status: kind.status,
        meaning: Marked(kind.meaning),
    };
    let page = ListPage { rows: items.iter().map(row).collect() };
    respond_either(ProblemKindsResponse { items }, &page, &headers, if_none_match)
}

/// Returns what a kind of problem means, what to do about it, and an example.
#[utoipa::path(
    get,
    path = "/problems/{type}",
    operation_id = "get_problem",
    tag = "service",
    params(
        ("type" = String, Path, description = "Last part of the `type` of a problem document.", example = "invalid")
    ),
    responses((
        status = 200,
        description = "The kind of problem, in the format that `Accept` prefers.",
        content((ProblemKindResponse = "application/json"), (String = "text/html")),
        headers(
            ("ETag" = String, description = "Version of the page, for `If-None-Match`."),
            ("Vary" = String, description = "`accept`: the format depends on it.")
        )
    ))
)]
pub async fn show(
    slug: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    // A slug that is not UTF-8 is that of no kind.
    let kind = slug.ok().and_then(|Path(slug)| find_kind(&slug));
    let kind = kind.ok_or_else(|| Error::new(Kind::NotFound, "There is no such kind of problem."))?;
    let kind = ProblemKindResponse::from(kind);
    let page = KindPage {
        address: kind.r#type.clone(),
        title: kind.title,
        status: kind.status,
        meaning: Marked(kind.meaning),
        remedy: Marked(kind.remedy),
        example: serde_json::to_string_pretty(&kind.example).map_err(Error::internal)?,
    };
    respond_either(kind, &page, &headers, if_none_match)
}
