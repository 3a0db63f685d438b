//! `/v1/me`: the caller's own account.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::Tagged;
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use crate::domain::api_key::Scope;
use crate::domain::ids::AccountId;
use crate::error::Result;

/// The caller: the account of a token, and the token's scopes.
#[derive(Serialize, ToSchema)]
#[schema(as = Me, example = json!({
    "id": "01a0b6f2-7777-7d3e-8a4b-1c2d3e4f5a6b",
    "scopes": ["prices:write"],
}))]
pub struct MeResponse {
    /// Id of the account.
    id: AccountId,
    /// Scopes of the token, which may be fewer than those of another token of the account.
    #[schema(value_type = Vec<Scope>)]
    scopes: Vec<String>,
}

/// Returns the account of the token, and the token's scopes.
#[utoipa::path(get, path = "/v1/me", operation_id = "get_me", tag = "account")]
pub async fn show(caller: Caller, if_none_match: IfNoneMatch) -> Result<Tagged<MeResponse>> {
    Ok(if_none_match.answer(MeResponse { id: caller.account, scopes: caller.scopes.to_vec() }))
}
