//! `?limit=&cursor=` of a request for a list.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::body::{bad_parameter, query_pairs};
pub use crate::api::page::{DEFAULT_LIMIT, MAX_LIMIT, Page, Paging};
use crate::error::{Error, Result};

impl<S: Sync> FromRequestParts<S> for Paging {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let mut pairs = query_pairs(parts);
        let mut take = |name: &str| {
            let found = pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            pairs.retain(|(known, _)| known != name);
            found
        };
        let limit = take("limit").map(|text| text.parse());
        let limit = limit.transpose().map_err(|_| bad_parameter("limit", "must be 1 to 200"))?;
        let cursor = take("cursor");
        pairs.sort();
        Paging::new(limit, cursor, &format!("{} {pairs:?}", parts.uri.path()))
    }
}
