//! Content negotiation: choice of a format by `Accept` (RFC 9110, section 12.5.1).

use axum::http::{HeaderMap, header};

/// Formats of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedFormat {
    Json,
    Csv,
    Html,
}

impl AcceptedFormat {
    fn media_type(self) -> &'static str {
        match self {
            AcceptedFormat::Json => "application/json",
            AcceptedFormat::Csv => "text/csv",
            AcceptedFormat::Html => "text/html",
        }
    }
}

/// Chooses the offered format with the greatest weight, and the first of equals. If none is accepted, it is the first
/// too: a response that the client may be able to read is better than none.
pub fn choose(headers: &HeaderMap, offered: &[AcceptedFormat]) -> AcceptedFormat {
    let lists: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut best = (0, offered[0]);
    for format in offered {
        let weight = if lists.is_empty() { 1000 } else { weight(&lists, format.media_type()) };
        if weight > best.0 {
            best = (weight, *format);
        }
    }
    best.1
}

/// Returns the weight of a media type in thousandths, by the most specific range that matches it.
fn weight(lists: &[&str], media_type: &str) -> u32 {
    let family = media_type.split('/').next().unwrap_or_default();
    let mut best = (0, 0);
    for range in lists.iter().flat_map(|list| list.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let close = match name.as_str() {
            name if name == media_type => 3,
            "*/*" => 1,
            name if name.strip_suffix("/*") == Some(family) => 2,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0)).clamp(0.0, 1.0);
        if close > best.0 {
            best = (close, (weight * 1000.0) as u32);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_format_is_the_one_that_the_client_prefers() {
        let all = [AcceptedFormat::Json, AcceptedFormat::Csv, AcceptedFormat::Html];
        for (accept, format) in [
            ("*/*", AcceptedFormat::Json),
            ("application/json", AcceptedFormat::Json),
            ("text/csv", AcceptedFormat::Csv),
            ("TEXT/CSV; header=present", AcceptedFormat::Csv),
            ("text/*", AcceptedFormat::Csv),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", AcceptedFormat::Html),
            ("text/csv;q=0.5, application/json;q=0.4", AcceptedFormat::Csv),
            ("text/csv;q=0, */*", AcceptedFormat::Json),
            ("image/png", AcceptedFormat::Json),
            ("text/csv;q=x", AcceptedFormat::Json),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(choose(&headers, &all), format, "{accept}");
        }
        assert_eq!(choose(&HeaderMap::new(), &all), AcceptedFormat::Json);
    }
}
