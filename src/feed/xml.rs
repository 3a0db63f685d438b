//! Cuts a feed of RSS or Atom into its items, in bounded memory whatever it holds.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

use super::merchant::attribute_name;
use super::records::LONGEST_RECORD;
use crate::failure::{Explain, Failure};

/// A tag, a text or a comment is no longer than this, in bytes.
const LONGEST_PIECE: u64 = 1 << 20;
/// The most attributes of an item.
const MOST_ATTRIBUTES: usize = 1024;
/// How deep elements may stand in each other.
const DEEPEST: usize = 64;

/// One `item` or `entry`.
pub struct Item {
    /// The line on which it begins.
    pub line: u64,
    /// Names without a prefix, with their texts, in their order; or why it cannot be taken.
    pub attributes: Result<Vec<(String, String)>, String>,
}

/// Reads items one after another.
pub struct Items {
    reader: Reader<Metered>,
    meter: Rc<Meter>,
    buffer: Vec<u8>,
    depth: usize,
}

/// What the reader has taken, told to who reads from it.
#[derive(Default)]
struct Meter {
    line_ends: Cell<u64>,
    since_event: Cell<u64>,
}

struct Metered {
    inner: Box<dyn BufRead + Send>,
    meter: Rc<Meter>,
}

impl Items {
    pub fn new(input: Box<dyn BufRead + Send>) -> Items {
        let meter = Rc::new(Meter::default());
        let reader = Reader::from_reader(Metered { inner: input, meter: meter.clone() });
        Items { reader, meter, buffer: Vec::new(), depth: 0 }
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// What cannot be read as XML; nothing after it can be understood.
    pub fn read_next(&mut self) -> Result<Option<Item>, Failure> {
        loop {
            match self.next_event()? {
                Piece::End | Piece::Text(_) => {}
                Piece::Begin(name, _) if matches!(name.as_str(), "item" | "entry") => {
                    return self.read_item().map(Some);
                }
                Piece::Begin(..) | Piece::Empty(..) => {}
                Piece::Over if self.depth > 0 => return Err(self.broken("ends in the middle")),
                Piece::Over => return Ok(None),
            }
        }
    }

    fn read_item(&mut self) -> Result<Item, Failure> {
        let (line, outside) = (self.line(), self.depth);
        let mut attributes: Vec<(String, String)> = Vec::new();
        let (mut text, mut bytes, mut too_large) = (String::new(), 0, false);
        while self.depth >= outside {
            match self.next_event()? {
                Piece::Begin(name, link) | Piece::Empty(name, link) => {
                    text.clear();
                    // Atom has the address in an attribute.
                    if let Some(link) = link {
                        attributes.push((name, link));
                    } else if self.depth == outside + 1 {
                        attributes.push((name, String::new()));
                    }
                }
                Piece::Text(more) => {
                    bytes += more.len();
                    too_large |= bytes > LONGEST_RECORD || attributes.len() > MOST_ATTRIBUTES;
                    if !too_large {
                        text.push_str(&more);
                    }
                }
                Piece::End if self.depth == outside => {
                    if let Some((_, value)) = attributes.last_mut().filter(|(_, value)| value.is_empty()) {
                        *value = std::mem::take(&mut text).trim().to_owned();
                    }
                }
                Piece::End => {}
                Piece::Over => return Err(self.broken("ends in the middle of an item")),
            }
        }
        let attributes = match too_large {
            true => Err(format!("is longer than {LONGEST_RECORD} bytes or has too many attributes")),
            false => Ok(attributes),
        };
        Ok(Item { line, attributes })
    }

    fn next_event(&mut self) -> Result<Piece, Failure> {
        self.buffer.clear();
        self.meter.since_event.set(0);
        let line = self.line();
        let what = || format!("the XML cannot be read on line {line}");
        let event = self.reader.read_event_into(&mut self.buffer).explain(what)?;
        let piece = match event {
            Event::Start(start) => {
                self.depth += 1;
                Piece::Begin(local_name(start.local_name().as_ref()), link_of(&start))
            }
            Event::Empty(start) => Piece::Empty(local_name(start.local_name().as_ref()), link_of(&start)),
            Event::End(_) => {
                self.depth = self.depth.saturating_sub(1);
                Piece::End
            }
            Event::Text(text) => Piece::Text(text.xml10_content().into_owned()),
            Event::CData(text) => Piece::Text(text.xml10_content().into_owned()),
            Event::GeneralRef(reference) => {
                let known = reference.resolve_char_ref().explain(what)?.map(String::from);
                let name = reference.into_inner();
                let text = known.or_else(|| resolve_predefined_entity(&name).map(str::to_owned));
                Piece::Text(text.unwrap_or_else(|| format!("&{name};")))
            }
            Event::Eof => Piece::Over,
            // A document type may define entities; we know none but those of XML itself.
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {
                Piece::Text(String::new())
            }
        };
        match self.depth > DEEPEST {
            true => Err(self.broken("stands deeper than any feed")),
            false => Ok(piece),
        }
    }

    fn line(&self) -> u64 {
        self.meter.line_ends.get() + 1
    }

    fn broken(&self, why: &str) -> Failure {
        Failure::new(format!("the XML {why} on line {}", self.line()))
    }
}

enum Piece {
    /// An element, and the `href` of a link.
    Begin(String, Option<String>),
    Empty(String, Option<String>),
    Text(String),
    End,
    Over,
}

fn local_name(name: &str) -> String {
    attribute_name(name)
}

fn link_of(start: &quick_xml::events::BytesStart<'_>) -> Option<String> {
    if start.local_name().as_ref() != "link" {
        return None;
    }
    let href = start.attributes().flatten().find(|attribute| attribute.key.as_ref() == "href")?;
    Some(href.value.replace("&amp;", "&"))
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let found = self.fill_buf()?;
        let count = found.len().min(buffer.len());
        buffer[..count].copy_from_slice(&found[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Metered {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.meter.since_event.get() > LONGEST_PIECE {
            return Err(io::Error::other(format!("a piece is longer than {LONGEST_PIECE} bytes")));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if let Ok(read) = self.inner.fill_buf() {
            let ends = read[..count.min(read.len())].iter().filter(|&&byte| byte == b'\n').count();
            self.meter.line_ends.set(self.meter.line_ends.get() + ends as u64);
        }
        self.meter.since_event.set(self.meter.since_event.get() + count as u64);
        self.inner.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn items(text: &str) -> Items {
        Items::new(Box::new(Cursor::new(text.to_owned().into_bytes())))
    }

    const RSS: &str = r#"<?xml version="1.0"?>
<!DOCTYPE rss [<!ENTITY boom "boom">]>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title><link>https://s/</link>
<item>
  <g:id>1</g:id><title>The Witcher &amp; &#39;Ciri&#39; &boom;</title>
  <link>https://s/1?a=1&amp;b=2</link><g:price>39.99 EUR</g:price><g:sale_price/>
  <g:shipping><g:country>DE</g:country><g:price>4.99 EUR</g:price></g:shipping>
</item>
<item><g:id>2</g:id><description><![CDATA[<b>bold</b>]]></description></item>
</channel></rss>"#;

    #[test]
    fn items_have_their_own_attributes_and_not_those_inside_of_them() {
        let mut items = items(RSS);
        let first = items.read_next().unwrap().unwrap();
        let attributes = first.attributes.unwrap();
        let of = |name: &str| {
            let mut found =
                attributes.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
            (found.next(), found.next())
        };
        assert_eq!(first.line, 4);
        assert_eq!(of("id"), (Some("1"), None));
        assert_eq!(of("title").0, Some("The Witcher & 'Ciri' &boom;"));
        assert_eq!(of("link").0, Some("https://s/1?a=1&b=2"));
        assert_eq!(of("price"), (Some("39.99 EUR"), None));
        let second = items.read_next().unwrap().unwrap();
        assert_eq!(second.attributes.unwrap()[1], ("description".to_owned(), "<b>bold</b>".to_owned()));
        assert!(items.read_next().unwrap().is_none());
    }

    #[test]
    fn atom_has_its_links_in_attributes() {
        let atom = r#"<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="x"><entry><g:id>7</g:id>
            <link href="https://s/7?a=1&amp;b=2"/><title type="text">Seven</title></entry></feed>"#;
        let attributes = items(atom).read_next().unwrap().unwrap().attributes.unwrap();
        let pairs: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("id", "7"), ("link", "https://s/7?a=1&b=2"), ("title", "Seven")]);
    }

    #[test]
    fn what_is_endless_is_refused() {
        let long_item =
            format!("<rss><item><id>{}</id></item><item><id>2</id></item></rss>", "x".repeat(100_000));
        let mut read = items(&long_item);
        assert!(read.read_next().unwrap().unwrap().attributes.unwrap_err().contains("longer than"));
        assert_eq!(read.read_next().unwrap().unwrap().attributes.unwrap()[0].1, "2");
        let long_tag = format!("<rss><item {}", "x".repeat(3 << 20));
        assert!(items(&long_tag).read_next().is_err());
        let deep = "<a>".repeat(100);
        assert!(items(&deep).read_next().is_err());
        for broken in ["<rss><item><id>1</id>", "<rss><item></rss>", "<rss>"] {
            assert!(items(broken).read_next().is_err(), "{broken}");
        }
    }
}
