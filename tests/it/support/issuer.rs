//! A token issuer: keys of each algorithm, tokens made by hand to allow any defect, and a key set served over HTTP.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A private key with its `kid`.
pub struct SigningKey {
    pub id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    /// Generates a key for `RS256`, `ES256` or `EdDSA`.
    pub fn generate(algorithm: &str, id: &str) -> SigningKey {
        let pair = match algorithm {
            "RS256" => Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())),
            "ES256" => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::generate().unwrap()),
            other => panic!("{other}"),
        };
        SigningKey { id: id.to_owned(), pair }
    }

    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// The public half as a JSON Web Key.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let modulus = public.modulus().big_endian_without_leading_zero();
                let exponent = public.exponent().big_endian_without_leading_zero();
                json!({"kty": "RSA", "n": text(modulus), "e": text(exponent)})
            }
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..65])})
            }
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())}),
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token with a valid header.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "kid": self.id, "typ": "JWT"}), claims)
    }

    /// A token with any header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let text = unsigned(header, claims);
        let signature = self.sign(&text);
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token with padding, as an AWS load balancer writes it: the signature covers the padded text.
    pub fn padded_token(&self, header: &Value, claims: &Value) -> String {
        // An additional space makes the part need padding, whatever its content.
        let part = |value: &Value| {
            let text = value.to_string();
            URL_SAFE.encode(if text.len().is_multiple_of(3) { text + " " } else { text })
        };
        let text = format!("{}.{}", part(header), part(claims));
        assert!(text.contains("=.") && text.ends_with('='));
        let signature = URL_SAFE.encode(self.sign(&text));
        format!("{text}.{signature}")
    }

    /// The public half as PEM.
    pub fn pem(&self) -> String {
        let der = match &self.pair {
            Pair::Rsa(pair) => x509(pair.public_key()),
            Pair::Ec(pair) => x509(pair.public_key()),
            Pair::Ed(pair) => x509(pair.public_key()),
        };
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
        }
    }
}

fn x509(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
    key.as_der().unwrap().as_ref().to_vec()
}

/// Header and claims, with nothing after them.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// A server of the key set: its current answer, and the number of requests it has received.
#[derive(Clone, Default)]
pub struct KeyServer {
    answer: Arc<Mutex<(u16, String)>>,
    requests: Arc<AtomicUsize>,
    pub url: String,
}

impl KeyServer {
    pub async fn start() -> KeyServer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let server = KeyServer { url, ..KeyServer::default() };
        server.answer(503, "");
        let router = Router::new().fallback(respond).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub fn answer(&self, status: u16, body: impl Into<String>) {
        *self.answer.lock().unwrap() = (status, body.into());
    }

    pub fn serve(&self, keys: &[&SigningKey]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.answer(200, json!({"keys": keys}).to_string());
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn respond(State(server): State<KeyServer>) -> Response {
    server.requests.fetch_add(1, Ordering::SeqCst);
    let (status, body) = server.answer.lock().unwrap().clone();
    // A redirect that must not be followed leads back to this server.
    let location = [("location", server.url.clone())];
    (StatusCode::from_u16(status).unwrap(), location, body).into_response()
}
