//! Titles compared as people mean them: without case, accents, trade marks and punctuation.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// The longest normalised title; no two games differ only after so much.
const MAX_BYTES: usize = 1_000;

/// `The Witcher® 3: Wild Hunt` → `the witcher 3 wild hunt`; `Pokémon™` → `pokemon`.
///
/// Both the catalogue and a search go through here, so that they meet. Letters of every script stay. A title of
/// nothing but signs (`!!!`) keeps them, so that it is still somebody's title.
pub fn normalise(title: &str) -> String {
    let mut words = String::with_capacity(title.len());
    // Apostrophes join ("Assassin's" → "assassins"), every other sign parts.
    let plain = title
        .chars()
        .filter(|c| !matches!(c, '®' | '™' | '©' | '℠' | '\'' | '’' | '‘' | '`'))
        .nfkd()
        .filter(|c| !is_combining_mark(*c))
        .flat_map(char::to_lowercase);
    for c in plain {
        if c.is_alphanumeric() {
            words.push(c);
        } else if !words.is_empty() && !words.ends_with(' ') {
            words.push(' ');
        }
    }
    // Some signs stand for whole phrases: without a limit a long title of them would not fit an index.
    words.truncate(words.floor_char_boundary(MAX_BYTES));
    words.truncate(words.trim_end().len());
    if words.is_empty() { title.trim().to_lowercase() } else { words }
}

/// The slug of a store's name: `GOG.com` → `gog-com`. Empty when there is no letter or digit in it.
pub fn slug(name: &str) -> String {
    // Most names that come are slugs already.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !name.is_empty() && name.split('-').all(|word| !word.is_empty() && word.bytes().all(plain)) {
        return name.to_owned();
    }
    let words = normalise(name);
    words.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_accents_and_signs_do_not_count() {
        assert_eq!(normalise("The Witcher® 3: Wild Hunt"), "the witcher 3 wild hunt");
        assert_eq!(normalise("  Pokémon™  Légendes\u{a0}: Z-A "), "pokemon legendes z a");
        assert_eq!(normalise("Assassin’s Creed II"), normalise("ASSASSIN'S CREED II"));
        assert_eq!(normalise("東方紅魔郷"), "東方紅魔郷");
        assert_eq!(normalise("!!!"), "!!!");
        assert!(normalise(&"ﷺ".repeat(500)).len() <= MAX_BYTES);
        assert_eq!(slug("GOG.com"), "gog-com");
        assert_eq!(slug("Steam"), "steam");
        assert_eq!((slug("gog-com"), slug("-gog--com-")), ("gog-com".to_owned(), "gog-com".to_owned()));
        assert_eq!(slug("!!!"), "");
    }
}
