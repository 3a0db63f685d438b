//! Encryption of secrets at rest: channel secrets are sealed with AES-256-GCM before they are stored in the database.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::api_key;
use crate::error::{Error, Result};

/// Keys that seal secrets. The first key seals and all of them open, so a key can be replaced while secrets sealed with
/// it remain.
///
/// Sealed form: version byte 1, the first 4 bytes of the key's SHA-256, nonce (12 bytes), ciphertext with tag.
///
/// The keys can be exchanged while the process runs.
pub struct Keyring(RwLock<Arc<[(KeyId, LessSafeKey)]>>);

type KeyId = [u8; 4];
const VERSION: u8 = 1;
const HEADER: usize = 1 + size_of::<KeyId>();

impl Keyring {
    /// Parses keys of 32 bytes each, as base64 or as 64 hex digits. (Secrets Manager can generate the latter by itself.
    /// Read as base64, those would be 48 bytes, so the two forms cannot be confused.)
    ///
    /// # Errors
    /// Names the position of the first invalid key, but does not repeat it.
    pub fn new(keys: &[SecretString]) -> Result<Keyring, String> {
        let read = |(at, key): (usize, &SecretString)| {
            let invalid = || format!("[{at}] must be 32 bytes, as base64 or as 64 hex digits");
            let text = key.expose_secret();
            let bytes = match text.len() {
                64 => hex::decode(text).map_err(|_| invalid())?,
                _ => STANDARD.decode(text).map_err(|_| invalid())?,
            };
            let id = key_id(&bytes);
            UnboundKey::new(&AES_256_GCM, &bytes)
                .map(|key| (id, LessSafeKey::new(key)))
                .map_err(|_| invalid())
        };
        keys.iter().enumerate().map(read).collect::<Result<_, _>>().map(|keys| Keyring(RwLock::new(keys)))
    }

    /// Replaces all keys.
    pub fn replace(&self, keys: Keyring) {
        *self.0.write() = keys.keys();
    }

    fn keys(&self) -> Arc<[(KeyId, LessSafeKey)]> {
        self.0.read().clone()
    }

    /// Whether there is a key to seal with.
    pub fn can_seal(&self) -> bool {
        !self.keys().is_empty()
    }

    /// Seals `secret` for the row `owner`; it cannot be opened for any other row.
    ///
    /// # Errors
    /// Fails if no key is configured.
    pub fn seal(&self, owner: uuid::Uuid, secret: &[u8]) -> Result<Vec<u8>> {
        let keys = self.keys();
        let (id, key) = keys.first().ok_or_else(|| Error::internal("webhook.encryption_keys is not set"))?;
        let mut nonce = [0_u8; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Error::internal("no random bytes"))?;
        let mut text = secret.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(owner.as_bytes()),
            &mut text,
        )
        .map_err(|_| Error::internal("sealing failed"))?;
        Ok([&[VERSION][..], id, &nonce, &text].concat())
    }

    /// Seals a webhook secret for its channel.
    ///
    /// # Errors
    /// Same as [`seal`](Keyring::seal).
    pub fn seal_secret(&self, channel: uuid::Uuid, secret: &SecretBytes) -> Result<Vec<u8>> {
        self.seal(channel, secret.expose_secret())
    }

    /// Opens the secrets that sign for a channel: the current one, and the previous one while it signs as well.
    ///
    /// # Errors
    /// Same as [`open`](Keyring::open).
    pub fn open_secrets(
        &self,
        channel: uuid::Uuid,
        secret: &[u8],
        previous: Option<&[u8]>,
    ) -> Result<Vec<SecretBytes>> {
        [Some(secret), previous].into_iter().flatten().map(|sealed| self.open(channel, sealed)).collect()
    }

    /// Opens what [`seal`](Keyring::seal) returned.
    ///
    /// # Errors
    /// Fails if its key is not configured, or if it was sealed for another row.
    pub fn open(&self, owner: uuid::Uuid, sealed: &[u8]) -> Result<SecretBytes> {
        let broken =
            || Error::internal("a sealed secret does not open: webhook.encryption_keys lacks its key?");
        if sealed.len() < HEADER + NONCE_LEN || sealed[0] != VERSION {
            return Err(broken());
        }
        let keys = self.keys();
        let (id, key) = keys.iter().find(|(id, _)| id == &sealed[1..HEADER]).ok_or_else(broken)?;
        debug_assert_eq!(id.len(), size_of::<KeyId>());
        let nonce =
            Nonce::try_assume_unique_for_key(&sealed[HEADER..HEADER + NONCE_LEN]).map_err(|_| broken())?;
        let mut text = sealed[HEADER + NONCE_LEN..].to_vec();
        let opened =
            key.open_in_place(nonce, Aad::from(owner.as_bytes()), &mut text).map_err(|_| broken())?.len();
        text.truncate(opened);
        Ok(SecretBytes::from(text))
    }
}

/// Secret bytes, which are wiped when dropped and never printed.
pub type SecretBytes = secrecy::SecretSlice<u8>;

fn key_id(key: &[u8]) -> KeyId {
    let hash = digest(&SHA256, key);
    let mut id = KeyId::default();
    id.copy_from_slice(&hash.as_ref()[..size_of::<KeyId>()]);
    id
}

/// Generates a random key in the form that the configuration accepts.
///
/// # Errors
/// Fails if the system provides no random bytes.
pub fn generate_key() -> Result<SecretString> {
    let mut key = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| Error::internal("no random bytes"))?;
    Ok(STANDARD.encode(key).into())
}

/// Generates a secret for a webhook channel: 32 random bytes. Standard Webhooks accepts 24 to 64.
///
/// # Errors
/// Fails if the system provides no random bytes.
pub fn generate_webhook_secret() -> Result<SecretBytes> {
    let mut secret = vec![0_u8; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| Error::internal("no random bytes"))?;
    Ok(SecretBytes::from(secret))
}

/// Formats a webhook secret for its owner: `whsec_` and base64.
pub fn show_webhook_secret(secret: &SecretBytes) -> String {
    format!("whsec_{}", STANDARD.encode(secret.expose_secret()))
}

/// Generates a random API key.
///
/// # Errors
/// Fails if the system provides no random bytes.
pub fn generate_api_key() -> Result<SecretString> {
    let mut random = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::internal("no random bytes"))?;
    Ok(api_key::generate(&random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_secret_opens_with_its_key_and_in_its_row_alone() {
        let (old, new) = (generate_key().unwrap(), generate_key().unwrap());
        let row = Uuid::now_v7();
        let sealed = Keyring::new(std::slice::from_ref(&old)).unwrap().seal(row, b"bell").unwrap();
        let both = Keyring::new(&[new.clone(), old]).unwrap();
        assert_eq!(both.open(row, &sealed).unwrap().expose_secret(), b"bell");
        assert!(both.open(Uuid::now_v7(), &sealed).is_err());
        assert!(Keyring::new(&[new]).unwrap().open(row, &sealed).is_err());
        assert!(both.open(row, &sealed[..10]).is_err());
        let exchanged = Keyring::new(&[]).unwrap();
        assert!(!exchanged.can_seal() && exchanged.open(row, &sealed).is_err());
        exchanged.replace(both);
        assert_eq!(exchanged.open(row, &sealed).unwrap().expose_secret(), b"bell");
        assert!(!sealed.windows(4).any(|four| four == b"bell"));
    }
    #[test]
    fn a_key_of_64_hex_digits_is_the_same_key_as_its_base64() {
        let (hex, row) = (SecretString::from("00112233445566778899aabbccddeeff".repeat(2)), Uuid::now_v7());
        let base64 = SecretString::from(STANDARD.encode(hex::decode(hex.expose_secret()).unwrap()));
        let sealed = Keyring::new(&[hex]).unwrap().seal(row, b"bell").unwrap();
        assert_eq!(Keyring::new(&[base64]).unwrap().open(row, &sealed).unwrap().expose_secret(), b"bell");
        // 48 bytes as base64, 31 as hex, and an invalid hex digit.
        for invalid in ["QUJD".repeat(16), "0a".repeat(31), format!("{}g", "0".repeat(63))] {
            let refused = Keyring::new(&[SecretString::from(invalid)]).err().unwrap();
            assert_eq!(refused, "[0] must be 32 bytes, as base64 or as 64 hex digits");
        }
    }
}
