//! One error for everything that a caller can be told, as RFC 9457 `application/problem+json` or as a status of gRPC.

pub mod connection;

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tonic::Code;

tokio::task_local! {
    /// The id of the request that this task answers; `http::request_id` sets it.
    pub static REQUEST_ID: String;
}

/// What kind of refusal it is. Each has a stable `type` under `/problems/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be read: broken JSON, a bad parameter, a cursor that is none.
    Malformed,
    /// No token, or one that is not valid.
    Unauthenticated,
    /// The token lacks a scope.
    Forbidden,
    /// There is no such thing, or it is somebody else's.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    Timeout,
    /// It clashes with what is there.
    Conflict,
    /// Somebody else is at it, and does not end.
    Locked,
    /// `If-Match` does not match.
    PreconditionFailed,
    /// The body is larger than what is taken.
    TooLarge,
    /// The account has no room left.
    QuotaExceeded,
    /// The address is longer than what is taken.
    UriTooLong,
    /// The headers are larger than what is taken.
    HeadersTooLarge,
    /// The body is of a type that is not taken.
    UnsupportedMediaType,
    /// The file has no such bytes.
    RangeNotSatisfiable,
    /// The bytes that came are not those that were sent, by the checksum of tus.
    ChecksumMismatch,
    /// The same by a digest of HTTP.
    DigestMismatch,
    /// It can be read, but fields are wrong; `errors` tells which.
    Invalid,
    /// Too many requests.
    TooManyRequests,
    /// Our fault. The log has the reason under the request id.
    Internal,
    /// Something that we stand on is away for now.
    Unavailable,
    /// There is no room for the bytes for now.
    InsufficientStorage,
}

impl Kind {
    /// Every kind, by the order of their statuses.
    pub const ALL: [Kind; 22] = [
        Kind::Malformed,
        Kind::DigestMismatch,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::Timeout,
        Kind::Conflict,
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

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Kind::Malformed => StatusCode::BAD_REQUEST,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Timeout => StatusCode::REQUEST_TIMEOUT,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Locked => StatusCode::LOCKED,
            Kind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::QuotaExceeded => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::UriTooLong => StatusCode::URI_TOO_LONG,
            Kind::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            // Of tus; HTTP has none for it.
            Kind::ChecksumMismatch => StatusCode::from_u16(460).unwrap_or(StatusCode::BAD_REQUEST),
            Kind::DigestMismatch => StatusCode::BAD_REQUEST,
            Kind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// The code of gRPC: <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
    pub fn code(self) -> Code {
        match self {
            Kind::Malformed | Kind::Invalid => Code::InvalidArgument,
            Kind::UriTooLong | Kind::HeadersTooLarge | Kind::UnsupportedMediaType => Code::InvalidArgument,
            Kind::Unauthenticated => Code::Unauthenticated,
            Kind::Forbidden => Code::PermissionDenied,
            Kind::NotFound => Code::NotFound,
            Kind::MethodNotAllowed => Code::Unimplemented,
            Kind::Timeout => Code::DeadlineExceeded,
            // Read it again, and try with that.
            Kind::Conflict | Kind::Locked | Kind::PreconditionFailed => Code::Aborted,
            Kind::RangeNotSatisfiable => Code::OutOfRange,
            Kind::ChecksumMismatch | Kind::DigestMismatch => Code::DataLoss,
            Kind::TooLarge | Kind::QuotaExceeded | Kind::TooManyRequests | Kind::InsufficientStorage => {
                Code::ResourceExhausted
            }
            Kind::Internal => Code::Internal,
            Kind::Unavailable => Code::Unavailable,
        }
    }

    fn slug_and_title(self) -> (&'static str, &'static str) {
        match self {
            Kind::Malformed => ("malformed", "The request cannot be read"),
            Kind::Unauthenticated => ("unauthenticated", "A valid token is needed"),
            Kind::Forbidden => ("forbidden", "The token may not do this"),
            Kind::NotFound => ("not-found", "There is no such thing"),
            Kind::MethodNotAllowed => ("method-not-allowed", "The path has no such method"),
            Kind::Timeout => ("timeout", "The request did not arrive in time"),
            Kind::Conflict => ("conflict", "It clashes with what is there"),
            Kind::Locked => ("locked", "Somebody else is at it"),
            Kind::PreconditionFailed => ("precondition-failed", "It has changed since it was read"),
            Kind::TooLarge => ("too-large", "The body is too large"),
            Kind::QuotaExceeded => ("quota-exceeded", "The account has no room left"),
            Kind::UriTooLong => ("uri-too-long", "The address is too long"),
            Kind::HeadersTooLarge => ("headers-too-large", "The headers are too large"),
            Kind::UnsupportedMediaType => ("unsupported-media-type", "The body's type is not taken here"),
            Kind::RangeNotSatisfiable => ("range-not-satisfiable", "There are no such bytes"),
            Kind::ChecksumMismatch => ("checksum-mismatch", "The bytes are not those that were sent"),
            Kind::DigestMismatch => ("digest-mismatch", "The bytes are not those of their digest"),
            Kind::Invalid => ("invalid", "Fields are wrong"),
            Kind::TooManyRequests => ("too-many-requests", "Too many requests"),
            Kind::Internal => ("internal", "Something went wrong on our side"),
            Kind::Unavailable => ("unavailable", "Not available for the moment"),
            Kind::InsufficientStorage => ("insufficient-storage", "There is no room for the moment"),
        }
    }
}

/// One wrong field: a JSON pointer (RFC 6901) into the body, or the name of a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    pub pointer: String,
    pub detail: String,
}

/// A refusal. `Display` says what a caller may know; the source is for the log alone.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    /// A sentence for people about this very case.
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// Seconds after which it is worth another try.
    pub retry_after_s: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Error { kind, detail: detail.into(), errors: Vec::new(), retry_after_s: None, source: None }
    }

    pub fn not_found(what: &str) -> Self {
        Error::new(Kind::NotFound, format!("There is no such {what}, or it is not yours."))
    }

    pub fn malformed(detail: impl Into<String>) -> Self {
        Error::new(Kind::Malformed, detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Error::new(Kind::Conflict, detail)
    }

    /// One wrong field of a body; `pointer` such as `/rule/price_at_most`.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Error::invalid_fields(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// Several wrong fields of a body.
    pub fn invalid_fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.pointer.is_empty() => one.detail.clone(),
            [one] => format!("{} {}", one.pointer.trim_start_matches('/'), one.detail),
            many => format!("{} fields are wrong.", many.len()),
        };
        Error { errors, ..Error::new(Kind::Invalid, detail) }
    }

    /// Our fault: the caller hears nothing of `source`, the log everything.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let detail = "The request id leads to the reason in our log.";
        Error { source: Some(source.into()), ..Error::new(Kind::Internal, detail) }
    }

    /// Something that we stand on is away: 503 with `Retry-After`.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let detail = "Please try again in a moment.";
        Error { retry_after_s: Some(1), source: Some(source.into()), ..Error::new(Kind::Unavailable, detail) }
    }

    /// What the caller does not hear.
    fn log_source(&self) {
        let Some(source) = &self.source else { return };
        let request_id = REQUEST_ID.try_with(Clone::clone);
        let request_id = request_id.as_deref().unwrap_or("-");
        let status = self.kind.status();
        let level = if status.is_server_error() { log::Level::Error } else { log::Level::Warn };
        log::log!(target: "salebell::error", level, "request.id" = request_id, status = status.as_u16();
            "request failed: {}", chain(source.as_ref()));
    }

    /// The problem document, as it also stands for a refused item inside an answer. What it repeats of a request is cut
    /// off, so that an answer is not larger than its question.
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

/// The most characters of each text of a problem, and the most fields that it names.
const MAX_TEXT: usize = 500;
const MAX_ERRORS: usize = 100;

/// The beginning of a text, up to `most` characters.
pub fn brief(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// RFC 9457.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    pub r#type: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// The request id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
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

/// An error and its sources in one line, for the log and for people at a terminal.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        // Some say what their cause says.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.log_source();
        let problem = self.problem();
        let mut body = serde_json::to_vec(&problem).unwrap_or_default();
        // As all our JSON (`http::answer`).
        body.push(b'\n');
        let mut response = (self.kind.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"salebell\""));
        }
        response
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> tonic::Status {
        error.log_source();
        tonic::Status::new(error.kind.code(), error.detail)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_transient(&error) {
            return Error::unavailable(error);
        }
        match &error {
            _ if is_bad_data(&error) => {
                let detail = "A value of the request is out of range, or holds what cannot be kept.";
                Error { source: Some(error.into()), ..Error::malformed(detail) }
            }
            // It refuses our log-in: the password is being changed, or is wrong.
            sqlx::Error::Database(database)
                if matches!(database.code().as_deref(), Some("28P01" | "28000")) =>
            {
                Error::unavailable(error)
            }
            sqlx::Error::RowNotFound => Error::not_found("thing"),
            sqlx::Error::Database(database) => match database.constraint().and_then(on_constraint) {
                Some(refusal) => refusal,
                None => Error::internal(error),
            },
            _ => Error::internal(error),
        }
    }
}

/// What a caller hears when a constraint of the schema refuses a write.
fn on_constraint(name: &str) -> Option<Error> {
    Some(match name {
        "stores_slug_key" => Error::conflict("A store of this slug exists already."),
        "offers_store_sku_region_key" => {
            Error::conflict("This store has an offer of this sku and region already.")
        }
        "offers_store_id_fkey" => Error::invalid("/store", "is unknown"),
        "offers_game_id_fkey" | "watches_game_id_fkey" => Error::invalid("/game_id", "is unknown"),
        _ => return None,
    })
}

/// Whether PostgreSQL, or the driver before it, cannot take a value as it is. What is checked before never comes here, so
/// this is for what nobody has thought of, such as the values of a forged cursor; the log has it.
///
/// SQLSTATE class 22 without what only our own statements can do wrong (such as 22012, division by zero): text that is too
/// long, has a NUL or cannot be translated, numbers and times that are out of range or none. 23514: a check refuses it.
/// Class 54: it is too large for an index, or has too many parts.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub fn is_bad_data(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            code.starts_with("54")
                || matches!(
                    code.as_ref(),
                    "22001" | "22003" | "22007" | "22008" | "22009" | "22015" | "22021" | "22023" | "22026"
                )
                || matches!(code.as_ref(), "22030" | "22032" | "22P02" | "22P03" | "22P05" | "23514")
        }),
        _ => false,
    }
}

/// Whether the database is away, failing over or overloaded, so that the same again may succeed.
///
/// SQLSTATE classes: 08 connection, 53 resources, 57P0x shutdown and crash, 25006 a replica that was the writer,
/// 40001/40P01 serialisation and deadlock, 55P03/57014 time-outs.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            code.starts_with("08")
                || code.starts_with("53")
                || matches!(
                    code.as_ref(),
                    "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "40001" | "40P01" | "55P03" | "57014"
                )
        }),
        _ => false,
    }
}
