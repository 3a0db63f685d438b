//! Usage counts of a week.

use serde::Serialize;
use utoipa::ToSchema;

/// Activity of one account, or of all accounts together, in a week.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct WeekCounts {
    /// Files that became complete. A concatenated file counts as one.
    pub uploads: i64,
    pub uploaded_bytes: i64,
    /// Downloads that began at the first byte, including those through share links.
    pub downloads: i64,
    /// Bytes requested by downloads.
    pub downloaded_bytes: i64,
    /// Reports of prices that were read to their end.
    pub reports: i64,
    /// Prices accepted from those reports.
    pub observations: i64,
    /// Number of watches at the end of the week, or now if the week has not ended.
    pub watches: i64,
    pub notices: i64,
    /// Deliveries created in the week.
    pub deliveries: i64,
    /// Deliveries among them that have arrived.
    pub delivered: i64,
    /// Hours in which a token was used.
    pub logins: i64,
}

impl WeekCounts {
    /// Number of actions of all kinds. The most active accounts are ranked by it.
    pub fn actions(&self) -> i64 {
        self.uploads + self.downloads + self.reports + self.notices + self.deliveries + self.logins
    }

    /// Name and value of each count, in display order.
    pub fn list(&self) -> [(&'static str, i64); 11] {
        [
            ("uploads", self.uploads),
            ("uploaded_bytes", self.uploaded_bytes),
            ("downloads", self.downloads),
            ("downloaded_bytes", self.downloaded_bytes),
            ("reports", self.reports),
            ("observations", self.observations),
            ("watches", self.watches),
            ("notices", self.notices),
            ("deliveries", self.deliveries),
            ("delivered", self.delivered),
            ("logins", self.logins),
        ]
    }
}
