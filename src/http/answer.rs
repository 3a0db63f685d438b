//! What handlers answer, by type: their signatures say it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::extract::conditional::{IfNoneMatch, tagged};
use crate::error::{Error, Result};

pub const JSON: &str = "application/json";

/// 200 with JSON and without an entity tag.
pub struct JsonAnswer<T>(pub T);

impl<T: Serialize> IntoResponse for JsonAnswer<T> {
    fn into_response(self) -> Response {
        match to_json(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, HeaderValue::from_static(JSON))], body).into_response(),
            Err(error) => error.into_response(),
        }
    }
}

/// 200 with JSON and its entity tag, or 304 where the caller has that version already (`IfNoneMatch::answer`).
pub struct Tagged<T> {
    value: T,
    if_none_match: IfNoneMatch,
}

impl<T> Tagged<T> {
    /// 200 in any case, as after a write: `value` is what is there now.
    pub fn new(value: T) -> Tagged<T> {
        Tagged { value, if_none_match: IfNoneMatch::default() }
    }

    /// 304 where one of the tags in `if_none_match` is that of `value`.
    pub fn unless_known(value: T, if_none_match: IfNoneMatch) -> Tagged<T> {
        Tagged { value, if_none_match }
    }
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let body = to_json(&self.value);
        body.and_then(|body| self.if_none_match.respond(JSON, body)).into_response()
    }
}

/// 201 with what was created, its address and its entity tag.
pub struct Created<T> {
    pub location: String,
    pub value: T,
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        let response = with_address(&self.value, header::LOCATION, &self.location);
        response.map(|response| (StatusCode::CREATED, response)).into_response()
    }
}

/// The answer to a POST that creates a resource unless an equal one exists.
pub enum OrExisting<C, T> {
    /// The answer for one that was created.
    New(C),
    /// 200 with the one that exists, its address and its entity tag.
    Existing { location: String, value: T },
}

impl<C: IntoResponse, T: Serialize> IntoResponse for OrExisting<C, T> {
    fn into_response(self) -> Response {
        match self {
            OrExisting::New(created) => created.into_response(),
            // `Location` would mean a redirect or a new resource (RFC 9110, section 10.2.2).
            OrExisting::Existing { location, value } => {
                with_address(&value, header::CONTENT_LOCATION, &location).into_response()
            }
        }
    }
}

/// An answer with a secret: caches must not keep it, and it has no entity tag, for it can never be read again.
pub struct ShownOnce<T> {
    status: StatusCode,
    location: Option<String>,
    value: T,
}

impl<T> ShownOnce<T> {
    /// 200, for a new secret of something that exists.
    pub fn renewed(value: T) -> ShownOnce<T> {
        ShownOnce { status: StatusCode::OK, location: None, value }
    }

    /// 201, for something that was created, with its address where it has one.
    pub fn created(location: Option<String>, value: T) -> ShownOnce<T> {
        ShownOnce { status: StatusCode::CREATED, location, value }
    }
}

impl<T: Serialize> IntoResponse for ShownOnce<T> {
    fn into_response(self) -> Response {
        let location = self.location.map(HeaderValue::try_from).transpose();
        let location = match location.map_err(Error::internal) {
            Ok(location) => location,
            Err(error) => return error.into_response(),
        };
        let mut response = (self.status, JsonAnswer(self.value)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(location) = location {
            headers.insert(header::LOCATION, location);
        }
        response
    }
}

fn with_address<T: Serialize>(value: &T, name: header::HeaderName, address: &str) -> Result<Response> {
    let (mut response, _) = tagged(JSON, to_json(value)?)?;
    response.headers_mut().insert(name, HeaderValue::from_str(address).map_err(Error::internal)?);
    Ok(response)
}

/// A body of JSON. It ends with a line feed, so that after `curl` the prompt of a shell begins on a line of its own; for
/// JSON it is white space. Lengths and entity tags count it, as they count every other byte.
///
/// # Errors
/// `Internal` for what JSON cannot hold.
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut body = serde_json::to_vec(value).map_err(Error::internal)?;
    body.push(b'\n');
    Ok(body)
}
