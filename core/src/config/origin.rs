//! Origins of the web (RFC 6454): `server.public_url`, and the sites in `server.cors_origins`.

use std::fmt;
use std::str::FromStr;

use url::Url;

/// Scheme, host and port of a site, such as `https://salebell.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOrigin {
    /// The origin as browsers send it: in lower case and ASCII, without a default port, and without a slash at its end.
    text: String,
    is_https: bool,
}

impl WebOrigin {
    /// Reads the URL of a site's front page, in any spelling.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the name of the setting.
    pub fn of_url(text: &str) -> Result<WebOrigin, &'static str> {
        let form = "must be a URL such as https://salebell.example.com";
        let url = Url::parse(text).map_err(|_| form)?;
        let is_https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("must begin with https:// or http://"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not name a user or a password");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must have neither a query nor a fragment");
        }
        if url.path() != "/" {
            return Err("must have no path: the API is at the root of its host");
        }
        Ok(WebOrigin { text: url.origin().ascii_serialization(), is_https })
    }

    /// The origin as browsers send it in `Origin`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the site uses TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Absolute URL of a path, which begins with a slash.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }
}

/// Reads an origin exactly as browsers send it: another spelling would never be equal to what they send.
impl FromStr for WebOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<WebOrigin, Self::Err> {
        let form = "must be an origin as browsers send it, such as https://app.example: scheme, host in lower case, \
                    and a port that is not the default one";
        // A host with a `*` is a valid host of a URL, and no browser is at one: it would be a pattern.
        WebOrigin::of_url(text).ok().filter(|origin| origin.text == text && !text.contains('*')).ok_or(form)
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_page_of_a_site_is_read_in_any_spelling() {
        for (text, origin) in [
            ("https://salebell.example.com", "https://salebell.example.com"),
            ("https://salebell.example.com/", "https://salebell.example.com"),
            ("HTTPS://SaleBell.Example.com:443", "https://salebell.example.com"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080/", "http://[::1]:8080"),
        ] {
            let read = WebOrigin::of_url(text).unwrap();
            assert_eq!((read.as_str(), read.is_https()), (origin, origin.starts_with("https")), "{text}");
            assert_eq!(read.at("/v1/deals"), format!("{origin}/v1/deals"));
        }
        for (text, problem) in [
            ("salebell.example.com", "must be a URL"),
            ("https://", "must be a URL"),
            ("", "must be a URL"),
            ("ftp://salebell.example.com", "must begin with https:// or http://"),
            ("salebell:8080", "must begin with https:// or http://"),
            ("https://anna@salebell.example.com", "must not name a user"),
            ("https://:secret@salebell.example.com", "must not name a user"),
            ("https://salebell.example.com/?a=1", "neither a query nor a fragment"),
            ("https://salebell.example.com/#top", "neither a query nor a fragment"),
            ("https://example.com/salebell", "must have no path"),
        ] {
            let refused = WebOrigin::of_url(text).unwrap_err();
            assert!(refused.contains(problem), "{text}: {refused}");
        }
    }

    #[test]
    fn an_origin_is_spelled_as_browsers_send_it() {
        for text in ["https://app.example", "http://localhost:5173", "https://app.example:8443"] {
            assert_eq!(text.parse::<WebOrigin>().unwrap().as_str(), text);
        }
        for text in [
            "https://app.example/",
            "https://app.example:443",
            "https://App.example",
            "https://bücher.example",
            "https://*.app.example",
            "app.example",
            "null",
            "https://app.example https://other.example",
        ] {
            let refused = text.parse::<WebOrigin>().unwrap_err();
            assert!(refused.starts_with("must be an origin as browsers send it"), "{text}: {refused}");
        }
    }
}
