//! Validation of a request's head before any other layer reads it. hyper refuses most of what is not HTTP. This layer
//! refuses what hyper accepts although HTTP forbids it, what two programs in a row may interpret differently (request
//! smuggling), and what is too large to hold. After a refusal the connection is closed, because the bytes behind such a
//! head cannot be trusted to be a request.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Uri, Version, header};
use axum::response::IntoResponse;

use super::around::{AnswerFuture, Around, InnerService};
use super::response_headers::close_connection;
use crate::app::App;
use crate::error::{Error, Kind, Result};

/// Longest path with query, in bytes; a longer one is refused with 414.
const MAX_URI_BYTES: usize = 16 * 1024;
/// Maximum number of bytes of all headers together; larger ones are refused with 431.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Refuses a request with an invalid head, and closes its connection.
pub struct HeadCheck;

impl Around for HeadCheck {
    fn call<S: InnerService>(_: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let http1 = request.version() < Version::HTTP_2;
        let answer = check(&request).map(|()| inner.call(request));
        Box::pin(async move {
            match answer {
                Ok(answer) => answer.await,
                Err(refusal) => {
                    let mut answer = refusal.into_response();
                    if http1 {
                        close_connection(&mut answer);
                    }
                    Ok(answer)
                }
            }
        })
    }
}

/// Checks the head of a request.
///
/// # Errors
/// `UriTooLong`, `HeadersTooLarge`, `MethodNotAllowed`, or `Malformed` with the reason.
fn check(request: &Request) -> Result<()> {
    let (uri, headers) = (request.uri(), request.headers());
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_URI_BYTES) {
        let detail = format!("The URL is longer than {MAX_URI_BYTES} bytes.");
        return Err(Error::new(Kind::UriTooLong, detail));
    }
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > MAX_HEADER_BYTES {
        let detail = format!("The headers are larger than {MAX_HEADER_BYTES} bytes.");
        return Err(Error::new(Kind::HeadersTooLarge, detail));
    }
    // CONNECT turns the connection into a tunnel; TRACE echoes headers that a proxy may have added.
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Error::new(Kind::MethodNotAllowed, "CONNECT and TRACE are not supported."));
    }
    check_host(request.version(), uri, headers)?;
    check_framing(headers)
}

/// Checks RFC 9112, section 3.2: there is exactly one Host, and it matches the host of the target, if the target names
/// one.
fn check_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<()> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() || (version == Version::HTTP_11 && host.is_none()) {
        return Err(Error::malformed("A request must have exactly one Host header."));
    }
    let host = host.map(|host| Authority::try_from(host.as_bytes())).transpose();
    let host = host.map_err(|_| Error::malformed("The Host header is not a valid host."))?;
    let named = [host.as_ref(), uri.authority()];
    // Some programs would take a user name before the host for the host.
    if named.iter().flatten().any(|host| host.as_str().contains('@')) {
        return Err(Error::malformed("The host of a request must not include a user."));
    }
    if let [Some(host), Some(target)] = named
        && host != target
    {
        return Err(Error::malformed("The Host header does not match the host of the URL."));
    }
    Ok(())
}

/// Checks RFC 9112, section 6.1. If there is a Content-Length too, hyper follows only the Transfer-Encoding and closes
/// the connection. hyper also refuses two lengths, and other encodings unless they come first.
fn check_framing(headers: &HeaderMap) -> Result<()> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let (encoding, second) = (encodings.next(), encodings.next());
    let plain = encoding.is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if second.is_some() || !plain {
        return Err(Error::malformed("The Transfer-Encoding must be: chunked."));
    }
    Ok(())
}
