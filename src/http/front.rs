//! `/`: a page for browsers, and the same as JSON.

use askama::Template;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::conditional::IfNoneMatch;
use super::pages::respond_either;
use crate::error::Result;

const DESCRIPTION: &str = "The API of a bell that rings when a video game goes on sale.";

#[derive(Template)]
#[template(path = "front.html")]
struct FrontPage {
    description: &'static str,
}

/// The service in a few words.
#[derive(Serialize, ToSchema)]
#[schema(as = Service, example = json!({
    "name": "Salebell",
    "description": "The API of a bell that rings when a video game goes on sale.",
    "documentation": "README.md and docs/reference/api.md in the source code",
    "problems": "/problems",
    "openapi": "/openapi.json",
}))]
struct FrontResponse {
    name: &'static str,
    description: &'static str,
    /// Where the documentation is.
    documentation: &'static str,
    /// Path of the list of problems.
    problems: &'static str,
    /// Path of the OpenAPI document.
    openapi: &'static str,
}

/// Returns a page for browsers, and JSON for all others.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "get_service",
    tag = "service",
    responses((
        status = 200,
        description = "The service in a few words, in the format that `Accept` prefers.",
        content((FrontResponse = "application/json"), (String = "text/html")),
        headers(
            ("ETag" = String, description = "Version of the resource, for `If-None-Match`."),
            ("Vary" = String, description = "`accept`: the format depends on it.")
        )
    ))
)]
pub async fn show(headers: HeaderMap, if_none_match: IfNoneMatch) -> Result<Response> {
    let front = FrontResponse {
        name: "Salebell",
        description: DESCRIPTION,
        documentation: "README.md and docs/reference/api.md in the source code",
        problems: "/problems",
        openapi: "/openapi.json",
    };
    respond_either(front, &FrontPage { description: DESCRIPTION }, &headers, if_none_match)
}
