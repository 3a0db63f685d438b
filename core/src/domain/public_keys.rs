//! Public keys that verify tokens: JSON Web Keys (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// Maximum number of keys read of one set. No issuer has more; further keys are ignored.
const MAX_KEYS: usize = 100;

/// A key with the one algorithm that it is for. A token's own header cannot change the algorithm.
pub struct PublicKey {
    /// Key id (`kid`).
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

/// Reads the keys of a set that verify signatures by an algorithm that Salebell knows; others are skipped (RFC 7517,
/// section 5).
pub fn read_keys(set: &Value) -> Vec<PublicKey> {
    let keys = set.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    keys.iter().take(MAX_KEYS).filter_map(read_key).collect()
}

fn read_key(value: &Value) -> Option<PublicKey> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let common = &jwk.common;
    let for_signatures = common.public_key_use.as_ref().is_none_or(|own| *own == PublicKeyUse::Signature);
    let verifies = common.key_operations.as_ref().is_none_or(|own| own.contains(&KeyOperations::Verify));
    let same = common.key_algorithm.is_none_or(|own| own.to_string() == format!("{algorithm:?}"));
    if !for_signatures || !verifies || !same {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(PublicKey { id: jwk.common.key_id, algorithm, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_for_other_purposes_are_skipped() {
        let ed = |more: Value| {
            let mut key =
                json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        let good = [json!({}), json!({"use": "sig", "alg": "EdDSA", "key_ops": ["verify"]})];
        let bad = [
            json!({"use": "enc"}),
            json!({"alg": "RS256"}),
            json!({"key_ops": ["encrypt"]}),
            json!({"crv": "Ed448"}),
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"kty": "EC", "crv": "P-521", "y": "a"}),
            json!({"kty": "new"}),
        ];
        for more in good {
            assert_eq!(read_keys(&json!({"keys": [ed(more.clone())]})).len(), 1, "{more}");
        }
        for more in bad {
            assert_eq!(read_keys(&json!({"keys": [ed(more.clone())]})).len(), 0, "{more}");
        }
        for nonsense in [json!(null), json!({"keys": 1}), json!({"keys": [1, null]}), json!([])] {
            assert!(read_keys(&nonsense).is_empty());
        }
    }
}
