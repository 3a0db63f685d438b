//! Conditional requests (RFC 9110, section 13): strong entity tags of what is answered.

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::http::answer::{Answer, JSON, to_json};

/// Answers with JSON and its entity tag, or with 304 when the caller has it already.
pub fn respond<T: Serialize>(headers: &HeaderMap, value: &T) -> Result<Response> {
    respond_as(headers, JSON, to_json(value)?)
}

/// The same with a body of another media type.
pub fn respond_as(headers: &HeaderMap, media_type: &'static str, body: Vec<u8>) -> Result<Response> {
    let (response, tag) = tagged(media_type, body)?;
    if headers.get_all(header::IF_NONE_MATCH).iter().any(|wanted| names(wanted, &tag, true)) {
        let tag = HeaderValue::from_str(&tag).map_err(Error::internal)?;
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(response)
}

/// 201: what has been made, where it is, and its entity tag.
pub fn created<T: Serialize>(location: &str, value: &T) -> Result<Response> {
    let (mut response, _) = with_entity_tag(value)?;
    *response.status_mut() = StatusCode::CREATED;
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_str(location).map_err(Error::internal)?);
    Ok(response)
}

/// 200 after a POST that would have made what is there already: what is there, where, and its entity tag.
pub fn found<T: Serialize>(location: &str, value: &T) -> Result<Response> {
    let (mut response, _) = with_entity_tag(value)?;
    // `Location` would speak of a redirect or of something new (RFC 9110, section 10.2.2).
    let location = HeaderValue::from_str(location).map_err(Error::internal)?;
    response.headers_mut().insert(header::CONTENT_LOCATION, location);
    Ok(response)
}

/// An answer that holds a secret: nobody keeps it, and it has no entity tag, for it can never be read again.
pub fn shown_once<T: Serialize>(status: StatusCode, location: Option<&str>, value: &T) -> Result<Response> {
    let mut response = (status, Answer(value)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(location) = location {
        headers.insert(header::LOCATION, HeaderValue::from_str(location).map_err(Error::internal)?);
    }
    Ok(response)
}

/// 200 after a write: what it is now, and its entity tag.
pub fn changed<T: Serialize>(value: &T) -> Result<Response> {
    with_entity_tag(value).map(|(response, _)| response)
}

fn with_entity_tag<T: Serialize>(value: &T) -> Result<(Response, String)> {
    tagged(JSON, to_json(value)?)
}

fn tagged(media_type: &'static str, body: Vec<u8>) -> Result<(Response, String)> {
    let tag = entity_tag(&body);
    let tag_header = HeaderValue::from_str(&tag).map_err(Error::internal)?;
    let media_type = HeaderValue::from_static(media_type);
    Ok((([(header::CONTENT_TYPE, media_type), (header::ETAG, tag_header)], body).into_response(), tag))
}

/// `If-Match` of a write: refuses it when the caller has seen another version than `current`.
///
/// # Errors
/// `PreconditionFailed`; a write without `If-Match` is allowed.
pub fn check_if_match<T: Serialize>(headers: &HeaderMap, current: &T) -> Result<()> {
    let mut wanted = headers.get_all(header::IF_MATCH).iter().peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let tag = entity_tag(&to_json(current)?);
    if wanted.any(|wanted| names(wanted, &tag, false)) {
        return Ok(());
    }
    Err(Error::new(Kind::PreconditionFailed, "The current version is not the one in If-Match."))
}

/// 16 bytes of the SHA-256, quoted.
fn entity_tag(body: &[u8]) -> String {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest(&SHA256, body).as_ref()[..16]))
}

/// Whether a list of entity tags names `tag`. A weak tag counts only where the comparison is weak.
fn names(list: &HeaderValue, tag: &str, weak: bool) -> bool {
    let Ok(list) = list.to_str() else { return false };
    list.split(',').map(str::trim).any(|one| {
        one == "*" || one == tag || (weak && one.strip_prefix("W/").is_some_and(|strong| strong == tag))
    })
}
