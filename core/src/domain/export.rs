//! Exports: the kinds of rows, and the filters that apply to them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::observation::{Timestamp, check_text};
use super::region::{Region, check_named_region};

/// Kind of the exported rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportKind {
    /// The price history, in the columns that an import reads.
    Prices,
    /// Sales that are open.
    Deals,
    /// The account's own watches.
    Watches,
    Notices,
    Files,
}

/// Filter of the exported rows; `None` matches everything. Only price and deal exports have filters.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(
    description = "Filter of the exported rows; a field that is null or absent matches everything. Only exports of \
        prices and deals have filters.",
    example = json!({"store": "steam", "since": "2026-01-01T00:00:00Z"}),
)]
#[serde(deny_unknown_fields)]
pub struct ExportFilter {
    /// Slug of the store. Only for prices and deals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "steam")]
    pub store: Option<String>,
    /// Region of the offer. Only for prices and deals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Region>)]
    pub region: Option<String>,
    /// Start of the time range, inclusive. Only for prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// End of the time range, exclusive. Only for prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl ExportFilter {
    /// The filter with its texts normalised as the rows have them.
    ///
    /// # Errors
    /// The store is not a valid text, or the region is unknown. The error names the field and the reason.
    pub fn normalise(mut self) -> Result<ExportFilter, (&'static str, String)> {
        if let Some(store) = &self.store {
            if store.trim().is_empty() {
                return Err(("store", "must not be empty".to_owned()));
            }
            check_text(store, 100).map_err(|problem| ("store", problem))?;
        }
        if let Some(region) = &self.region {
            self.region = Some(check_named_region(region).map_err(|problem| ("region", problem))?);
        }
        Ok(self)
    }

    /// The first filter that does not apply to this kind of rows: the field and the reason.
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
