//! `/v1/me`: the caller's own account.

use axum::http::HeaderMap;
use axum::response::Response;

use super::extract::caller::Caller;
use super::extract::conditional;
use crate::error::Result;

/// `GET /v1/me`: whose token it is and what it may do.
pub async fn show(caller: Caller, headers: HeaderMap) -> Result<Response> {
    conditional::respond(&headers, &serde_json::json!({"id": caller.account, "scopes": caller.scopes}))
}
