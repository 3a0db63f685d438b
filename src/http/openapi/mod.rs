//! `/openapi.json`: the OpenAPI document, made from the handlers of the URL table. Their types tell parameters, bodies
//! and answers (`parts`); their attributes what types cannot.

pub mod outline;
pub mod parts;
pub mod shared;
pub mod webhooks;

use std::sync::{Arc, OnceLock};

use axum::Extension;
use axum::http::Method;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::openapi::info::{InfoBuilder, License};
use utoipa::openapi::path::HttpMethod;
use utoipa::openapi::{OpenApi, OpenApiBuilder, OpenApiVersion, Paths};
use utoipa::{IntoParams, ToSchema};

use self::outline::Outline;
use super::deprecation::{self, DEPRECATED, Deprecated};
use super::extract::body::Params;
use super::extract::conditional::{IfNoneMatch, Representation};
use super::json::{JSON, to_json};
use super::middleware::rate_limit::class_of;
use crate::error::{Error, Result};

/// Media types whose bodies are streams of items.
const STREAMS: [&str; 2] = ["application/x-ndjson", "text/event-stream"];

/// The operations of the URL table: the outline of each, and what the attributes of their handlers state.
pub struct Operations {
    pub outlines: Vec<(Method, &'static str, Outline)>,
    pub stated: OpenApi,
}

/// The document, built when it is first asked for.
#[derive(Clone)]
pub struct Document(Arc<Source>);

struct Source {
    operations: fn() -> Operations,
    version_3_1: OnceLock<Representation>,
    version_3_2: OnceLock<Representation>,
}

impl Document {
    pub fn new(operations: fn() -> Operations) -> Document {
        Document(Arc::new(Source { operations, version_3_1: OnceLock::new(), version_3_2: OnceLock::new() }))
    }

    fn get(&self, version: Version) -> Result<&Representation> {
        let source = &self.0;
        let built = match version {
            Version::V3_1 => &source.version_3_1,
            Version::V3_2 => &source.version_3_2,
        };
        if let Some(built) = built.get() {
            return Ok(built);
        }
        let document = document((source.operations)(), DEPRECATED, version)?;
        let representation = Representation::new(JSON, to_json(&document)?)?;
        Ok(built.get_or_init(|| representation))
    }
}

/// A version of the specification.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
pub enum Version {
    #[default]
    #[serde(rename = "3.1")]
    V3_1,
    #[serde(rename = "3.2")]
    V3_2,
}

/// The wanted form of the document.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DocumentParams {
    /// Version of the specification: 3.2 also tells the items of streams.
    #[serde(default)]
    #[param(inline)]
    #[schema(inline)]
    version: Version,
}

/// Returns this document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "get_openapi", tag = "service",
    responses((
        status = 200, description = "The document.", body = Value, content_type = "application/json",
        headers(("ETag" = String, description = "Version of the document.")),
        example = json!({"openapi": "3.1.0", "info": {"title": "Salebell", "version": "0.1.0"}, "paths": {}}),
    )),
)]
pub async fn get(
    Extension(document): Extension<Document>,
    Params(params): Params<DocumentParams>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    Ok(if_none_match.select(document.get(params.version)?))
}

/// The document of the operations, in a version of the specification; `deprecated` are those that should no longer be used.
///
/// # Errors
/// `Internal` if a part of it cannot be written as JSON, which does not occur.
pub fn document(operations: Operations, deprecated: &[Deprecated], version: Version) -> Result<Value> {
    let Operations { outlines, stated } = operations;
    let mut components = stated.components.unwrap_or_default();
    let mut paths = Paths::new();
    for (method, path, mut outline) in outlines {
        if method == Method::POST {
            outline.allow_repetition();
        }
        if class_of(&method, path, None).is_none() {
            outline.exempt_from_limits();
        }
        let Some(name) = http_method(&method) else { continue };
        shared::add_schemas(&mut components, outline.schemas.drain(..));
        let stated = stated.paths.get_path_operation(path, name.clone()).cloned().unwrap_or_default();
        paths.add_path_operation(path, vec![name], outline.complete(&method, stated));
    }
    shared::add_to(&mut components);
    webhooks::add_to(&mut components);
    let license = env!("CARGO_PKG_LICENSE");
    let info = InfoBuilder::new()
        .title("Salebell")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Rings when a video game goes on sale."))
        .license(Some(License::builder().name(license).identifier(Some(license)).build()));
    let document = OpenApiBuilder::new()
        .openapi(match version {
            Version::V3_1 => OpenApiVersion::Version31,
            Version::V3_2 => OpenApiVersion::Version32,
        })
        .info(info.build())
        .paths(paths)
        .webhooks(Some(webhooks::webhooks()))
        .components(Some(components))
        .tags(Some(shared::tags()))
        .build();
    let mut document = serde_json::to_value(document).map_err(Error::internal)?;
    describe_streams(&mut document, version);
    deprecation::mark(&mut document, deprecated);
    Ok(document)
}

fn http_method(method: &Method) -> Option<HttpMethod> {
    Some(match *method {
        Method::GET => HttpMethod::Get,
        Method::HEAD => HttpMethod::Head,
        Method::OPTIONS => HttpMethod::Options,
        Method::POST => HttpMethod::Post,
        Method::PUT => HttpMethod::Put,
        Method::PATCH => HttpMethod::Patch,
        Method::DELETE => HttpMethod::Delete,
        _ => return None,
    })
}

/// Attributes state the schema of one item of a stream. Only version 3.2 can say so; for 3.1 a stream is a text.
fn describe_streams(node: &mut Value, version: Version) {
    if let Value::Object(members) = node {
        for (name, member) in members.iter_mut() {
            if STREAMS.contains(&name.as_str())
                && let Value::Object(content) = member
                && let Some(item) = content.remove("schema")
            {
                match version {
                    Version::V3_1 => content.insert("schema".to_owned(), json!({"type": "string"})),
                    Version::V3_2 => content.insert("itemSchema".to_owned(), item),
                };
            }
        }
    }
    match node {
        Value::Object(members) => members.values_mut().for_each(|member| describe_streams(member, version)),
        Value::Array(items) => items.iter_mut().for_each(|item| describe_streams(item, version)),
        _ => {}
    }
}
