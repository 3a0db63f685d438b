//! What each kind of problem means, what its receiver can do, and an example. The pages of problems and
//! docs/reference/problems.md are made of this table.

use crate::error::{Error, Kind, Problem};

/// Request id of the examples.
const REQUEST_ID: &str = "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b";

/// The explanation of a kind. Words between backticks are code.
pub struct Explanation {
    /// Circumstances in which a request gets such a problem.
    pub meaning: &'static str,
    /// What the sender of the request can do.
    pub remedy: &'static str,
    /// The `detail` of the example.
    detail: &'static str,
}

/// Returns the kind whose type ends with `slug`.
pub fn find_kind(slug: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.slug() == slug)
}

/// Builds a whole problem document of the kind.
pub fn example(kind: Kind) -> Problem {
    let detail = explain(kind).detail;
    let error = match kind {
        Kind::Invalid => Error::invalid("/rule/cut_at_least/percent", detail),
        _ => Error::new(kind, detail),
    };
    // Not the id of the request that reads the page: its entity tag would never be the same again.
    Problem { instance: Some(REQUEST_ID.to_owned()), ..error.problem() }
}

/// Explains a kind. A new kind does not compile until it is here.
pub fn explain(kind: Kind) -> Explanation {
    let (meaning, remedy, detail) = match kind {
        Kind::Malformed => (
            "The request cannot be read: broken JSON, an invalid query parameter, a cursor of another query, or text \
             that is not UTF-8.",
            "Correct the request as `detail` says. The same request is refused again.",
            "limit must be 1 to 200",
        ),
        Kind::DigestMismatch => (
            "The body does not match its `Content-Digest` or `Repr-Digest`. Nothing of the body was kept.",
            "Send the body again, and check how the digest is computed if that is refused too.",
            "The body does not match Content-Digest; none of it was kept.",
        ),
        Kind::Unauthenticated => (
            "The request has no token, or one that is invalid, expired or revoked.",
            "Send `Authorization: Bearer <token>` with a valid API key or access token.",
            "The token is not valid.",
        ),
        Kind::Forbidden => (
            "The token is valid and lacks a scope, or a browser sent a change from a page of another site.",
            "Use a token with the scope that `detail` names. In a browser, send changes from a page of the same \
             origin.",
            "The token lacks the scope prices:write.",
        ),
        Kind::NotFound => (
            "There is nothing at this address, or it belongs to another account.",
            "Check the path, the id and whose token it is. What was deleted or has expired does not come back.",
            "There is no such watch, or it belongs to another account.",
        ),
        Kind::MethodNotAllowed => (
            "The path does not support the method. `CONNECT` and `TRACE` are supported nowhere.",
            "Use a method that the `Allow` header of the answer lists.",
            "The path supports other methods; see the Allow header.",
        ),
        Kind::Timeout => (
            "The request did not arrive in time: its body paused for too long, or trickled.",
            "Send it again over a better connection, or in smaller parts. An upload of a file can be resumed.",
            "The body did not arrive in time.",
        ),
        Kind::Conflict => (
            "The request conflicts with the current state: it exists already, the first request with the same \
             `Idempotency-Key` is in flight, or an upload has another offset.",
            "Read the current state and decide again. If the answer has `Retry-After`, repeat the same request after \
             that many seconds.",
            "A store with this slug exists already.",
        ),
        Kind::Gone => (
            "The route was deprecated, and the date in its `Sunset` has passed.",
            "Use what `detail` names in its place.",
            "GET /v1/sales ended on Tue, 01 Jan 2030 00:00:00 GMT. Use GET /v1/deals: https://salebell.example.com/docs",
        ),
        Kind::PreconditionFailed => (
            "The condition of the request does not hold: mostly, `If-Match` names another version than the current \
             one.",
            "Read the resource again, apply the change to that version, and send its `ETag` in `If-Match`.",
            "The current version is not the one in If-Match.",
        ),
        Kind::TooLarge => (
            "The body is larger than the limit: a JSON body above 1 MiB, a compressed body that decompresses too far, \
             or a file above its limit.",
            "Send less at a time: several reports, or NDJSON, which is read as a stream. Store a smaller file.",
            "The body is larger than 1048576 bytes.",
        ),
        Kind::QuotaExceeded => (
            "The account's quota of bytes or files is used up.",
            "Delete files, or wait until some have expired.",
            "The account's files have no room for these bytes.",
        ),
        Kind::UriTooLong => (
            "The path and query are longer than the limit.",
            "Shorten the query: fewer filters, or several requests.",
            "The path and query are too long.",
        ),
        Kind::UnsupportedMediaType => (
            "The body has a `Content-Type` or a `Content-Encoding` that the route does not take.",
            "Send the media type and the encoding that the route documents.",
            "The body must be application/json.",
        ),
        Kind::RangeNotSatisfiable => (
            "The `Range` begins beyond the end of the file.",
            "Request a range within the size, which `Content-Range` of the answer has, or the whole file.",
            "The file has 1024 bytes.",
        ),
        Kind::Invalid => (
            "The request can be read, and some of its fields are invalid; `errors` names them. Or an \
             `Idempotency-Key` was used before with another body.",
            "Correct each field in `errors`: `pointer` is a JSON pointer into the body, or the name of a query \
             parameter. Use a new key for another request.",
            "must be 1 to 100",
        ),
        Kind::Locked => (
            "Another request is at the very end of this upload.",
            "Repeat the request after the seconds in `Retry-After`.",
            "Another request is completing this upload.",
        ),
        Kind::TooManyRequests => (
            "A limit is reached: of requests a minute, of open imports, exports or streams, or of the account's \
             idempotency keys.",
            "Wait for the seconds in `Retry-After`, then repeat the request. `RateLimit` reports what is left.",
            "The limit of 600 requests a minute of the class \"read\" is reached.",
        ),
        Kind::HeadersTooLarge => (
            "The headers of the request are larger than the limit.",
            "Send fewer or shorter headers; cookies are not needed.",
            "The headers are too large.",
        ),
        Kind::ChecksumMismatch => (
            "The bytes do not match the `Upload-Checksum` of tus. They were not kept.",
            "Send the same part again from the same offset.",
            "The body does not match Upload-Checksum; none of it was kept.",
        ),
        Kind::Internal => (
            "A fault of the service. Its log has the cause under the request id.",
            "Repeat the request later, a POST with its `Idempotency-Key`. Report `instance`, the request id, to the \
             operator if it goes on.",
            "The server's log has the cause under the request id.",
        ),
        Kind::Unavailable => (
            "The database or another service that the request needs is unavailable.",
            "Repeat the request after the seconds in `Retry-After`, a POST with its `Idempotency-Key`.",
            "Please try again in a moment.",
        ),
        Kind::InsufficientStorage => (
            "The disk has too little free space for the bytes. Those that were acknowledged are kept.",
            "Resume the upload later, when files of others have expired.",
            "There is not enough space for these bytes; those that were acknowledged are kept.",
        ),
    };
    Explanation { meaning, remedy, detail }
}
