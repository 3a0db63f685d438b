//! Encodings of feeds: byte order marks, UTF-16, and the encoding that an XML declaration names. All later stages read
//! UTF-8.

use std::io::{self, BufRead, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE};

/// Replacement for bytes that are invalid in their encoding: a noncharacter, which no text contains. It makes the
/// readers refuse the row instead of the file.
pub const UNREADABLE: &str = "\u{ffff}";
/// Size of the buffer for decoded text, in bytes.
const BUFFER: usize = 64 << 10;

/// Detects the encoding from the first bytes, and returns it with the length of the byte order mark. XML and tables
/// begin with ASCII, so UTF-16 is detected without a mark too.
pub fn find_by_marks(first: &[u8]) -> Option<(&'static Encoding, usize)> {
    if let Some(found) = Encoding::for_bom(first) {
        return Some(found);
    }
    match first {
        [0, 1..=0x7f, ..] => Some((UTF_16BE, 0)),
        [1..=0x7f, 0, ..] => Some((UTF_16LE, 0)),
        _ => None,
    }
}

/// The encoding that the XML declaration names; UTF-8 if it names none.
///
/// # Errors
/// The named encoding is unknown; the error is its name, quoted.
pub fn find_declared(first: &[u8]) -> Result<&'static Encoding, String> {
    let Some(name) = declared_name(first) else { return Ok(UTF_8) };
    let name = String::from_utf8_lossy(name).into_owned();
    match Encoding::for_label(name.as_bytes()) {
        // A declaration that reads as ASCII is not in UTF-16. Some programs name the encoding in which they built the
        // text, and save it as UTF-8.
        Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => Ok(UTF_8),
        Some(encoding) if encoding != REPLACEMENT => Ok(encoding),
        _ => Err(format!("{:?}", name.chars().take(40).collect::<String>())),
    }
}

/// The name of the encoding in a declaration such as `<?xml version="1.0" encoding="ISO-8859-1"?>`.
fn declared_name(first: &[u8]) -> Option<&[u8]> {
    let declaration = first.trim_ascii_start().strip_prefix(b"<?xml")?;
    let end = memchr::memmem::find(declaration, b"?>")?;
    let declaration = &declaration[..end];
    let begin = memchr::memmem::find(declaration, b"encoding")? + b"encoding".len();
    let value = declaration[begin..].trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let (quote, value) = value.split_first().filter(|(quote, _)| matches!(quote, b'"' | b'\''))?;
    let end = value.iter().position(|byte| byte == quote)?;
    Some(value[..end].trim_ascii())
}

/// Reader that converts another reader's bytes to UTF-8.
pub struct Decoding {
    inner: Box<dyn BufRead + Send>,
    decoder: Decoder,
    decoded: Box<[u8]>,
    begin: usize,
    end: usize,
    ended: bool,
}

impl Decoding {
    pub fn new(inner: Box<dyn BufRead + Send>, encoding: &'static Encoding) -> Decoding {
        let decoder = encoding.new_decoder_without_bom_handling();
        let decoded = vec![0; BUFFER].into_boxed_slice();
        Decoding { inner, decoder, decoded, begin: 0, end: 0, ended: false }
    }

    fn decode(&mut self) -> io::Result<()> {
        (self.begin, self.end) = (0, 0);
        while self.end == 0 && !self.ended {
            let found = self.inner.fill_buf()?;
            let last = found.is_empty();
            let room = self.decoded.len() - UNREADABLE.len();
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(found, &mut self.decoded[..room], last);
            self.inner.consume(read);
            self.end = written;
            match result {
                DecoderResult::Malformed(..) => {
                    self.decoded[written..][..UNREADABLE.len()].copy_from_slice(UNREADABLE.as_bytes());
                    self.end += UNREADABLE.len();
                }
                DecoderResult::InputEmpty => self.ended = last,
                DecoderResult::OutputFull => {}
            }
        }
        Ok(())
    }
}

impl Read for Decoding {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let found = self.fill_buf()?;
        let count = found.len().min(buffer.len());
        buffer[..count].copy_from_slice(&found[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Decoding {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.begin == self.end {
            self.decode()?;
        }
        Ok(&self.decoded[self.begin..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.begin = (self.begin + count).min(self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor};

    #[test]
    fn a_declaration_names_the_encoding_unless_it_cannot_be_true() {
        for (declaration, encoding) in [
            ("<rss/>", Ok(UTF_8)),
            ("<?xml version=\"1.0\"?>", Ok(UTF_8)),
            ("\n<?xml version='1.0' encoding = 'iso-8859-1' ?>", Ok(encoding_rs::WINDOWS_1252)),
            ("<?xml version=\"1.0\" encoding=\"Windows-1252\"?>", Ok(encoding_rs::WINDOWS_1252)),
            ("<?xml version=\"1.0\" encoding=\"ISO-8859-15\"?>", Ok(encoding_rs::ISO_8859_15)),
            ("<?xml version=\"1.0\" encoding=\"utf-16\"?>", Ok(UTF_8)),
            ("<?xml version=\"1.0\" encoding=\"klingon\"?>", Err("\"klingon\"".to_owned())),
            ("<?xml version=\"1.0\"?><a encoding=\"klingon\"/>", Ok(UTF_8)),
        ] {
            assert_eq!(find_declared(declaration.as_bytes()), encoding, "{declaration}");
        }
    }

    #[test]
    fn utf_16_shows_with_a_mark_and_without() {
        let little: Vec<u8> = "a;ö".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "<a>".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(find_by_marks(&little), Some((UTF_16LE, 0)));
        assert_eq!(find_by_marks(&big), Some((UTF_16BE, 0)));
        assert_eq!(find_by_marks(&[&[0xff, 0xfe], little.as_slice()].concat()), Some((UTF_16LE, 2)));
        assert_eq!(find_by_marks(&[&[0xfe, 0xff], big.as_slice()].concat()), Some((UTF_16BE, 2)));
        assert_eq!(find_by_marks("\u{feff}a".as_bytes()), Some((UTF_8, 3)));
        assert_eq!(find_by_marks(b"id,price"), None);
        assert_eq!(find_by_marks(b""), None);
    }

    #[test]
    fn the_decoded_text_does_not_depend_on_the_chunks() {
        let text = "Größe 19 €, ".repeat(20_000);
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for capacity in [1, 3, 100_000] {
            let inner = Box::new(BufReader::with_capacity(capacity, Cursor::new(little.clone())));
            let mut decoded = String::new();
            Decoding::new(inner, UTF_16LE).read_to_string(&mut decoded).unwrap();
            assert_eq!(decoded, text);
        }
        let mut decoded = String::new();
        Decoding::new(Box::new(Cursor::new(b"a\xffb\xe2\x82".to_vec())), UTF_8)
            .read_to_string(&mut decoded)
            .unwrap();
        assert_eq!(decoded, "a\u{ffff}b\u{ffff}");
    }
}
