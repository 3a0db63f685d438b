//! Reader that takes settings out of the merged sources, and collects their problems.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::settings::{self, Setting};

/// All problems of a configuration. Values are never repeated, since they may be secret.
#[derive(Debug)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} problem(s)", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

/// Flattens nested tables: `{"auth": {"alb": {"arn": …}}}` becomes `auth.alb.arn`.
fn flatten(name: &str, value: &serde_json::Value, into: &mut BTreeMap<String, serde_json::Value>) {
    match value.as_object() {
        Some(keys) => keys.iter().for_each(|(key, value)| flatten(&format!("{name}.{key}"), value, into)),
        None => drop(into.insert(name.to_owned(), value.clone())),
    }
}

/// Takes settings out of the merged table, and collects the problem of each.
///
/// An invalid value is replaced by its default and reading continues, so all problems are found.
pub(super) struct Reader {
    values: BTreeMap<String, serde_json::Value>,
    pub(super) problems: Vec<String>,
    /// Path of the settings in Parameter Store, if they are parameters.
    pub(super) parameters: Option<String>,
}

impl Reader {
    pub(super) fn new(table: serde_json::Value) -> Reader {
        let mut values = BTreeMap::new();
        for (area, keys) in table.as_object().into_iter().flatten() {
            flatten(area, keys, &mut values);
        }
        Reader { values, problems: Vec::new(), parameters: None }
    }

    pub(super) fn problem(&mut self, key: &str, problem: impl fmt::Display) {
        let problem = self.about(key, problem);
        self.problems.push(problem);
    }

    /// Whether a problem of a setting was found already.
    pub(super) fn has_problem(&self, key: &str) -> bool {
        let start = format!("{key} (");
        self.problems.iter().any(|problem| problem.starts_with(&start))
    }

    /// Prefixes a message with the key of a setting, and with the name under which it is set.
    pub(super) fn about(&self, key: &str, what: impl fmt::Display) -> String {
        let name = match &self.parameters {
            Some(path) => format!("{path}/{}", key.replace('.', "/")),
            None => format!("SALEBELL_{}", key.replace('.', "__").to_uppercase()),
        };
        format!("{key} ({name}) {what}")
    }

    /// Takes the value that was set. A key that is missing from the table of settings is a bug in this program.
    fn take(&mut self, key: &str) -> Option<serde_json::Value> {
        debug_assert!(settings::find(key).is_some(), "settings::AREAS lacks {key}");
        self.values.remove(key)
    }

    pub(super) fn optional(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            serde_json::Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }

    pub(super) fn required(&mut self, key: &str) -> Option<String> {
        let value = self.optional(key).filter(|text| !text.is_empty());
        if value.is_none() {
            self.problem(key, "is required");
        }
        value
    }

    /// The value, or the default of the table. `None` only if that default is invalid, which the tests rule out.
    pub(super) fn get<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<T> {
        if let Some(text) = self.optional(key) {
            match text.parse() {
                Ok(value) => return Some(value),
                Err(error) => self.problem(key, format!("cannot be read: {error}")),
            }
        }
        settings::find(key).and_then(|Setting { default, .. }| default.parse().ok())
    }

    /// The value; if it is not set, `instead`, and without that the default of the table.
    pub(super) fn get_or<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &str,
        instead: Option<T>,
    ) -> Option<T> {
        if self.values.contains_key(key) { self.get(key) } else { instead.or_else(|| self.get(key)) }
    }

    pub(super) fn seconds(&mut self, key: &str) -> Option<Duration> {
        self.get(key).map(|seconds: u32| Duration::from_secs(seconds.into()))
    }

    pub(super) fn millis(&mut self, key: &str) -> Option<Duration> {
        self.get(key).map(|millis: u32| Duration::from_millis(millis.into()))
    }

    /// A list in the file, or words separated by commas.
    pub(super) fn words<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<Vec<T>> {
        let words: Vec<String> = match self.take(key) {
            None => Vec::new(),
            Some(serde_json::Value::Array(list)) => list
                .iter()
                .map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned))
                .collect(),
            Some(serde_json::Value::String(text)) => {
                text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
            }
            Some(_) => {
                self.problem(key, "must be a list");
                Vec::new()
            }
        };
        let mut read = Vec::new();
        for (at, word) in words.iter().enumerate() {
            match word.parse() {
                Ok(value) => read.push(value),
                Err(error) => self.problem(key, format!("[{at}] cannot be read: {error}")),
            }
        }
        Some(read)
    }

    /// A list of tables in the file, or the same as JSON text.
    pub(super) fn list_of<T: serde::de::DeserializeOwned>(&mut self, key: &str) -> Option<Vec<T>> {
        let list = match self.take(key) {
            None => return Some(Vec::new()),
            Some(serde_json::Value::String(text)) => serde_json::from_str(&text),
            Some(value) => serde_json::from_value(value),
        };
        Some(list.unwrap_or_else(|error| {
            let place =
                if error.line() > 0 { format!(" (column {})", error.column()) } else { String::new() };
            self.problem(key, format!("is no list of tables with the keys that it must have{place}"));
            Vec::new()
        }))
    }

    /// Returns the problems of all settings, and the keys that no setting took, each with a message.
    pub(super) fn finish(mut self) -> (Vec<String>, BTreeMap<String, String>) {
        let unknown = std::mem::take(&mut self.values).into_keys();
        let unknown = unknown.map(|key| (key.clone(), self.about(&key, "is unknown"))).collect();
        (self.problems, unknown)
    }
}
