//! Rules for files: names, media types, and retention.

use chrono::{DateTime, TimeDelta, Utc};

/// Default retention of a file.
pub const DEFAULT_LIFE: TimeDelta = TimeDelta::days(13);
/// Longest retention of a file. It leaves half a day for the removal, so that a file is gone within 14 days.
pub const MAX_LIFE: TimeDelta = TimeDelta::hours(13 * 24 + 12);
/// Timeout of an unfinished upload: it is removed when nothing has arrived for this long.
pub const UNFINISHED_LIFE: TimeDelta = TimeDelta::hours(24);

/// Longest name in bytes, as file systems accept it.
const MAX_NAME_BYTES: usize = 255;
const OCTETS: &str = "application/octet-stream";
/// Media types of request bodies in upload protocols. They are never the type of a file.
const TRANSFERS: [&str; 2] = ["application/partial-upload", "application/offset+octet-stream"];

/// The time until which a file made at `created_at` is kept, if the client wants it kept until `wanted`.
///
/// # Errors
/// `wanted` is not in the future, or exceeds the longest retention. The error is the rest of a sentence that begins
/// with the name of the field.
pub fn keep_until(
    wanted: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, String> {
    let Some(wanted) = wanted else { return Ok(created_at + DEFAULT_LIFE) };
    if wanted <= now {
        return Err("must be in the future".to_owned());
    }
    if wanted > created_at + MAX_LIFE {
        Err(format!("must not be later than {}", (created_at + MAX_LIFE).to_rfc3339()))
    } else {
        Ok(wanted)
    }
}

/// The name without folders, control characters and direction marks; `file` if nothing is left.
pub fn clean_name(given: &str) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept: String = last.chars().filter(|c| !c.is_control() && !turns_text(*c)).collect();
    // A leading dot hides a file, and a trailing dot is lost on some systems.
    let mut name = kept.trim_matches(|c: char| c.is_whitespace() || c == '.').to_owned();
    if name.len() > MAX_NAME_BYTES {
        // Keep the extension, which identifies the kind of file.
        let ending =
            name.rfind('.').filter(|at| name.len() - at <= 16).map_or("", |at| &name[at..]).to_owned();
        let mut end = MAX_NAME_BYTES - ending.len();
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        name.push_str(&ending);
    }
    if name.is_empty() { "file".to_owned() } else { name }
}

/// Whether a character changes the order in which text is displayed, or is invisible.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `type/subtype` in lower case, without parameters; `application/octet-stream` if the text is not a media type.
pub fn clean_media_type(given: &str) -> String {
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let token = |text: &str| {
        !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    match essence.split_once('/') {
        Some((kind, sub)) if token(kind) && token(sub) && !TRANSFERS.contains(&&*essence) => essence,
        _ => OCTETS.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_harmful_characters() {
        for (given, expected) in [
            ("feed.csv", "feed.csv"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Windows\\feed.csv", "feed.csv"),
            (" .hidden. ", "hidden"),
            ("a\r\nb\0c.txt", "abc.txt"),
            ("gpj\u{202e}exe.txt", "gpjexe.txt"),
            ("Übersicht – März.csv", "Übersicht – März.csv"),
            ("..", "file"),
            ("", "file"),
            ("a/", "file"),
        ] {
            assert_eq!(clean_name(given), expected, "{given:?}");
        }
        let long = clean_name(&format!("{}.tar.gz", "ü".repeat(300)));
        assert!(long.len() <= 255 && long.ends_with("ü.gz"), "{long}");
    }

    #[test]
    fn types_are_plain_or_octets() {
        for (given, expected) in [
            ("text/csv", "text/csv"),
            ("Text/HTML; charset=utf-8", "text/html"),
            ("application/vnd.api+json", "application/vnd.api+json"),
            ("", OCTETS),
            ("text", OCTETS),
            ("text/a b", OCTETS),
            ("text/csv\r\nx: y", OCTETS),
            ("application/partial-upload", OCTETS),
            ("Application/Offset+Octet-Stream; a=b", OCTETS),
        ] {
            assert_eq!(clean_media_type(given), expected, "{given:?}");
        }
    }

    #[test]
    fn no_file_is_kept_for_fourteen_days() {
        let (made, hour) = (DateTime::UNIX_EPOCH, TimeDelta::hours(1));
        assert_eq!(keep_until(None, made, made), Ok(made + DEFAULT_LIFE));
        assert_eq!(keep_until(Some(made + hour), made, made), Ok(made + hour));
        assert_eq!(keep_until(Some(made + MAX_LIFE), made, made), Ok(made + MAX_LIFE));
        assert!(keep_until(Some(made + MAX_LIFE + TimeDelta::seconds(1)), made, made).is_err());
        assert!(keep_until(Some(made), made, made + hour).is_err());
        assert!(MAX_LIFE < TimeDelta::days(14));
    }
}
