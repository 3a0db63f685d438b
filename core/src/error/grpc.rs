//! Errors as gRPC statuses.

use tonic::{Code, Status};

use super::{Error, Kind};

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

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        error.log_source();
        Status::new(error.kind.code(), error.detail)
    }
}
