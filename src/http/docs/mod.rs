//! `/docs`: the reference of the API, a page that is made of the OpenAPI document for its first reader. `/docs/try` is
//! Swagger UI on the same document (`swagger`).

pub mod shape;
pub mod swagger;
pub mod text;
pub mod view;

use std::sync::{Arc, OnceLock};

use axum::Extension;
use axum::response::Response;

use super::extract::conditional::{IfNoneMatch, Representation};
use super::openapi::{Document, Version};
use super::pages;
use crate::error::Result;

/// The reference, rendered when it is first asked for.
#[derive(Clone)]
pub struct Reference {
    document: Document,
    page: Arc<OnceLock<Representation>>,
}

impl Reference {
    pub fn new(document: Document) -> Reference {
        Reference { document, page: Arc::default() }
    }

    fn get(&self) -> Result<&Representation> {
        if let Some(page) = self.page.get() {
            return Ok(page);
        }
        // Version 3.2 also says what the items of streams are.
        let document = self.document.build(Version::V3_2)?;
        let page = pages::render(&view::reference(&document)?)?;
        Ok(self.page.get_or_init(|| page))
    }
}

/// Returns the reference of the API as a page.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "get_docs",
    tag = "service",
    responses((
        status = 200,
        description = "The page: every operation, webhook and schema of this document.",
        body = String,
        content_type = "text/html",
        headers(("ETag" = String, description = "Version of the page, for `If-None-Match`.")),
        example = json!("<!DOCTYPE html>"),
    ))
)]
pub async fn show(
    Extension(reference): Extension<Reference>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    Ok(pages::select(reference.get()?, &if_none_match))
}
