//! Ranking of titles by how well they match what a user has typed. Both are normalised (`domain::title`).

/// Maximum number of words of a search that are used; further ones are ignored.
pub const MAX_WORDS: usize = 10;

/// Points added to the score of a title that means exactly the game that was typed (`domain::title::key`).
pub const EXACT: i32 = 400;

/// The words of a normalised search.
pub fn words(query: &str) -> Vec<&str> {
    query.split(' ').filter(|word| !word.is_empty()).take(MAX_WORDS).collect()
}

/// Score of `title` for `query`, up to a few thousand points; higher is better, 0 is no match.
///
/// Words count most: found unchanged, as a prefix (the last one may be incomplete), or misspelt. The share of the title
/// that they make up counts as well, and whether the title equals, begins with, or contains the whole query.
pub fn score(query: &str, title: &str) -> i32 {
    let typed = words(query);
    if typed.is_empty() {
        return 0;
    }
    let titled: Vec<&str> = title.split(' ').collect();
    let (mut fit, mut matched) = (0, 0);
    for (at, word) in typed.iter().enumerate() {
        let is_last = at + 1 == typed.len();
        let best = titled
            .iter()
            .map(|other| (fit_of(word, other, is_last), other.chars().count()))
            .max_by_key(|(fit, _)| *fit);
        if let Some((points, length)) = best.filter(|(points, _)| *points > 0) {
            fit += points;
            matched += length as i32;
        }
    }
    let length = titled.iter().map(|word| word.chars().count() as i32).sum::<i32>().max(1);
    let whole = if title == query {
        800
    } else if title.starts_with(query) {
        400
    } else if title.contains(query) {
        200
    } else {
        0
    };
    10 * fit / typed.len() as i32 + 500 * matched.min(length) / length + whole
}

/// Points of a word: 100 for the same word, fewer for one that begins with it (if `may_begin`) or is a misspelling of
/// it.
fn fit_of(word: &str, other: &str, may_begin: bool) -> i32 {
    if word == other {
        return 100;
    }
    if may_begin && other.starts_with(word) {
        return 60 + 30 * word.len() as i32 / other.len() as i32;
    }
    match distance(word, other) {
        distance if distance <= allowed_distance(word) => 80 - 20 * distance as i32,
        _ => 0,
    }
}

/// Number of typing errors that are tolerated in a word: none in a word of up to three letters, because there is always
/// another word within one error.
pub fn allowed_distance(word: &str) -> usize {
    match word.chars().count() {
        0..=3 => 0,
        4..=5 => 1,
        _ => 2,
    }
}

/// All variants of the word with two neighbouring letters swapped or one letter left out.
pub fn swaps_and_omissions(word: &str) -> Vec<String> {
    let letters: Vec<char> = word.chars().collect();
    let mut near = Vec::with_capacity(2 * letters.len());
    for at in 0..letters.len() {
        near.push(letters[..at].iter().chain(&letters[at + 1..]).collect());
        if at > 0 {
            let mut swapped = letters.clone();
            swapped.swap(at - 1, at);
            near.push(swapped.into_iter().collect());
        }
    }
    near
}

/// Number of letters to insert, delete, replace, or swap with their neighbour to turn one word into the other (optimal
/// string alignment). If the lengths differ by more than 2, the difference is returned as a lower bound.
pub fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // Callers need exact distances only up to the largest allowed one, 2.
    if one.len().abs_diff(other.len()) > 2 {
        return one.len().abs_diff(other.len());
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut cost = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                cost = cost.min(before_last[j - 1] + 1);
            }
            row.push(cost);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn typing_errors_are_counted() {
        for (one, other, expected) in [
            ("witcher", "witcher", 0),
            ("wicther", "witcher", 1),
            ("withcer", "witcher", 1),
            ("witchr", "witcher", 1),
            ("wittcher", "witcher", 1),
            ("witches", "witcher", 1),
            ("kitten", "sitting", 3),
            ("", "ab", 2),
            ("pokémon", "pokemon", 1),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn the_best_title_comes_first() {
        let best_first = |query: &str, titles: &[&str]| {
            let scores: Vec<i32> = titles.iter().map(|title| score(query, title)).collect();
            assert!(scores.windows(2).all(|pair| pair[0] > pair[1]), "{query}: {scores:?}");
        };
        best_first(
            "witcher 3",
            &[
                "witcher 3",
                "witcher 3 wild hunt",
                "the witcher 3 wild hunt",
                "3 witches and a witcher",
                "the witcher 2",
            ],
        );
        best_first("wicther 3", &["witcher 3", "the witcher 3 wild hunt", "the witcher 2"]);
        best_first("the wit", &["the wit", "the witch", "the witcher 3 wild hunt", "wit of the others"]);
        assert_eq!(score("doom", "quake"), 0);
        assert_eq!(score("", "quake"), 0);
    }

    proptest! {
        #[test]
        fn one_typing_error_counts_once(word in "[a-zé]{1,8}") {
            for near in swaps_and_omissions(&word) {
                prop_assert!(distance(&word, &near) <= 1, "{word} {near}");
            }
        }

        #[test]
        fn distance_is_symmetric(one in "[a-e]{0,8}", other in "[a-e]{0,8}") {
            prop_assert_eq!(distance(&one, &other), distance(&other, &one));
            prop_assert_eq!(distance(&one, &other) == 0, one == other);
        }
    }
}
