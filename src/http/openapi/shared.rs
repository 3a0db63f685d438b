//! Parts that many operations refer to: headers, problem documents, tags, the token.

use axum::http::StatusCode;
use serde_json::json;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::{Tag, TagBuilder};
use utoipa::openapi::{Components, Content, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{Kind, Problem};

/// Name of the security scheme of all operations that need a token.
pub const TOKEN: &str = "token";

/// Headers of every answer.
pub const EVERYWHERE: [&str; 1] = ["X-Request-Id"];

/// Headers of answers to requests that count for a limit.
pub const OF_LIMITED: [&str; 2] = ["RateLimit", "RateLimit-Policy"];

/// Headers of answers by name, with a description and an example.
const HEADERS: &[(&str, &str, &str)] = &[
    (
        "Content-Location",
        "URL of the resource in the body.",
        "/v1/watches/01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b",
    ),
    ("ETag", "Version of the resource, for `If-None-Match` and `If-Match`.", "\"2jmj7l5rSw0yVb_vlWAYkA\""),
    ("Idempotency-Replayed", "`true` if this is the answer to an earlier request with the same key.", "true"),
    ("Location", "URL of the resource that was created.", "/v1/watches/01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b"),
    (
        "RateLimit",
        "What is left of the limit of the class (draft-ietf-httpapi-ratelimit-headers).",
        "\"read\";r=599;t=60",
    ),
    ("RateLimit-Policy", "The limit of the class: `read`, `write` or `heavy`.", "\"read\";q=600;w=60"),
    ("Retry-After", "Seconds after which a retry may succeed.", "1"),
    ("WWW-Authenticate", "The scheme of the token.", "Bearer realm=\"salebell\""),
    ("X-Request-Id", "Id of the request, also in the server's log.", "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b"),
];

/// Tags: a group of operations for each part of the API.
const TAGS: &[(&str, &str)] = &[
    ("service", "The service itself: what it is, and whether it is ready."),
    ("account", "The caller, and the keys of the account."),
    ("prices", "Reports of prices, and what became of them."),
    ("catalogue", "Games, stores and offers."),
    ("deals", "What is on sale now."),
    ("watches", "What should ring."),
    ("notices", "What has rung: the inbox of an account."),
    ("channels", "Where it rings, and each delivery."),
    ("files", "Large files that expire, and links to them."),
    ("exports", "Tables of an account's data, as files."),
    ("imports", "Tables of prices that were uploaded as files."),
    ("statistics", "Reports about the service's use."),
];

pub fn tags() -> Vec<Tag> {
    let tag = |(name, description): &(&str, &str)| {
        TagBuilder::new().name(*name).description(Some(*description)).build()
    };
    TAGS.iter().map(tag).collect()
}

/// A reference to a header of an answer.
pub fn header(name: &str) -> Ref {
    Ref::new(format!("#/components/headers/{name}"))
}

/// Name of the answer with a problem document of a status.
pub fn problem_name(status: StatusCode) -> String {
    // Status 460 is that of tus, and has no reason phrase.
    status.canonical_reason().unwrap_or("Checksum Mismatch").replace([' ', '-'], "")
}

/// A parameter in the path.
pub fn path_parameter<T: PartialSchema>(name: &str, description: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(T::schema()))
        .build()
}

/// Bytes of a file. JSON Schema has nothing to say of them, but generators of clients leave out an operation whose body
/// has no schema or no media type that they know: hence `application/octet-stream` beside `*/*`.
pub struct FileBytes;

impl PartialSchema for FileBytes {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for FileBytes {}

/// Adds schemas to a document's components. Two different ones must not have one name.
pub fn add_schemas(components: &mut Components, schemas: impl IntoIterator<Item = (String, RefOr<Schema>)>) {
    for (name, schema) in schemas {
        let known = components.schemas.get(&name);
        debug_assert!(known.is_none_or(|known| *known == schema), "two schemas are called {name}");
        components.schemas.insert(name, schema);
    }
}

/// Adds the shared parts to a document's components.
pub fn add_to(components: &mut Components) {
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key (`sbk_…`), or an access token of the identity provider."))
        .build();
    components.security_schemes.insert(TOKEN.to_owned(), SecurityScheme::Http(token).into());
    for (name, description, example) in HEADERS {
        let header = HeaderBuilder::new()
            .description(Some(*description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .example(Some(json!(example)));
        components.headers.insert((*name).to_owned(), header.build().into());
    }
    for kind in Kind::ALL {
        components.responses.insert(problem_name(kind.status()), problem(kind.status(), &OF_LIMITED).into());
    }
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    add_schemas(components, schemas);
}

/// The answer with a problem document of a status, which several kinds may share; `headers` besides those of every answer.
pub fn problem(status: StatusCode, headers: &[&str]) -> Response {
    let kinds: Vec<String> = Kind::ALL
        .iter()
        .filter(|kind| kind.status() == status)
        .map(|kind| format!("{} (`{}`)", kind.title(), kind.slug()))
        .collect();
    let content = Content::builder().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    let mut answer = ResponseBuilder::new()
        .description(format!("{}.", kinds.join(", or ")))
        .content("application/problem+json", content);
    for name in EVERYWHERE.iter().chain(headers) {
        answer = answer.header_ref(*name, header(name));
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        answer = answer.header_ref("Retry-After", header("Retry-After"));
    }
    if status == StatusCode::UNAUTHORIZED {
        answer = answer.header_ref("WWW-Authenticate", header("WWW-Authenticate"));
    }
    answer.build()
}
