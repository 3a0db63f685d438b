//! What is counted for a week.

use serde::Serialize;

/// What an account, or all of them, have done in a week.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WeekCounts {
    /// Files that became complete; one that was put together of parts is one.
    pub uploads: i64,
    pub uploaded_bytes: i64,
    /// Downloads that began at the first byte, also by share links.
    pub downloads: i64,
    /// Bytes that were asked for.
    pub downloaded_bytes: i64,
    /// Reports of prices that were read to their end.
    pub reports: i64,
    /// Prices in them that were accepted.
    pub observations: i64,
    /// Watches as they stood at the week's end, or stand now.
    pub watches: i64,
    pub notices: i64,
    /// Notices on their way to a channel that were made in the week.
    pub deliveries: i64,
    /// How many of those have arrived.
    pub delivered: i64,
    /// Hours in which a token was used.
    pub logins: i64,
}

impl WeekCounts {
    /// How much was done, all kinds alike: by it the most active accounts are found.
    pub fn actions(&self) -> i64 {
        self.uploads + self.downloads + self.reports + self.notices + self.deliveries + self.logins
    }

    /// Name and figure of each, in the order in which they are shown.
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
