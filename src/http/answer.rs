//! Response types of handlers, which make their signatures show what they return.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::extract::conditional::IfNoneMatch;
use super::json::{JSON, to_json};
use crate::error::{Error, Result};

/// A 200 response with JSON and without an entity tag.
pub struct JsonAnswer<T>(pub T);

impl<T: Serialize> IntoResponse for JsonAnswer<T> {
    fn into_response(self) -> Response {
        match to_json(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, HeaderValue::from_static(JSON))], body).into_response(),
            Err(error) => error.into_response(),
        }
    }
}

/// A 200 response with JSON and its entity tag, or a 304 if the caller already has that version
/// (`IfNoneMatch::answer`).
pub struct Tagged<T> {
    value: T,
    if_none_match: IfNoneMatch,
}

impl<T> Tagged<T> {
    /// A response that is always 200, as after a write: `value` is the current state.
    pub fn new(value: T) -> Tagged<T> {
        Tagged { value, if_none_match: IfNoneMatch::default() }
    }

    /// A response that is 304 if one of the tags in `if_none_match` is that of `value`.
    pub fn unless_known(value: T, if_none_match: IfNoneMatch) -> Tagged<T> {
        Tagged { value, if_none_match }
    }
}

impl IfNoneMatch {
    /// Responds with `value`, or with 304 if the caller already has it.
    pub fn answer<T>(self, value: T) -> Tagged<T> {
        Tagged::unless_known(value, self)
    }
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let body = to_json(&self.value);
        body.and_then(|body| self.if_none_match.respond(JSON, body)).into_response()
    }
}

/// A 201 response with the created resource, its URL and its entity tag.
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

/// The response to a POST that creates a resource unless an equal one exists.
pub enum OrExisting<C, T> {
    /// The response for a created resource.
    New(C),
    /// A 200 response with the existing resource, its URL and its entity tag.
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

/// A 201 response with a secret: caches must not store it, and it has no entity tag, because it can never be read
/// again.
pub struct ShownOnce<T> {
    /// URL of the resource, if it has one.
    pub location: Option<String>,
    pub value: T,
}

impl<T: Serialize> IntoResponse for ShownOnce<T> {
    fn into_response(self) -> Response {
        let location = self.location.map(HeaderValue::try_from).transpose();
        let location = match location.map_err(Error::internal) {
            Ok(location) => location,
            Err(error) => return error.into_response(),
        };
        let mut response = (StatusCode::CREATED, Renewed(self.value)).into_response();
        if let Some(location) = location {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// A 200 response with the new secret of an existing resource, otherwise as `ShownOnce`.
pub struct Renewed<T>(pub T);

impl<T: Serialize> IntoResponse for Renewed<T> {
    fn into_response(self) -> Response {
        let mut response = JsonAnswer(self.0).into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn with_address<T: Serialize>(value: &T, name: header::HeaderName, address: &str) -> Result<Response> {
    let mut response = IfNoneMatch::default().respond(JSON, to_json(value)?)?;
    response.headers_mut().insert(name, HeaderValue::from_str(address).map_err(Error::internal)?);
    Ok(response)
}
