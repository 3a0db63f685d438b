//! The error type for everything that is reported to a caller, as a problem document (RFC 9457) or as a gRPC status.

pub mod connection;
pub mod database;
pub mod grpc;
mod http;

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

tokio::task_local! {
    /// Id of the request that this task answers; `http::middleware::request_id` and `grpc::calls` set it.
    pub static REQUEST_ID: String;
}

/// Kinds of refusals. Each has a stable `type` under `/problems/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unreadable request: broken JSON, an invalid parameter or cursor.
    Malformed,
    /// No token, or an invalid one.
    Unauthenticated,
    /// The token lacks a scope.
    Forbidden,
    /// The resource does not exist, or belongs to another account.
    NotFound,
    /// The route was deprecated, and has been ended.
    Gone,
    /// The path does not support the method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    Timeout,
    /// The request conflicts with the current state.
    Conflict,
    /// Another request holds the resource and does not end.
    Locked,
    /// `If-Match` does not match.
    PreconditionFailed,
    /// The body is larger than the limit.
    TooLarge,
    /// The account has used up its quota of bytes or files.
    QuotaExceeded,
    /// The path and query are longer than the limit.
    UriTooLong,
    /// The headers are larger than the limit.
    HeadersTooLarge,
    /// The body has a media type or an encoding that is not accepted.
    UnsupportedMediaType,
    /// The requested range lies outside the file.
    RangeNotSatisfiable,
    /// The bytes do not match the `Upload-Checksum` of tus.
    ChecksumMismatch,
    /// The bytes do not match the digest of an HTTP header.
    DigestMismatch,
    /// The request is readable, but has invalid fields, which `errors` lists.
    Invalid,
    /// Too many requests.
    TooManyRequests,
    /// An internal fault. The log has the cause under the request id.
    Internal,
    /// The database or another required service is unavailable.
    Unavailable,
    /// The disk currently has too little free space for the bytes.
    InsufficientStorage,
}

impl Kind {
    /// Every kind, ordered by HTTP status.
    pub const ALL: [Kind; 23] = [
        Kind::Malformed,
        Kind::DigestMismatch,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::Timeout,
        Kind::Conflict,
        Kind::Gone,
        Kind::PreconditionFailed,
        Kind::TooLarge,
        Kind::QuotaExceeded,
        Kind::UriTooLong,
        Kind::UnsupportedMediaType,
        Kind::RangeNotSatisfiable,
        Kind::Invalid,
        Kind::Locked,
        Kind::TooManyRequests,
        Kind::HeadersTooLarge,
        Kind::ChecksumMismatch,
        Kind::Internal,
        Kind::Unavailable,
        Kind::InsufficientStorage,
    ];

    /// Last part of its `type`.
    pub fn slug(self) -> &'static str {
        self.slug_and_title().0
    }

    /// Title of its problem documents.
    pub fn title(self) -> &'static str {
        self.slug_and_title().1
    }

    fn slug_and_title(self) -> (&'static str, &'static str) {
        match self {
            Kind::Malformed => ("malformed", "Malformed request"),
            Kind::Unauthenticated => ("unauthenticated", "Valid token required"),
            Kind::Forbidden => ("forbidden", "Insufficient permissions"),
            Kind::NotFound => ("not-found", "Resource not found"),
            Kind::Gone => ("gone", "Route no longer available"),
            Kind::MethodNotAllowed => ("method-not-allowed", "Method not allowed"),
            Kind::Timeout => ("timeout", "Request timed out"),
            Kind::Conflict => ("conflict", "Conflicts with the current state"),
            Kind::Locked => ("locked", "Locked by another request"),
            Kind::PreconditionFailed => ("precondition-failed", "Precondition failed"),
            Kind::TooLarge => ("too-large", "Body too large"),
            Kind::QuotaExceeded => ("quota-exceeded", "Account quota exceeded"),
            Kind::UriTooLong => ("uri-too-long", "URL too long"),
            Kind::HeadersTooLarge => ("headers-too-large", "Headers too large"),
            Kind::UnsupportedMediaType => ("unsupported-media-type", "Unsupported media type"),
            Kind::RangeNotSatisfiable => ("range-not-satisfiable", "Range not satisfiable"),
            Kind::ChecksumMismatch => ("checksum-mismatch", "Checksum does not match"),
            Kind::DigestMismatch => ("digest-mismatch", "Digest does not match"),
            Kind::Invalid => ("invalid", "Invalid fields"),
            Kind::TooManyRequests => ("too-many-requests", "Too many requests"),
            Kind::Internal => ("internal", "Internal error"),
            Kind::Unavailable => ("unavailable", "Temporarily unavailable"),
            Kind::InsufficientStorage => ("insufficient-storage", "Insufficient storage"),
        }
    }
}

/// One invalid field: a JSON pointer (RFC 6901) into the body, or the name of a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body, or the name of a query parameter.
    #[schema(example = "/rule/price_at_most/amount")]
    pub pointer: String,
    #[schema(example = "has more than the 2 decimal places of EUR")]
    pub detail: String,
}

/// A refusal. `Display` gives the text that a caller may see; the source is for the log only.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    /// A sentence about this case, for a human reader.
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// Seconds after which a retry may succeed.
    pub retry_after_s: Option<u64>,
    /// The resource that does not exist, or belongs to another account.
    missing: Option<Box<Missing>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A resource that was not found.
#[derive(Debug)]
struct Missing {
    /// Kind of the resource, such as `game`.
    what: String,
    /// The id that was asked for, where it is known.
    id: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (errors, detail) = (Vec::new(), detail.into());
        Error { kind, detail, errors, retry_after_s: None, missing: None, source: None }
    }

    pub fn not_found(what: &str) -> Self {
        let detail = format!("There is no such {what}, or it belongs to another account.");
        let missing = Missing { what: what.to_owned(), id: String::new() };
        Error { missing: Some(Box::new(missing)), ..Error::new(Kind::NotFound, detail) }
    }

    /// States the id of the resource that was not found; other errors stay as they are.
    #[must_use]
    pub fn about(mut self, id: &str) -> Self {
        if let Some(missing) = &mut self.missing {
            missing.id = brief(id, MAX_TEXT);
        }
        self
    }

    pub fn malformed(detail: impl Into<String>) -> Self {
        Error::new(Kind::Malformed, detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Error::new(Kind::Conflict, detail)
    }

    /// A refusal for one invalid field of a body; `pointer` is a JSON pointer such as `/rule/price_at_most`.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Error::invalid_fields(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// A refusal for several invalid fields of a body.
    pub fn invalid_fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.pointer.is_empty() => one.detail.clone(),
            [one] => format!("{} {}", one.pointer.trim_start_matches('/'), one.detail),
            many => format!("{} fields are invalid.", many.len()),
        };
        Error { errors, ..Error::new(Kind::Invalid, detail) }
    }

    /// An internal fault: `source` is logged and not shown to the caller.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let detail = "The server's log has the cause under the request id.";
        Error { source: Some(source.into()), ..Error::new(Kind::Internal, detail) }
    }

    /// A required service is unavailable: 503 with `Retry-After`.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let detail = "Please try again in a moment.";
        Error { retry_after_s: Some(1), source: Some(source.into()), ..Error::new(Kind::Unavailable, detail) }
    }

    /// Logs the source, which the caller does not see.
    fn log_source(&self) {
        let Some(source) = &self.source else { return };
        let request_id = REQUEST_ID.try_with(Clone::clone);
        let request_id = request_id.as_deref().unwrap_or("-");
        let status = self.kind.status();
        let level = if status.is_server_error() { log::Level::Error } else { log::Level::Warn };
        log::log!(target: "salebell::error", level, "request.id" = request_id, status = status.as_u16();
            "request failed: {}", chain(source.as_ref()));
    }

    /// The problem document, used both as a whole response and for a refused item within one. Text and fields that it
    /// repeats from the request are truncated, which keeps the response from growing with the request.
    pub fn problem(&self) -> Problem {
        let (slug, title) = self.kind.slug_and_title();
        let errors = self.errors.iter().take(MAX_ERRORS);
        let errors = errors.map(|FieldError { pointer, detail }| FieldError {
            pointer: brief(pointer, MAX_TEXT),
            detail: brief(detail, MAX_TEXT),
        });
        Problem {
            r#type: format!("/problems/{slug}"),
            title: title.to_owned(),
            status: self.kind.status().as_u16(),
            detail: brief(&self.detail, MAX_TEXT),
            instance: REQUEST_ID.try_with(Clone::clone).ok(),
            errors: errors.collect(),
        }
    }
}

/// Maximum number of characters of each text of a problem document.
const MAX_TEXT: usize = 500;
/// Maximum number of invalid fields that a problem document lists.
const MAX_ERRORS: usize = 100;

/// The text, truncated to `most` characters.
pub fn brief(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A problem document (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "type": "/problems/invalid",
    "title": "Invalid fields",
    "status": 422,
    "detail": "rule/price_at_most/amount has more than the 2 decimal places of EUR",
    "instance": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    "errors": [{
        "pointer": "/rule/price_at_most/amount",
        "detail": "has more than the 2 decimal places of EUR",
    }],
}))]
pub struct Problem {
    /// The kind of the refusal.
    #[schema(schema_with = problem_type)]
    pub r#type: String,
    /// The kind as a text.
    #[schema(example = "Invalid fields")]
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// A sentence about this case.
    #[schema(example = "rule/price_at_most/amount has more than the 2 decimal places of EUR")]
    pub detail: String,
    /// The request id.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The invalid fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// Schema of `Problem::type`: the types of all kinds.
fn problem_type() -> Object {
    let types = Kind::ALL.iter().map(|kind| format!("/problems/{}", kind.slug()));
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(types)).build()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// An error and its sources in one line, for the log and the terminal.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        // Some errors repeat the text of their cause.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}
