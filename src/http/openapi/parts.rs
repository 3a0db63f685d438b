//! What each extractor and each answer adds to an operation.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use utoipa::openapi::Required;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::outline::{Describe, Outline};
use super::shared::path_parameter;
use crate::auth::Caller;
use crate::error::Result;
use crate::http::answer::{Created, JsonAnswer, OrExisting, Renewed, ShownOnce, Tagged};
use crate::http::extract::body::{Id, Json, Params, Reference};
use crate::http::extract::caller::KnownCaller;
use crate::http::extract::conditional::{IfMatch, IfNoneMatch};
use crate::http::extract::page::{DEFAULT_LIMIT, MAX_LIMIT, Paging};
use crate::telemetry::trace_context::TraceContext;

/// Parts that the document cannot derive anything from: the handler's attribute states what it reads or sends.
macro_rules! silent {
    ($([$($generic:ident)?] $part:ty,)+) => {$(
        impl<$($generic)?> Describe for $part {
            fn describe(_: &mut Outline) {}
        }
    )+};
}
silent!(
    [T] State<T>, [T] Extension<T>, [] HeaderMap, [] Method, [] Request, [] Response, [] TraceContext, [] Uri,
);

impl<T, E> Describe for std::result::Result<axum::extract::Path<T>, E> {
    fn describe(outline: &mut Outline) {
        outline.refuse(&[StatusCode::NOT_FOUND]);
    }
}

impl Describe for Caller {
    fn describe(outline: &mut Outline) {
        outline.require_token();
    }
}

impl Describe for KnownCaller {
    fn describe(outline: &mut Outline) {
        outline.require_token();
    }
}

impl<T: ToSchema> Describe for Id<T> {
    fn describe(outline: &mut Outline) {
        outline.schema::<T>();
        outline.parameter(path_parameter::<T>("id", "Id of the resource."));
        outline.refuse(&[StatusCode::NOT_FOUND]);
    }
}

impl Describe for Reference {
    fn describe(outline: &mut Outline) {
        outline.parameter(path_parameter::<String>("id", "Id or slug of the resource."));
        outline.refuse(&[StatusCode::NOT_FOUND]);
    }
}

impl<T: IntoParams + ToSchema> Describe for Params<T> {
    fn describe(outline: &mut Outline) {
        T::into_params(|| Some(ParameterIn::Query)).into_iter().for_each(|one| outline.parameter(one));
        T::schemas(&mut outline.schemas);
    }
}

impl Describe for Paging {
    fn describe(outline: &mut Outline) {
        let parameter = |name: &str, description: &str, schema: ObjectBuilder| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .description(Some(description))
                .schema(Some(schema))
                .build()
        };
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(MAX_LIMIT))
            .default(Some(DEFAULT_LIMIT.into()));
        outline.parameter(parameter("limit", "Number of items of a page.", limit));
        let cursor = ObjectBuilder::new().schema_type(Type::String);
        outline.parameter(parameter(
            "cursor",
            "`next_cursor` of the page before; the other parameters must be equal.",
            cursor,
        ));
    }
}

impl Describe for IfNoneMatch {
    fn describe(outline: &mut Outline) {
        outline.request_header(
            "If-None-Match",
            "Entity tags of versions that the caller has: 304 if one is current.",
        );
        outline.empty_answer(StatusCode::NOT_MODIFIED, "The caller has the current version.", &["ETag"]);
    }
}

impl Describe for IfMatch {
    fn describe(outline: &mut Outline) {
        outline.request_header(
            "If-Match",
            "Entity tag of the version that may be changed: 412 if another is current.",
        );
        outline.refuse(&[StatusCode::PRECONDITION_FAILED]);
    }
}

impl<T: ToSchema> Describe for Json<T> {
    fn describe(outline: &mut Outline) {
        outline.body::<T>(&["application/json", "application/merge-patch+json"]);
        outline.refuse(&[
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ]);
    }
}

impl<T: Describe> Describe for Result<T> {
    fn describe(outline: &mut Outline) {
        T::describe(outline);
    }
}

impl<A: Describe, B: Describe> Describe for (A, B) {
    fn describe(outline: &mut Outline) {
        A::describe(outline);
        B::describe(outline);
    }
}

/// A handler that returns only a status has nothing to say: 204.
impl Describe for StatusCode {
    fn describe(outline: &mut Outline) {
        outline.empty_answer(StatusCode::NO_CONTENT, "It is done.", &[]);
    }
}

impl<T: ToSchema> Describe for JsonAnswer<T> {
    fn describe(outline: &mut Outline) {
        outline.answer::<T>(StatusCode::OK, "The result.", &[]);
    }
}

impl<T: ToSchema> Describe for Tagged<T> {
    fn describe(outline: &mut Outline) {
        outline.answer::<T>(StatusCode::OK, "The current version.", &["ETag"]);
    }
}

impl<T: ToSchema> Describe for Created<T> {
    fn describe(outline: &mut Outline) {
        outline.answer::<T>(StatusCode::CREATED, "It was created.", &["ETag", "Location"]);
    }
}

impl<C: Describe, T: ToSchema> Describe for OrExisting<C, T> {
    fn describe(outline: &mut Outline) {
        C::describe(outline);
        outline.answer::<T>(StatusCode::OK, "An equal one exists.", &["Content-Location", "ETag"]);
    }
}

impl<T: ToSchema> Describe for ShownOnce<T> {
    fn describe(outline: &mut Outline) {
        outline.answer::<T>(
            StatusCode::CREATED,
            "It was created. Its secret is not shown again.",
            &["Location"],
        );
    }
}

impl<T: ToSchema> Describe for Renewed<T> {
    fn describe(outline: &mut Outline) {
        outline.answer::<T>(StatusCode::OK, "The new secret, which is not shown again.", &[]);
    }
}
