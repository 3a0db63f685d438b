//! Quotation marks in CSV and TSV: whether one begins a quoted field or is an ordinary character.
//!
//! A quoted field is enclosed as a whole: its closing mark is followed by a delimiter, a line end or the end of the
//! input, and marks inside are doubled (RFC 4180). A mark that is not closed this way is a character. A mark that is
//! closed only on a later line is ambiguous: shops leave marks open, and the next mark at the end of a cell, some rows
//! below, would close it. [`judge`] decides by whether the lines in between could be rows;
//! docs/decisions/0011-imports.md describes the rule.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memchr2};

/// Maximum number of columns of a CSV file.
pub const MAX_COLUMNS: usize = 1024;

/// Longest price with its currency, in bytes.
const LONGEST_PRICE: usize = 40;

/// Delimiter and line end of a file.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    pub delimiter: u8,
    /// `\n`, optionally after a `\r`; or a single `\r`.
    pub line_end: u8,
}

/// Properties of all records of a file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub dialect: Dialect,
    /// Number of fields in the header; `None` until it has been read.
    pub columns: Option<usize>,
    /// Index of the price column.
    pub price: Option<usize>,
    /// Index of the sku column.
    pub sku: Option<usize>,
    /// Whether the header has spaces after its delimiters.
    pub spaced: bool,
}

/// The fields of a record, as byte ranges in it.
#[derive(Debug, Default)]
pub struct RecordFields {
    list: Vec<Field>,
    /// Whether a field begins with a mark that is not closed within the bytes read.
    pub is_open: bool,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    begin: usize,
    end: usize,
    /// Whether `begin` and `end` delimit the text between two marks.
    quoted: bool,
}

/// Verdict on an open quotation mark.
#[derive(Debug)]
pub enum QuoteVerdict {
    /// The mark begins a field of several lines: the fields, and the length of the record with its line end, in bytes.
    OneRecord(RecordFields, usize),
    /// The mark is a character: its line is a record of its own, and so are the next ones.
    OpenQuote,
    /// The mark may be either, within this many bytes.
    Ambiguous(usize),
}

/// A verdict, and the number of bytes read to reach it.
#[derive(Debug)]
pub struct Judged {
    pub verdict: QuoteVerdict,
    pub examined: usize,
}

impl Table {
    pub fn new(dialect: Dialect) -> Table {
        Table { dialect, columns: None, price: None, sku: None, spaced: false }
    }
}

impl RecordFields {
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The texts of the fields. `record` must be the record that they were read from.
    pub fn texts<'t>(&self, record: &'t str) -> impl Iterator<Item = Cow<'t, str>> {
        self.list.iter().map(|field| {
            // Fields end at ASCII characters, which are never part of another character in UTF-8: `get` cannot fail.
            let text = record.get(field.begin..field.end).unwrap_or_default();
            if field.quoted && text.contains("\"\"") {
                Cow::Owned(text.replace("\"\"", "\""))
            } else {
                Cow::Borrowed(text)
            }
        })
    }
}

/// The fields of one line, which is passed without its line end.
pub fn read_line(line: &[u8], dialect: &Dialect) -> RecordFields {
    read(line, true, dialect, MAX_COLUMNS + 1).fields
}

/// A line without the `\r` that belongs to its line end.
pub fn without_return(line: &[u8], line_end: u8) -> &[u8] {
    match line_end {
        b'\n' => line.strip_suffix(b"\r").unwrap_or(line),
        _ => line,
    }
}

struct Read {
    fields: RecordFields,
    /// Length with the line end; `None`: the bytes end before the record does, or it has more than `most` fields.
    length: Option<usize>,
    examined: usize,
}

enum Close {
    At(usize),
    /// The mark at this position is followed by text, so it does not close a field.
    Text(usize),
    Never,
}

/// The first record of `bytes`; `whole`: nothing follows them.
fn read(bytes: &[u8], whole: bool, dialect: &Dialect, most: usize) -> Read {
    let mut fields = RecordFields::default();
    let (mut place, mut examined) = (0, 0);
    loop {
        let mut quoted = None;
        if bytes.get(place) == Some(&b'"') {
            match find_close(bytes, place + 1, whole, dialect) {
                Close::At(end) => quoted = Some(end),
                Close::Text(end) => examined = examined.max(end),
                Close::Never => {
                    fields.is_open = true;
                    examined = bytes.len();
                }
            }
        }
        let (field, mut next) = match quoted {
            Some(end) => (Field { begin: place + 1, end, quoted: true }, end + 1),
            None => {
                let end = memchr2(dialect.delimiter, dialect.line_end, &bytes[place..]);
                let next = end.map_or(bytes.len(), |end| place + end);
                (Field { begin: place, end: next, quoted: false }, next)
            }
        };
        fields.list.push(field);
        examined = examined.max(next);
        if bytes.get(next) == Some(&dialect.delimiter) {
            if fields.count() == most {
                return Read { fields, length: None, examined };
            }
            place = next + 1;
            continue;
        }
        if quoted.is_some() && bytes.get(next) == Some(&b'\r') && dialect.line_end == b'\n' {
            next += 1;
        }
        let ends = next < bytes.len() || whole;
        if let Some(last) = fields.list.last_mut().filter(|last| !last.quoted && ends) {
            last.end = last.begin + without_return(&bytes[last.begin..last.end], dialect.line_end).len();
        }
        return Read { fields, length: ends.then_some((next + 1).min(bytes.len())), examined };
    }
}

fn find_close(bytes: &[u8], begin: usize, whole: bool, dialect: &Dialect) -> Close {
    let mut place = begin;
    while let Some(found) = memchr(b'"', &bytes[place..]) {
        let mark = place + found;
        match bytes[mark + 1..] {
            [b'"', ..] => place = mark + 2,
            [] => return if whole { Close::At(mark) } else { Close::Never },
            [next, ..] if next == dialect.delimiter || next == dialect.line_end => return Close::At(mark),
            [b'\r', b'\n', ..] if dialect.line_end == b'\n' => return Close::At(mark),
            [b'\r'] if dialect.line_end == b'\n' => {
                return if whole { Close::At(mark) } else { Close::Never };
            }
            _ => return Close::Text(mark),
        }
    }
    Close::Never
}

/// Judges whether the record that begins `bytes` spans several lines. `alone` are the fields of its first line on its
/// own; `whole`: nothing follows the bytes.
///
/// The bytes alone do not distinguish a field of several lines from rows of which the first begins a cell with a mark
/// and the last ends one with a mark. The criterion is whether the lines could be rows: as many fields as the header,
/// with something like a price in the price column.
pub fn judge(bytes: &[u8], whole: bool, alone: &RecordFields, table: &Table) -> Judged {
    let dialect = &table.dialect;
    let read = read(bytes, whole, dialect, table.columns.unwrap_or(MAX_COLUMNS));
    let judged = |verdict| Judged { verdict, examined: read.examined };
    let Some(length) = read.length else { return judged(QuoteVerdict::OpenQuote) };
    let is_one_line = memchr(dialect.line_end, bytes).is_none_or(|end| length <= end + 1);
    if is_one_line || table.columns.is_some_and(|columns| columns != read.fields.count()) {
        return judged(QuoteVerdict::OpenQuote);
    }
    if table.columns.is_none() && is_confirmed(&bytes[length..], &read.fields, alone, dialect) {
        return judged(QuoteVerdict::OneRecord(read.fields, length));
    }
    let wanted = Row {
        dialect,
        columns: table.columns.unwrap_or(alone.count()),
        sku: table.sku,
        // A record without a price is refused in any case, so its lines need no price either.
        price: table.price.filter(|&price| {
            read.fields.list.get(price).is_some_and(|field| is_like_price(&bytes[field.begin..field.end]))
        }),
    };
    let (mut lines, mut rows) = (0, 0);
    let (mut first_may_be_row, mut first_may_be_ragged) = (false, false);
    let (mut later, mut evidence) = (0, 0);
    let mut begin = 0;
    while begin < length {
        let end = memchr(dialect.line_end, &bytes[begin..length]).map_or(length, |end| begin + end);
        let line = without_return(&bytes[begin..end], dialect.line_end);
        if !line.is_empty() {
            lines += 1;
            let likeness = wanted.likeness(line);
            let (is_row, is_ragged) =
                (likeness >= Some(Likeness::Priceless), likeness == Some(Likeness::Ragged));
            rows += usize::from(likeness == Some(Likeness::Row));
            if begin == 0 {
                (first_may_be_row, first_may_be_ragged) = (is_row, is_ragged);
            } else if wanted.begins(bytes, begin..end, whole, &read.fields) {
                (later, evidence) = (later + 1, evidence + 1);
            } else {
                later += usize::from(is_row || (is_ragged && wanted.price.is_some()));
                evidence +=
                    usize::from(likeness.is_some() && is_evidence(bytes, begin..end, &read.fields, table));
            }
        }
        begin = end + 1;
    }
    // Cells of a later line would become cells of the row that begins on the first line.
    let first_end = memchr(dialect.line_end, bytes).unwrap_or(length);
    let joins = (first_may_be_row || first_may_be_ragged)
        && read.fields.list.iter().any(|field| field.begin > first_end)
        && hides_delimiters(bytes, several_lines(bytes, &read.fields, dialect), table);
    let verdict = if rows * 2 > lines {
        QuoteVerdict::OpenQuote
    } else if (first_may_be_row && later > 0) || evidence > 0 || joins {
        QuoteVerdict::Ambiguous(length)
    } else {
        QuoteVerdict::OneRecord(read.fields, length)
    };
    Judged { verdict, examined: read.examined }
}

/// Whether the line below a header of several lines has as many fields as that header, and not as its first line alone.
fn is_confirmed(below: &[u8], header: &RecordFields, alone: &RecordFields, dialect: &Dialect) -> bool {
    let line = below.split(|byte| *byte == dialect.line_end).next().unwrap_or_default();
    let columns = read_line(without_return(line, dialect.line_end), dialect).count();
    columns == header.count() && columns != alone.count()
}

/// Properties that make a line a row.
struct Row<'d> {
    dialect: &'d Dialect,
    columns: usize,
    price: Option<usize>,
    sku: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// One field too few or too many, with a price and a sku in their columns or beside them.
    Ragged,
    /// As many fields as a row, but no price.
    Priceless,
    Row,
}

impl Row<'_> {
    /// Greatest likeness to a row among all readings of the marks in one line; `None`: it is not like a row in any.
    fn likeness(&self, line: &[u8]) -> Option<Likeness> {
        let readings = [
            read(line, true, self.dialect, self.columns + 1),
            read_regardless(line, self.dialect, self.columns + 1, false),
            read_regardless(line, self.dialect, self.columns + 1, true),
        ];
        readings.iter().filter_map(|read| self.likeness_of(line, read)).max()
    }

    /// Whether a row of several lines begins on this line: the mark that closes a field of the lines before opens one
    /// here.
    fn begins(&self, bytes: &[u8], line: Range<usize>, whole: bool, before: &RecordFields) -> bool {
        let closes = |field: &&Field| field.quoted && field.begin < line.start && line.contains(&field.end);
        let Some(mark) = before.list.iter().find(closes).map(|field| field.end - line.start) else {
            return false;
        };
        let read = read(&bytes[line.start..], whole, self.dialect, self.columns);
        read.fields.list.iter().any(|field| field.quoted && field.begin == mark + 1)
            && read.length.is_some_and(|length| length > line.len() + 1)
            && self.likeness_of(&bytes[line.start..], &read) >= Some(Likeness::Priceless)
    }

    fn likeness_of(&self, line: &[u8], read: &Read) -> Option<Likeness> {
        let fields = &read.fields.list;
        if read.length.is_none() || fields.len().abs_diff(self.columns) > 1 {
            return None;
        }
        let is_ragged = fields.len() != self.columns;
        let Some(price) = self.price else {
            // A single field could be a line of any text.
            return if is_ragged {
                (fields.len() > 1).then_some(Likeness::Ragged)
            } else {
                Some(Likeness::Row)
            };
        };
        let cell_of = |place: usize| fields.get(place).map(|field| &line[field.begin..field.end]);
        if is_ragged {
            // The missing or additional cell may be before this one.
            let is_any = |place: usize, is_like: fn(&[u8]) -> bool| {
                let moved = if fields.len() > self.columns { Some(place + 1) } else { place.checked_sub(1) };
                [Some(place), moved].into_iter().flatten().filter_map(cell_of).any(is_like)
            };
            let is_row = is_any(price, is_like_price) && self.sku.is_none_or(|sku| is_any(sku, is_like_sku));
            return is_row.then_some(Likeness::Ragged);
        }
        let cell = cell_of(price)?;
        if cell.trim_ascii().is_empty() {
            Some(Likeness::Priceless)
        } else {
            is_like_price(cell).then_some(Likeness::Row)
        }
    }
}

/// The fields of a line, with marks read as characters. With `heed_marks`, a mark at the beginning of a cell opens it,
/// and one at its end closes it, even if it is doubled.
fn read_regardless(line: &[u8], dialect: &Dialect, most: usize, heed_marks: bool) -> Read {
    let mut fields = RecordFields::default();
    let (mut place, mut begin, mut inside) = (0, 0, false);
    while place <= line.len() {
        let at = line.get(place).copied();
        if heed_marks && place == begin && at == Some(b'"') {
            inside = true;
        } else if inside
            && at == Some(b'"')
            && line.get(place + 1).is_none_or(|next| *next == dialect.delimiter)
        {
            inside = false;
        } else if at.is_none_or(|at| at == dialect.delimiter && !inside) {
            fields.list.push(Field { begin, end: place, quoted: false });
            begin = place + 1;
            if fields.count() > most {
                return Read { fields, length: None, examined: place };
            }
        }
        place += 1;
    }
    Read { fields, length: Some(line.len()), examined: line.len() }
}

/// Whether a cell was probably meant as a price.
fn is_like_price(cell: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(cell) else { return false };
    let text = text.trim_matches(|c: char| c == '"' || c.is_whitespace());
    let letters = text.chars().filter(char::is_ascii_alphabetic).count();
    text.len() <= LONGEST_PRICE
        && letters <= 4
        && text.contains(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || c.is_whitespace() || !c.is_ascii() || "\".,'+-$".contains(c))
}

/// Whether a cell could be a sku: one word, which prose between two delimiters seldom is.
fn is_like_sku(cell: &[u8]) -> bool {
    let cell = cell.trim_ascii();
    !cell.is_empty() && !cell.contains(&b' ')
}

/// Whether the line is evidence for a row. It is not if none of its delimiters is in a quoted field, as in the last
/// line of a first column, nor if all of them are commas of prose, with a space after each.
fn is_evidence(bytes: &[u8], line: Range<usize>, fields: &RecordFields, table: &Table) -> bool {
    let quoted = fields.list.iter().filter(|field| field.quoted);
    let parts = quoted.map(|field| field.begin.max(line.start)..field.end.min(line.end));
    hides_delimiters(bytes, parts, table)
}

/// The quoted fields that contain a line end.
fn several_lines<'f>(
    bytes: &'f [u8],
    fields: &'f RecordFields,
    dialect: &'f Dialect,
) -> impl Iterator<Item = Range<usize>> + 'f {
    let quoted = fields.list.iter().filter(|field| field.quoted).map(|field| field.begin..field.end);
    quoted.filter(|field| memchr(dialect.line_end, &bytes[field.clone()]).is_some())
}

/// Whether these parts of quoted fields contain delimiters that are not those of prose.
fn hides_delimiters(bytes: &[u8], parts: impl Iterator<Item = Range<usize>>, table: &Table) -> bool {
    let delimiter = table.dialect.delimiter;
    let (mut delimiters, mut spaced) = (0, 0);
    for part in parts {
        for place in part {
            if bytes[place] == delimiter {
                delimiters += 1;
                spaced += usize::from(bytes.get(place + 1) == Some(&b' '));
            }
        }
    }
    let may_be_prose = !table.spaced && delimiter != b'\t' && delimiters == spaced;
    delimiters > 0 && !may_be_prose
}
