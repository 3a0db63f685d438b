//! The bearer token of a request.

use axum::http::{HeaderMap, HeaderName, header};

use crate::error::{Error, Kind, Result};

/// Returns the bearer token of a request (RFC 6750).
///
/// # Errors
/// `Unauthenticated` unless there is exactly one.
pub fn bearer(headers: &HeaderMap) -> Result<&str> {
    let text = only(headers, header::AUTHORIZATION)?.split_once(' ');
    text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| refuse("The Authorization header must be: Bearer <token>.".to_owned()))
}

/// Returns the value of a header that must occur exactly once.
///
/// # Errors
/// `Unauthenticated` unless it does, as readable text.
pub fn only(headers: &HeaderMap, name: HeaderName) -> Result<&str> {
    let mut given = headers.get_all(&name).iter();
    let shown = if name == header::AUTHORIZATION { "Authorization" } else { name.as_str() };
    let value = given.next().ok_or_else(|| refuse(format!("The {shown} header is missing.")))?;
    if given.next().is_some() {
        return Err(refuse(format!("There is more than one {shown} header.")));
    }
    value.to_str().map_err(|_| refuse(format!("The {shown} header cannot be read.")))
}

fn refuse(detail: String) -> Error {
    Error::new(Kind::Unauthenticated, detail)
}
