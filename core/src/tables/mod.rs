//! Writers of tables: CSV, NDJSON and Parquet, produced a piece at a time.

mod cell;
mod parquet;
pub mod text;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::cell::{Cell, ColumnKind, Columns};
use self::parquet::ParquetWriter;
use self::text::TextWriter;

/// Format of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableFormat {
    /// RFC 4180, with a header.
    #[default]
    Csv,
    /// A JSON object per line.
    Ndjson,
    /// Apache Parquet, compressed with zstd.
    Parquet,
}

impl TableFormat {
    /// Extension of a file's name, and its media type.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            TableFormat::Csv => ("csv", "text/csv"),
            TableFormat::Ndjson => ("ndjson", "application/x-ndjson"),
            TableFormat::Parquet => ("parquet", "application/vnd.apache.parquet"),
        }
    }
}

/// Writer of a table in any format.
pub enum TableWriter {
    Text(TextWriter),
    Parquet(Box<ParquetWriter>),
}

impl TableWriter {
    /// Begins a table.
    ///
    /// # Errors
    /// The Parquet library refuses the schema; it accepts all columns that we declare.
    pub fn new(format: TableFormat, columns: Columns) -> std::io::Result<TableWriter> {
        Ok(match format {
            TableFormat::Csv => TableWriter::Text(TextWriter::new(columns, false)),
            TableFormat::Ndjson => TableWriter::Text(TextWriter::new(columns, true)),
            TableFormat::Parquet => TableWriter::Parquet(Box::new(ParquetWriter::new(columns)?)),
        })
    }

    /// Writes rows, each with as many cells as there are columns, and returns the bytes that are ready.
    ///
    /// # Errors
    /// A cell is not of its column's kind.
    pub fn write(&mut self, rows: &[Vec<Cell>]) -> std::io::Result<Bytes> {
        match self {
            TableWriter::Text(writer) => Ok(writer.write(rows)),
            TableWriter::Parquet(writer) => writer.write(rows),
        }
    }

    /// Ends the table and returns the last bytes.
    ///
    /// # Errors
    /// Same as `write`.
    pub fn finish(self) -> std::io::Result<Bytes> {
        match self {
            TableWriter::Text(writer) => Ok(writer.finish()),
            TableWriter::Parquet(writer) => writer.finish(),
        }
    }
}
