//! What ends a command on a terminal: one sentence for the person who typed it.
//!
//! Requests are answered with [`crate::error`]; this is for `salebell dev`, `salebell report` and `salebell files`,
//! whose reader is a person and not a program.

use std::fmt::{self, Display};

/// A sentence that says what could not be done and why, and where possible what to do about it.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Puts what was attempted in front of an error.
pub trait Explain<T> {
    /// `Err(e)` becomes a [`Failure`] that reads `<what>: <e and its sources>`.
    ///
    /// # Errors
    /// The error it was called on, explained.
    fn explain<W: Display>(self, what: impl FnOnce() -> W) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Explain<T> for Result<T, E> {
    fn explain<W: Display>(self, what: impl FnOnce() -> W) -> Result<T, Failure> {
        self.map_err(|error| {
            let mut message = format!("{}: {error}", what());
            let mut source = error.source();
            while let Some(inner) = source {
                let text = inner.to_string();
                // Some libraries repeat the source in their own text.
                if !message.ends_with(&text) {
                    message.push_str(": ");
                    message.push_str(&text);
                }
                source = inner.source();
            }
            Failure(message)
        })
    }
}
