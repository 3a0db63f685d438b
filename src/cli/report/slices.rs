//! Cuts the mapped records into slices, each of which is one request.
//!
//! The same input with the same options is always cut alike: that is what resuming stands on.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::cli::api_client::hex;
use crate::feed::input::{FeedFormat, Input};
use crate::feed::mapping::{ColumnMapping, Mapping};
use crate::feed::records::{Content, Record, Records, shorten};

/// A slice is cut before it grows beyond this, in bytes, however few lines it has.
const LARGEST_SLICE: usize = 4 << 20;

/// A line that was refused and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LineRefusal {
    /// The line of the input on which the record begins, from 1.
    pub line: u64,
    pub reason: String,
}

/// A run of observations that is sent at once.
#[derive(Debug)]
pub struct ReportSlice {
    /// From 0.
    pub number: u64,
    /// NDJSON.
    pub body: Bytes,
    /// The line of the input that each line of the body came from.
    pub lines: Vec<u64>,
    /// Records before the end of this slice that were not worth sending.
    pub refused: Vec<LineRefusal>,
    /// The SHA-256 of the body and of the numbers of its lines.
    pub digest: String,
}

/// Which cuts to make.
#[derive(Debug)]
pub struct Cutter {
    pub mapping: Mapping,
    pub delimiter: Option<u8>,
    /// Lines a slice.
    pub lines: usize,
}

impl Cutter {
    /// Reads the whole input and gives one slice after another to `slices`; waits while nobody takes them. Only
    /// to be called on a thread that may block.
    ///
    /// `ignored` gets the columns that are not reported.
    ///
    /// # Errors
    /// When the input breaks off or its header does not fit the mapping.
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
                records.set_columns(columns.place("price"), columns.place("sku"));
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
            // Refusals count, so that a file of nothing else is no heap of them.
            if next.lines.len() + next.refused.len() >= self.lines {
                let number = next.number + 1;
                let full = std::mem::replace(&mut next, Draft::new(number));
                if slices.blocking_send(full.finish()).is_err() {
                    return Ok(());
                }
            }
        }
        if !next.lines.is_empty() || !next.refused.is_empty() {
            // Nobody takes it only when sending has failed, which is told there.
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
