//! Slices of a report: the mapped records are cut into parts, each of which is one request.
//!
//! The same input with the same options is always cut in the same way, which resuming relies on.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::cli::api_client::hex;
use crate::feed::input::{FeedFormat, Input};
use crate::feed::mapping::{ColumnMapping, Mapping};
use crate::feed::records::{Content, Record, Records, shorten};

/// Maximum number of bytes of a slice with several lines; it is cut before it grows larger.
const LARGEST_SLICE: usize = 4 << 20;

/// A refused line, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LineRefusal {
    /// Line of the input on which the record begins, from 1.
    pub line: u64,
    pub reason: String,
}

/// Observations that are sent in one request.
#[derive(Debug)]
pub struct ReportSlice {
    /// Zero-based number of the slice.
    pub number: u64,
    /// Observations as NDJSON.
    pub body: Bytes,
    /// Line of the input that each line of the body came from.
    pub lines: Vec<u64>,
    /// Records that were refused before sending, up to the end of this slice.
    pub refused: Vec<LineRefusal>,
    /// SHA-256 of the body and of its line numbers.
    pub digest: String,
}

/// Options that determine the cuts.
#[derive(Debug)]
pub struct Cutter {
    pub mapping: Mapping,
    pub delimiter: Option<u8>,
    /// Maximum number of lines of a slice.
    pub lines: usize,
}

impl Cutter {
    /// Reads the whole input and sends one slice after another to `slices`; blocks while the receiver is busy. Must be
    /// called on a thread that may block.
    ///
    /// `ignored` receives the columns that are not reported.
    ///
    /// # Errors
    /// Fails if the input cannot be read to its end, or if its header does not fit the mapping.
    pub fn cut(
        &self,
        input: Input,
        slices: &mpsc::Sender<ReportSlice>,
        ignored: impl FnOnce(&[String]),
    ) -> anyhow::Result<()> {
        let format = input.format;
        let mut records = Records::open(input.reader, format, self.delimiter)?;
        let columns = match format {
            FeedFormat::Ndjson | FeedFormat::Xml => None,
            FeedFormat::Csv => {
                let columns = self.mapping.for_columns(&records.read_header()?)?;
                ignored(&columns.ignored);
                records.set_columns(columns.index("price"), columns.index("sku"));
                Some(columns)
            }
        };
        let mut next = Draft::new(0);
        while let Some(record) = records.read_next()? {
            match self.map(columns.as_ref(), &record) {
                Err(reason) => {
                    next.refused.push(LineRefusal { line: record.line, reason: shorten(reason) });
                }
                Ok(line) => {
                    if !next.lines.is_empty() && next.body.len() + line.len() > LARGEST_SLICE {
                        let number = next.number + 1;
                        let full = std::mem::replace(&mut next, Draft::new(number));
                        if slices.blocking_send(full.finish()).is_err() {
                            return Ok(());
                        }
                    }
                    next.body.extend_from_slice(&line);
                    next.lines.push(record.line);
                }
            }
            // Refusals count as well, so a file with nothing else does not pile them up in memory.
            if next.lines.len() + next.refused.len() >= self.lines {
                let number = next.number + 1;
                let full = std::mem::replace(&mut next, Draft::new(number));
                if slices.blocking_send(full.finish()).is_err() {
                    return Ok(());
                }
            }
        }
        if !next.lines.is_empty() || !next.refused.is_empty() {
            // The receiver is gone only if sending has failed, which is reported there.
            let _ = slices.blocking_send(next.finish());
        }
        Ok(())
    }

    fn map(&self, columns: Option<&ColumnMapping>, record: &Record) -> Result<Vec<u8>, String> {
        match (&record.content, columns) {
            (Content::Broken(why), _) => Err(why.clone()),
            (Content::Fields(fields), Some(columns)) => columns.map_record(fields),
            (Content::Fields(_), None) => Err("has no header".to_owned()),
            (Content::Json(text), _) => self.mapping.map_json(text),
        }
    }
}

struct Draft {
    number: u64,
    body: Vec<u8>,
    lines: Vec<u64>,
    refused: Vec<LineRefusal>,
}

impl Draft {
    fn new(number: u64) -> Self {
        Self { number, body: Vec::new(), lines: Vec::new(), refused: Vec::new() }
    }

    fn finish(self) -> ReportSlice {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        digest.update(&self.body);
        for line in &self.lines {
            digest.update(&line.to_le_bytes());
        }
        let digest = hex(digest.finish().as_ref());
        let Self { number, body, lines, refused } = self;
        ReportSlice { number, body: body.into(), lines, refused, digest }
    }
}
