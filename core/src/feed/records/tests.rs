use std::io::{BufReader, Cursor};

use proptest::prelude::*;

use super::*;

/// Options for reading a table.
#[derive(Clone, Copy, Debug, Default)]
struct As {
    delimiter: Option<u8>,
    price: Option<usize>,
}

fn read_through(capacity: usize, format: FeedFormat, of: As, input: &[u8]) -> Vec<(u64, Content)> {
    let reader = BufReader::with_capacity(capacity, Cursor::new(input.to_vec()));
    let mut records = Records::open(Box::new(reader), format, of.delimiter).unwrap();
    let mut all = Vec::new();
    if format == FeedFormat::Csv && !input.is_empty() {
        all.push((records.lines.number, Content::Fields(records.read_header().unwrap())));
        records.set_columns(of.price, None);
    }
    while let Some(record) = records.read_next().unwrap() {
        all.push((record.line, record.content));
    }
    all
}

/// All records with their lines, the header first. They are read through buffers of several small sizes, which must not
/// change the result.
fn read_as(format: FeedFormat, of: As, input: &[u8]) -> Vec<(u64, Content)> {
    let results: Vec<_> =
        [1, 2, 3, 7, 4096].into_iter().map(|capacity| read_through(capacity, format, of, input)).collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
    results.into_iter().next().unwrap()
}

fn read(format: FeedFormat, input: &str) -> Vec<(u64, Content)> {
    read_as(format, As::default(), input.as_bytes())
}

fn fields(line: u64, fields: &[&str]) -> (u64, Content) {
    (line, Content::Fields(fields.iter().map(|field| (*field).to_owned()).collect()))
}

#[test]
fn csv_lines_are_counted_through_quotes_blank_lines_and_both_line_ends() {
    let input = "a,b\r\n1, \u{feff}x \r\n\r\n\n\"2\nand \"\"more\"\"\r\n\",y\n3,\"z\"";
    assert_eq!(
        read(FeedFormat::Csv, input),
        [
            fields(1, &["a", "b"]),
            fields(2, &["1", "x"]),
            fields(5, &["2\nand \"more\"", "y"]),
            fields(8, &["3", "z"]),
        ]
    );
}

#[test]
fn old_spreadsheets_end_lines_with_only_a_carriage_return() {
    assert_eq!(
        read(FeedFormat::Csv, "a;b\r1;\"x\ny\"\r\r3;z"),
        [fields(1, &["a", "b"]), fields(2, &["1", "x\ny"]), fields(4, &["3", "z"])]
    );
}

#[test]
fn a_record_beyond_the_limit_is_broken_and_the_next_is_read() {
    let long = "x".repeat(LONGEST_RECORD + 1);
    for format in [FeedFormat::Csv, FeedFormat::Ndjson] {
        let lines = read_through(1000, format, As::default(), format!("first\n{long}\nthird\n").as_bytes());
        assert_eq!(lines.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(matches!(lines[1].1, Content::Broken(_)));
        assert!(!matches!(lines[2].1, Content::Broken(_)));
    }
    let just_fits = format!("a\n{}\r\nb\r\n", "x".repeat(LONGEST_RECORD));
    assert!(matches!(
        read_through(1000, FeedFormat::Csv, As::default(), just_fits.as_bytes())[1].1,
        Content::Fields(_)
    ));
    let wide = format!("a\n{}\nb\n", ",".repeat(MAX_COLUMNS));
    assert!(matches!(&read(FeedFormat::Csv, &wide)[1].1, Content::Broken(why) if why.contains("columns")));
}

#[test]
fn json_lines_are_counted_and_invalid_utf8_is_one_broken_line() {
    assert_eq!(
        read(FeedFormat::Ndjson, "{}\r\n\n \n{\"a\":1}"),
        [(1, Content::Json("{}".to_owned())), (4, Content::Json("{\"a\":1}".to_owned()))]
    );
    let read = read_as(FeedFormat::Ndjson, As::default(), b"\xff\xff\n{}\n");
    assert_eq!(read[0].1, Content::Broken("is not UTF-8".to_owned()));
    assert_eq!(read[1].0, 2);
}

#[test]
fn the_delimiter_is_the_most_frequent_candidate_in_the_header() {
    for (header, delimiter) in [
        ("a,b;c,d", b','),
        ("a;b;c", b';'),
        ("a\tb", b'\t'),
        ("\"a;b;c\",d", b','),
        ("a\"\tb", b'\t'),
        ("a", b','),
    ] {
        assert_eq!(guess_delimiter(header.as_bytes()), delimiter, "{header}");
    }
}

#[test]
fn the_first_line_of_excel_names_the_delimiter() {
    for (input, expected) in [
        ("sep=;\r\na;b,c,d\r\n1;2\r\n", ["a", "b,c,d", "1", "2"]),
        ("SEP=,\na,b;c\n1,2", ["a", "b;c", "1", "2"]),
        ("\"sep=|\"\na|b\n1|2", ["a", "b", "1", "2"]),
        ("sep=\t\na\tb\n1\t2", ["a", "b", "1", "2"]),
    ] {
        let expected = [fields(2, &expected[..2]), fields(3, &expected[2..])];
        assert_eq!(read(FeedFormat::Csv, input), expected, "{input}");
    }
    // A given delimiter takes precedence over the `sep=` line, which is skipped nevertheless.
    let given = As { delimiter: Some(b','), price: None };
    assert_eq!(read_as(FeedFormat::Csv, given, b"sep=;\na,b\n"), [fields(2, &["a", "b"])]);
}

/// Outline of records: the fields with `|` between them, or `!` and the line for a refused record.
fn outline(all: &[(u64, Content)]) -> Vec<String> {
    let one = |(line, content): &(u64, Content)| match content {
        Content::Fields(fields) => fields.join("|"),
        Content::Json(text) => text.clone(),
        Content::Broken(_) => format!("!{line}"),
    };
    all.iter().skip(1).map(one).collect()
}

#[test]
fn an_open_quote_costs_its_own_line_at_most() {
    let tsv = As { delimiter: Some(b'\t'), price: Some(3) };
    for (rows, expected) in [
        // Marks as shops write them.
        (
            "r1\tOne\t\"Best game\t10 EUR\nr2\tTwo\tfine\t1 EUR\nr3\tThree\tsay \"hi\"\t2 EUR\nr4\tFour\tz\t3 EUR\n",
            vec![
                "r1|One|\"Best game|10 EUR",
                "r2|Two|fine|1 EUR",
                "r3|Three|say \"hi\"|2 EUR",
                "r4|Four|z|3 EUR",
            ],
        ),
        // A mark at the end of a cell, some rows below, would close it.
        (
            "r1\tOne\t\"Best\t10 EUR\nr2\tTwo\tfine\t1 EUR\nr3\tThree\t15\"\t2 EUR",
            vec!["r1|One|\"Best|10 EUR", "r2|Two|fine|1 EUR", "r3|Three|15\"|2 EUR"],
        ),
        // The closing mark is on the next line, with Windows line ends, or doubled.
        (
            "r1\tOne\t\"Best\t10 EUR\r\nr2\tTwo\t15\"\t1 EUR\r\n",
            vec!["r1|One|\"Best|10 EUR", "r2|Two|15\"|1 EUR"],
        ),
        (
            "r1\tOne\t\"Best\"\"\t10 EUR\nr2\tTwo\t15\"\t1 EUR\n",
            vec!["r1|One|\"Best\"\"|10 EUR", "r2|Two|15\"|1 EUR"],
        ),
        // In the last column the mark would close at the end of a line.
        (
            "r1\tOne\tx\t\"10 EUR\nr2\tTwo\tfine\t1 EUR\"\nr3\tThree\tz\t2 EUR\n",
            vec!["r1|One|x|\"10 EUR", "r2|Two|fine|1 EUR\"", "r3|Three|z|2 EUR"],
        ),
        // A cell with only a mark; a cell with text after the closing mark; a mark at the end of the input.
        ("r1\tOne\t\"\t10 EUR\nr2\tTwo\tz\t1 EUR", vec!["r1|One|\"|10 EUR", "r2|Two|z|1 EUR"]),
        ("r1\tOne\t\"Best\" game\t10 EUR\n", vec!["r1|One|\"Best\" game|10 EUR"]),
        ("r1\tOne\tz\t10 EUR\nr2\tTwo\tz\t\"", vec!["r1|One|z|10 EUR", "r2|Two|z|\""]),
        ("r1\tOne\t\"z\t10 EUR\nr2\tTwo\t\"z\"\t1 EUR", vec!["r1|One|\"z|10 EUR", "r2|Two|z|1 EUR"]),
        // Without a price the first line is not a row: the mark may be either, and nothing is guessed.
        (
            "r1\tOne\t\"Best\nr2\tTwo\t15\"\t1 EUR\nr3\tThree\tz\t2 EUR\n",
            vec!["!2", "!3", "r3|Three|z|2 EUR"],
        ),
        // A text of several lines with a line like a row is ambiguous, too.
        (
            "r1\tOne\t\"Buy one of\nr9\tNine\tz\t9 EUR\nnow\"\t10 EUR\nr3\tThree\tz\t2 EUR\n",
            vec!["!2", "!3", "!4", "r3|Three|z|2 EUR"],
        ),
        (
            "r1\t\"a\ttab\tx\nline\ttwo\"\t4 EUR\t1 EUR\nr3\tThree\tz\t2 EUR\n",
            vec!["!2", "!3", "r3|Three|z|2 EUR"],
        ),
        // One mark too many, which the mark that opens a field of the next row would close.
        (
            "r1\tOne\t\"a\nb\"\"\t4 EUR\nr2\t\"\tx\ny\"\tz\t2 EUR\nr3\tThree\tz\t2 EUR\n",
            vec!["!2", "!3", "!4", "y\"|z|2 EUR", "r3|Three|z|2 EUR"],
        ),
        // Texts that are meant as one field of several lines.
        (
            "r1\tOne\t\"a \"\"word\"\", a\ttab and\n\nan end\"\t4 EUR\nr2\tTwo\tz\t1 EUR\n",
            vec!["r1|One|a \"word\", a\ttab and\n\nan end|4 EUR", "r2|Two|z|1 EUR"],
        ),
        ("r1\t\"One\nof\"\t\"two\r\nfields\"\t4 EUR\n", vec!["r1|One\nof|two\r\nfields|4 EUR"]),
    ] {
        let input = format!("id\ttitle\tdescription\tprice\n{rows}");
        assert_eq!(outline(&read_as(FeedFormat::Csv, tsv, input.as_bytes())), expected, "{rows}");
    }
}

/// The header, the index of the price column, the rows below it, and the expected outline.
type Ragged = (&'static str, usize, &'static str, &'static [&'static str]);

#[test]
fn an_open_quote_beside_a_row_with_a_cell_too_few_or_too_many_joins_nothing() {
    let cases: [Ragged; 10] = [
        (
            "id\ttitle\tdescription\tprice",
            3,
            "r1\tCable\t\"2m\t10.00 EUR\nr2\tMonitor 24\"\t99.00 EUR\nr3\tThree\tz\t3.00 EUR\n",
            &["!2", "!3", "r3|Three|z|3.00 EUR"],
        ),
        (
            "sku,title,price,currency",
            2,
            "r1,\"Best game,10.00,EUR\nr2,Foo,Bar\",1.00,EUR\nr3,Three,3.00,EUR\n",
            &["!2", "!3", "r3|Three|3.00|EUR"],
        ),
        (
            "price,title,sku,currency",
            0,
            "10.00,\"Best game,r1,EUR\n1.00,Foo,Bar\",r2,EUR\n3.00,Three,r3,EUR\n",
            &["!2", "!3", "3.00|Three|r3|EUR"],
        ),
        (
            "id\tdescription\tprice\ttitle\tsale_price",
            2,
            "r1\tnice\t10.00 EUR\t\"G1\t\nr2\tG2\"\t1.00 EUR\nr3\tx\t5 EUR\tG3\t4 EUR\n",
            &["!2", "!3", "r3|x|5 EUR|G3|4 EUR"],
        ),
        (
            "store,sku,title,url,price,currency",
            4,
            "s,r1,Best game,\"fine,10.00,EUR\ns,r2,Foo 19\",1.00,EUR\ns,r3,Three,,3.00,EUR\n",
            &["!2", "!3", "s|r3|Three||3.00|EUR"],
        ),
        (
            "id\ttitle\tdescription\tprice\tsale_price",
            3,
            "r1\tMix\t\"2m\t10.00 EUR\t\nr2\tMonitor 24\"\t10.00 EUR\t1.00 EUR\nr3\tx\ty\t5 EUR\t\n",
            &["!2", "!3", "r3|x|y|5 EUR|"],
        ),
        // Both rows have a cell too few, and the price of the first is lost with it.
        (
            "id\ttitle\tdescription\tprice",
            3,
            "r1\tCable\t\"2m\nr2\tMonitor 24\"\t99.00 EUR\nr3\tThree\tz\t3.00 EUR\n",
            &["!2", "!3", "r3|Three|z|3.00 EUR"],
        ),
        // The first row has a cell too many, the second far too few.
        (
            "id\ttitle\tdescription\tprice",
            3,
            "r1\tCable\t\"2m\t10.00 EUR\tx\nMonitor 24\"\t99.00 EUR\nr3\tThree\tz\t3.00 EUR\n",
            &["!2", "!3", "r3|Three|z|3.00 EUR"],
        ),
        // No cell is joined, but the second row would be lost.
        (
            "id\ttitle\tprice\tdescription",
            2,
            "r1\tCable\t10.00 EUR\t\"2m\nr2\tMonitor\t99.00 EUR\tx\t24\"\nr3\tThree\t3.00 EUR\tz\n",
            &["!2", "!3", "r3|Three|3.00 EUR|z"],
        ),
        // A field whose first line is not a row is one field, even with delimiters in it.
        (
            "sku,title,description,price",
            3,
            "r1,One,\"10,000 players, 4 modes\nand more\",9.99\nr3,Three,z,3.00\n",
            &["r1|One|10,000 players, 4 modes\nand more|9.99", "r3|Three|z|3.00"],
        ),
    ];
    for (header, price, rows, expected) in cases {
        let delimiter = if header.contains('\t') { b'\t' } else { b',' };
        let of = As { delimiter: Some(delimiter), price: Some(price) };
        let all = read_as(FeedFormat::Csv, of, format!("{header}\n{rows}").as_bytes());
        assert_eq!(outline(&all), expected, "{rows}");
    }
}

#[test]
fn prose_with_commas_is_one_field() {
    let csv = As { delimiter: Some(b','), price: Some(3) };
    // The last line has as many fields as a row, and a price in its place.
    let input = "id,title,description,price\nr1,One,\"Fast\nfun, good, and more\",10\nr2,Two,z,1\n";
    assert_eq!(
        outline(&read_as(FeedFormat::Csv, csv, input.as_bytes())),
        ["r1|One|Fast\nfun, good, and more|10", "r2|Two|z|1"]
    );
    // If the header has spaces as well, the line may be a row.
    let input = input.replace("id,title,", "id, title, ");
    assert_eq!(outline(&read_as(FeedFormat::Csv, csv, input.as_bytes())), ["!2", "!3", "r2|Two|z|1"]);
}

#[test]
fn an_open_quote_in_the_header_swallows_no_rows() {
    // The columns would be a guess.
    for header in ["id\t\"title\tprice\n1\tx\"\t5\n2\ty\t6\n", "id,\"title,price\n1,x,5\n"] {
        let mut records =
            Records::open(Box::new(Cursor::new(header.to_owned())), FeedFormat::Csv, None).unwrap();
        let refused = records.read_header().unwrap_err().to_string();
        assert!(
            refused.contains("the header on line 1 has a quotation mark that is never closed"),
            "{refused}"
        );
    }
    let all = read(FeedFormat::Csv, "id,\"Price\n(EUR)\",title\n1,2,x\n");
    assert_eq!(all, [fields(1, &["id", "Price\n(EUR)", "title"]), fields(3, &["1", "2", "x"])]);
}

#[test]
fn an_unclosed_quote_is_not_searched_for_again_and_again() {
    // Every line opens a quotation mark that the next one closes before it opens another.
    let line = b"\",\",\n";
    let rows = 200_000;
    let mut input = b"a,b,c,d,e,f,g,h\n".to_vec();
    (0..rows).for_each(|_| input.extend_from_slice(line));
    let mut records = Records::open(Box::new(Cursor::new(input.clone())), FeedFormat::Csv, None).unwrap();
    records.read_header().unwrap();
    let mut read = 0;
    while records.read_next().unwrap().is_some() {
        read += 1;
    }
    assert_eq!(read, rows);
    let most = input.len() as u64 * REREAD_FACTOR + REREAD_GRACE + LONGEST_RECORD as u64;
    assert!(records.examined_ahead <= most, "{}", records.examined_ahead);
    assert!(records.lines.window.capacity() <= 2 * WINDOW, "{}", records.lines.window.capacity());
}

const DELIMITERS: [u8; 3] = [b'\t', b',', b';'];

/// A table with marks at random places. Every cell contains the number of its row.
fn damaged() -> impl Strategy<Value = (usize, usize, u8, usize, String)> {
    let marks = prop::collection::vec((any::<prop::sample::Index>(), 1_usize..3), 0..12);
    let wild = prop::collection::vec(0_u8..6, 1..200);
    // A row with a cell too few or one too many.
    let index = any::<prop::sample::Index>;
    let ragged = prop::option::of((index(), index(), any::<bool>()));
    (1_usize..25, 2_usize..6, 0_usize..3, any::<bool>(), marks, wild, index(), ragged).prop_map(
        |(rows, columns, delimiter, returns, marks, wild, price, ragged)| {
            let (delimiter, price) = (DELIMITERS[delimiter], price.index(columns));
            let mut body = String::new();
            for row in 0..rows {
                let mut cells = Vec::new();
                for column in 0..columns {
                    let cell = match wild[(row * columns + column) % wild.len()] {
                        _ if column == price => format!("{row}.00 EUR"),
                        0 => format!("r{row}c{column}\""),
                        1 => format!("\"r{row}c{column}"),
                        2 => format!(" r{row}c{column} in r{row}\" or"),
                        _ => format!("r{row}c{column}"),
                    };
                    cells.push(cell);
                }
                match ragged.filter(|(of, ..)| of.index(rows) == row) {
                    Some((_, place, true)) => cells.insert(place.index(columns + 1), format!("r{row}")),
                    // An empty line would not be a row.
                    Some((_, place, false)) if columns > 2 => drop(cells.remove(place.index(columns))),
                    _ => {}
                }
                body.push_str(&cells.join(&char::from(delimiter).to_string()));
                if row + 1 < rows {
                    body.push_str(if returns { "\r\n" } else { "\n" });
                }
            }
            for (place, count) in marks {
                body.insert_str(place.index(body.len() + 1), &"\"".repeat(count));
            }
            (rows, columns, delimiter, price, body)
        },
    )
}

/// The numbers of the rows from which a field comes.
fn rows_of(field: &str) -> Vec<usize> {
    let bare = field.replace('"', "");
    let price = bare.strip_suffix(".00 EUR").and_then(|number| number.parse().ok());
    let others = bare.split('r').skip(1).filter_map(|rest| {
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok())
    });
    others.chain(price).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn no_row_has_a_cell_of_another_and_none_is_lost((rows, columns, delimiter, price, body) in damaged()) {
        let header = (0..columns).map(|column| format!("h{column}")).collect::<Vec<_>>();
        let header = header.join(std::str::from_utf8(&[delimiter]).unwrap());
        let input = format!("{header}\n{body}");
        for price in [Some(price), None] {
            let all = read_through(64, FeedFormat::Csv, As { delimiter: Some(delimiter), price }, input.as_bytes());
            let lines: Vec<u64> = all.iter().skip(1).map(|(line, _)| *line).collect();
            prop_assert_eq!(&lines, &(2..2 + rows as u64).collect::<Vec<_>>(), "{:?}", all);
            for (line, content) in all.iter().skip(1) {
                let Content::Fields(fields) = content else { continue };
                // A number of fields that differs from the header's is refused later, where the columns are known.
                if fields.len() == columns {
                    let row = *line as usize - 2;
                    let of: Vec<usize> = fields.iter().flat_map(|field| rows_of(field)).collect();
                    prop_assert!(of.iter().all(|other| *other == row), "{}: {:?}", line, fields);
                }
            }
        }
    }

    #[test]
    fn quotes_in_records_written_by_programs_give_no_row_a_cell_of_another(
        cells in prop::collection::vec(prop::collection::vec(0_usize..10, 1..5), 2..40),
        (columns, delimiter, price) in (3_usize..6, 0_usize..3, any::<prop::sample::Index>()),
        marks in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..3), 1..8),
    ) {
        let (separator, price) = (char::from(DELIMITERS[delimiter]).to_string(), price.index(columns));
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (row, cells) in cells.chunks(columns - 1).enumerate() {
            let word = |word: usize| match word {
                0 => format!("{separator} r{row}"),
                1 => format!("r{row}\nr{row}"),
                2 => format!("\"r{row}\""),
                3 => format!("r{row}{separator}r{row}"),
                _ => format!("r{row}"),
            };
            let mut written: Vec<String> =
                cells.iter().map(|words| words.iter().map(|one| word(*one)).collect::<Vec<_>>().join(" ")).collect();
            written.resize(columns - 1, format!("r{row}"));
            written.insert(price, format!("{row}.00 EUR"));
            rows.push(written);
        }
        let mut body = write(&rows, &separator, "\n", false);
        for (place, count) in marks {
            body.insert_str(place.index(body.len() + 1), &"\"".repeat(count));
        }
        let header = (0..columns).map(|column| format!("h{column}")).collect::<Vec<_>>().join(&separator);
        let input = format!("{header}\n{body}");
        let of = As { delimiter: Some(DELIMITERS[delimiter]), price: Some(price) };
        for (line, content) in read_through(64, FeedFormat::Csv, of, input.as_bytes()).into_iter().skip(1) {
            let Content::Fields(fields) = content else { continue };
            if fields.len() == columns && fields[price].strip_suffix(".00 EUR").is_some_and(|n| n.parse::<u8>().is_ok()) {
                let mut of: Vec<usize> = fields.iter().flat_map(|field| rows_of(field)).collect();
                of.dedup();
                prop_assert!(of.len() == 1, "line {}: {:?} of {:?}", line, fields, input);
            }
        }
    }

    #[test]
    fn records_written_by_programs_are_read_back(
        rows in prop::collection::vec(prop::collection::vec(prop::collection::vec(0_usize..12, 0..8), 3), 1..8),
        (delimiter, price, always, returns) in (0_usize..3, 0_usize..4, any::<bool>(), any::<bool>()),
    ) {
        let delimiter = DELIMITERS[delimiter];
        let separator = char::from(delimiter).to_string();
        let end = if returns { "\r\n" } else { "\n" };
        // Commas as people write them, line ends, and marks. A tab-separated table has a tab in its texts instead, and
        // then no line ends beside it.
        let spaced = if delimiter == b'\t' { "a\tb".to_owned() } else { format!("b{separator} a") };
        let words = ["game", "and", "é", "\"", "\"\"", "one \"two\"", spaced.as_str(), "\n", "\r\n", "\n\n", "|", "x"];
        let text = |row: usize, word: usize| match words[word] {
            other if delimiter == b'\t' && other.contains(if row.is_multiple_of(2) { '\n' } else { '\t' }) => "x",
            word => word,
        };
        let mut expected: Vec<Vec<String>> = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let words = |cell: &Vec<usize>| cell.iter().map(|word| text(number, *word)).collect::<Vec<_>>().join("o");
            let mut row: Vec<String> = row.iter().map(words).collect();
            row.insert(price, format!("{number}.50"));
            expected.push(row);
        }
        let written = write(&expected, &separator, end, always);
        let input = format!("a{separator}b{separator}c{separator}d{end}{written}");
        let of = As { delimiter: Some(delimiter), price: Some(price) };
        let all = read_through(64, FeedFormat::Csv, of, input.as_bytes());
        let found: Vec<Vec<String>> = all
            .into_iter()
            .skip(1)
            .map(|(_, content)| match content {
                Content::Fields(fields) => fields,
                other => vec![format!("{other:?}")],
            })
            .collect();
        for row in &mut expected {
            row.iter_mut().for_each(|field| *field = trim_unseen(field).to_owned());
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn records_written_by_programs_are_never_misread(
        rows in prop::collection::vec(prop::collection::vec("[ab ,;\t\"\n]{0,12}", 3), 1..8),
        (delimiter, price) in (0_usize..3, 0_usize..4),
    ) {
        let separator = char::from(DELIMITERS[delimiter]).to_string();
        let mut expected = rows;
        for (number, row) in expected.iter_mut().enumerate() {
            row.insert(price, format!("{number}.50"));
        }
        let written = write(&expected, &separator, "\n", false);
        let input = format!("a{separator}b{separator}c{separator}d\n{written}");
        let of = As { delimiter: Some(DELIMITERS[delimiter]), price: Some(price) };
        let all = read_through(64, FeedFormat::Csv, of, input.as_bytes());
        for (line, content) in all.into_iter().skip(1) {
            let Content::Fields(fields) = content else { continue };
            // A record of four fields with a price must be an original row, whatever else is refused.
            if fields.len() == 4 && fields[price].contains(".50") {
                let is_known = expected.iter().any(|row| row.iter().map(|field| trim_unseen(field)).eq(fields.iter()));
                prop_assert!(is_known, "line {}: {:?} of {:?}", line, fields, input);
            }
        }
    }
}

/// Writes CSV as Python's csv, Excel and PostgreSQL do.
fn write(rows: &[Vec<String>], separator: &str, end: &str, always: bool) -> String {
    let mut written = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .map(|cell| {
                if always || cell.contains(['"', '\n', '\r']) || cell.contains(separator) {
                    format!("\"{}\"", cell.replace('"', "\"\""))
                } else {
                    cell.clone()
                }
            })
            .collect();
        written.push_str(&cells.join(separator));
        written.push_str(end);
    }
    written
}
