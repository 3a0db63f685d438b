//! What the pools log in to PostgreSQL with.

use crate::database::iam_tokens::Tokens;
use crate::database::pool::Password;
use crate::error::Result;

/// Credentials of all pools of a process.
pub struct LogIn {
    /// Which password is in use, and whether the database has refused it.
    pub password: Password,
    /// Tokens that serve as the password, with `database.iam`.
    pub tokens: Option<Tokens>,
}

impl LogIn {
    /// Waits until there is something to log in with: for commands, which fail otherwise.
    ///
    /// # Errors
    /// AWS has given no credentials to make a token with; the error says why.
    pub async fn available(&self) -> Result<()> {
        match &self.tokens {
            Some(tokens) => tokens.first().await,
            None => Ok(()),
        }
    }
}
