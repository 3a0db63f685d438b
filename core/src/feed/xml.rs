//! Splits a feed of RSS or Atom into its items. Memory is bounded for any input.
//!
//! Elements are identified by their namespace, not by its prefix or by the local name alone: shops put elements of
//! other namespaces (`c:price`, `media:title`) beside Google's.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::encoding::UNREADABLE;
use super::error::FeedError;
use super::merchant::{PLAIN, attribute_name};
use super::records::LONGEST_RECORD;

/// Longest tag, text or comment, in bytes.
const LONGEST_PIECE: u64 = 1 << 20;
/// Longest item with all its markup and comments, in bytes. Its text is limited to the length of a record.
const LONGEST_ITEM: u64 = 1 << 20;
/// Maximum number of attributes of an item that are kept, and of attributes of a tag that are read.
const MAX_ATTRIBUTES: usize = 1024;
/// Maximum number of elements in an item, including nested ones.
const MAX_ELEMENTS: usize = 16 << 10;
/// Deepest nesting of elements.
const DEEPEST: usize = 64;
/// Longest name of an element, prefix or namespace, in bytes. Those of open elements are kept in memory.
const LONGEST_NAME: usize = 1024;
/// Maximum number of prefixes that may be bound at once.
const MAX_BINDINGS: usize = 256;

const ATOM: [&str; 2] = ["http://www.w3.org/2005/Atom", "http://purl.org/atom/ns#"];
const RSS: [&str; 4] = [
    "http://purl.org/rss/1.0/",
    "http://my.netscape.com/rdf/simple/0.9/",
    "http://backend.userland.com/rss2",
    "http://blogs.law.harvard.edu/tech/rss",
];

/// An `item` or `entry` element.
pub struct Item {
    /// Line on which the item begins.
    pub line: u64,
    /// Names without a prefix, with their texts, Google's before the feed's own; or the reason why the item is refused.
    pub attributes: Result<Vec<(String, String)>, String>,
    /// Attributes of `PLAIN` that have elements inside, so that their remaining text is not reliable.
    pub mixed: Vec<&'static str>,
}

/// Sequential reader of items.
pub struct Items {
    reader: Reader<Metered>,
    meter: Rc<Meter>,
    buffer: Vec<u8>,
    depth: usize,
    spaces: Spaces,
}

/// Counts of what the XML parser has read, shared with the reader of items.
#[derive(Default)]
struct Meter {
    line_ends: Cell<u64>,
    bytes: Cell<u64>,
    since_event: Cell<u64>,
}

struct Metered {
    inner: Box<dyn BufRead + Send>,
    meter: Rc<Meter>,
}

/// Meaning of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    /// Product data, under any prefix; also an undeclared `g:`.
    Google,
    /// No namespace, as in RSS 2.0.
    None,
    Atom,
    Rss,
    /// Namespace of the outermost element, if it is none of the others.
    Root,
    Foreign,
}

/// Namespaces in scope.
#[derive(Default)]
struct Spaces {
    /// Depth of the element that binds a prefix, the prefix (empty: the default namespace), and the meaning.
    bindings: Vec<(usize, String, Space)>,
    root: Option<String>,
}

/// Order of precedence among attributes of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Google,
    Own,
    /// Atom's link inside an RSS item.
    Beside,
}

struct Attribute {
    rank: Rank,
    name: String,
    value: String,
    has_elements: bool,
}

impl Items {
    pub fn new(input: Box<dyn BufRead + Send>) -> Items {
        let meter = Rc::new(Meter::default());
        let mut reader = Reader::from_reader(Metered { inner: input, meter: meter.clone() });
        // Shops write `Tom & Jerry` and `?a=1&b=2` without escaping.
        reader.config_mut().allow_dangling_amp = true;
        Items { reader, meter, buffer: Vec::new(), depth: 0, spaces: Spaces::default() }
    }

    /// Reads the next item; `None` at the end.
    ///
    /// # Errors
    /// The input is not valid XML from here on; nothing after it can be understood.
    pub fn read_next(&mut self) -> Result<Option<Item>, FeedError> {
        loop {
            match self.next_event(false)? {
                Piece::End | Piece::Text(_) => {}
                Piece::Begin(element) if element.is_item() => return self.read_item(element.space).map(Some),
                Piece::Empty(element) if element.is_item() => {
                    return Ok(Some(Item {
                        line: self.line(),
                        attributes: Ok(Vec::new()),
                        mixed: Vec::new(),
                    }));
                }
                Piece::Begin(_) | Piece::Empty(_) => {}
                Piece::Over if self.depth > 0 => return Err(self.broken("ends in the middle")),
                Piece::Over => return Ok(None),
            }
        }
    }

    fn read_item(&mut self, item: Space) -> Result<Item, FeedError> {
        let (line, outside, begin) = (self.line(), self.depth, self.meter.bytes.get());
        let mut attributes: Vec<Attribute> = Vec::new();
        // The element whose text is being read.
        let mut open: Option<Attribute> = None;
        let (mut bytes, mut elements, mut refusal) = (0, 0, None);
        while self.depth >= outside {
            let wants_text =
                open.as_ref().is_some_and(|open| self.depth == outside + 1 || open.name == "title");
            match self.next_event(wants_text && refusal.is_none())? {
                Piece::Begin(element) if self.depth == outside + 1 => {
                    elements += 1;
                    open = element.attribute_of(item);
                }
                Piece::Empty(element) if self.depth == outside => {
                    elements += 1;
                    attributes.extend(element.attribute_of(item));
                }
                Piece::Begin(_) | Piece::Empty(_) => {
                    elements += 1;
                    if let Some(open) = &mut open {
                        open.has_elements = true;
                    }
                }
                Piece::Text(more) => {
                    bytes += more.len();
                    // Text that is not wanted, or that exceeds the limit, is not kept.
                    if let Some(open) = open.as_mut().filter(|_| wants_text && bytes <= LONGEST_RECORD) {
                        open.value.push_str(&more);
                    }
                }
                Piece::End if self.depth == outside => attributes.extend(open.take()),
                Piece::End => {}
                Piece::Over => return Err(self.broken("ends in the middle of an item")),
            }
            // Checked at every event of any kind: a million empty elements have no text.
            if bytes > LONGEST_RECORD || self.meter.bytes.get() - begin > LONGEST_ITEM {
                refusal.get_or_insert_with(|| format!("is longer than {LONGEST_RECORD} bytes"));
            } else if attributes.len() > MAX_ATTRIBUTES || elements > MAX_ELEMENTS {
                refusal.get_or_insert_with(|| "has too many elements".to_owned());
            }
            if refusal.is_some() {
                (attributes, open) = (Vec::new(), None);
            }
        }
        if refusal.is_none() && attributes.iter().any(|one| one.value.contains(UNREADABLE)) {
            refusal = Some("has bytes that are not valid in the encoding of the file".to_owned());
        }
        // The sort is stable: among attributes of one name and rank the first one counts; empty ones are skipped.
        attributes.sort_by_key(|one| one.rank);
        let (mut pairs, mut mixed) = (Vec::<(String, String)>::new(), Vec::new());
        for Attribute { name, value, has_elements, .. } in attributes {
            let plain = PLAIN.into_iter().find(|plain| has_elements && *plain == name);
            if let Some(plain) = plain.filter(|plain| !mixed.contains(plain))
                && pairs.iter().all(|(before, _)| *before != name)
            {
                mixed.push(plain);
            }
            let value = value.trim();
            if !value.is_empty() {
                pairs.push((name, value.to_owned()));
            }
        }
        Ok(Item { line, attributes: refusal.map_or(Ok(pairs), Err), mixed })
    }

    /// Reads the next event. Without `wants_text`, texts are returned empty.
    fn next_event(&mut self, wants_text: bool) -> Result<Piece, FeedError> {
        self.buffer.clear();
        self.meter.since_event.set(0);
        let line = self.line();
        let read = self.reader.read_event_into(&mut self.buffer);
        let event = read.map_err(|source| FeedError::Xml { line, source })?;
        let text = |text: &dyn Fn() -> String| Piece::Text(if wants_text { text() } else { String::new() });
        let piece = match event {
            Event::Start(start) => {
                self.depth += 1;
                Piece::Begin(self.spaces.open(&start, self.depth)?)
            }
            Event::Empty(start) => {
                let element = self.spaces.open(&start, self.depth + 1)?;
                self.spaces.close(self.depth + 1);
                Piece::Empty(element)
            }
            Event::End(_) => {
                self.spaces.close(self.depth);
                self.depth = self.depth.saturating_sub(1);
                Piece::End
            }
            Event::Text(given) => text(&|| given.xml10_content().into_owned()),
            Event::CData(given) => text(&|| given.xml10_content().into_owned()),
            Event::GeneralRef(reference) => text(&|| {
                let character = reference.resolve_char_ref().ok().flatten().map(String::from);
                let known = || resolve_predefined_entity(&reference.xml10_content()).map(str::to_owned);
                // A document type may define entities; only those of XML itself are supported.
                character.or_else(known).unwrap_or_else(|| format!("&{};", reference.xml10_content()))
            }),
            Event::Eof => Piece::Over,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {
                Piece::Text(String::new())
            }
        };
        if self.depth > DEEPEST { Err(self.broken("is nested too deeply")) } else { Ok(piece) }
    }

    fn line(&self) -> u64 {
        self.meter.line_ends.get() + 1
    }

    fn broken(&self, why: &'static str) -> FeedError {
        FeedError::NoFeed { line: self.line(), why }
    }
}

enum Piece {
    Begin(Element),
    Empty(Element),
    Text(String),
    End,
    Over,
}

struct Element {
    space: Space,
    /// Name without a prefix.
    name: String,
    /// `href` and `rel` of an Atom link.
    link: Option<(String, String)>,
}

impl Element {
    fn is_item(&self) -> bool {
        self.space != Space::Foreign && matches!(self.name.as_str(), "item" | "entry")
    }

    /// The attribute of the item that this element provides, if its namespace is Google's or the feed's own.
    fn attribute_of(self, item: Space) -> Option<Attribute> {
        let is_link = self.name == "link";
        let rank = match self.space {
            Space::Google => Rank::Google,
            Space::None => Rank::Own,
            space if space == item => Rank::Own,
            Space::Atom if is_link => Rank::Beside,
            _ => return None,
        };
        // Atom's id identifies the entry and may change whenever the feed is written; a product has Google's id.
        if self.space == Space::Atom && self.name == "id" {
            return None;
        }
        let value = match self.link {
            // `self`, `edit` and `enclosure` do not refer to a page of the product.
            Some((_, rel)) if !is_alternate(&rel) => return None,
            Some((href, _)) => href,
            None => String::new(),
        };
        Some(Attribute { rank, name: attribute_name(&self.name), value, has_elements: false })
    }
}

/// Whether an Atom link has the relation `alternate`, which is the default (RFC 4287, 4.2.7.2).
fn is_alternate(rel: &str) -> bool {
    let rel = rel.trim().rsplit('/').next().unwrap_or_default();
    rel.is_empty() || rel.eq_ignore_ascii_case("alternate")
}

impl Spaces {
    /// Opens an element: adds its bindings to the scope.
    fn open(&mut self, start: &BytesStart<'_>, depth: usize) -> Result<Element, FeedError> {
        if start.name().as_ref().len() > LONGEST_NAME {
            return Err(FeedError::LongName(LONGEST_NAME));
        }
        if start.attributes_raw().contains("xmlns") {
            self.bind(start, depth)?;
        }
        let name = start.local_name();
        let name: &str = name.as_ref();
        let space = self.find(start.name().prefix().map(|prefix| prefix.into_inner()).unwrap_or_default());
        let mut link = None;
        if name == "link" {
            let (mut href, mut rel) = (None, None);
            for attribute in start.attributes().with_checks(false).take(MAX_ATTRIBUTES).flatten() {
                let wanted = match attribute.key.as_ref() {
                    "href" => &mut href,
                    "rel" => &mut rel,
                    _ => continue,
                };
                let value = attribute.normalized_value(XmlVersion::Implicit1_0);
                *wanted = Some(value.unwrap_or_else(|_| attribute.value.clone()).into_owned());
            }
            link = href.map(|href| (href, rel.unwrap_or_default()));
        }
        Ok(Element { space, name: name.to_owned(), link })
    }

    fn bind(&mut self, start: &BytesStart<'_>, depth: usize) -> Result<(), FeedError> {
        for attribute in start.attributes().with_checks(false).take(MAX_ATTRIBUTES).flatten() {
            let prefix = match attribute.key.as_ref() {
                "xmlns" => "",
                key => match key.strip_prefix("xmlns:") {
                    Some(prefix) => prefix,
                    None => continue,
                },
            };
            let uri = attribute.value.trim();
            if prefix.len() > LONGEST_NAME || uri.len() > LONGEST_NAME || self.bindings.len() == MAX_BINDINGS
            {
                return Err(FeedError::TooManyNamespaces);
            }
            if depth == 1
                && start.name().prefix().map(|prefix| prefix.into_inner()).unwrap_or_default() == prefix
            {
                self.root = Some(uri.to_owned());
            }
            let space = self.of_uri(uri);
            self.bindings.push((depth, prefix.to_owned(), space));
        }
        Ok(())
    }

    /// Closes the element at this depth: removes its bindings.
    fn close(&mut self, depth: usize) {
        while self.bindings.last().is_some_and(|(bound, ..)| *bound >= depth) {
            self.bindings.pop();
        }
    }

    fn find(&self, prefix: &str) -> Space {
        let bound = self.bindings.iter().rev().find(|(_, known, _)| known == prefix);
        match bound {
            Some((_, _, space)) => *space,
            None if prefix.is_empty() => Space::None,
            // Some shops forget to declare the prefix.
            None if prefix == "g" => Space::Google,
            None => Space::Foreign,
        }
    }

    fn of_uri(&self, uri: &str) -> Space {
        if uri.is_empty() {
            Space::None
        } else if is_google(uri) {
            Space::Google
        } else if ATOM.contains(&uri) {
            Space::Atom
        } else if RSS.contains(&uri) {
            Space::Rss
        } else if self.root.as_deref() == Some(uri) {
            Space::Root
        } else {
            Space::Foreign
        }
    }
}

/// Whether this is the namespace `http://base.google.com/ns/1.0`; `…/cns/1.0` is that of custom attributes.
fn is_google(uri: &str) -> bool {
    let rest = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.trim_end_matches('/') == "base.google.com/ns/1.0")
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
            let ends = memchr::memchr_iter(b'\n', &read[..count.min(read.len())]).count();
            self.meter.line_ends.set(self.meter.line_ends.get() + ends as u64);
        }
        self.meter.since_event.set(self.meter.since_event.get() + count as u64);
        self.meter.bytes.set(self.meter.bytes.get() + count as u64);
        self.inner.consume(count);
    }
}

#[cfg(test)]
mod tests;
