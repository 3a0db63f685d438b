//! What is exported.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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
    pub since: Option<DateTime<Utc>>,
    /// And before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

impl ExportFilter {
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
            .map(|(field, ..)| (field, "does not go with this kind"))
    }
}
