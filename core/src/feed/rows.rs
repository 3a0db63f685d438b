//! Rows of a feed in any format, as reported observations.

use chrono::{DateTime, Utc};

use super::error::FeedError;
use super::input::{FeedFormat, Input};
use super::mapping::{ColumnMapping, Mapping};
use super::merchant::{Merchant, PLAIN, attribute_name};
use super::records::{Content, Record, Records, shorten};
use super::xml::Items;
use crate::domain::observation::ReportedObservation;

/// Meaning of the rows of a feed.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// Fields of observations, under their own names or those of a mapping.
    Fields(Mapping),
    /// Product data of Google Merchant Center.
    Products(Merchant),
}

/// One row: the line on which it begins, and the observation that it reports or the reason why it is refused.
pub struct FeedRow {
    pub line: u64,
    pub reported: Result<ReportedObservation, String>,
}

/// Sequential reader of rows.
pub struct Rows {
    source: Source,
    now: DateTime<Utc>,
}

enum Source {
    Columns(Records, ColumnMapping),
    Lines(Records, Mapping),
    Products(Records, Vec<String>, Merchant),
    Items(Items, Merchant),
}

impl Rows {
    /// Opens a feed and reads everything before the first row. `now` determines whether a sale price is in effect.
    ///
    /// # Errors
    /// The input cannot be read, or does not fit its meaning.
    pub fn open(input: Input, meaning: &Meaning, now: DateTime<Utc>) -> Result<Rows, FeedError> {
        let source = match (input.format, meaning) {
            (FeedFormat::Xml, Meaning::Products(shop)) => {
                Source::Items(Items::new(input.reader), shop.clone())
            }
            (FeedFormat::Csv, Meaning::Products(shop)) => {
                let mut records = Records::open(input.reader, FeedFormat::Csv, None)?;
                let names: Vec<String> =
                    records.read_header()?.iter().map(|name| attribute_name(name)).collect();
                for wanted in ["id", "price"] {
                    if !names.iter().any(|name| name == wanted) {
                        return Err(FeedError::NoSuchProductColumn(wanted));
                    }
                }
                for name in ["title"].into_iter().chain(PLAIN) {
                    if names.iter().filter(|known| *known == name).count() > 1 {
                        return Err(FeedError::RepeatedProductColumn(name));
                    }
                }
                let place = |wanted| names.iter().position(|name| name == wanted);
                records.set_columns(place("price"), place("id"));
                Source::Products(records, names, shop.clone())
            }
            (FeedFormat::Csv, Meaning::Fields(mapping)) => {
                let mut records = Records::open(input.reader, FeedFormat::Csv, None)?;
                let columns = mapping.for_columns(&records.read_header()?)?;
                records.set_columns(columns.index("price"), columns.index("sku"));
                Source::Columns(records, columns)
            }
            (FeedFormat::Ndjson, Meaning::Fields(mapping)) => {
                Source::Lines(Records::open(input.reader, FeedFormat::Ndjson, None)?, mapping.clone())
            }
            (FeedFormat::Ndjson, Meaning::Products(_)) => {
                return Err(FeedError::ProductsAsNdjson);
            }
            (FeedFormat::Xml, Meaning::Fields(_)) => {
                return Err(FeedError::ObservationsAsXml);
            }
        };
        Ok(Rows { source, now })
    }

    /// Whether rows may state when their prices were observed. If they do not, their order has no meaning.
    pub fn may_state_times(&self) -> bool {
        match &self.source {
            Source::Columns(_, columns) => columns.has("observed_at"),
            Source::Lines(..) => true,
            Source::Products(..) | Source::Items(..) => false,
        }
    }

    /// Reads the next row; `None` at the end.
    ///
    /// # Errors
    /// The input breaks off.
    pub fn read_next(&mut self) -> Result<Option<FeedRow>, FeedError> {
        let row = self.read_whole()?;
        Ok(row.map(|row| FeedRow { reported: row.reported.map_err(shorten), ..row }))
    }

    fn read_whole(&mut self) -> Result<Option<FeedRow>, FeedError> {
        match &mut self.source {
            Source::Items(items, shop) => {
                let Some(item) = items.read_next()? else { return Ok(None) };
                let reported = item.attributes.and_then(|attributes| {
                    let find = |name: &str| {
                        attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
                    };
                    shop.observe_marked_up(find, &item.mixed, self.now)
                });
                Ok(Some(FeedRow { line: item.line, reported }))
            }
            Source::Columns(records, columns) => {
                next(records, |record| parse(&columns.map_record(fields(record)?)?))
            }
            Source::Lines(records, mapping) => next(records, |record| match &record.content {
                Content::Json(text) => parse(&mapping.map_json(text)?),
                Content::Broken(why) => Err(why.clone()),
                Content::Fields(_) => Err("is not a line of JSON".to_owned()),
            }),
            Source::Products(records, names, shop) => {
                let now = self.now;
                next(records, |record| {
                    let fields = fields(record)?;
                    if fields.len() != names.len() {
                        return Err(format!(
                            "has {} fields where the header has {}",
                            fields.len(),
                            names.len()
                        ));
                    }
                    let find = |name: &str| {
                        let place = names.iter().position(|known| known == name)?;
                        fields.get(place).map(String::as_str)
                    };
                    shop.observe(find, now)
                })
            }
        }
    }
}

fn next(
    records: &mut Records,
    read: impl FnOnce(&Record) -> Result<ReportedObservation, String>,
) -> Result<Option<FeedRow>, FeedError> {
    let Some(record) = records.read_next()? else { return Ok(None) };
    Ok(Some(FeedRow { line: record.line, reported: read(&record) }))
}

fn fields(record: &Record) -> Result<&[String], String> {
    match &record.content {
        Content::Fields(fields) => Ok(fields),
        Content::Broken(why) => Err(why.clone()),
        Content::Json(_) => Err("is not a CSV record".to_owned()),
    }
}

fn parse(line: &[u8]) -> Result<ReportedObservation, String> {
    serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        text.split(" at line ").next().unwrap_or_default().to_owned()
    })
}
