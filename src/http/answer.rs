//! JSON as every answer has it.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::{Error, Result};

pub const JSON: &str = "application/json";

/// An answer of JSON without an entity tag; those with one are made by `conditional`.
pub struct Answer<T>(pub T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match to_json(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, HeaderValue::from_static(JSON))], body).into_response(),
            Err(error) => error.into_response(),
        }
    }
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
