//! Cleaning of text from feeds: invisible characters, white space and HTML entities.

use std::borrow::Cow;

/// The text without white space and invisible characters at its ends. Files from elsewhere have byte order marks and
/// zero-width spaces inside fields, and two skus that differ only in those are the same.
pub fn trim_unseen(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c))
}

/// The text without white space and invisible characters at its ends, and with each run of white space inside
/// (including line ends, tabs and non-breaking spaces) replaced by one space.
pub fn fold_white_space(text: &str) -> Cow<'_, str> {
    let text = trim_unseen(text);
    let mut after_space = false;
    let is_folded = text.chars().all(|c| {
        let is_doubled = after_space && c == ' ';
        after_space = c == ' ';
        !is_doubled && (c == ' ' || !c.is_whitespace())
    });
    if is_folded {
        return Cow::Borrowed(text);
    }
    let mut folded = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
    }
    Cow::Owned(folded)
}

/// Whether a character has no width and no meaning for a reader of a title: soft hyphens, joiners, direction marks and
/// byte order marks.
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{206f}'
            | '\u{feff}'
    )
}

/// Maps a control character of Unicode to the windows-1252 character with the same code. HTML reads `&#146;` this way
/// (<https://html.spec.whatwg.org/multipage/parsing.html#numeric-character-reference-end-state>), because that is what
/// authors mean.
fn of_windows_1252(c: char) -> char {
    const FROM_0X80: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    let place = (c as usize).checked_sub(0x80);
    place.and_then(|place| FROM_0X80.get(place)).copied().unwrap_or(c)
}

/// Decodes HTML character references once: all named ones, and decimal and hexadecimal numbers, each with its
/// semicolon. Anything else is left unchanged.
pub fn decode_entities(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let decoded = html_escape::decode_html_entities(text);
    if decoded.chars().any(|c| of_windows_1252(c) != c) {
        Cow::Owned(decoded.chars().map(of_windows_1252).collect())
    } else {
        decoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_white_space_is_one_space() {
        for (text, folded) in [
            ("a b", "a b"),
            ("  a \t\r\n b\u{a0}\u{2003}c\u{3000}", "a b c"),
            ("a\nb", "a b"),
            ("a\u{a0}b", "a b"),
            ("a\u{85}b\u{2028}c", "a b c"),
            ("\t", ""),
            // Invisible characters are trimmed at the ends only, including those between spaces there.
            ("\u{feff}a\u{200b}b\u{200b}", "a\u{200b}b"),
            ("\u{200b} \u{2060}\u{ad}a  b \u{200d} ", "a b"),
            ("\u{200b}", ""),
        ] {
            assert_eq!(fold_white_space(text), folded, "{text:?}");
        }
        assert!(matches!(fold_white_space(" a b "), Cow::Borrowed("a b")));
    }

    #[test]
    fn entities_are_decoded_once() {
        for (text, decoded) in [
            ("Assassin&#8217;s Creed", "Assassin’s Creed"),
            ("Assassin&#x2019;s Creed", "Assassin’s Creed"),
            ("Assassin&#146;s &#133; Creed&#153;", "Assassin’s … Creed™"),
            ("Pok&eacute;mon &amp; Co", "Pokémon & Co"),
            ("Tom &amp;amp; Jerry", "Tom &amp; Jerry"),
            ("&bopf;&sopf;&CounterClockwiseContourIntegral;", "𝕓𝕤∳"),
            ("R&D; AT&T &nosuch; &#; &#xD800; &#0; a&b", "R&D; AT&T &nosuch; &#; &#xD800; &#0; a&b"),
            ("&", "&"),
        ] {
            assert_eq!(decode_entities(text), decoded);
        }
    }
}
