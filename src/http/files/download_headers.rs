//! Headers of a download: `Range` (RFC 9110) and `Content-Disposition` (RFC 6266).

/// Returns `Content-Disposition: attachment` with the file name (RFC 6266), in ASCII and in the encoding of RFC 8187.
pub fn disposition(name: &str) -> String {
    let ascii: String = name
        .chars()
        .map(|c| if c.is_ascii() && !c.is_control() && !matches!(c, '"' | '\\' | '%') { c } else { '_' })
        .collect();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&b);
    let encoded: String = name
        .bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}")
}

/// The bytes that `Range` requests of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    Whole,
    /// The bytes from the first offset (inclusive) to the second (exclusive).
    Part(u64, u64),
    /// No bytes: the response is 416.
    Nothing,
}

/// Parses `Range` for a file of `length` bytes: a single range of bytes (RFC 9110, section 14). A header that is
/// unreadable, or has several ranges, requests the whole file.
pub fn parse_range(header: &str, length: u64) -> RangeRequest {
    // Range units are compared without regard to case (section 14.1).
    let of_bytes = header.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = of_bytes.and_then(|(_, range)| range.split_once('-')) else {
        return RangeRequest::Whole;
    };
    let number = |text: &str| {
        let text = text.trim();
        // A number that is too large to represent is still valid.
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            None => RangeRequest::Whole,
            Some(0) => RangeRequest::Nothing,
            Some(_) if length == 0 => RangeRequest::Nothing,
            Some(last) => RangeRequest::Part(length.saturating_sub(last), length),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(end)) if first <= end && first < length => {
                RangeRequest::Part(first, end.saturating_add(1).min(length))
            }
            (Some(first), None) if last.is_empty() && first < length => RangeRequest::Part(first, length),
            (Some(first), Some(end)) if first > end => RangeRequest::Whole,
            (Some(_), Some(_)) => RangeRequest::Nothing,
            (Some(_), None) if last.is_empty() => RangeRequest::Nothing,
            _ => RangeRequest::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disposition_is_one_header_whatever_the_name() {
        assert_eq!(disposition("a b.csv"), "attachment; filename=\"a b.csv\"; filename*=UTF-8''a%20b.csv");
        assert_eq!(disposition("\"é%"), "attachment; filename=\"___\"; filename*=UTF-8''%22%C3%A9%25");
    }

    #[test]
    fn ranges_are_those_of_the_rfc() {
        for (header, expected) in [
            ("bytes=0-499", RangeRequest::Part(0, 500)),
            ("bytes=500-999", RangeRequest::Part(500, 1000)),
            ("bytes=-500", RangeRequest::Part(500, 1000)),
            ("bytes=-5000", RangeRequest::Part(0, 1000)),
            ("bytes=990-", RangeRequest::Part(990, 1000)),
            ("bytes=0-0", RangeRequest::Part(0, 1)),
            ("Bytes=0-0", RangeRequest::Part(0, 1)),
            ("BYTES=-1", RangeRequest::Part(999, 1000)),
            ("bytes=990-5000", RangeRequest::Part(990, 1000)),
            ("bytes=990-99999999999999999999999", RangeRequest::Part(990, 1000)),
            ("bytes=1000-", RangeRequest::Nothing),
            ("bytes=1000-1001", RangeRequest::Nothing),
            ("bytes=-0", RangeRequest::Nothing),
            ("bytes=5-1", RangeRequest::Whole),
            ("bytes=0-1,5-6", RangeRequest::Whole),
            ("bytes=a-b", RangeRequest::Whole),
            ("bytes=1-b", RangeRequest::Whole),
            ("bytes=", RangeRequest::Whole),
            ("lines=0-1", RangeRequest::Whole),
        ] {
            assert_eq!(parse_range(header, 1000), expected, "{header}");
        }
        assert_eq!(parse_range("bytes=0-", 0), RangeRequest::Nothing);
        assert_eq!(parse_range("bytes=-1", 0), RangeRequest::Nothing);
    }
}
