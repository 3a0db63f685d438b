//! Headers of uploads, as text and numbers.

use axum::http::HeaderMap;

use crate::error::{Error, Result};

/// Returns a header as text, or `None` if it is missing or not text.
pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Returns all lines of a header as text.
///
/// # Errors
/// `Malformed` if the header is not text.
pub fn header_text(headers: &HeaderMap, name: &str) -> Result<Option<String>> {
    let lines: Result<Vec<&str>, _> = headers.get_all(name).iter().map(|line| line.to_str()).collect();
    let lines = lines.map_err(|_| invalid_header(name, "must be ASCII"))?;
    Ok((!lines.is_empty()).then(|| lines.join(", ").trim().to_owned()))
}

/// The error of a header with this problem.
pub fn invalid_header(header: &str, problem: &str) -> Error {
    Error::malformed(format!("{header} {problem}."))
}

/// Reads a header that is a number of bytes.
///
/// # Errors
/// `Malformed` if the header is not a number of bytes.
pub fn byte_count(headers: &HeaderMap, name: &str) -> Result<Option<u64>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let digits =
        value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    // A number that the database cannot represent exceeds the size of any file.
    let most = i64::MAX.unsigned_abs();
    match digits.map(|text| text.parse::<u64>().map_or(most, |count| count.min(most))) {
        Some(count) => Ok(Some(count)),
        None => Err(Error::malformed(format!("{name} must be a number of bytes."))),
    }
}

/// Converts a number of bytes to the type of the database.
pub fn to_bytes(count: u64) -> Result<i64> {
    i64::try_from(count).map_err(|_| Error::malformed("A number of bytes is too large for any file."))
}
