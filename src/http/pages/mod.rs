//! Pages for readers: what all of them have in common. A template extends `layout.html`, and its page has the headers of
//! [`respond`]. No page runs a script; the only thing that it loads is the style sheet.

use std::fmt;

use askama::Template;
use askama::filters::Escaper;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::extract::accept::{AcceptedFormat, choose};
use super::extract::conditional::IfNoneMatch;
use crate::error::{Error, Result};
use crate::weekly_report::HtmlEscaper;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const STYLE: &str = include_str!("style.css");

/// Headers of every page: it loads only the style sheet and images of this host, runs nothing, sends nothing, and no
/// other site can frame it, read it or hold a reference to its window.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=()"),
];

/// A text whose words between backticks are code: as HTML, escaped.
pub struct Marked(pub &'static str);

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.split('`').enumerate() {
            let (begin, end) = if at % 2 == 1 { ("<code>", "</code>") } else { ("", "") };
            f.write_str(begin)?;
            HtmlEscaper.write_escaped_str(&mut *f, part)?;
            f.write_str(end)?;
        }
        Ok(())
    }
}

/// Responds with a page, or with 304 if the caller already has it.
///
/// # Errors
/// `Internal` if the template cannot be rendered, which does not occur.
pub fn respond(page: &impl Template, if_none_match: &IfNoneMatch) -> Result<Response> {
    let mut text = page.render().map_err(Error::internal)?;
    // askama drops the line feed at the end of a template.
    text.push('\n');
    let mut response = if_none_match.respond(HTML, text.into_bytes())?;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Responds with `value` as JSON, or with a page for a caller that prefers HTML.
///
/// # Errors
/// Those of [`respond`].
pub fn respond_either<T: Serialize>(
    value: T,
    page: &impl Template,
    headers: &HeaderMap,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    let mut response = match choose(headers, &[AcceptedFormat::Json, AcceptedFormat::Html]) {
        AcceptedFormat::Html => respond(page, &if_none_match)?,
        _ => if_none_match.answer(value).into_response(),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Returns the style sheet of the pages.
#[utoipa::path(
    get,
    path = "/style.css",
    operation_id = "get_style",
    tag = "service",
    responses((
        status = 200,
        description = "The style sheet of the pages for readers.",
        body = String,
        content_type = "text/css",
        headers(("ETag" = String, description = "Version of the style sheet, for `If-None-Match`.")),
        example = json!("main { max-width: 960px; margin: 0 auto; }"),
    ))
)]
pub async fn style(if_none_match: IfNoneMatch) -> Result<Response> {
    if_none_match.respond(CSS, STYLE.as_bytes().to_vec())
}
