//! `/v1/me`: the caller's own account.

use serde::Serialize;

use super::answer::Tagged;
use super::extract::caller::Caller;
use super::extract::conditional::IfNoneMatch;
use crate::domain::ids::AccountId;
use crate::error::Result;

#[derive(Serialize)]
pub struct MeResponse {
    /// Id of the account.
    id: AccountId,
    /// Scopes of the token, which may be fewer than those of another token of the account.
    scopes: Vec<String>,
}

/// `GET /v1/me`: the account of the token, and the token's scopes.
pub async fn show(caller: Caller, if_none_match: IfNoneMatch) -> Result<Tagged<MeResponse>> {
    Ok(if_none_match.answer(MeResponse { id: caller.account, scopes: caller.scopes.to_vec() }))
}
