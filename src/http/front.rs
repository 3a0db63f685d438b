//! `/`: a page for browsers, and the same as JSON.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::accept::{AcceptedFormat, choose};
use super::extract::conditional::IfNoneMatch;
use crate::error::Result;

/// The page loads nothing, runs nothing and sends nothing.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Salebell</title>
</head>
<body>
<h1>Salebell</h1>
<p>Rings when a video game that you want goes on sale. This is its API; there are no pages yet.</p>
<p><a href="/openapi.json">/openapi.json</a> describes every route for programs (OpenAPI). The documentation is in the source
code: <code>README.md</code> has the first steps, <code>docs/reference/api.md</code> every route,
<code>docs/reference/settings.md</code> the settings.</p>
<p>To look around without a token: <a href="/v1/deals?limit=10">deals</a>, <a href="/v1/games?limit=10">games</a>,
<a href="/v1/stores">stores</a>.</p>
</body>
</html>
"#;

/// The service in a few words.
#[derive(Serialize, ToSchema)]
#[schema(as = Service, example = json!({
    "name": "Salebell",
    "description": "The API of a bell that rings when a video game goes on sale.",
    "documentation": "README.md and docs/reference/api.md in the source code",
    "openapi": "/openapi.json",
}))]
struct FrontResponse {
    name: &'static str,
    description: &'static str,
    /// Where the documentation is.
    documentation: &'static str,
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
    let mut response = match choose(&headers, &[AcceptedFormat::Json, AcceptedFormat::Html]) {
        AcceptedFormat::Html => {
            let body = PAGE.as_bytes().to_vec();
            let mut response = if_none_match.respond("text/html; charset=utf-8", body)?;
            let policy = HeaderValue::from_static(POLICY);
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            response
        }
        _ => {
            let front = FrontResponse {
                name: "Salebell",
                description: "The API of a bell that rings when a video game goes on sale.",
                documentation: "README.md and docs/reference/api.md in the source code",
                openapi: "/openapi.json",
            };
            if_none_match.answer(front).into_response()
        }
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}
