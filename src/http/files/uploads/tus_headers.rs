//! Headers of uploads: those of tus 1.0.0 (<https://tus.io/protocols/resumable-upload>), and those that both protocols
//! share.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::domain::ids::FileId;

/// Maximum number of pairs of `Upload-Metadata`.
const MAX_METADATA_PAIRS: usize = 32;
/// Maximum number of bytes of `Upload-Metadata`.
const MAX_METADATA_BYTES: usize = 8 * 1024;
/// Maximum number of parts of a concatenation.
const MAX_PARTS: usize = 1_000;

/// Parses `Upload-Metadata`: keys with base64 values, which are decoded; a key without a value has an empty one.
///
/// # Errors
/// The rest of a sentence that begins with the name of the header.
pub fn parse_metadata(header: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    if header.len() > MAX_METADATA_BYTES {
        return Err(format!("is longer than {MAX_METADATA_BYTES} bytes"));
    }
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    for pair in header.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = STANDARD
            .decode(value.trim())
            .map_err(|_| format!("has a value for {key:?} that is not base64"))?;
        if pairs.iter().any(|(known, _)| known == key) {
            return Err(format!("has the key {key:?} twice"));
        }
        pairs.push((key.to_owned(), value));
    }
    if pairs.len() > MAX_METADATA_PAIRS {
        Err(format!("has more than {MAX_METADATA_PAIRS} keys"))
    } else {
        Ok(pairs)
    }
}

/// Returns the value of the first of `keys` that the metadata has, as text.
pub fn text_of(metadata: &[(String, Vec<u8>)], keys: &[&str]) -> Option<String> {
    let value = keys.iter().find_map(|key| metadata.iter().find(|(known, _)| known == key))?;
    Some(String::from_utf8_lossy(&value.1).into_owned())
}

/// The value of `Upload-Concat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concat {
    /// A part of a later concatenation.
    Partial,
    /// The concatenation of these parts, in this order.
    Final(Vec<FileId>),
}

/// Parses `Upload-Concat`.
///
/// # Errors
/// The rest of a sentence that begins with the name of the header.
pub fn parse_concat(header: &str) -> Result<Concat, String> {
    if header == "partial" {
        return Ok(Concat::Partial);
    }
    let parts = header.strip_prefix("final;").ok_or("must be `partial`, or `final;` followed by URLs")?;
    let parts: Vec<FileId> = parts
        .split_ascii_whitespace()
        .map(|address| {
            let path = address.split(['?', '#']).next().unwrap_or_default();
            let id = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            id.parse().map_err(|_| format!("names {address:?}, which is not an upload"))
        })
        .collect::<Result<_, String>>()?;
    match parts.len() {
        0 => Err("names no upload".to_owned()),
        n if n > MAX_PARTS => Err(format!("names more than {MAX_PARTS} uploads")),
        _ => Ok(Concat::Final(parts)),
    }
}

/// Hash algorithm of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    Sha1,
    Sha256,
    Sha512,
}

/// Supported algorithms, as listed in `Tus-Checksum-Algorithm`.
pub const CHECKSUM_ALGORITHMS: &str = "sha1,sha256";

/// A checksum of the bytes of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub algorithm: ChecksumAlgorithm,
    pub value: Vec<u8>,
}

/// Parses `Upload-Checksum`: an algorithm, and the checksum in base64.
///
/// # Errors
/// The rest of a sentence that begins with the name of the header.
pub fn parse_checksum(header: &str) -> Result<Checksum, String> {
    let (name, value) = header.trim().split_once(' ').ok_or("must be an algorithm and a value")?;
    let algorithm = match name {
        "sha1" => ChecksumAlgorithm::Sha1,
        "sha256" => ChecksumAlgorithm::Sha256,
        _ => return Err(format!("must use one of {CHECKSUM_ALGORITHMS}")),
    };
    let value = STANDARD.decode(value.trim()).map_err(|_| "has a value that is not base64")?;
    let bytes = match algorithm {
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
        ChecksumAlgorithm::Sha512 => 64,
    };
    if value.len() == bytes {
        Ok(Checksum { algorithm, value })
    } else {
        Err(format!("has a value that is not {bytes} bytes long"))
    }
}

/// Parses `Content-Digest` and `Repr-Digest` (RFC 9530). Only algorithms that are known here and still secure are
/// returned; others are ignored, as the RFC permits.
///
/// # Errors
/// The rest of a sentence that begins with the name of the header.
pub fn parse_digest(header: &str) -> Result<Vec<Checksum>, String> {
    let mut checksums = Vec::new();
    for member in header.split(',').map(str::trim).filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=').ok_or("has an algorithm without a value")?;
        let algorithm = match key {
            "" => return Err("has a value without an algorithm".to_owned()),
            "sha-256" => ChecksumAlgorithm::Sha256,
            "sha-512" => ChecksumAlgorithm::Sha512,
            _ => continue,
        };
        let value = value.split(';').next().unwrap_or_default().trim();
        let value = value.strip_prefix(':').and_then(|value| value.strip_suffix(':'));
        let value = value.and_then(|value| STANDARD.decode(value).ok());
        let value =
            value.ok_or_else(|| format!("has a value for {key} that is not base64 between colons"))?;
        checksums.push(Checksum { algorithm, value });
    }
    Ok(checksums)
}

/// Returns the value of a structured field that is an item (RFC 9651), without its parameters. Spaces may surround the
/// item, but not separate the value from its parameters.
fn item(header: &str) -> &str {
    header.trim_matches(' ').split(';').next().unwrap_or_default()
}

/// Parses a structured field that is a boolean. Any other value is treated as if the field were absent.
pub fn parse_boolean(header: &str) -> Option<bool> {
    match item(header) {
        "?1" => Some(true),
        "?0" => Some(false),
        _ => None,
    }
}

/// Parses a structured field that is an integer of 0 or more. Any other value is treated as if the field were absent.
pub fn parse_integer(header: &str) -> Option<u64> {
    const MAX_DIGITS: usize = 15;
    let digits = item(header);
    let is_one = (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if is_one { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_pairs_of_base64() {
        let pairs = parse_metadata("filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential").unwrap();
        assert_eq!(text_of(&pairs, &["name", "filename"]).as_deref(), Some("world_domination_plan.pdf"));
        assert_eq!(text_of(&pairs, &["is_confidential"]).as_deref(), Some(""));
        assert_eq!(text_of(&pairs, &["type"]), None);
        assert_eq!(parse_metadata("").unwrap(), []);
        assert!(parse_metadata("a !").unwrap_err().contains("base64"));
        assert!(parse_metadata("a YQ==,a YQ==").unwrap_err().contains("twice"));
        assert!(parse_metadata(&"a ,".repeat(9_000)).is_err());
    }

    #[test]
    fn parts_are_named_by_their_addresses() {
        let (a, b) = (FileId::now_v7(), FileId::now_v7());
        assert_eq!(parse_concat("partial"), Ok(Concat::Partial));
        let header = format!("final;/v1/files/{a} https://api.example/v1/files/{b}/?x=1");
        assert_eq!(parse_concat(&header), Ok(Concat::Final(vec![a, b])));
        for invalid in ["", "final", "final;", "final;/v1/files/1", "whole"] {
            assert!(parse_concat(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn digests_are_those_of_known_algorithms() {
        let digests = parse_digest("md5=:AAAA:, sha-256=:AAEC:;a=1 ,sha-512=:AwQ=:, id-sha-256=x").unwrap();
        let expected = [(ChecksumAlgorithm::Sha256, vec![0, 1, 2]), (ChecksumAlgorithm::Sha512, vec![3, 4])];
        assert_eq!(digests, expected.map(|(algorithm, value)| Checksum { algorithm, value }));
        assert_eq!(parse_digest("").unwrap(), []);
        for invalid in ["sha-256", "sha-256=AAEC", "sha-256=:AAEC", "sha-256=:*:", "=:AAEC:", "SHA"] {
            assert!(parse_digest(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn structured_fields_have_the_expected_type_or_are_ignored() {
        assert_eq!((parse_boolean("?1"), parse_boolean(" ?0; a=b ")), (Some(true), Some(false)));
        for invalid in ["", "1", "true", "?2", "?1, ?0", "?1 ;a"] {
            assert_eq!(parse_boolean(invalid), None, "{invalid}");
        }
        assert_eq!((parse_integer("0"), parse_integer(" 12;x ")), (Some(0), Some(12)));
        assert_eq!(parse_integer("999999999999999"), Some(999_999_999_999_999));
        for invalid in ["", "-1", "1.0", "1000000000000000", "\"1\"", "1, 2", "abc", "1 ;x"] {
            assert_eq!(parse_integer(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn checksums_have_an_algorithm_and_its_length() {
        let checksum = parse_checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").unwrap();
        assert_eq!((checksum.algorithm, checksum.value.len()), (ChecksumAlgorithm::Sha1, 20));
        for invalid in
            ["md5 1B2M2Y8AsgTpgAmY7PhCfg==", "sha1", "sha1 YQ==", "sha256 Kq5sNclPz7QV2+lfQIuc6R7oRu0="]
        {
            assert!(parse_checksum(invalid).is_err(), "{invalid}");
        }
    }
}
