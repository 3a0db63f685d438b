//! Errors for feeds that cannot be read. Their texts are for the person who provides the feed.

use std::io;

use thiserror::Error;

/// Reason why an input cannot be read, or not any further.
#[derive(Debug, Error)]
pub enum FeedError {
    #[error("cannot read the input")]
    Unreadable(#[source] io::Error),
    #[error("cannot read the input after line {line}")]
    BrokenOff { line: u64, source: io::Error },
    #[error("the input is empty")]
    Empty,
    #[error("the input is one JSON array; put each object on its own line (`jq -c '.[]'` does that)")]
    JsonArray,
    #[error("the input is NDJSON; product data is TSV, CSV, RSS or Atom")]
    ProductsAsNdjson,
    #[error("the input is XML; only product data (format merchant) is")]
    ObservationsAsXml,

    #[error("the header on line {line} has a quotation mark that is never closed, before {name:?}")]
    OpenQuoteInHeader { line: u64, name: String },
    #[error("the header on line {line} {why}")]
    BrokenHeader { line: u64, why: String },
    #[error("the input has the column {0:?} more than once")]
    RepeatedColumn(String),
    /// `columns` are the columns that the input has.
    #[error("the input has no column {name:?}; it has {columns}")]
    NoSuchColumn { name: String, columns: String },
    #[error(
        "nothing in the input says {fields}; name the column with --map field=Column or the value with --set \
         field=value (the columns are {columns})"
    )]
    MissingFields { fields: String, columns: String },
    #[error("the product data has no column {0:?}")]
    NoSuchProductColumn(&'static str),
    #[error("the product data has the column {0:?} more than once")]
    RepeatedProductColumn(&'static str),

    #[error("the XML declares the encoding {0}, which is unknown")]
    UnknownEncoding(String),
    #[error("the XML cannot be read on line {line}")]
    Xml { line: u64, source: quick_xml::Error },
    /// The input is XML, but not a feed.
    #[error("the XML {why} on line {line}")]
    NoFeed { line: u64, why: &'static str },
    #[error("the XML has a name of more than {0} bytes")]
    LongName(usize),
    #[error("the XML has too many namespaces, or too long ones")]
    TooManyNamespaces,
}

/// Problem with a mapping of columns. `option` is `--map` or `--set`.
#[derive(Debug, Error)]
pub enum MappingError {
    #[error("{option} {pair}: must be field=…")]
    NoPair { option: &'static str, pair: String },
    #[error("{option} {pair}: {field} is not one of {known}")]
    NoSuchField { option: &'static str, pair: String, field: String, known: String },
    #[error("{option} {pair}: {field} {problem}")]
    BadValue { option: &'static str, pair: String, field: String, problem: String },
    #[error("{field} is named by {options} more than once")]
    NamedTwice { field: &'static str, options: &'static str },
}
