//! Errors as gRPC statuses, with details as google.rpc defines them
//! (<https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto>).

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::{Error, Kind, MAX_ERRORS, MAX_TEXT, REQUEST_ID, brief};

/// Domain of the reasons, which are those of problem documents.
const DOMAIN: &str = "salebell";
/// Maximum number of bytes of the details. They travel in a header, which clients limit to 8 KiB, as base64.
const MAX_DETAILS: usize = 4096;

impl Kind {
    /// The gRPC status code: <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
    pub fn code(self) -> Code {
        match self {
            Kind::Malformed | Kind::Invalid => Code::InvalidArgument,
            Kind::UriTooLong | Kind::HeadersTooLarge | Kind::UnsupportedMediaType => Code::InvalidArgument,
            Kind::Unauthenticated => Code::Unauthenticated,
            Kind::Forbidden => Code::PermissionDenied,
            Kind::NotFound => Code::NotFound,
            Kind::MethodNotAllowed | Kind::Gone => Code::Unimplemented,
            Kind::Timeout => Code::DeadlineExceeded,
            // `Aborted` asks the client to read the current state and retry with it.
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
}

/// Path of a field as gRPC writes it: `/observations/3/price` is `observations[3].price`. Names that are no JSON pointers,
/// such as those of parameters, stay as they are.
pub fn field_path(pointer: &str) -> String {
    let Some(parts) = pointer.strip_prefix('/') else { return pointer.to_owned() };
    let mut path = String::new();
    for part in parts.split('/') {
        let part = part.replace("~1", "/").replace("~0", "~");
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
        } else {
            path.push_str(if path.is_empty() { "" } else { "." });
            path.push_str(&part);
        }
    }
    path
}

impl Error {
    /// The details of the status; fields beyond a limit of bytes are left out.
    fn details(&self) -> ErrorDetails {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.kind.slug(), DOMAIN, HashMap::new());
        let mut left = MAX_DETAILS;
        let violations = self.errors.iter().take(MAX_ERRORS).map_while(|error| {
            let field = brief(&field_path(&error.pointer), MAX_TEXT);
            let description = brief(&error.detail, MAX_TEXT);
            left = left.checked_sub(field.len() + description.len())?;
            Some(FieldViolation::new(field, description))
        });
        let violations: Vec<FieldViolation> = violations.collect();
        if !violations.is_empty() {
            details.set_bad_request(violations);
        }
        if let Some(seconds) = self.retry_after_s {
            details.set_retry_info(Some(Duration::from_secs(seconds)));
        }
        if let Some(missing) = &self.missing {
            details.set_resource_info(missing.what.as_str(), missing.id.as_str(), "", "");
        }
        if let Ok(id) = REQUEST_ID.try_with(Clone::clone) {
            details.set_request_info(id, "");
        }
        details
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        error.log_source();
        let details = error.details();
        Status::with_error_details(error.kind.code(), brief(&error.detail, MAX_TEXT), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FieldError;

    #[test]
    fn a_field_is_named_as_grpc_does() {
        for (pointer, path) in [
            ("/price", "price"),
            ("/observations/3/price", "observations[3].price"),
            ("/rule/price_at_most/amount", "rule.price_at_most.amount"),
            ("/a~1b/~01", "a/b.~1"),
            ("store", "store"),
            ("Idempotency-Key", "Idempotency-Key"),
        ] {
            assert_eq!(field_path(pointer), path);
        }
    }

    #[test]
    fn a_status_has_the_details_of_its_error() {
        let mut error = Error::invalid("/observations/3/price", "is required");
        error.retry_after_s = Some(7);
        let details = Status::from(error).get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("invalid", "salebell"));
        let field = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(
            (field.field.as_str(), field.description.as_str()),
            ("observations[3].price", "is required")
        );
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(7)));
        assert!(details.resource_info().is_none() && details.request_info().is_none());
        let missing = Status::from(Error::not_found("game").about("7")).get_error_details();
        let resource = missing.resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("game", "7"));
        assert!(missing.bad_request().is_none() && missing.retry_info().is_none());
    }

    #[test]
    fn details_stay_below_the_limit_of_headers() {
        let field = |at| FieldError { pointer: format!("/a/{at}"), detail: "x".repeat(1_000) };
        let status = Status::from(Error::invalid_fields((0..100).map(field).collect()));
        assert!(status.details().len() < 6_000, "{}", status.details().len());
        assert!(!status.get_error_details().bad_request().unwrap().field_violations.is_empty());
    }
}
