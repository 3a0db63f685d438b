//! Headers and answers of uploads and downloads in the OpenAPI document. The handlers' types do not show them, because
//! they depend on the protocol of each request.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::response::{Response, ResponseBuilder, ResponsesBuilder};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{Content, Ref, RefOr};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

use super::header_fields::{
    ACCEPT_PATCH, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_DIGEST, CONTENT_DISPOSITION, CONTENT_RANGE,
    HeaderField, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
    LOCATION_OF_BYTES, RANGE, REPR_DIGEST, TRAILER, TUS_CHECKSUM_ALGORITHM, TUS_EXTENSION, TUS_MAX_SIZE,
    TUS_RESUMABLE, TUS_VERSION, UPLOAD_CHECKSUM, UPLOAD_COMPLETE, UPLOAD_CONCAT, UPLOAD_DEFER_LENGTH,
    UPLOAD_DRAFT_INTEROP_VERSION, UPLOAD_EXPIRES, UPLOAD_LENGTH, UPLOAD_LIMIT, UPLOAD_METADATA,
    UPLOAD_OFFSET, X_HTTP_METHOD_OVERRIDE, count_schema,
};
use super::response::FileResponse;
use crate::error::Problem;
use crate::http::openapi::shared::{self, FileBytes};

/// Headers of answers by the draft.
const OF_DRAFT: [HeaderField; 5] =
    [CACHE_CONTROL, UPLOAD_COMPLETE, UPLOAD_LENGTH, UPLOAD_LIMIT, UPLOAD_OFFSET];
/// Headers of refusals by the draft.
const OF_DRAFT_REFUSALS: [HeaderField; 2] = [UPLOAD_COMPLETE, UPLOAD_LIMIT];
/// Headers of refusals by tus or the draft.
const OF_REFUSALS: [HeaderField; 3] = [TUS_RESUMABLE, UPLOAD_COMPLETE, UPLOAD_LIMIT];
/// Headers of the refusal of another offset.
const OF_OTHER_OFFSET: [HeaderField; 4] = [TUS_RESUMABLE, UPLOAD_COMPLETE, UPLOAD_LIMIT, UPLOAD_OFFSET];
/// Headers of answers with bytes of a file.
const OF_BYTES: [HeaderField; 5] =
    [ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, LAST_MODIFIED, REPR_DIGEST];

/// Description of the refusal of another offset.
const OTHER_OFFSET: &str = "The upload has another number of bytes than `Upload-Offset` states; the answer \
    has the right one, unless another request has taken over the upload.";

/// A problem type that the draft defines, as `ietf_draft` writes it.
struct DraftProblem {
    name: &'static str,
    title: &'static str,
    status: u16,
    /// Whether its documents contain the offsets of the upload and of the request.
    has_offsets: bool,
}

const COMPLETED: DraftProblem = DraftProblem {
    name: "completed-upload",
    title: "upload is already completed",
    status: 400,
    has_offsets: false,
};
const INCONSISTENT_LENGTH: DraftProblem = DraftProblem {
    name: "inconsistent-upload-length",
    title: "inconsistent length values for upload",
    status: 400,
    has_offsets: false,
};
const MISMATCHING_OFFSET: DraftProblem = DraftProblem {
    name: "mismatching-upload-offset",
    title: "offset from request does not match offset of resource",
    status: 409,
    has_offsets: true,
};

impl DraftProblem {
    fn address(&self) -> String {
        format!("https://iana.org/assignments/http-problem-types#{}", self.name)
    }

    fn example(&self) -> Value {
        let mut document = json!({
            "type": self.address(),
            "title": self.title,
            "status": self.status,
            "instance": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
        });
        if self.has_offsets {
            document["expected-offset"] = json!(65_536);
            document["provided-offset"] = json!(0);
        }
        document
    }
}

macro_rules! request_headers {
    ($($(#[$doc:meta])* $name:ident: [$($header:ident),+];)+) => {$(
        $(#[$doc])*
        pub struct $name;

        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                [$($header),+].map(HeaderField::parameter).into()
            }
        }
    )+};
}

request_headers! {
    /// Headers of `POST /v1/files`.
    CreationHeaders: [
        TUS_RESUMABLE, UPLOAD_LENGTH, UPLOAD_DEFER_LENGTH, UPLOAD_METADATA, UPLOAD_CONCAT, UPLOAD_CHECKSUM,
        UPLOAD_COMPLETE, UPLOAD_DRAFT_INTEROP_VERSION, CONTENT_DISPOSITION, CONTENT_DIGEST, REPR_DIGEST,
        TRAILER
    ];
    /// Headers of `PUT /v1/files/{id}`.
    NamedCreationHeaders: [
        UPLOAD_COMPLETE, UPLOAD_LENGTH, UPLOAD_METADATA, UPLOAD_DRAFT_INTEROP_VERSION, CONTENT_DIGEST,
        REPR_DIGEST, TRAILER
    ];
    /// Headers of `HEAD /v1/files/{id}`.
    OffsetHeaders: [TUS_RESUMABLE];
    /// Headers of `PATCH /v1/files/{id}`.
    PatchHeaders: [
        TUS_RESUMABLE, UPLOAD_OFFSET, UPLOAD_LENGTH, UPLOAD_CHECKSUM, UPLOAD_COMPLETE,
        UPLOAD_DRAFT_INTEROP_VERSION, CONTENT_DIGEST, TRAILER, IF_MATCH
    ];
    /// Headers of `DELETE /v1/files/{id}`.
    RemovalHeaders: [TUS_RESUMABLE, IF_MATCH];
    /// Headers of `POST /v1/files/{id}`.
    OverrideHeaders: [
        X_HTTP_METHOD_OVERRIDE, TUS_RESUMABLE, UPLOAD_OFFSET, UPLOAD_LENGTH, UPLOAD_CHECKSUM, CONTENT_DIGEST,
        TRAILER
    ];
    /// Headers of downloads.
    DownloadHeaders: [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
}

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident: $answers:ident;)+) => {$(
        $(#[$doc])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                $answers().build().into()
            }
        }
    )+};
}

answers! {
    /// Answers to `OPTIONS` of files.
    OptionsAnswers: options;
    /// Answers to `POST /v1/files`.
    CreationAnswers: creation;
    /// Answers to `PUT /v1/files/{id}`.
    NamedCreationAnswers: named_creation;
    /// Answers to `GET /v1/files/{id}`.
    FileAnswers: file;
    /// Answers to `HEAD /v1/files/{id}`.
    OffsetAnswers: offset;
    /// Answers to `PATCH /v1/files/{id}`.
    PatchAnswers: patch;
    /// Answers to `DELETE /v1/files/{id}`.
    RemovalAnswers: removal;
    /// Answers to `POST /v1/files/{id}`.
    OverrideAnswers: overridden;
    /// Answers to downloads.
    DownloadAnswers: download;
}

fn options() -> ResponsesBuilder {
    let headers = [
        TUS_RESUMABLE,
        TUS_VERSION,
        TUS_EXTENSION,
        TUS_MAX_SIZE,
        TUS_CHECKSUM_ALGORITHM,
        UPLOAD_LIMIT,
        ACCEPT_PATCH,
    ];
    ResponsesBuilder::new().response("204", answer("The capabilities, in headers.", &headers, &[]))
}

fn creation() -> ResponsesBuilder {
    let of_both = [&[TUS_RESUMABLE, UPLOAD_EXPIRES], &OF_DRAFT[..]].concat();
    let created = "The file was created. The body is the file once it is complete; by tus there is no body.";
    let other_type = "The body is a multipart form, or by tus not `application/offset+octet-stream`.";
    let invalid = "`expires_in` is out of range, `Upload-Concat` names a file that is not a complete part of \
        the caller's, or the `Idempotency-Key` was used for another request.";
    creations(&OF_REFUSALS)
        .response("201", perhaps_with_file(answer(created, &of_both, &["Location"])))
        .response("412", refused_version())
        .response("415", refusal(other_type, &OF_REFUSALS, &[]))
        .response("422", refusal(invalid, &OF_REFUSALS, &[]))
        .response("460", refused_checksum())
}

fn named_creation() -> ResponsesBuilder {
    let created = "The file was created. The body is the file once it is complete.";
    creations(&OF_DRAFT_REFUSALS)
        .response("201", perhaps_with_file(answer(created, &OF_DRAFT, &["Location"])))
        .response("415", refusal("The body is a multipart form.", &[], &[]))
        .response("422", refusal("`expires_in` is out of range.", &OF_DRAFT_REFUSALS, &[]))
}

/// Refusals of requests that create a file. By their protocols, refusals have these headers.
fn creations(headers: &[HeaderField]) -> ResponsesBuilder {
    let unreadable = "A header or a parameter is malformed, lengths contradict each other, or the body broke \
        off or differs from its digest. If bytes by the draft were kept, `Location` is their upload.";
    let taken = "Another request has taken over the upload or deleted it, or the first request with this \
        `Idempotency-Key` is in flight.";
    refusals_of_bytes(headers)
        .response("400", draft_refusal(unreadable, &[INCONSISTENT_LENGTH], headers, &["Location"]))
        .response("404", refusal("Another request has deleted the upload.", headers, &["Location"]))
        .response("409", draft_refusal(taken, &[MISMATCHING_OFFSET], headers, &["Location", "Retry-After"]))
}

fn file() -> ResponsesBuilder {
    let current = "The current version. Until the file is complete, headers report the state of its upload.";
    ResponsesBuilder::new().response("200", with_file(answer(current, &OF_DRAFT, &["ETag"])))
}

fn offset() -> ResponsesBuilder {
    ResponsesBuilder::new()
        .response("200", offset_by_tus())
        .response("204", answer("The state of the upload by the draft.", &OF_DRAFT, &[]))
        .response("412", refused_version())
        .response("423", refused_turn())
}

fn offset_by_tus() -> ResponseBuilder {
    let headers = [
        CACHE_CONTROL,
        TUS_RESUMABLE,
        UPLOAD_CONCAT,
        UPLOAD_DEFER_LENGTH,
        UPLOAD_EXPIRES,
        UPLOAD_LENGTH,
        UPLOAD_METADATA,
        UPLOAD_OFFSET,
    ];
    let description = "The state of the upload by tus. A concatenation in progress has no offset.";
    answer(description, &headers, &[])
}

fn patch() -> ResponsesBuilder {
    let of_both = [&[TUS_RESUMABLE, UPLOAD_EXPIRES], &OF_DRAFT[..]].concat();
    let changed = "The file, which the bytes have completed or the merge patch has changed.";
    let unreadable = "A header is missing or malformed, lengths contradict each other, the upload was \
        complete before, or the body broke off, differs from its digest, or is not JSON.";
    let problems = [INCONSISTENT_LENGTH, COMPLETED];
    let other_type = "The body has none of the media types, or is compressed JSON.";
    let invalid = "`Upload-Length` is not the known length, or fields of the merge patch are invalid.";
    appended(&OF_REFUSALS)
        .response("200", with_file(answer(changed, &OF_DRAFT, &["ETag", "Location"])))
        .response("204", answer("The bytes were added.", &of_both, &["Location"]))
        .response("400", draft_refusal(unreadable, &problems, &OF_REFUSALS, &[]))
        .response("409", draft_refusal(OTHER_OFFSET, &[MISMATCHING_OFFSET], &OF_OTHER_OFFSET, &[]))
        .response("412", refused_version_or_condition())
        .response("415", refusal(other_type, &[ACCEPT_PATCH, TUS_RESUMABLE], &[]))
        .response("422", refusal(invalid, &OF_REFUSALS, &[]))
}

fn removal() -> ResponsesBuilder {
    ResponsesBuilder::new()
        .response("204", answer("The file was deleted.", &[TUS_RESUMABLE], &[]))
        .response("412", refused_version_or_condition())
}

fn overridden() -> ResponsesBuilder {
    let done = "The bytes were added, or the file was deleted.";
    let unreadable = "A header is missing or malformed, or the body broke off or differs from its digest.";
    let other_method = "`X-HTTP-Method-Override` is missing, or names another method.";
    let other_type = "The body is not `application/offset+octet-stream`.";
    let invalid = "`Upload-Length` is not the known length, or the `Idempotency-Key` was used for another \
        request.";
    let of_done = [TUS_RESUMABLE, UPLOAD_EXPIRES, UPLOAD_OFFSET];
    appended(&[TUS_RESUMABLE])
        .response("200", offset_by_tus())
        .response("204", answer(done, &of_done, &[]))
        .response("400", refusal(unreadable, &[TUS_RESUMABLE], &[]))
        .response("405", refusal(other_method, &[ALLOW], &[]))
        .response("409", refusal(OTHER_OFFSET, &[TUS_RESUMABLE, UPLOAD_OFFSET], &["Retry-After"]))
        .response("412", refused_version())
        .response("415", refusal(other_type, &[TUS_RESUMABLE], &[]))
        .response("422", refusal(invalid, &[TUS_RESUMABLE], &[]))
}

/// Refusals of requests that append bytes. By their protocols, refusals have these headers.
fn appended(headers: &[HeaderField]) -> ResponsesBuilder {
    let forbidden = "The file is a concatenation of others, or another site made a browser send the request.";
    refusals_of_bytes(headers)
        .response("403", refusal(forbidden, headers, &[]))
        .response("423", refused_turn())
        .response("460", refused_checksum())
}

/// Refusals of all requests that bring bytes.
fn refusals_of_bytes(headers: &[HeaderField]) -> ResponsesBuilder {
    let too_large = "The file is too large, the account has no room for it, or the body exceeds its length.";
    let full = "There is not enough space for the bytes; those that were acknowledged are kept.";
    ResponsesBuilder::new()
        .response("413", refusal(too_large, headers, &[]))
        .response("507", refusal(full, headers, &["Location", "Retry-After"]))
}

fn refused_version() -> ResponseBuilder {
    refusal("`Tus-Resumable` is not 1.0.0.", &[TUS_RESUMABLE, TUS_VERSION], &[])
}

fn refused_version_or_condition() -> ResponseBuilder {
    let description = "`If-Match` does not name the current version, or `Tus-Resumable` is not 1.0.0.";
    refusal(description, &[TUS_RESUMABLE, TUS_VERSION], &[])
}

fn refused_checksum() -> ResponseBuilder {
    refusal("The body differs from its `Upload-Checksum`; none of it was kept.", &[TUS_RESUMABLE], &[])
}

fn refused_turn() -> ResponseBuilder {
    refusal("Another request is still writing to the upload.", &OF_REFUSALS, &["Retry-After"])
}

fn download() -> ResponsesBuilder {
    let of_part = [&[CONTENT_RANGE], &OF_BYTES[..]].concat();
    let of_unchanged = [ACCEPT_RANGES, CACHE_CONTROL, LAST_MODIFIED, REPR_DIGEST];
    let elsewhere = "The object store has the bytes: the same range can be requested there without a token.";
    let changed = "The current version does not meet `If-Match` or `If-Unmodified-Since`.";
    ResponsesBuilder::new()
        .response("200", with_bytes(answer("The whole file.", &OF_BYTES, &["ETag"])))
        .response("206", with_bytes(answer("The requested range.", &of_part, &["ETag"])))
        .response("302", answer(elsewhere, &[LOCATION_OF_BYTES, CACHE_CONTROL], &[]))
        .response("304", answer("The caller has the current version.", &of_unchanged, &["ETag"]))
        .response("412", refusal(changed, &[], &[]))
        .response("416", refusal("The range is beyond the end of the file.", &[CONTENT_RANGE], &[]))
}

/// An answer without a body. Headers in `by_reference` are those that `shared` describes.
fn answer(description: &str, headers: &[HeaderField], by_reference: &[&str]) -> ResponseBuilder {
    with_headers(ResponseBuilder::new().description(description), headers, by_reference)
}

/// A problem document.
fn refusal(description: &str, headers: &[HeaderField], by_reference: &[&str]) -> ResponseBuilder {
    let content = Content::new(Some(Ref::from_schema_name(Problem::name())));
    answer(description, headers, by_reference).content("application/problem+json", content)
}

/// A problem document, perhaps of one of these types of the draft.
fn draft_refusal(
    description: &str,
    types: &[DraftProblem],
    headers: &[HeaderField],
    by_reference: &[&str],
) -> ResponseBuilder {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let names = types.iter().map(|one| one.address());
    let status = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(400)).maximum(Some(499));
    let mut of_draft = ObjectBuilder::new()
        .description(Some("A problem that the draft defines."))
        .property("type", text().enum_values(Some(names)))
        .required("type")
        .property("title", text())
        .required("title")
        .property("status", status)
        .required("status")
        .property("instance", text().description(Some("The request id.")))
        .required("instance");
    if types.iter().any(|one| one.has_offsets) {
        of_draft = of_draft
            .property("expected-offset", count_schema().description(Some("Number of bytes of the upload.")))
            .required("expected-offset")
            .property("provided-offset", count_schema().description(Some("Offset in the request.")))
            .required("provided-offset");
    }
    let either = OneOfBuilder::new().item(Ref::from_schema_name(Problem::name())).item(of_draft);
    let example = types.first().map(DraftProblem::example);
    let content = Content::builder().schema(Some(either)).example(example).build();
    answer(description, headers, by_reference).content("application/problem+json", content)
}

fn with_headers(answer: ResponseBuilder, headers: &[HeaderField], by_reference: &[&str]) -> ResponseBuilder {
    let answer = headers.iter().fold(answer, |answer, header| answer.header(header.name, header.header()));
    by_reference.iter().fold(answer, |answer, name| answer.header_ref(*name, shared::header(name)))
}

fn with_file(answer: ResponseBuilder) -> ResponseBuilder {
    answer.content("application/json", Content::new(Some(Ref::from_schema_name(FileResponse::name()))))
}

/// Adds a file as the body, or no body, for which OpenAPI has no keyword.
fn perhaps_with_file(answer: ResponseBuilder) -> ResponseBuilder {
    let extensions = ExtensionsBuilder::new().add("x-body-optional", true).build();
    with_file(answer).extensions(Some(extensions))
}

/// Adds bytes of a file, which has a media type of its own.
fn with_bytes(answer: ResponseBuilder) -> ResponseBuilder {
    let bytes = || Content::new(Some(FileBytes::schema()));
    answer.content("application/octet-stream", bytes()).content("*/*", bytes())
}
