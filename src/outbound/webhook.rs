//! Client that sends webhooks by Standard Webhooks:
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::error::Error as StdError;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::ssrf_guard::{Forbidden, GuardedResolver, LookUp, SsrfGuard};
use crate::config;
use crate::domain::ids::{ChannelId, DeliveryId, GameId, NoticeId, OfferId, SaleId, WatchId};
use crate::domain::money::Money;
use crate::domain::retries;
use crate::error::connection;
use crate::error::{Error, Result, chain};

/// Maximum number of bytes read of an answer's body. The connection of a larger answer cannot be reused.
const MAX_ANSWER_BYTES: usize = 4 * 1024;
/// Maximum number of characters kept of an answer, to explain a failure.
const MAX_KEPT_CHARS: usize = 1_000;
/// Timeout for reading the rest of a successful answer, which only makes the connection reusable.
const MAX_DRAIN: Duration = Duration::from_secs(1);

/// Kind and version of the message that tests a channel.
pub const TEST_KIND: &str = "channel.test.v1";

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Client for webhooks. It follows no redirect, uses no proxy, and connects to public addresses only, unless the
/// configuration allows others.
pub struct Webhooks {
    settings: config::WebhookConfig,
    guard: SsrfGuard,
    look_up: LookUp,
    /// Created on first use: reading the system's certificates would slow down every start.
    client: OnceLock<Result<reqwest::Client, String>>,
}

/// Destination of messages.
pub struct Receiver {
    /// Checked again with every claim: the configuration may have changed since the channel was created.
    url: Result<url::Url, String>,
    /// One key, or two for a day after a rotation: the receiver accepts either signature.
    keys: Vec<hmac::Key>,
}

/// A message to send.
pub struct Outgoing<'a> {
    /// Id of the delivery, the same for every attempt.
    pub id: DeliveryId,
    pub body: Bytes,
    /// W3C trace context of the report that caused the message.
    pub traceparent: Option<&'a str>,
    /// Time of this attempt.
    pub now: DateTime<Utc>,
}

/// Result of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub at: DateTime<Utc>,
    pub duration_ms: i32,
    /// Status code of the answer. `None`: there was no answer.
    pub status: Option<u16>,
    /// Why the attempt failed, worded for the channel's owner.
    pub error: Option<String>,
    /// Beginning of the answer to a failed attempt.
    pub answer: Option<String>,
    /// Wait that the receiver asked for.
    pub retry_after: Option<TimeDelta>,
}

impl Attempt {
    /// An attempt that failed on our side before anything was sent.
    pub fn failed_here(at: DateTime<Utc>) -> Attempt {
        let error = Some("internal error in Salebell".to_owned());
        Attempt { at, duration_ms: 0, status: None, error, answer: None, retry_after: None }
    }

    /// Whether a 2xx was received. Redirects are failures, because they are not followed.
    pub fn succeeded(&self) -> bool {
        self.error.is_none()
    }

    /// Whether the receiver wants no more messages: it answered 410.
    pub fn is_gone(&self) -> bool {
        self.status == Some(410)
    }
}

impl Webhooks {
    /// Creates a client. `look_up` finds the addresses of names: `ssrf_guard::system_look_up()`, or that of a test.
    pub fn new(settings: &config::WebhookConfig, look_up: LookUp) -> Webhooks {
        let guard = SsrfGuard::new(&settings.allow_networks);
        Webhooks { settings: settings.clone(), guard, look_up, client: OnceLock::new() }
    }

    /// Checks a URL before it is stored: its scheme, its length, its parts, and its host if that is an address. The
    /// addresses of a name are checked at each connection.
    ///
    /// # Errors
    /// A sentence about the URL, for the user who entered it.
    pub fn check_url(&self, text: &str) -> Result<url::Url, String> {
        if text.len() > 2_000 {
            return Err("must not be longer than 2000 bytes".to_owned());
        }
        let url = url::Url::parse(text).map_err(|error| format!("must be a URL: {error}"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.settings.allow_http => {}
            _ if self.settings.allow_http => return Err("must start with https:// or http://".to_owned()),
            _ => return Err("must start with https://".to_owned()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain a user name or a password".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must not have a fragment".to_owned());
        }
        if url.port() == Some(0) {
            return Err("must not have port 0".to_owned());
        }
        self.guard.check_host(url.host()).map_err(|forbidden| {
            format!("must resolve to a public address, but this one is not ({})", forbidden.class)
        })?;
        Ok(url)
    }

    /// Receiver at a URL, with the secrets that sign its messages.
    pub fn receiver(&self, url: &str, secrets: &[SecretSlice<u8>]) -> Receiver {
        let key = |secret: &SecretSlice<u8>| hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret());
        Receiver { url: self.check_url(url), keys: secrets.iter().map(key).collect() }
    }

    /// Makes one attempt to deliver a message. A failure of the network or the receiver is part of the result.
    ///
    /// # Errors
    /// `Internal`: the client cannot be created.
    pub async fn send(&self, receiver: &Receiver, outgoing: &Outgoing<'_>) -> Result<Attempt> {
        let client = self.client()?;
        let begun = Instant::now();
        let mut attempt = Attempt {
            at: outgoing.now,
            duration_ms: 0,
            status: None,
            error: None,
            answer: None,
            retry_after: None,
        };
        match &receiver.url {
            Err(problem) => attempt.error = Some(format!("the URL {problem}")),
            Ok(url) => {
                let request = client
                    .post(url.clone())
                    .headers(headers(&receiver.keys, outgoing))
                    .body(outgoing.body.clone());
                self.exchange(request, outgoing.now, &mut attempt).await;
            }
        }
        attempt.duration_ms = i32::try_from(begun.elapsed().as_millis()).unwrap_or(i32::MAX);
        Ok(attempt)
    }

    /// Sends a test message to a channel, in a single attempt.
    ///
    /// # Errors
    /// As `send`.
    pub async fn send_test(
        &self,
        channel: ChannelId,
        receiver: &Receiver,
        now: DateTime<Utc>,
    ) -> Result<Attempt> {
        let data = TestData { channel_id: channel, message: "Salebell can reach this channel." };
        let message = WebhookMessage { kind: TEST_KIND, timestamp: now, data };
        let body = message.to_body()?;
        self.send(receiver, &Outgoing { id: DeliveryId::now_v7(), body, traceparent: None, now }).await
    }

    async fn exchange(&self, request: reqwest::RequestBuilder, now: DateTime<Utc>, attempt: &mut Attempt) {
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                attempt.error = Some(self.describe(&error));
                return;
            }
        };
        let status = response.status();
        attempt.status = Some(status.as_u16());
        if status.is_success() {
            // The message has arrived, whatever happens to the rest of the answer.
            let _ = tokio::time::timeout(MAX_DRAIN, read_beginning(&mut response)).await;
            return;
        }
        attempt.retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| retries::parse_retry_after(value.to_str().ok()?, now));
        attempt.error = Some(if status.is_redirection() {
            format!("the receiver answered {}: redirects are not followed", status.as_u16())
        } else {
            format!("the receiver answered {}", status.as_u16())
        });
        let answer = read_beginning(&mut response).await;
        // PostgreSQL accepts no NUL, and other control characters are of no use.
        let text = String::from_utf8_lossy(&answer).replace(|c: char| c.is_control() && c != '\n', " ");
        let kept: String = text.chars().take(MAX_KEPT_CHARS).collect();
        attempt.answer = Some(kept).filter(|text| !text.trim().is_empty());
    }

    fn client(&self) -> Result<&reqwest::Client> {
        let made = self.client.get_or_init(|| {
            let resolver = GuardedResolver { guard: self.guard.clone(), look_up: self.look_up.clone() };
            reqwest::Client::builder()
                .user_agent(concat!("salebell/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                // A proxy would connect to addresses that we have not checked.
                .no_proxy()
                .referer(false)
                .https_only(!self.settings.allow_http)
                .dns_resolver(std::sync::Arc::new(resolver))
                .connect_timeout(self.settings.connect_timeout)
                .timeout(self.settings.timeout)
                .build()
                .map_err(|error| chain(&error))
        });
        made.as_ref().map_err(|problem| Error::internal(format!("no client for webhooks: {problem}")))
    }

    fn describe(&self, error: &reqwest::Error) -> String {
        if let Some(forbidden) = find_source::<Forbidden>(error) {
            return forbidden.to_string();
        }
        if error.is_timeout() {
            return if error.is_connect() {
                format!("no connection within {} ms", self.settings.connect_timeout.as_millis())
            } else {
                format!("no answer within {} ms", self.settings.timeout.as_millis())
            };
        }
        // The first link names the URL, which the owner knows and a log must not contain.
        let reason = connection::explain(error, "the receiver")
            .unwrap_or_else(|| error.source().map_or_else(|| error.to_string(), chain));
        let text = if error.is_connect() {
            format!("no connection: {reason}")
        } else {
            format!("no answer: {reason}")
        };
        text.replace('\0', " ").chars().take(MAX_KEPT_CHARS).collect()
    }
}

fn find_source<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Reads an answer up to its end or to the limit. A broken connection ends it too.
async fn read_beginning(response: &mut reqwest::Response) -> Vec<u8> {
    let mut read = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        let room = MAX_ANSWER_BYTES - read.len();
        read.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() >= room {
            break;
        }
    }
    read
}

fn headers(keys: &[hmac::Key], outgoing: &Outgoing<'_>) -> HeaderMap {
    let timestamp = outgoing.now.timestamp();
    let signatures = signatures(keys, outgoing.id, timestamp, &outgoing.body);
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    // A UUID and base64 are always valid header values; an external trace context that is not is left out.
    for (name, value) in [
        (WEBHOOK_ID, outgoing.id.to_string().as_str()),
        (WEBHOOK_SIGNATURE, signatures.as_str()),
        (TRACEPARENT, outgoing.traceparent.unwrap_or_default()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    }
    headers
}

/// Signatures `v1,<base64 of HMAC-SHA256 over "{id}.{timestamp}.{body}">`, one for each key, separated by spaces.
fn signatures(keys: &[hmac::Key], id: DeliveryId, timestamp: i64, body: &[u8]) -> String {
    let prefix = format!("{id}.{timestamp}.");
    let sign = |key: &hmac::Key| {
        let mut context = hmac::Context::with_key(key);
        context.update(prefix.as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    };
    keys.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// A message in the shape of Standard Webhooks.
#[derive(Serialize, ToSchema)]
pub struct WebhookMessage<'a, D> {
    /// Kind and version, such as `sale.started.v1`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Time of the event that is reported, not of sending.
    #[serde(serialize_with = "rfc3339")]
    pub timestamp: DateTime<Utc>,
    pub data: D,
}

fn rfc3339<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

impl<D: Serialize> WebhookMessage<'_, D> {
    /// The bytes that are signed and sent.
    ///
    /// # Errors
    /// None that the types allow.
    pub fn to_body(&self) -> Result<Bytes> {
        serde_json::to_vec(self).map(Bytes::from).map_err(Error::internal)
    }
}

/// `data` of a notice. The price is the one that stood when the message was sent.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookSale)]
pub struct SaleData<'a> {
    pub notice_id: NoticeId,
    pub watch_id: WatchId,
    pub sale_id: SaleId,
    pub game: GameData<'a>,
    pub offer: OfferData<'a>,
    pub price: Money,
    pub regular_price: Money,
    /// Whole percent below the regular price.
    #[schema(minimum = 0, maximum = 100)]
    pub cut: i16,
    /// Whether the price is strictly below every earlier price that was paid for the offer, or is its first giveaway.
    pub new_low: bool,
    /// Time at which this price was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub observed_at: Option<DateTime<Utc>>,
    /// Where the offer can be bought.
    #[schema(required)]
    pub url: Option<&'a str>,
    /// Time at which, according to the store, the sale ends.
    #[schema(required)]
    pub sale_ends_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = WebhookGame)]
pub struct GameData<'a> {
    pub id: GameId,
    pub title: &'a str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = WebhookOffer)]
pub struct OfferData<'a> {
    pub id: OfferId,
    pub store: StoreData<'a>,
    /// ISO 3166-1 code, or `ZZ` for everywhere.
    #[schema(pattern = r"^[A-Z]{2}$")]
    pub region: &'a str,
    /// Platform such as `windows`; null if it was never reported.
    #[schema(required)]
    pub platform: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = WebhookStore)]
pub struct StoreData<'a> {
    pub slug: &'a str,
    pub name: &'a str,
}

/// `data` of a test.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookTest)]
pub struct TestData {
    pub channel_id: ChannelId,
    pub message: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::ssrf_guard::system_look_up;

    fn webhooks(allow_http: bool, networks: &[&str]) -> Webhooks {
        let settings = config::WebhookConfig {
            allow_http,
            allow_networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
            in_flight_per_channel: 8,
            channels_per_account: 100,
            encryption_keys: Vec::new(),
        };
        Webhooks::new(&settings, system_look_up())
    }

    /// The example of the specification's libraries.
    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            let text = br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
            STANDARD.encode(hmac::sign(&key, text))
        };
        assert_eq!(signed, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");

        let id = DeliveryId::now_v7();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let tag = hmac::sign(&key, format!("{id}.1614265330.{{}}").as_bytes());
        let other = hmac::Key::new(hmac::HMAC_SHA256, &[1_u8; 32]);
        let both = signatures(&[key.clone(), other], id, 1_614_265_330, b"{}");
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, format!("v1,{}", STANDARD.encode(tag)));
        assert!(second.starts_with("v1,") && second != first);
    }

    #[test]
    fn urls_are_checked_before_they_are_stored() {
        let strict = webhooks(false, &[]);
        strict.check_url("https://example.com/hook?token=1").unwrap();
        strict.check_url("https://1.1.1.1:8443/").unwrap();
        strict.check_url("https://[2606:4700:4700::1111]/").unwrap();
        for refused in [
            "",
            "example.com",
            "http://example.com/",
            "ftp://example.com/",
            "https://",
            "https://user@example.com/",
            "https://:secret@example.com/",
            "https://example.com/#part",
            "https://example.com:0/",
            "https://example.com:65536/",
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest/meta-data/",
            &format!("https://example.com/{}", "a".repeat(2_000)),
        ] {
            assert!(strict.check_url(refused).is_err(), "{refused} was accepted");
        }
        let lenient = webhooks(true, &["127.0.0.0/8"]);
        lenient.check_url("http://127.0.0.1:9000/").unwrap();
        lenient.check_url("http://example.com/").unwrap();
        assert!(lenient.check_url("http://10.0.0.1/").is_err());
        assert!(lenient.check_url("file:///etc/passwd").is_err());
    }

    #[test]
    fn the_largest_message_stays_below_20_kb() {
        let euros = Money { minor: 10_i64.pow(12), currency: "EUR".parse().unwrap() };
        // The limits of the catalogue, with the character that is longest in JSON.
        let long = "\u{1f}".repeat(500);
        let data = SaleData {
            notice_id: NoticeId::now_v7(),
            watch_id: WatchId::now_v7(),
            sale_id: SaleId::now_v7(),
            game: GameData { id: GameId::now_v7(), title: &long },
            offer: OfferData {
                id: OfferId::now_v7(),
                store: StoreData { slug: &long, name: &long },
                region: "ZZ",
                platform: Some(&long),
            },
            price: euros,
            regular_price: euros,
            cut: 100,
            new_low: true,
            observed_at: DateTime::from_timestamp(1_750_000_000, 1_000),
            url: Some(&"u".repeat(2_000)),
            sale_ends_at: DateTime::from_timestamp(1_750_000_000, 1_000),
        };
        let message = WebhookMessage { kind: "sale.started.v1", timestamp: DateTime::UNIX_EPOCH, data };
        assert!(message.to_body().unwrap().len() < 20_000);
    }
}
