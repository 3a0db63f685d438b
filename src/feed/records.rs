//! Cuts an input into records with the numbers of their lines, in bounded memory whatever the input holds.

use std::io::BufRead;

use csv_core::ReadRecordResult;

use super::input::Format;
use crate::failure::{Explain, Failure};

/// The longest record that is taken, in bytes; a longer one is refused with its number.
pub const LONGEST_RECORD: usize = 64 << 10;
/// The most columns that a CSV file may have.
const MOST_COLUMNS: usize = 1024;

/// One record of the input.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// The line on which it begins; the first line of the input is 1.
    pub line: u64,
    pub content: Content,
}

/// What stands in a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// The fields of a CSV record, in the order of the columns.
    Fields(Vec<String>),
    /// The text of an NDJSON line.
    Json(String),
    /// It cannot be read, and why; the records after it can.
    Broken(String),
}

/// Reads records one after another.
pub struct Records {
    input: Box<dyn BufRead + Send>,
    format: Format,
    csv: csv_core::Reader,
    /// How many line ends have been read.
    line_ends: u64,
    output: Vec<u8>,
    ends: Vec<usize>,
}

impl Records {
    /// Of an input; `delimiter` stands between the fields of CSV.
    pub fn new(input: Box<dyn BufRead + Send>, format: Format, delimiter: u8) -> Self {
        let csv = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        let (output, ends) = (vec![0; LONGEST_RECORD], vec![0; MOST_COLUMNS]);
        Self { input, format, csv, line_ends: 0, output, ends }
    }

    /// The first record of CSV, which names the columns.
    ///
    /// # Errors
    /// There is none that can be read.
    pub fn read_header(&mut self) -> Result<Vec<String>, Failure> {
        match self.read_next()? {
            None => Err(Failure::new("the input is empty")),
            Some(Record { content: Content::Fields(header), .. }) => Ok(header),
            Some(Record { line, content: Content::Broken(why) | Content::Json(why) }) => {
                Err(Failure::new(format!("the header on line {line} {why}")))
            }
        }
    }

    /// The next record that is not empty; `None` at the end.
    ///
    /// # Errors
    /// When the input breaks off, e.g. in the middle of a compressed stream.
    pub fn read_next(&mut self) -> Result<Option<Record>, Failure> {
        while self.skip_blank().explain(|| "cannot read the input")? {
            let line = self.line_ends + 1;
            let read = match self.format {
                Format::Csv => self.read_csv(),
                Format::Ndjson | Format::Xml => self.read_json(),
            };
            let content = read.explain(|| format!("cannot read the input after line {line}"))?;
            if !matches!(&content, Content::Json(text) if text.trim().is_empty()) {
                return Ok(Some(Record { line, content }));
            }
        }
        Ok(None)
    }

    /// Passes over empty lines; whether anything follows.
    fn skip_blank(&mut self) -> std::io::Result<bool> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(false);
            }
            let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.line_ends += count_line_ends(&buffer[..blank]);
            let more = blank < buffer.len();
            self.input.consume(blank);
            if more {
                return Ok(true);
            }
        }
    }

    fn read_csv(&mut self) -> std::io::Result<Content> {
        let first_line = self.line_ends + 1;
        let (mut written, mut fields, mut length) = (0, 0, 0);
        let mut too_long = false;
        loop {
            let buffer = self.input.fill_buf()?;
            let (result, read, wrote, ended) =
                self.csv.read_record(buffer, &mut self.output[written..], &mut self.ends[fields..]);
            self.line_ends += count_line_ends(&buffer[..read]);
            self.input.consume(read);
            length += read;
            written += wrote;
            fields += ended;
            too_long |= length > LONGEST_RECORD;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    // Read on to its end, over what was kept of it.
                    too_long = true;
                    (written, fields) = (0, 0);
                }
                ReadRecordResult::Record | ReadRecordResult::End => break,
            }
            if too_long {
                (written, fields) = (0, 0);
            }
        }
        if too_long {
            let last_line = self.line_ends.max(first_line);
            return Ok(Content::Broken(format!(
                "is longer than {LONGEST_RECORD} bytes or has more than {MOST_COLUMNS} columns; it reaches to line {last_line}, which a quotation mark that is never closed would explain"
            )));
        }
        let Ok(text) = std::str::from_utf8(&self.output[..written]) else {
            return Ok(Content::Broken("is not UTF-8".to_owned()));
        };
        let mut begin = 0;
        let mut values = Vec::with_capacity(fields);
        for &end in &self.ends[..fields] {
            // A field that ends inside a character would be a bug of the parser; `get` keeps it from being ours.
            values.push(trim(text.get(begin..end).unwrap_or_default()).to_owned());
            begin = end;
        }
        Ok(Content::Fields(values))
    }

    fn read_json(&mut self) -> std::io::Result<Content> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            too_long |= line.len() + part.len() > LONGEST_RECORD;
            if too_long {
                line = Vec::new();
            } else {
                line.extend_from_slice(part);
            }
            let read = part.len() + usize::from(end.is_some());
            self.input.consume(read);
            if end.is_some() {
                self.line_ends += 1;
                break;
            }
        }
        Ok(if too_long {
            Content::Broken(format!("is longer than {LONGEST_RECORD} bytes"))
        } else {
            match String::from_utf8(line) {
                Ok(line) => Content::Json(line),
                Err(_) => Content::Broken("is not UTF-8".to_owned()),
            }
        })
    }
}

/// Without outer spaces, and without the invisible marks that foreign files carry inside of fields.
pub fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}'))
}

fn count_line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Which of comma, semicolon and tab stands between the columns: the one that the header has most of, outside
/// of quotation marks.
pub fn guess_delimiter(reader: &mut dyn BufRead) -> std::io::Result<u8> {
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    let mut quoted = false;
    for &byte in reader.fill_buf()?.iter() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => break,
            _ if !quoted => counts.iter_mut().filter(|(d, _)| *d == byte).for_each(|(_, n)| *n += 1),
            _ => {}
        }
    }
    // Of equals, `max_by_key` takes the last; the comma has to win.
    Ok(counts.into_iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| delimiter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor};

    /// All records, read through a buffer of every small size, which must not matter.
    fn read(format: Format, input: &str) -> Vec<(u64, Content)> {
        let mut results = Vec::new();
        for capacity in [1, 2, 3, 7, 4096] {
            let reader = BufReader::with_capacity(capacity, Cursor::new(input.as_bytes().to_vec()));
            let mut records = Records::new(Box::new(reader), format, b',');
            let mut all = Vec::new();
            while let Some(record) = records.read_next().unwrap() {
                all.push((record.line, record.content));
            }
            results.push(all);
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
        results.remove(0)
    }

    fn fields(line: u64, fields: &[&str]) -> (u64, Content) {
        (line, Content::Fields(fields.iter().map(|field| (*field).to_owned()).collect()))
    }

    #[test]
    fn csv_lines_are_counted_through_quotes_blank_lines_and_both_line_ends() {
        let input = "a,b\r\n1, \u{feff}x \r\n\r\n\n\"2\nand \"\"more\"\"\r\n\",y\n3,\"z\"";
        assert_eq!(
            read(Format::Csv, input),
            [
                fields(1, &["a", "b"]),
                fields(2, &["1", "x"]),
                fields(5, &["2\nand \"more\"", "y"]),
                fields(8, &["3", "z"]),
            ]
        );
    }

    #[test]
    fn a_record_beyond_the_limit_is_broken_and_the_next_is_read() {
        let long = "x".repeat(LONGEST_RECORD + 1);
        for format in [Format::Csv, Format::Ndjson] {
            let input = format!("first\n{long}\nthird\n");
            let reader = BufReader::with_capacity(1000, Cursor::new(input.into_bytes()));
            let mut records = Records::new(Box::new(reader), format, b',');
            let lines: Vec<_> = std::iter::from_fn(|| records.read_next().unwrap()).collect();
            assert_eq!(lines.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 2, 3]);
            assert!(matches!(lines[1].content, Content::Broken(_)));
            assert!(!matches!(lines[2].content, Content::Broken(_)));
        }
    }

    #[test]
    fn an_unclosed_quote_costs_bounded_memory_and_says_how_far_it_reaches() {
        let input = format!("a\n\"b\n{}", "c\n".repeat(LONGEST_RECORD));
        let mut records = Records::new(Box::new(Cursor::new(input.into_bytes())), Format::Csv, b',');
        records.read_next().unwrap();
        let broken = records.read_next().unwrap().unwrap();
        assert_eq!(broken.line, 2);
        let Content::Broken(why) = broken.content else { panic!("{broken:?}") };
        assert!(why.contains("reaches to line 65538"), "{why}");
        assert_eq!(records.read_next().unwrap(), None);
    }

    #[test]
    fn json_lines_are_counted_and_invalid_utf8_is_one_broken_line() {
        assert_eq!(
            read(Format::Ndjson, "{}\r\n\n{\"a\":1}"),
            [(1, Content::Json("{}\r".to_owned())), (3, Content::Json("{\"a\":1}".to_owned()))]
        );
        let mut records =
            Records::new(Box::new(Cursor::new(b"\xff\xff\n{}\n".to_vec())), Format::Ndjson, b',');
        assert_eq!(records.read_next().unwrap().unwrap().content, Content::Broken("is not UTF-8".to_owned()));
        assert_eq!(records.read_next().unwrap().unwrap().line, 2);
    }

    #[test]
    fn the_delimiter_is_what_the_header_has_most_of() {
        for (header, delimiter) in [
            ("a,b;c,d\n;;;;;", b','),
            ("a;b;c\n", b';'),
            ("a\tb\n", b'\t'),
            ("\"a;b;c\",d\n", b','),
            ("a", b','),
        ] {
            assert_eq!(guess_delimiter(&mut header.as_bytes()).unwrap(), delimiter, "{header}");
        }
    }
}
