//! Headers of uploads and downloads, as the OpenAPI document describes them.

use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};

/// Type of the value of a header.
#[derive(Clone, Copy)]
enum ValueType {
    /// A text like this example.
    Text(&'static str),
    /// An integer of 0 or more.
    Count,
    /// One of these words.
    Words(&'static [&'static str]),
}

/// A header of requests, of answers, or of both.
#[derive(Clone, Copy)]
pub struct HeaderField {
    pub name: &'static str,
    value: ValueType,
    description: &'static str,
}

impl HeaderField {
    fn schema(self) -> ObjectBuilder {
        match self.value {
            ValueType::Text(_) => ObjectBuilder::new().schema_type(Type::String),
            ValueType::Count => count_schema(),
            ValueType::Words(words) => {
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.iter().copied()))
            }
        }
    }

    fn example(self) -> Option<Value> {
        match self.value {
            ValueType::Text(example) => Some(json!(example)),
            ValueType::Count | ValueType::Words(_) => None,
        }
    }

    /// The header as an optional parameter of requests.
    pub fn parameter(self) -> Parameter {
        ParameterBuilder::new()
            .name(self.name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(self.description))
            .schema(Some(self.schema()))
            .example(self.example())
            .build()
    }

    /// The header of an answer.
    pub fn header(self) -> Header {
        HeaderBuilder::new()
            .description(Some(self.description))
            .schema(Some(self.schema()))
            .example(self.example())
            .build()
    }
}

/// Schema of an integer of 0 or more.
pub fn count_schema() -> ObjectBuilder {
    let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
    ObjectBuilder::new().schema_type(Type::Integer).format(Some(format)).minimum(Some(0))
}

const fn text(name: &'static str, example: &'static str, description: &'static str) -> HeaderField {
    HeaderField { name, value: ValueType::Text(example), description }
}

const fn count(name: &'static str, description: &'static str) -> HeaderField {
    HeaderField { name, value: ValueType::Count, description }
}

const fn words(name: &'static str, words: &'static [&'static str], description: &'static str) -> HeaderField {
    HeaderField { name, value: ValueType::Words(words), description }
}

// Uploads by tus.
pub const TUS_RESUMABLE: HeaderField =
    words("Tus-Resumable", &["1.0.0"], "Version of tus, in its requests and their answers.");
pub const TUS_VERSION: HeaderField = words("Tus-Version", &["1.0.0"], "Supported version of tus.");
pub const TUS_EXTENSION: HeaderField = text(
    "Tus-Extension",
    "creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,termination,\
     concatenation",
    "Supported extensions of tus.",
);
pub const TUS_MAX_SIZE: HeaderField = count("Tus-Max-Size", "Size of the largest file in bytes.");
pub const TUS_CHECKSUM_ALGORITHM: HeaderField =
    text("Tus-Checksum-Algorithm", "sha1,sha256", "Algorithms of `Upload-Checksum`.");
pub const UPLOAD_CHECKSUM: HeaderField = text(
    "Upload-Checksum",
    "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
    "Checksum of the body by tus, in `sha1` or `sha256`: 460 if the body differs. It may be a trailer.",
);
pub const UPLOAD_CONCAT: HeaderField = text(
    "Upload-Concat",
    "final;/v1/files/01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b /v1/files/01a0b6f2-4444-7d3e-8a4b-1c2d3e4f5a6b",
    "`partial` for a part of a concatenation by tus; `final;` and the URLs of at most 1000 parts for their \
     concatenation.",
);
pub const UPLOAD_DEFER_LENGTH: HeaderField =
    words("Upload-Defer-Length", &["1"], "The length of the file is not known yet (tus).");
pub const UPLOAD_EXPIRES: HeaderField = text(
    "Upload-Expires",
    "Mon, 30 Nov 2026 10:00:00 GMT",
    "Time at which an upload by tus is deleted, unless more bytes arrive.",
);
pub const X_HTTP_METHOD_OVERRIDE: HeaderField =
    words("X-HTTP-Method-Override", &["PATCH", "DELETE", "HEAD"], "Method that the request stands for.");

// Uploads by tus and by the draft.
pub const UPLOAD_LENGTH: HeaderField = count("Upload-Length", "Length of the whole file in bytes.");
pub const UPLOAD_METADATA: HeaderField = text(
    "Upload-Metadata",
    "filename ZmVlZC5jc3Y=,filetype dGV4dC9jc3Y=",
    "Keys with values in base64: `filename` or `name`, and `filetype` or `type`. At most 32 keys and 8 KiB.",
);
pub const UPLOAD_OFFSET: HeaderField =
    count("Upload-Offset", "Number of bytes that the upload has: the offset at which the next body begins.");

// Uploads by the draft.
pub const UPLOAD_COMPLETE: HeaderField = words(
    "Upload-Complete",
    &["?0", "?1"],
    "In a request by the draft, whether its body ends the file; in an answer, whether it has ended.",
);
pub const UPLOAD_DRAFT_INTEROP_VERSION: HeaderField = count(
    "Upload-Draft-Interop-Version",
    "Interop version of the draft. Below 8, an upload of known length is complete with its last byte.",
);
pub const UPLOAD_LIMIT: HeaderField = text(
    "Upload-Limit",
    "max-size=6442450944, max-age=86400",
    "Size of the largest file, and seconds after which an upload is deleted if no bytes arrive.",
);

// Digests and properties of a file.
pub const CONTENT_DIGEST: HeaderField = text(
    "Content-Digest",
    "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    "SHA-256 or SHA-512 of the body (RFC 9530): 400 if the body differs. It may be a trailer.",
);
pub const CONTENT_DISPOSITION: HeaderField = text(
    "Content-Disposition",
    "attachment; filename=\"feed.csv\"; filename*=UTF-8''feed.csv",
    "Name of the file (RFC 6266).",
);
pub const REPR_DIGEST: HeaderField = text(
    "Repr-Digest",
    "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    "SHA-256 of the whole file (RFC 9530). A request whose body is the whole file may state it too, also as \
     SHA-512 or as a trailer: 400 if the body differs.",
);
pub const TRAILER: HeaderField = text("Trailer", "Content-Digest", "Names of the trailers after the body.");

// Conditions and ranges.
pub const IF_MATCH: HeaderField =
    text("If-Match", "\"2jmj7l5rSw0yVb_vlWAYkA\"", "Entity tags: 412 if the current version has another.");
pub const IF_MODIFIED_SINCE: HeaderField = text(
    "If-Modified-Since",
    "Mon, 30 Nov 2026 10:00:00 GMT",
    "Time: 304 if the file is not younger. `If-None-Match` takes precedence.",
);
pub const IF_NONE_MATCH: HeaderField = text(
    "If-None-Match",
    "\"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\"",
    "Entity tags of versions that the caller has: 304 if one is current.",
);
pub const IF_RANGE: HeaderField = text(
    "If-Range",
    "\"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\"",
    "Entity tag or time of a version: if another is current, the whole file is returned.",
);
pub const IF_UNMODIFIED_SINCE: HeaderField = text(
    "If-Unmodified-Since",
    "Mon, 30 Nov 2026 10:00:00 GMT",
    "Time: 412 if the file is younger. `If-Match` takes precedence.",
);
pub const RANGE: HeaderField = text(
    "Range",
    "bytes=0-1023",
    "One range of bytes; the whole file is returned for several ranges, or for one that cannot be read.",
);

// Answers.
pub const ACCEPT_PATCH: HeaderField = text(
    "Accept-Patch",
    "application/offset+octet-stream, application/partial-upload, application/merge-patch+json",
    "Media types of the body of a PATCH.",
);
pub const ACCEPT_RANGES: HeaderField = words("Accept-Ranges", &["bytes"], "Unit of ranges.");
pub const ALLOW: HeaderField = text("Allow", "GET,HEAD,OPTIONS,PATCH,DELETE,PUT", "Supported methods.");
pub const CACHE_CONTROL: HeaderField =
    text("Cache-Control", "no-store", "Whether caches may store the answer.");
pub const CONTENT_RANGE: HeaderField =
    text("Content-Range", "bytes 0-1023/146515", "Range of the body, and length of the file.");
pub const LAST_MODIFIED: HeaderField =
    text("Last-Modified", "Mon, 30 Nov 2026 10:00:00 GMT", "Time at which the file was completed.");
pub const LOCATION_OF_BYTES: HeaderField = text(
    "Location",
    "https://files.example.s3.eu-central-1.amazonaws.com/01a0b6f2?X-Amz-Signature=5d672d79",
    "Signed URL of the bytes, which is valid for a short time.",
);
