//! Fields of a body: merge patches, and checks that are collected so that a caller learns of all of them at once.

use serde::{Deserialize, Deserializer};

use crate::domain::observation::check_text;
use crate::domain::text::fold_white_space;
use crate::error::{Error, FieldError, Result};

/// The longest URL that is taken, in characters.
pub const MAX_URL: usize = 2_000;

/// A field of a merge patch (RFC 7396). Give it `#[serde(default)]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Patch<T> {
    /// Not there: the field stays.
    #[default]
    Absent,
    /// `null`: the field is cleared.
    Null,
    Value(T),
}

impl<T> Patch<T> {
    /// What the field is after the patch.
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

/// Collects what is wrong with the fields of a body.
#[derive(Default)]
pub struct FieldChecks {
    errors: Vec<FieldError>,
}

impl FieldChecks {
    /// Notes that the field of this name is wrong.
    pub fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push(FieldError { pointer: format!("/{name}"), detail: detail.into() });
    }

    /// A text that must be there: trimmed, 1 to `max` characters. The empty text where it is refused.
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

    /// A text that is compared with what is reported: its white space is folded as there.
    pub fn folded_text(&mut self, name: &str, text: Option<&str>, max: usize) -> String {
        let text = text.map(fold_white_space);
        self.text(name, text.as_deref(), max)
    }

    /// A text that may be missing; the empty text is none.
    pub fn optional_text(&mut self, name: &str, text: Option<&str>, max: usize) -> Option<String> {
        match text.map(str::trim) {
            None | Some("") => None,
            text => Some(self.text(name, text, max)),
        }
    }

    /// An address of the web that may be missing.
    pub fn optional_url(&mut self, name: &str, text: Option<&str>) -> Option<String> {
        let text = self.optional_text(name, text, MAX_URL)?;
        let is_web = url::Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
        // An empty text has been refused already.
        if !is_web && !text.is_empty() {
            self.refuse(name, "must be an https:// or http:// URL");
        }
        Some(text)
    }

    /// # Errors
    /// `Invalid` with everything that was refused.
    pub fn finish(self) -> Result<()> {
        if self.errors.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.errors)) }
    }
}
