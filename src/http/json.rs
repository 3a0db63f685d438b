//! JSON bodies of responses.

use serde::Serialize;

use crate::error::{Error, Result};

/// Media type of JSON.
pub const JSON: &str = "application/json";

/// Serializes a JSON body. It ends with a newline, which is white space in JSON and puts the shell's prompt after
/// `curl` on a line of its own. Lengths and entity tags include it, as they include every other byte.
///
/// # Errors
/// `Internal` if JSON cannot represent the value.
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut body = serde_json::to_vec(value).map_err(Error::internal)?;
    body.push(b'\n');
    Ok(body)
}
