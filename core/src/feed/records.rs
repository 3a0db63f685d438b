//! Splits an input into records with their line numbers. Memory is bounded for any input.
//!
//! A record of CSV or TSV is a line, unless a quoted field spans several lines. `quotes.rs` decides whether one does,
//! so that a quotation mark that is never closed costs its own line and no other.

use std::io::{self, BufRead};
use std::ops::Range;

use memchr::{memchr, memmem};

use super::encoding::UNREADABLE;
use super::error::FeedError;
use super::input::FeedFormat;
use super::quotes::{self, Dialect, MAX_COLUMNS, QuoteVerdict, RecordFields, Table};
use crate::domain::text::trim_unseen;

/// Longest record in bytes. A longer line is refused with its number.
pub const LONGEST_RECORD: usize = 64 << 10;
/// Longest reason of a refusal, in bytes. Reasons quote the input, and thousands of them are in memory at once.
const LONGEST_REASON: usize = 400;
/// Bound on the bytes that are read again after open quotation marks: this multiple of the bytes read so far, plus a
/// fixed number of bytes. A file in which every line opens a quotation mark must not be read over and over.
const REREAD_FACTOR: u64 = 16;
const REREAD_GRACE: u64 = 4 << 20;

/// One record of the input.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Line on which the record begins; the first line of the input is 1.
    pub line: u64,
    pub content: Content,
}

/// Content of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// The fields of a CSV record, in the order of the columns.
    Fields(Vec<String>),
    /// The text of an NDJSON line.
    Json(String),
    /// The record cannot be read, for this reason; the records after it can.
    Broken(String),
}

/// Sequential reader of records.
pub struct Records {
    lines: Lines,
    format: FeedFormat,
    table: Table,
    /// End, as an offset in the input, of lines that may belong to a quoted field or be rows, and the line on which
    /// that field begins.
    ambiguous: Option<(u64, u64)>,
    /// Number of bytes that were examined ahead and then read again.
    examined_ahead: u64,
}

impl Records {
    /// Opens an input. `delimiter` separates the fields of CSV; without it, the most frequent candidate in the header
    /// does.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn open(
        input: Box<dyn BufRead + Send>,
        format: FeedFormat,
        delimiter: Option<u8>,
    ) -> Result<Records, FeedError> {
        let mut lines = Lines::new(input);
        let mut table = Table::new(Dialect { delimiter: delimiter.unwrap_or(b','), line_end: b'\n' });
        if format == FeedFormat::Csv {
            lines.begin_csv().map_err(FeedError::Unreadable)?;
            let named = lines.take_separator_line().map_err(FeedError::Unreadable)?;
            table.dialect.line_end = lines.line_end;
            if let Line::At(header) = lines.find().map_err(FeedError::Unreadable)? {
                let header = &lines.window[header];
                let delimiter = delimiter.or(named).unwrap_or_else(|| guess_delimiter(header));
                table.dialect.delimiter = delimiter;
                table.spaced = memmem::find(header, &[delimiter, b' ']).is_some();
            }
        }
        Ok(Records { lines, format, table, ambiguous: None, examined_ahead: 0 })
    }

    /// Reads the first record of CSV, which names the columns.
    ///
    /// # Errors
    /// The input is empty, or its header cannot be read.
    pub fn read_header(&mut self) -> Result<Vec<String>, FeedError> {
        match self.read_next()? {
            None => Err(FeedError::Empty),
            Some(Record { line, content: Content::Fields(header) }) => {
                let is_open = |name: &&String| name.starts_with('"') && name.matches('"').count() % 2 == 1;
                if let Some(name) = header.iter().find(is_open) {
                    let name: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
                    return Err(FeedError::OpenQuoteInHeader { line, name });
                }
                self.table.columns = Some(header.len());
                Ok(header)
            }
            Some(Record { line, content: Content::Broken(why) | Content::Json(why) }) => {
                Err(FeedError::BrokenHeader { line, why })
            }
        }
    }

    /// Sets the columns of the price and the sku, which help to distinguish rows from lines of text in a quoted field.
    pub fn set_columns(&mut self, price: Option<usize>, sku: Option<usize>) {
        (self.table.price, self.table.sku) = (price, sku);
    }

    /// Reads the next record that is not empty; `None` at the end.
    ///
    /// # Errors
    /// The input breaks off, such as in the middle of a compressed stream.
    pub fn read_next(&mut self) -> Result<Option<Record>, FeedError> {
        loop {
            let read = self.read_content();
            let read = read.map_err(|source| FeedError::BrokenOff { line: self.lines.number, source });
            let Some((line, content)) = read? else { return Ok(None) };
            // A line of white space is not a record of NDJSON.
            if !matches!(&content, Content::Json(text) if text.trim().is_empty()) {
                return Ok(Some(Record { line, content }));
            }
        }
    }

    fn read_content(&mut self) -> io::Result<Option<(u64, Content)>> {
        let Some(line) = self.lines.find_filled()? else { return Ok(None) };
        let number = self.lines.number;
        let content = match line {
            Line::TooLong => {
                self.lines.skip_long()?;
                Content::Broken(format!("is longer than {LONGEST_RECORD} bytes"))
            }
            Line::At(_) if self.is_ambiguous() => {
                self.lines.consume_line(line);
                let begin = self.ambiguous.map_or(number, |(_, begin)| begin);
                Content::Broken(format!(
                    "may belong to the quoted field that begins on line {begin}, or be a row of its own"
                ))
            }
            Line::At(ref span) => {
                let text = &self.lines.window[span.clone()];
                if self.format != FeedFormat::Csv {
                    let content = json(text);
                    self.lines.consume_line(line);
                    content
                } else if memchr(b'"', text).is_none() {
                    let content = split(text, &self.table);
                    self.lines.consume_line(line);
                    content
                } else {
                    let alone = quotes::read_line(text, &self.table.dialect);
                    if alone.is_open {
                        self.read_open(&alone)?
                    } else {
                        let content = content_of(text, &alone);
                        self.lines.consume_line(line);
                        content
                    }
                }
            }
        };
        Ok(Some((number, content)))
    }

    fn is_ambiguous(&self) -> bool {
        self.ambiguous.is_some_and(|(end, _)| self.lines.place < end)
    }

    /// Reads a record whose first line has a quotation mark that is not closed on it. `alone` are the fields of that
    /// line when the mark is a character.
    fn read_open(&mut self, alone: &RecordFields) -> io::Result<Content> {
        let may_examine =
            self.examined_ahead <= self.lines.place.saturating_mul(REREAD_FACTOR) + REREAD_GRACE;
        if may_examine {
            let begin = self.lines.number;
            let (ahead, whole) = self.lines.look_ahead()?;
            let judged = quotes::judge(ahead, whole, alone, &self.table);
            match judged.verdict {
                QuoteVerdict::OneRecord(fields, length) => {
                    let content = content_of(&ahead[..length], &fields);
                    self.lines.consume(length);
                    return Ok(content);
                }
                QuoteVerdict::Ambiguous(length) => {
                    self.ambiguous = Some((self.lines.place + length as u64, begin));
                    self.lines.consume_next_line();
                    return Ok(Content::Broken(
                        "has a quotation mark that may begin a field of several lines, or be a character of this \
                         row; nothing is guessed"
                            .to_owned(),
                    ));
                }
                QuoteVerdict::OpenQuote => self.examined_ahead += judged.examined as u64,
            }
        }
        // Reading ahead may have moved the line within the window.
        let Line::At(span) = self.lines.find()? else { return Ok(Content::Broken("is gone".to_owned())) };
        let text = &self.lines.window[span];
        // The mark is a character if the line is a row with it. Without reading ahead, that is not known.
        let content = if may_examine && self.table.columns.is_none_or(|columns| columns == alone.count()) {
            content_of(text, alone)
        } else {
            Content::Broken(format!(
                "has a quotation mark that is never closed, and {} fields without it",
                alone.count()
            ))
        };
        self.lines.consume_next_line();
        Ok(content)
    }
}

/// The reason of a refusal, shortened to a useful length, as it may quote the input.
pub fn shorten(mut reason: String) -> String {
    if reason.len() > LONGEST_REASON {
        let end = reason.floor_char_boundary(LONGEST_REASON);
        reason.truncate(end);
        reason.push('…');
        reason.shrink_to_fit();
    }
    reason
}

fn json(line: &[u8]) -> Content {
    match text_of(line) {
        Ok(text) => Content::Json(text.to_owned()),
        Err(why) => Content::Broken(why),
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) if memmem::find(bytes, UNREADABLE.as_bytes()).is_none() => Ok(text),
        _ => Err("is not UTF-8".to_owned()),
    }
}

/// Splits a line without quotation marks.
fn split(line: &[u8], table: &Table) -> Content {
    let delimiter = char::from(table.dialect.delimiter);
    let text = match text_of(line) {
        Ok(text) => text,
        Err(why) => return Content::Broken(why),
    };
    let mut fields = Vec::with_capacity(table.columns.unwrap_or_default().min(MAX_COLUMNS));
    for field in text.split(delimiter) {
        if fields.len() == MAX_COLUMNS {
            return too_many();
        }
        fields.push(trim_unseen(field).to_owned());
    }
    Content::Fields(fields)
}

fn content_of(record: &[u8], fields: &RecordFields) -> Content {
    if fields.count() > MAX_COLUMNS {
        return too_many();
    }
    match text_of(record) {
        Ok(text) => Content::Fields(fields.texts(text).map(|field| trim_unseen(&field).to_owned()).collect()),
        Err(why) => Content::Broken(why),
    }
}

fn too_many() -> Content {
    Content::Broken(format!("has more than {MAX_COLUMNS} columns"))
}

/// Guesses the delimiter: whichever of comma, semicolon and tab is most frequent in the header outside of quotation
/// marks.
fn guess_delimiter(header: &[u8]) -> u8 {
    let count = |heed_quotes: bool| {
        let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
        let mut quoted = false;
        for &byte in header {
            match byte {
                b'"' => quoted = heed_quotes && !quoted,
                _ if !quoted => counts.iter_mut().filter(|(d, _)| *d == byte).for_each(|(_, n)| *n += 1),
                _ => {}
            }
        }
        counts
    };
    let closed = header.iter().filter(|&&byte| byte == b'"').count() % 2 == 0;
    // `max_by_key` returns the last of equal elements; the order is reversed to prefer the comma.
    count(closed).into_iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| delimiter)
}

/// Reader of the input by lines, which can also read ahead behind a line.
struct Lines {
    input: Box<dyn BufRead + Send>,
    /// Bytes read from the input; those from `start` on are not consumed yet.
    window: Vec<u8>,
    start: usize,
    ended: bool,
    /// `\n` (with or without a `\r` before it), or `\r`, as old Mac spreadsheets write it.
    line_end: u8,
    /// Number of the next line, from 1, and the number of bytes before it.
    number: u64,
    place: u64,
}

/// A line in the window.
enum Line {
    At(Range<usize>),
    TooLong,
}

/// Size of the window in bytes, large enough that bytes read ahead seldom need to be moved to its front.
const WINDOW: usize = 4 * LONGEST_RECORD;

/// Whether the input had more bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refill {
    Taken,
    Ended,
}

impl Lines {
    fn new(input: Box<dyn BufRead + Send>) -> Lines {
        Lines { input, window: Vec::new(), start: 0, ended: false, line_end: b'\n', number: 1, place: 0 }
    }

    fn unread(&self) -> &[u8] {
        &self.window[self.start..]
    }

    /// Reads more bytes from the input.
    fn fill(&mut self) -> io::Result<Refill> {
        if self.ended {
            return Ok(Refill::Ended);
        }
        if self.start == self.window.len() {
            self.window.clear();
            self.start = 0;
        }
        let found = loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                found => break found?,
            }
        };
        let count = found.len().min(LONGEST_RECORD);
        if self.window.len() + count > WINDOW {
            self.window.drain(..self.start);
            self.start = 0;
        }
        self.window.extend_from_slice(&found[..count]);
        self.input.consume(count);
        self.ended = count == 0;
        Ok(if self.ended { Refill::Ended } else { Refill::Taken })
    }

    /// Detects the line end: the first one outside of quotation marks.
    fn begin_csv(&mut self) -> io::Result<()> {
        loop {
            let (mut quoted, mut seen) = (false, None);
            let unread = self.unread();
            for (place, &byte) in unread.iter().enumerate().take(LONGEST_RECORD) {
                match byte {
                    b'"' => quoted = !quoted,
                    b'\n' if !quoted => seen = Some(b'\n'),
                    b'\r' if !quoted => {
                        seen = match unread.get(place + 1) {
                            Some(b'\n') => Some(b'\n'),
                            Some(_) => Some(b'\r'),
                            None => break,
                        }
                    }
                    _ => {}
                }
                if seen.is_some() {
                    break;
                }
            }
            if let Some(line_end) = seen {
                self.line_end = line_end;
                return Ok(());
            }
            if unread.len() >= LONGEST_RECORD || self.fill()? == Refill::Ended {
                return Ok(());
            }
        }
    }

    /// Consumes Excel's line `sep=;`, if it is the first line, and returns the delimiter that it names.
    fn take_separator_line(&mut self) -> io::Result<Option<u8>> {
        let line = self.find()?;
        let Line::At(ref span) = line else { return Ok(None) };
        let bare = match &self.window[span.clone()] {
            [b'"', inner @ .., b'"'] => inner,
            bare => bare,
        };
        let delimiter = match bare {
            [name @ .., delimiter] if name.eq_ignore_ascii_case(b"sep=") && delimiter.is_ascii() => {
                *delimiter
            }
            _ => return Ok(None),
        };
        self.consume_line(line);
        Ok(Some(delimiter).filter(|delimiter| !matches!(delimiter, b'"' | b'\r' | b'\n')))
    }

    /// Finds the next line in the window, without its line end. At the end of the input it is empty.
    fn find(&mut self) -> io::Result<Line> {
        let mut known = 0;
        let length = loop {
            let unread = self.unread();
            match memchr(self.line_end, &unread[known..]) {
                Some(end) => break known + end,
                None if unread.len() > LONGEST_RECORD + 1 => return Ok(Line::TooLong),
                None => known = unread.len(),
            }
            if self.fill()? == Refill::Ended {
                break known;
            }
        };
        let line = quotes::without_return(&self.window[self.start..self.start + length], self.line_end);
        Ok(match line.len() {
            length if length > LONGEST_RECORD => Line::TooLong,
            length => Line::At(self.start..self.start + length),
        })
    }

    /// As [`Lines::find`], for the next line that is not empty; `None` at the end.
    fn find_filled(&mut self) -> io::Result<Option<Line>> {
        loop {
            match self.find()? {
                Line::At(span) if span.is_empty() => {
                    if self.unread().is_empty() {
                        return Ok(None);
                    } else {
                        self.consume_line(Line::At(span))
                    }
                }
                line => return Ok(Some(line)),
            }
        }
    }

    /// Reads ahead by up to the length of a record, and returns the bytes and whether they are the rest of the input.
    fn look_ahead(&mut self) -> io::Result<(&[u8], bool)> {
        while self.unread().len() <= LONGEST_RECORD && self.fill()? == Refill::Taken {}
        let unread = self.unread();
        let whole = unread.len() <= LONGEST_RECORD;
        Ok((&unread[..unread.len().min(LONGEST_RECORD)], whole))
    }

    /// Consumes a line that was found, provided that nothing else was read since.
    fn consume_line(&mut self, line: Line) {
        let Line::At(span) = line else { return };
        // A `\r` may be between the line and its end.
        let ends = self.window[span.end..].iter().take(2).position(|&byte| byte == self.line_end);
        let after = ends.map_or(self.window.len(), |end| span.end + end + 1);
        self.number += u64::from(ends.is_some());
        self.place += (after - self.start) as u64;
        self.start = after;
    }

    fn consume_next_line(&mut self) {
        let unread = self.unread();
        let length = memchr(self.line_end, unread).map_or(unread.len(), |end| end + 1);
        self.consume(length);
    }

    fn consume(&mut self, length: usize) {
        let ends = memchr::memchr_iter(self.line_end, &self.unread()[..length]).count();
        self.number += ends as u64;
        self.place += length as u64;
        self.start += length;
    }

    /// Consumes a line that is too long, without keeping it.
    fn skip_long(&mut self) -> io::Result<()> {
        loop {
            let unread = self.unread();
            let end = memchr(self.line_end, unread);
            self.consume(end.map_or(unread.len(), |end| end + 1));
            if end.is_some() || self.fill()? == Refill::Ended {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
