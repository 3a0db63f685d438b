//! Credentials with which the pools log in to PostgreSQL.

use crate::database::iam_tokens::Tokens;
use crate::database::pool::Password;
use crate::error::Result;

/// Credentials of all pools of a process.
pub struct LogIn {
    /// Generation of the password in use, and whether the database has refused it.
    pub password: Password,
    /// Tokens that serve as the password, with `database.iam`.
    pub tokens: Option<Tokens>,
}

impl LogIn {
    /// Waits until there are credentials. For commands, which fail without.
    ///
    /// # Errors
    /// `Unavailable`: AWS provides no credentials to make a token with; the error says why.
    pub async fn available(&self) -> Result<()> {
        match &self.tokens {
            Some(tokens) => tokens.first().await,
            None => Ok(()),
        }
    }
}
