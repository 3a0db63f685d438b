//! Titles: how they are displayed, how they are searched, and which of them mean the same game.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::text::{decode_entities, fold_white_space, is_invisible};

/// Longest normalised title, in bytes. No two games differ only after that.
const MAX_BYTES: usize = 1_000;

/// Title for display: HTML entities left in a feed are decoded once, invisible characters are removed, and each run of
/// white space becomes one space.
pub fn clean(title: &str) -> Cow<'_, str> {
    match decode_entities(title) {
        Cow::Borrowed(text) if !text.contains(is_invisible) => fold_white_space(text),
        decoded => {
            let visible: String = decoded.chars().filter(|c| !is_invisible(*c)).collect();
            Cow::Owned(fold_white_space(&visible).into_owned())
        }
    }
}

/// Whether a character is a legal mark, which says nothing about which game a title means.
fn is_mark(c: char) -> bool {
    matches!(c, '®' | '™' | '©' | '℠')
}

/// Whether a character is an apostrophe or is typed in its place. Apostrophes join words ("Assassin's" is "assassins").
fn is_apostrophe(c: char) -> bool {
    matches!(
        c,
        '\'' | '`'
            | '´'
            | '\u{2b9}'
            | '\u{2bb}'
            | '\u{2bc}'
            | '‘'
            | '’'
            | '\u{201b}'
            | '\u{2032}'
            | '\u{2035}'
            | '\u{ff07}'
            | '\u{ff40}'
    )
}

/// The characters of a title without case, accents, marks and apostrophes.
fn letters(title: &str) -> impl Iterator<Item = char> {
    // Apostrophes are filtered twice: before the decomposition, which turns ´ into a space and an accent, and after it,
    // which turns ″ into two apostrophes.
    let plain = title.chars().filter(|c| !is_mark(*c) && !is_apostrophe(*c)).nfkd();
    plain.filter(|c| !is_combining_mark(*c) && !is_apostrophe(*c)).flat_map(char::to_lowercase)
}

/// Joins the words among the characters with one space between them.
fn join_words(letters: impl Iterator<Item = char>) -> String {
    let mut words = String::new();
    for c in letters {
        if c.is_alphanumeric() {
            words.push(c);
        } else if !words.is_empty() && !words.ends_with(' ') {
            words.push(' ');
        }
    }
    words
}

/// Limits the length, and restores the text of a title without letters and digits (`???`), which would be empty
/// otherwise. Without the limit, a long title of signs that decompose into whole phrases would not fit into an index.
fn limit(mut words: String, title: &str) -> String {
    words.truncate(words.floor_char_boundary(MAX_BYTES));
    words.truncate(words.trim_end().len());
    if words.is_empty() {
        words = title.trim().to_lowercase();
        words.truncate(words.floor_char_boundary(MAX_BYTES));
    }
    words
}

/// Text by which a title is searched: `The Witcher® 3: Wild Hunt` → `the witcher 3 wild hunt`; `Pokémon™` → `pokemon`.
///
/// Titles in the catalogue and searches are both normalised by this function, so that they match. Letters of every
/// script are kept, signs are not.
pub fn normalise(title: &str) -> String {
    let title = clean(title);
    limit(join_words(letters(&title)), &title)
}

/// Normalisation that was used for searching and matching before there were keys. The previous version still writes it,
/// and slugs of stores, which must not change, are derived from it.
pub fn normalise_as_before(title: &str) -> String {
    let plain = title
        .chars()
        .filter(|c| !matches!(c, '®' | '™' | '©' | '℠' | '\'' | '’' | '‘' | '`'))
        .nfkd()
        .filter(|c| !is_combining_mark(*c))
        .flat_map(char::to_lowercase);
    limit(join_words(plain), title)
}

/// Key of the game that a title means: titles with the same key are one game, in any store. In addition to the words of
/// `normalise`, it contains the signs that distinguish games (`+`, `#`, `!`, also several of them) as separate words,
/// and `&` becomes "and".
///
/// `Burrow Tales+` → `burrow tales +`; `Tom & Jerry` → `tom and jerry`.
pub fn key(title: &str) -> String {
    #[derive(Clone, Copy, PartialEq)]
    enum Last {
        Gap,
        Word,
        Sign,
    }
    let title = clean(title);
    let mut key = String::with_capacity(title.len());
    let mut last = Last::Gap;
    for c in letters(&title) {
        let next = match c {
            '+' | '#' | '!' => Last::Sign,
            _ if c.is_alphanumeric() => Last::Word,
            _ => Last::Gap,
        };
        if (next != last || c == '&') && !key.is_empty() && !key.ends_with(' ') {
            key.push(' ');
        }
        match next {
            Last::Gap if c == '&' => key.push_str("and "),
            Last::Gap => {}
            Last::Word | Last::Sign => key.push(c),
        }
        last = next;
    }
    limit(key, &title)
}

/// Distinguishes titles that have the same `key` but differ in their signs. Case, accents, white space beside signs and
/// the kind of apostrophe do not count; `&` becomes "and" here too.
pub fn spelling(title: &str) -> String {
    let title = clean(title).replace('&', " and ");
    let plain = title
        .chars()
        .map(|c| if is_apostrophe(c) { '\'' } else { c })
        .nfkd()
        .filter(|c| !is_combining_mark(*c))
        .flat_map(char::to_lowercase);
    let (mut spelling, mut in_gap) = (String::with_capacity(title.len()), false);
    for c in plain {
        if c.is_whitespace() {
            in_gap = true;
            continue;
        }
        let is_between_words = c.is_alphanumeric() && spelling.ends_with(char::is_alphanumeric);
        if std::mem::take(&mut in_gap) && is_between_words {
            spelling.push(' ');
        }
        spelling.push(c);
    }
    spelling
}

/// Slug of a store's name: `GOG.com` → `gog-com`. Empty if the name has no letter or digit.
pub fn slug(name: &str) -> String {
    // Most names are slugs already.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !name.is_empty() && name.split('-').all(|word| !word.is_empty() && word.bytes().all(plain)) {
        return name.to_owned();
    }
    let words = normalise_as_before(name);
    words.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn marks_accents_and_signs_do_not_count_in_a_search() {
        assert_eq!(normalise("The Witcher® 3: Wild Hunt"), "the witcher 3 wild hunt");
        assert_eq!(normalise("  Pokémon™  Légendes\u{a0}: Z-A "), "pokemon legendes z a");
        assert_eq!(normalise("Assassin’s Creed II"), normalise("ASSASSIN'S CREED II"));
        assert_eq!(normalise("東方紅魔郷"), "東方紅魔郷");
        assert_eq!(normalise("!!!"), "!!!");
        assert!(normalise(&"ﷺ".repeat(500)).len() <= MAX_BYTES);
        assert!(normalise(&"?".repeat(5_000)).len() <= MAX_BYTES);
        assert_eq!(slug("GOG.com"), "gog-com");
        assert_eq!(slug("Steam"), "steam");
        assert_eq!((slug("gog-com"), slug("-gog--com-")), ("gog-com".to_owned(), "gog-com".to_owned()));
        assert_eq!(
            (slug("!!!"), slug("Tom & Co"), slug("Bob´s")),
            ("".into(), "tom-co".into(), "bob-s".into())
        );
    }

    #[test]
    fn a_title_is_shown_without_invisible_characters() {
        for (title, shown) in [
            ("Burrow Tales", "Burrow Tales"),
            (" Burrow\r\n\tTales\u{a0}2 ", "Burrow Tales 2"),
            ("Bur\u{ad}row\u{200b} \u{feff}Ta\u{200d}les\u{2060}\u{200c}", "Burrow Tales"),
            ("Burrow&nbsp;&nbsp;Tales&shy;&#8203; &amp; Co&#10;", "Burrow Tales & Co"),
            ("Caf&eacute; &#39;Noir&#39;", "Café 'Noir'"),
            ("&shy;", ""),
        ] {
            assert_eq!(clean(title), shown, "{title:?}");
        }
    }

    #[test]
    fn titles_of_one_key_are_one_game() {
        for (one, other) in [
            ("Burrow Tales", "BURROW: Tales™"),
            ("Assassin's Creed", "Assassin´s Creed"),
            ("Assassin's Creed", "Assassin\u{2bc}s Creed"),
            ("Assassin's Creed", "Assassin\u{ff07}s Creed"),
            ("Assassin's Creed", "Assassin\u{2032}s Creed"),
            ("Assassin's Creed", "Assassin\u{2019}s Creed"),
            ("Assassin's Creed", "Assassin&#8217;s Creed"),
            ("Assassin's Creed", "Assassin&apos;s\tCreed"),
            ("Burrow Tales", "Bur\u{ad}row Ta\u{200b}les\u{feff}"),
            ("Tom & Jerry", "Tom and Jerry"),
            ("Tom&Jerry", "TOM &amp; JERRY"),
            ("Tom ＆ Jerry", "Tom and Jerry"),
            ("Burrow Tales+", "Burrow Tales +"),
            ("Burrow Tales＋", "Burrow Tales+"),
            ("Pokémon", "Pokemon"),
        ] {
            assert_eq!(key(one), key(other), "{one:?} {other:?}");
        }
        assert_eq!(key("Burrow Tales+"), "burrow tales +");
        assert_eq!(key("Tom & Jerry"), "tom and jerry");
        assert_eq!(key("C++ & #1!"), "c ++ and # 1 !");
    }

    #[test]
    fn some_signs_distinguish_games() {
        let titles = [
            "Burrow Tales",
            "Burrow Tales+",
            "Burrow Tales++",
            "Burrow Tales #",
            "Burrow Tales!",
            "Burrow Tales!!",
            "#Burrow Tales",
            "Burrow+Tales",
            "!!!",
            "!",
            "+",
            "???",
            "…",
        ];
        for (at, one) in titles.iter().enumerate() {
            for other in &titles[at + 1..] {
                assert_ne!(key(one), key(other), "{one:?} {other:?}");
            }
        }
        assert_eq!(normalise("Burrow Tales++"), "burrow tales", "a search finds them all");
    }

    #[test]
    fn a_spelling_has_every_sign() {
        let titles = ["Foo: Bar", "Foo Bar", "Foo - Bar", "Foo™ Bar", "Foo Bar?", "(Foo) Bar", "Foo'Bar"];
        for (at, one) in titles.iter().enumerate() {
            for other in &titles[at + 1..] {
                assert_ne!(spelling(one), spelling(other), "{one:?} {other:?}");
            }
        }
        for (one, other) in [
            ("Foo: Bar", "FOO :  bar"),
            ("Foo's Bár", "foo´s bar"),
            ("Tom & Jerry", "tom&amp;jerry"),
            ("Foo - Bar", "Foo-Bar"),
            ("Foo\u{ad} Bar", "foo\u{a0}bar"),
        ] {
            assert_eq!(spelling(one), spelling(other), "{one:?} {other:?}");
        }
    }

    proptest! {
        #[test]
        fn titles_of_one_spelling_have_one_key(title in "[a-z][a-zA-Zé0-9 :'´+#!&™-]{0,20}") {
            let spelled = spelling(&title);
            let respelled = title.to_uppercase().replace(':', " : ").replace('\'', "’");
            prop_assert_eq!(&spelled, &spelling(&respelled));
            prop_assert_eq!(key(&title), key(&respelled));
        }

        #[test]
        fn a_clean_title_stays(title in "[^&]{0,30}") {
            let once = clean(&title).into_owned();
            prop_assert_eq!(clean(&once), once.as_str());
        }
    }
}
