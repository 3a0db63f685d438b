//! Conditional requests (RFC 9110, section 13): strong entity tags of responses, and the headers that refer to them.

use std::convert::Infallible;

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::http::json::to_json;

/// `If-None-Match` of a read: the versions that the caller already has.
#[derive(Clone, Default)]
pub struct IfNoneMatch(Vec<HeaderValue>);

impl IfNoneMatch {
    /// Reads the header, for a handler that reads other headers too.
    pub fn of(headers: &HeaderMap) -> IfNoneMatch {
        IfNoneMatch(values(headers, header::IF_NONE_MATCH))
    }

    /// Responds with a body of any media type, or with 304 if the caller already has it.
    ///
    /// # Errors
    /// `Internal` if the entity tag is not a valid header value, which does not occur.
    pub fn respond(&self, media_type: &'static str, body: Vec<u8>) -> Result<Response> {
        Ok(self.select(&Representation::new(media_type, body)?))
    }

    /// Responds with a representation, or with 304 if the caller already has it.
    pub fn select(&self, current: &Representation) -> Response {
        let tag = current.tag.to_str().unwrap_or_default();
        if self.0.iter().any(|wanted| names(wanted, tag, true)) {
            return (StatusCode::NOT_MODIFIED, [(header::ETAG, current.tag.clone())]).into_response();
        }
        let media_type = HeaderValue::from_static(current.media_type);
        let headers = [(header::CONTENT_TYPE, media_type), (header::ETAG, current.tag.clone())];
        (headers, current.body.clone()).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(IfNoneMatch::of(&parts.headers))
    }
}

/// `If-Match` of a write: the versions that the caller agrees to change.
#[derive(Clone, Default)]
pub struct IfMatch(Vec<HeaderValue>);

impl IfMatch {
    /// Reads the header, for a handler that reads other headers too.
    pub fn of(headers: &HeaderMap) -> IfMatch {
        IfMatch(values(headers, header::IF_MATCH))
    }

    /// Refuses a write if the caller has seen another version than `current`.
    ///
    /// # Errors
    /// `PreconditionFailed` if no tag matches; a write without `If-Match` is allowed.
    pub fn check<T: Serialize>(&self, current: &T) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let tag = entity_tag(&to_json(current)?);
        if self.0.iter().any(|wanted| names(wanted, &tag, false)) {
            return Ok(());
        }
        Err(Error::new(Kind::PreconditionFailed, "The current version is not the one in If-Match."))
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(IfMatch::of(&parts.headers))
    }
}

fn values(headers: &HeaderMap, name: HeaderName) -> Vec<HeaderValue> {
    headers.get_all(name).iter().cloned().collect()
}

/// A body with its media type and its strong entity tag (RFC 9110, section 3.2).
pub struct Representation {
    media_type: &'static str,
    tag: HeaderValue,
    body: Bytes,
}

impl Representation {
    /// # Errors
    /// `Internal` if the entity tag is not a valid header value, which does not occur.
    pub fn new(media_type: &'static str, body: Vec<u8>) -> Result<Representation> {
        let tag = HeaderValue::from_str(&entity_tag(&body)).map_err(Error::internal)?;
        Ok(Representation { media_type, tag, body: body.into() })
    }
}

/// Computes an entity tag: 16 bytes of the SHA-256 in base64url, quoted.
fn entity_tag(body: &[u8]) -> String {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest(&SHA256, body).as_ref()[..16]))
}

/// Whether a list of entity tags contains `tag`. A weak tag counts only if the comparison is weak.
fn names(list: &HeaderValue, tag: &str, weak: bool) -> bool {
    let Ok(list) = list.to_str() else { return false };
    list.split(',').map(str::trim).any(|one| {
        one == "*" || one == tag || (weak && one.strip_prefix("W/").is_some_and(|strong| strong == tag))
    })
}
