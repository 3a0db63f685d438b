//! Statistics as CSV (RFC 4180), for spreadsheets.

use crate::domain::statistics::WeekCounts;
use crate::store::statistics::WeekStatistics;
use crate::tables::text::quote;

pub const MEDIA_TYPE: &str = "text/csv; charset=utf-8; header=present";

/// Writes a header, and a line for each entry. Columns for the account exist if any entry belongs to one.
pub fn write_csv(found: &[WeekStatistics]) -> String {
    let named = found.iter().any(|one| one.account.is_some());
    let mut text = String::new();
    let mut header = vec!["week", "from", "to", "computed_at", "complete"];
    if named {
        header.extend(["account_id", "issuer", "subject"]);
    }
    header.extend(WeekCounts::default().list().map(|(name, _)| name));
    text.push_str(&header.join(","));
    text.push_str("\r\n");
    for one in found {
        let complete = one.computed_at >= one.week.end();
        let time = one.computed_at.format("%Y-%m-%dT%H:%M:%SZ");
        let (from, to) = (one.week.monday(), one.week.sunday());
        text.push_str(&format!("{},{from},{to},{time},{complete}", one.week));
        if named {
            let (id, issuer, subject) = one.account.as_ref().map_or_else(Default::default, |account| {
                (account.id.to_string(), account.issuer.clone(), account.subject.clone())
            });
            text.push_str(&format!(
                ",{id},{},{}",
                quote(&issuer.unwrap_or_default()),
                quote(&subject.unwrap_or_default())
            ));
        }
        for (_, figure) in one.counts.list() {
            text.push_str(&format!(",{figure}"));
        }
        text.push_str("\r\n");
    }
    text
}
