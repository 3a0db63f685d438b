//! Fields of a body: merge patches, and checks whose errors are collected and returned together.

use serde::{Deserialize, Deserializer};

use crate::domain::observation::check_text;
use crate::domain::text::fold_white_space;
use crate::error::{Error, FieldError, Result};

/// Longest URL, in characters.
pub const MAX_URL: usize = 2_000;

/// A field of a merge patch (RFC 7396). It requires `#[serde(default)]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Patch<T> {
    /// The field is absent, and keeps its value.
    #[default]
    Absent,
    /// The field is `null`, and is cleared.
    Null,
    Value(T),
}

impl<T> Patch<T> {
    /// Value of the field after the patch.
    pub fn apply(self, current: Option<T>) -> Option<T> {
        match self {
            Patch::Absent => current,
            Patch::Null => None,
            Patch::Value(value) => Some(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Patch::Null, Patch::Value))
    }
}

/// Collector of the errors in the fields of a body.
#[derive(Default)]
pub struct FieldChecks {
    errors: Vec<FieldError>,
}

impl FieldChecks {
    /// Adds an error for the field `name`.
    pub fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push(FieldError { pointer: format!("/{name}"), detail: detail.into() });
    }

    /// Checks a required text: trimmed, 1 to `max` characters. Returns the empty text if it is refused.
    pub fn text(&mut self, name: &str, text: Option<&str>, max: usize) -> String {
        match text.map(str::trim) {
            None => self.refuse(name, "is required"),
            Some("") => self.refuse(name, "must not be empty"),
            Some(text) => match check_text(text, max) {
                Ok(()) => return text.to_owned(),
                Err(problem) => self.refuse(name, problem),
            },
        }
        String::new()
    }

    /// Checks a required text whose white space is folded as in observations, because the two are compared.
    pub fn folded_text(&mut self, name: &str, text: Option<&str>, max: usize) -> String {
        let text = text.map(fold_white_space);
        self.text(name, text.as_deref(), max)
    }

    /// Checks an optional text; an empty one counts as absent.
    pub fn optional_text(&mut self, name: &str, text: Option<&str>, max: usize) -> Option<String> {
        match text.map(str::trim) {
            None | Some("") => None,
            text => Some(self.text(name, text, max)),
        }
    }

    /// Checks an optional https:// or http:// URL.
    pub fn optional_url(&mut self, name: &str, text: Option<&str>) -> Option<String> {
        let text = self.optional_text(name, text, MAX_URL)?;
        let is_web = url::Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
        // The text is empty here if it has already been refused.
        if !is_web && !text.is_empty() {
            self.refuse(name, "must be an https:// or http:// URL");
        }
        Some(text)
    }

    /// Returns the collected errors.
    ///
    /// # Errors
    /// `Invalid` with all errors, if there are any.
    pub fn finish(self) -> Result<()> {
        if self.errors.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.errors)) }
    }
}
