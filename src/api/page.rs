//! Keyset pagination of lists: `?limit=&cursor=` → `{"items": […], "next_cursor": …}`.
//!
//! A cursor contains the sort key of the last item and a hash of its query, so a cursor of another query is refused.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::parameters::bad_parameter;
use crate::error::{Error, Result};

/// Number of items of a page without `limit`.
pub const DEFAULT_LIMIT: i64 = 50;
/// Maximum number of items of a page.
pub const MAX_LIMIT: i64 = 200;

/// One page of a list.
#[derive(Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it as `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
}

impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let cursor = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("Pass it as `cursor` for the next page; null at the end."));
        ObjectBuilder::new()
            .property("items", ArrayBuilder::new().items(Ref::from_schema_name(T::name())))
            .required("items")
            .property("next_cursor", cursor)
            .required("next_cursor")
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

impl<T> Page<T> {
    /// The same page with each item converted.
    pub fn map<U>(self, turn: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(turn).collect(), next_cursor: self.next_cursor }
    }
}

/// The requested page of a list.
pub struct Paging {
    limit: i64,
    cursor: Option<String>,
    query: [u8; 8],
}

#[derive(Serialize, Deserialize)]
struct Cursor<K>([u8; 8], K);

impl Paging {
    /// Creates the page of at most `limit` items after `cursor` of a list; `query` names the list and its filters.
    ///
    /// # Errors
    /// `Malformed` if the limit is not 1 to 200.
    pub fn new(limit: Option<i64>, cursor: Option<String>, query: &str) -> Result<Paging> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(bad_parameter("limit", "must be 1 to 200"));
        }
        let mut hash = [0; 8];
        hash.copy_from_slice(&digest(&SHA256, query.as_bytes()).as_ref()[..8]);
        Ok(Paging { limit, cursor, query: hash })
    }

    /// Number of rows to fetch: one more than the page has, to find out whether there is a next page.
    pub fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// The sort key after which the page begins.
    ///
    /// # Errors
    /// `Malformed` if the cursor is invalid, or was made by another query.
    pub fn after<K: DeserializeOwned>(&self) -> Result<Option<K>> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let bytes =
            URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad_parameter("cursor", "is not a valid cursor"))?;
        match serde_json::from_slice(&bytes) {
            Ok(Cursor(query, key)) if query == self.query => Ok(Some(key)),
            Ok(_) => Err(bad_parameter("cursor", "belongs to another query")),
            Err(_) => Err(bad_parameter("cursor", "is not a valid cursor")),
        }
    }

    /// Builds the page from up to `rows()` rows, the last of which only shows that there is a next page; `key` returns
    /// the sort key of an item.
    pub fn page<T, K: Serialize>(&self, mut items: Vec<T>, key: impl Fn(&T) -> K) -> Result<Page<T>> {
        let more = items.len() as i64 > self.limit;
        items.truncate(self.limit as usize);
        let next_cursor = match items.last().filter(|_| more) {
            Some(last) => {
                let bytes = serde_json::to_vec(&Cursor(self.query, key(last))).map_err(Error::internal)?;
                Some(URL_SAFE_NO_PAD.encode(bytes))
            }
            None => None,
        };
        Ok(Page { items, next_cursor })
    }
}
