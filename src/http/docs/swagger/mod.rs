//! `/docs/try`: Swagger UI, which sends requests to this host. Its files are those of the npm package swagger-ui-dist
//! (scripts/fetch-swagger-ui.sh); `SHA256SUMS` has its version and their hashes.

use askama::Template;
use async_compression::tokio::bufread::GzipDecoder;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use tokio::io::AsyncReadExt;

use crate::error::{Error, Kind, Result};
use crate::http::extract::accept::accepts_gzip;
use crate::http::extract::conditional::{IfNoneMatch, Representation};
use crate::http::pages;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Policy of the page: only this host, and nothing inline. Swagger UI sets styles by the object model of the browser, which
/// is no inline style.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; \
     frame-ancestors 'none'",
);

/// Its first line is `# swagger-ui-dist` and the version.
const SUMS: &str = include_str!("SHA256SUMS");

/// Bytes of a file of the page.
#[derive(Clone, Copy)]
enum Stored {
    Plain(&'static [u8]),
    Gzip(&'static [u8]),
}

/// Files of the page: name, media type and bytes.
const FILES: [(&str, &str, Stored); 6] = [
    ("start.js", JAVASCRIPT, Stored::Plain(include_bytes!("start.js"))),
    ("swagger-ui-bundle.js", JAVASCRIPT, Stored::Gzip(include_bytes!("swagger-ui-bundle.js.gz"))),
    ("swagger-ui.css", CSS, Stored::Gzip(include_bytes!("swagger-ui.css.gz"))),
    ("LICENSE", TEXT, Stored::Plain(include_bytes!("LICENSE"))),
    ("NOTICE", TEXT, Stored::Plain(include_bytes!("NOTICE"))),
    (
        "swagger-ui-bundle.js.LICENSE.txt",
        TEXT,
        Stored::Plain(include_bytes!("swagger-ui-bundle.js.LICENSE.txt")),
    ),
];

#[derive(Template)]
#[template(path = "try.html")]
struct TryPage {
    version: &'static str,
}

/// Returns the page that sends requests: Swagger UI.
#[utoipa::path(
    get,
    path = "/docs/try",
    operation_id = "get_swagger_ui",
    tag = "service",
    responses((
        status = 200,
        description = "The page, which loads its files below its own path.",
        body = String,
        content_type = "text/html",
        headers(("ETag" = String, description = "Version of the page, for `If-None-Match`.")),
        example = json!("<!DOCTYPE html>"),
    ))
)]
pub async fn show(if_none_match: IfNoneMatch) -> Result<Response> {
    let version = SUMS.split_whitespace().nth(2).unwrap_or_default();
    let mut response = pages::respond(&TryPage { version }, &if_none_match)?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    Ok(response)
}

/// Returns a file of that page.
#[utoipa::path(
    get,
    path = "/docs/try/{file}",
    operation_id = "get_swagger_ui_file",
    tag = "service",
    params(("file" = String, Path, description = "Name of a file that the page loads.", example = "swagger-ui.css")),
    responses((
        status = 200,
        description = "The file; compressed, if `Accept-Encoding` has `gzip` and the file is large.",
        content((String = "text/javascript"), (String = "text/css"), (String = "text/plain")),
        headers(
            ("Content-Encoding" = String, description = "`gzip`, if the file is compressed."),
            ("ETag" = String, description = "Version of the file in this encoding, for `If-None-Match`."),
            ("Vary" = String, description = "`accept-encoding`: the encoding depends on it.")
        )
    ))
)]
pub async fn file(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    let found = name.ok().and_then(|Path(name)| FILES.into_iter().find(|file| file.0 == name));
    let (_, media_type, stored) =
        found.ok_or_else(|| Error::new(Kind::NotFound, "The page has no such file."))?;
    let is_compressed = matches!(stored, Stored::Gzip(_)) && accepts_gzip(&headers);
    let body = match stored {
        Stored::Gzip(bytes) if !is_compressed => Representation::new(media_type, decompress(bytes).await?)?,
        Stored::Gzip(bytes) | Stored::Plain(bytes) => {
            Representation::new(media_type, bytes::Bytes::from_static(bytes))?
        }
    };
    let mut response = if_none_match.select(&body);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if is_compressed && headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// Decompresses a file for a client that does not accept gzip.
async fn decompress(bytes: &'static [u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    GzipDecoder::new(bytes).read_to_end(&mut plain).await.map_err(Error::internal)?;
    Ok(plain)
}
