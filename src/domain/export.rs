//! What is exported.

use serde::{Deserialize, Serialize};

use super::observation::{Timestamp, check_text};
use super::region::check_region;

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportKind {
    /// The history of prices, in the columns that an import reads.
    Prices,
    /// The sales that are going on.
    Deals,
    /// One's own.
    Watches,
    Notices,
    Files,
}

/// Which of them; `None` is any. Only for prices and deals.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportFilter {
    /// A store's slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Prices seen at this instant or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// And before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl ExportFilter {
    /// The filter with its texts as the rows have them.
    ///
    /// # Errors
    /// What is no text, or no region: the field and why.
    pub fn normalise(mut self) -> Result<ExportFilter, (&'static str, String)> {
        if let Some(store) = &self.store {
            check_text(store, 100).map_err(|problem| ("store", problem))?;
        }
        if let Some(region) = &self.region {
            self.region = Some(check_region(Some(region)).map_err(|problem| ("region", problem))?);
        }
        Ok(self)
    }

    /// What does not fit a kind of rows: the field and why.
    pub fn problem(&self, kind: ExportKind) -> Option<(&'static str, &'static str)> {
        let given = [
            ("store", self.store.is_some(), matches!(kind, ExportKind::Prices | ExportKind::Deals)),
            ("region", self.region.is_some(), matches!(kind, ExportKind::Prices | ExportKind::Deals)),
            ("since", self.since.is_some(), kind == ExportKind::Prices),
            ("until", self.until.is_some(), kind == ExportKind::Prices),
        ];
        given
            .into_iter()
            .find(|(_, is_given, fits)| *is_given && !fits)
            .map(|(field, ..)| (field, "does not apply to this kind"))
    }
}
