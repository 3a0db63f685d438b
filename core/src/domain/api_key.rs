//! API keys: `sbk_`, 32 random bytes in base62, and a checksum that detects a typo without a database query.

use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};

use super::text_enum::text_enum;

const PREFIX: &str = "sbk_";
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Digits of the random part: 32 bytes need 43 digits of base 62.
const BODY: usize = 43;
/// Digits of the checksum, which encodes the first 4 bytes of the body's SHA-256 (62^6 > 2^32).
const CHECKSUM: usize = 6;
/// Length of the stored beginning, by which people recognise a key: too short to guess the rest.
const HINT: usize = 8;

text_enum! {
    /// A permission that a token can have.
    pub enum Scope {
        CatalogueWrite = "catalogue:write",
        PricesWrite = "prices:write",
        /// For the operators of the service.
        Operator = "operator",
    }
}

/// Names of all scopes.
pub const SCOPES: [&str; 3] =
    [Scope::CatalogueWrite.name(), Scope::PricesWrite.name(), Scope::Operator.name()];

/// Makes a key from 32 random bytes.
pub fn generate(random: &[u8; 32]) -> SecretString {
    let body = base62::<BODY>(random);
    format!("{PREFIX}{body}{}", checksum(&body)).into()
}

/// Whether the text has the form of a key: prefix, length, digits, checksum.
pub fn is_well_formed(key: &str) -> bool {
    let Some(rest) = key.strip_prefix(PREFIX) else { return false };
    rest.len() == BODY + CHECKSUM
        && rest.bytes().all(|b| b.is_ascii_alphanumeric())
        && rest[BODY..] == checksum(&rest[..BODY])
}

/// The SHA-256 that is stored instead of the key.
pub fn digest_of(key: &str) -> Vec<u8> {
    digest(&SHA256, key.as_bytes()).as_ref().to_vec()
}

/// Beginning of a key, such as `sbk_Zq3x`.
pub fn hint(key: &SecretString) -> String {
    key.expose_secret().chars().take(HINT).collect()
}

fn checksum(body: &str) -> String {
    base62::<CHECKSUM>(&digest(&SHA256, body.as_bytes()).as_ref()[..4])
}

/// Writes big-endian bytes as `N` digits of base 62, the highest first.
fn base62<const N: usize>(bytes: &[u8]) -> String {
    let mut number = bytes.to_vec();
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in number.iter_mut() {
            let value = rest * 256 + u32::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        *digit = DIGITS[rest as usize];
    }
    digits.iter().map(|&digit| char::from(digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_typo_is_detected_without_a_query() {
        let key = generate(&[7; 32]);
        let key = key.expose_secret();
        assert!(is_well_formed(key));
        assert!(!is_well_formed(&key[1..]));
        assert!(!is_well_formed("sbk_"));
        for at in 4..key.len() {
            let mut typo = key.to_owned().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert!(!is_well_formed(std::str::from_utf8(&typo).unwrap()), "at {at}");
        }
    }

    proptest! {
        #[test]
        fn every_key_is_well_formed_and_its_own(a in prop::array::uniform32(any::<u8>()), b in prop::array::uniform32(any::<u8>())) {
            let (one, other) = (generate(&a), generate(&b));
            prop_assert!(is_well_formed(one.expose_secret()));
            prop_assert_eq!(a == b, one.expose_secret() == other.expose_secret());
        }
    }
}
