//! Domains of mail addresses. The DNS holds names with letters beyond ASCII in an ASCII form (UTS 46, RFC 5890), and
//! every mail server accepts that form.

use std::borrow::Cow;

/// The domain in the form that the DNS holds. An ASCII domain, or an address in brackets, is returned unchanged.
///
/// # Errors
/// The domain has a character or a length that no domain may have.
pub fn to_ascii(domain: &str) -> Result<Cow<'_, str>, idna::Errors> {
    if domain.is_ascii() {
        Ok(Cow::Borrowed(domain))
    } else {
        idna::domain_to_ascii_strict(domain).map(Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_takes_the_form_that_the_dns_uses() {
        for (domain, ascii) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            ("faß.example", "xn--fa-hia.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
            ("Plain.Example", "Plain.Example"),
            ("[192.0.2.1]", "[192.0.2.1]"),
        ] {
            assert_eq!(to_ascii(domain).unwrap(), ascii);
        }
        for invalid in [
            "bü cher.example",
            "-bücher.example",
            "ü\u{200b}\u{ffff}.example",
            &format!("{}.example", "ü".repeat(64)),
        ] {
            assert!(to_ascii(invalid).is_err(), "{invalid:?}");
        }
    }
}
