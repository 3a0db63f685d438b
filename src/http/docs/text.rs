//! Texts of the reference as HTML: descriptions of several paragraphs, and lines that name types and bounds.

use std::borrow::Cow;
use std::fmt;

use askama::filters::Escaper;

use crate::http::pages::Marked;
use crate::weekly_report::HtmlEscaper;

/// A description in the Markdown that doc comments use here: paragraphs, lists, and code between backticks.
pub struct Prose<'a>(&'a str);

impl<'a> Prose<'a> {
    /// A text, unless it says nothing.
    pub fn new(text: Option<&'a str>) -> Option<Prose<'a>> {
        text.filter(|text| !text.trim().is_empty()).map(Prose)
    }
}

impl fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut in_list = false;
        for (is_item, text) in blocks(self.0) {
            if is_item != in_list {
                f.write_str(if is_item { "<ul>" } else { "</ul>" })?;
                in_list = is_item;
            }
            let tag = if is_item { "li" } else { "p" };
            write!(f, "<{tag}>{}</{tag}>", Marked(&text))?;
        }
        f.write_str(if in_list { "</ul>" } else { "" })
    }
}

/// Paragraphs and items of lists of a text: whether it is an item, and its lines as one.
fn blocks(text: &str) -> Vec<(bool, String)> {
    let mut found: Vec<(bool, String)> = Vec::new();
    let mut continues = false;
    for line in text.lines().map(str::trim) {
        match (line.strip_prefix("- "), found.last_mut()) {
            (Some(item), _) => found.push((true, item.to_owned())),
            (None, Some((_, block))) if continues && !line.is_empty() => {
                block.push(' ');
                block.push_str(line);
            }
            (None, _) if !line.is_empty() => found.push((false, line.to_owned())),
            _ => {}
        }
        continues = !line.is_empty();
    }
    found
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Text(Cow<'a, str>),
    Code(Cow<'a, str>),
    /// A link to the schema of this name.
    Schema(Cow<'a, str>),
}

/// A line of text, code and links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line<'a>(Vec<Part<'a>>);

impl<'a> Line<'a> {
    /// A line that is a text.
    pub fn of(text: impl Into<Cow<'a, str>>) -> Line<'a> {
        let mut line = Line::default();
        line.text(text);
        line
    }

    /// Appends a text.
    pub fn text(&mut self, text: impl Into<Cow<'a, str>>) {
        self.0.push(Part::Text(text.into()));
    }

    /// Appends code.
    pub fn code(&mut self, code: impl Into<Cow<'a, str>>) {
        self.0.push(Part::Code(code.into()));
    }

    /// Appends a link to a schema.
    pub fn schema(&mut self, name: impl Into<Cow<'a, str>>) {
        self.0.push(Part::Schema(name.into()));
    }

    /// Appends another line.
    pub fn append(&mut self, other: Line<'a>) {
        self.0.extend(other.0);
    }

    /// Appends code for each value: "`a`, `b` or `c`".
    pub fn choices(&mut self, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        let last = values.len().saturating_sub(1);
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                self.text(if at == last { " or " } else { ", " });
            }
            self.code(value);
        }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            let (begin, text, end) = match part {
                Part::Text(text) => ("", text, ""),
                Part::Code(code) => ("<code>", code, "</code>"),
                Part::Schema(name) => {
                    f.write_str("<a href=\"#schema-")?;
                    HtmlEscaper.write_escaped_str(&mut *f, name)?;
                    ("\">", name, "</a>")
                }
            };
            f.write_str(begin)?;
            HtmlEscaper.write_escaped_str(&mut *f, text)?;
            f.write_str(end)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_become_paragraphs_and_lists() {
        let html = |text| Prose::new(Some(text)).unwrap().to_string();
        assert_eq!(html("One\nline `<b>`."), "<p>One line <code>&lt;b&gt;</code>.</p>");
        assert_eq!(
            html("First.\n\nSecond:\n- one\n  more\n- two\n\nThird."),
            "<p>First.</p><p>Second:</p><ul><li>one more</li><li>two</li></ul><p>Third.</p>"
        );
        assert_eq!(html("- only"), "<ul><li>only</li></ul>");
        assert!(Prose::new(Some(" \n")).is_none() && Prose::new(None).is_none());
    }

    #[test]
    fn lines_are_escaped_wherever_their_parts_stand() {
        let mut line = Line::of("<i>");
        line.code("\"&");
        line.schema("a\"><script>");
        line.text(": ");
        line.choices(["a", "b", "<c>"].map(str::to_owned));
        assert_eq!(
            line.to_string(),
            "&lt;i&gt;<code>&quot;&amp;</code><a href=\"#schema-a&quot;&gt;&lt;script&gt;\">a&quot;&gt;&lt;script&gt;</a>: \
             <code>a</code>, <code>b</code> or <code>&lt;c&gt;</code>"
        );
    }
}
