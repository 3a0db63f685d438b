//! Tables in CSV (RFC 4180) and NDJSON.
//!
//! People open CSV files in spreadsheets, which read a cell that begins like a formula as one, quoted or not, unless it
//! begins with an apostrophe: <https://owasp.org/www-community/attacks/CSV_Injection>. Such a text is therefore
//! prefixed with an apostrophe (`guard`), which an import removes (`unguard`): exported text is imported unchanged.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::SecondsFormat;
use serde_json::{Map, Value};

use super::cell::{Cell, Columns};

pub struct TextWriter {
    columns: Columns,
    json: bool,
    has_header: bool,
}

impl TextWriter {
    pub fn new(columns: Columns, json: bool) -> TextWriter {
        TextWriter { columns, json, has_header: false }
    }

    pub fn write(&mut self, rows: &[Vec<Cell>]) -> Bytes {
        let mut text = self.header();
        for row in rows {
            if self.json {
                self.write_object(&mut text, row)
            } else {
                write_record(&mut text, row.iter().map(in_csv))
            }
        }
        text.into()
    }

    pub fn finish(mut self) -> Bytes {
        self.header().into()
    }

    fn header(&mut self) -> String {
        let mut text = String::new();
        if !self.json && !self.has_header {
            self.has_header = true;
            write_record(&mut text, self.columns.iter().map(|(name, _)| (*name).to_owned()));
        }
        text
    }

    fn write_object(&self, text: &mut String, row: &[Cell]) {
        let pairs = self.columns.iter().zip(row).map(|((name, _), cell)| {
            let value = match cell {
                Cell::Empty => Value::Null,
                Cell::Integer(number) => Value::from(*number),
                Cell::Boolean(value) => Value::from(*value),
                Cell::Text(_) | Cell::Money(_) | Cell::Time(_) => Value::from(in_words(cell)),
            };
            ((*name).to_owned(), value)
        });
        text.push_str(&Value::Object(pairs.collect::<Map<_, _>>()).to_string());
        text.push('\n');
    }
}

/// A text as written in CSV, with an apostrophe before anything that begins like a formula.
pub fn guard(text: &str) -> Cow<'_, str> {
    if begins_formula(text) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// The text from which `guard` made this one. An apostrophe before anything but a formula is a part of the text.
pub fn unguard(text: &str) -> &str {
    text.strip_prefix('\'').filter(|rest| begins_formula(rest)).unwrap_or(text)
}

/// Whether a text begins like a formula, ignoring its own apostrophes: otherwise they could not be distinguished from
/// the one that `guard` adds.
fn begins_formula(text: &str) -> bool {
    let text = text.trim_start_matches('\'');
    let begins = |c: char| "=+-@|%\t\r\n＝＋－＠".contains(c);
    // Some programs skip invisible characters, so the first visible one counts too.
    let seen = text.trim_start_matches(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}');
    text.starts_with(begins) || seen.starts_with(begins)
}

/// A cell of CSV, in quotation marks.
pub fn quote(text: &str) -> String {
    format!("\"{}\"", guard(text).replace('"', "\"\""))
}

/// A cell of CSV, not yet quoted.
fn in_csv(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => guard(text).into_owned(),
        other => in_words(other),
    }
}

fn in_words(cell: &Cell) -> String {
    match cell {
        Cell::Empty => String::new(),
        Cell::Text(text) => text.clone(),
        Cell::Integer(number) => number.to_string(),
        Cell::Boolean(value) => value.to_string(),
        Cell::Money(money) => money.currency.format_amount(money.minor),
        Cell::Time(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    }
}

fn write_record(text: &mut String, fields: impl Iterator<Item = String>) {
    for (at, field) in fields.enumerate() {
        if at > 0 {
            text.push(',');
        }
        if field.contains(['"', ',', '\r', '\n']) || field.trim() != field {
            text.push('"');
            text.push_str(&field.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(&field)
        }
    }
    text.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::super::cell::ColumnKind;
    use super::*;
    use proptest::prelude::*;

    const COLUMNS: Columns =
        &[("title", ColumnKind::Text), ("count", ColumnKind::Integer), ("at", ColumnKind::Time)];

    fn rows() -> Vec<Vec<Cell>> {
        let at = "2026-11-20T12:00:00.5Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        vec![
            vec![Cell::Text("a \"b\", c\n".to_owned()), Cell::Integer(-1), Cell::Time(at)],
            vec![Cell::Empty, Cell::Empty, Cell::Empty],
        ]
    }

    #[test]
    fn csv_quotes_fields_that_need_it_and_has_a_header_even_without_rows() {
        let mut writer = TextWriter::new(COLUMNS, false);
        let mut text = writer.write(&rows()[..1]).to_vec();
        text.extend_from_slice(&writer.write(&rows()[1..]));
        text.extend_from_slice(&writer.finish());
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "title,count,at\r\n\"a \"\"b\"\", c\n\",-1,2026-11-20T12:00:00.500Z\r\n,,\r\n"
        );
        assert_eq!(TextWriter::new(COLUMNS, false).finish(), "title,count,at\r\n");
    }

    #[test]
    fn a_text_is_never_a_formula_and_comes_back_as_it_was() {
        for (text, guarded) in [
            ("anna", "anna"),
            ("", ""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\rx", "'\rx"),
            (" =1", "' =1"),
            ("\u{feff}=1", "'\u{feff}=1"),
            ("＝1", "'＝1"),
            ("a=b", "a=b"),
            ("'tis", "'tis"),
            ("'=1", "''=1"),
            ("''-", "'''-"),
            ("'", "'"),
        ] {
            assert_eq!(guard(text), guarded);
            assert_eq!(unguard(guarded), text);
        }
        assert_eq!(quote("=a \"b\", c\r\n"), "\"'=a \"\"b\"\", c\r\n\"");
        let row = [Cell::Text("-5 days".to_owned()), Cell::Integer(-5), Cell::Empty];
        let text = TextWriter::new(COLUMNS, false).write(&[row.to_vec()]);
        assert_eq!(text, "title,count,at\r\n'-5 days,-5,\r\n");
        let text = TextWriter::new(COLUMNS, true).write(&[row.to_vec()]);
        assert_eq!(text, "{\"at\":null,\"count\":-5,\"title\":\"-5 days\"}\n", "no spreadsheet reads it");
    }

    proptest! {
        #[test]
        fn a_guarded_text_is_read_back(text in "['=+@ \ta-]{0,6}") {
            let guarded = guard(&text);
            prop_assert_eq!(unguard(&guarded), &text);
            prop_assert!(!guarded.starts_with(['=', '+', '-', '@', '\t']));
        }
    }

    #[test]
    fn ndjson_has_one_object_per_line() {
        let text = TextWriter::new(COLUMNS, true).write(&rows());
        let lines: Vec<Value> = text
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!(lines[0]["count"], -1);
        assert_eq!((lines.len(), &lines[1]["at"]), (2, &Value::Null));
    }
}
