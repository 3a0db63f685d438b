//! Extractors of bodies, query parameters and ids, whose errors name the invalid part and the reason.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Frame;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use uuid::Uuid;

pub use crate::api::paced_body::broken_off;
use crate::api::parameters::MAX_REPEATED;
pub use crate::api::parameters::bad_parameter;
use crate::api::request_state::RequestProgress;
use crate::app::App;
use crate::app::cpu_time::give_way;
use crate::auth::Caller;
use crate::domain::ids::AccountId;
use crate::domain::object::Object;
use crate::domain::observation::check_text;
use crate::error::{Error, Kind, Result, brief};

/// A JSON body of at most `server.max_json_bytes`. The types themselves refuse unknown fields.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let media_type = media_type(request.headers());
        if !matches!(media_type.as_deref(), Some("application/json" | "application/merge-patch+json")) {
            return Err(Error::new(Kind::UnsupportedMediaType, "The body must be application/json."));
        }
        check_not_encoded(request.headers())?;
        let (parts, body) = request.into_parts();
        let bytes = read_limited(&parts.headers, body, app.config.server.max_json_bytes).await?;
        let account = parts.extensions.get::<Caller>().map(|caller| caller.account);
        parse_body(app, account, bytes).await.map(Json)
    }
}

/// Parses a complete body as JSON; a large one waits for its account's turn on the processor.
///
/// # Errors
/// Those of [`parse_json`].
pub async fn parse_body<T: DeserializeOwned + Send + 'static>(
    app: &App,
    account: Option<AccountId>,
    bytes: bytes::Bytes,
) -> Result<T> {
    app.cpu.compute(account, bytes.len(), move || parse_json(&bytes)).await?
}

/// Checks that a JSON body is not compressed.
///
/// # Errors
/// `UnsupportedMediaType` if the body is compressed.
pub fn check_not_encoded(headers: &HeaderMap) -> Result<()> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Error::new(Kind::UnsupportedMediaType, "A JSON body must not be compressed."))
        }
        _ => Ok(()),
    }
}

/// Announces that the body is read as a stream, without a limit of size: `server.request_timeout_s` counts from its
/// end, `server.body_idle_timeout_s` limits its pauses, and `files.min_bytes_per_minute` its pace.
pub fn begin_stream(request: &Request) {
    if let Some(progress) = request.extensions().get::<Arc<RequestProgress>>() {
        progress.mark_streamed();
    }
}

/// SHA-256 of a body that is being read; clones share their state.
#[derive(Clone)]
pub struct BodyHash(Arc<Mutex<Context>>);

impl Default for BodyHash {
    fn default() -> Self {
        BodyHash(Arc::new(Mutex::new(Context::new(&SHA256))))
    }
}

impl BodyHash {
    /// Adds the next piece of the body.
    pub fn update(&self, piece: &[u8]) {
        self.0.lock().update(piece);
    }

    /// Digest of all bytes read so far.
    pub fn value(&self) -> Digest {
        self.0.lock().clone().finish()
    }
}

/// A body that is hashed while it is read, and keeps its length.
pub struct Hashed {
    body: Body,
    hash: BodyHash,
}

impl Hashed {
    pub fn new(body: Body, hash: BodyHash) -> Hashed {
        Hashed { body, hash }
    }
}

impl HttpBody for Hashed {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            frame.data_ref().inspect(|bytes| self.hash.update(bytes));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Reads a body to its end only to hash it.
///
/// # Errors
/// `Malformed` if the body broke off, `Timeout` if it paused for too long or arrived too slowly.
pub async fn hash_body(request: Request) -> Result<Digest> {
    begin_stream(&request);
    let hash = BodyHash::default();
    let mut pieces = request.into_body().into_data_stream();
    while let Some(piece) = pieces.next().await {
        hash.update(&piece.map_err(|error| broken_off(&error))?);
        give_way().await;
    }
    Ok(hash.value())
}

/// Deserializes an optional field of a merge patch that cannot be removed: absent is `None`, and null is refused.
pub fn present<'de, D: serde::Deserializer<'de>, T: serde::Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Media type of a body in lower case, without its parameters.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Whether the body is NDJSON, which is streamed without a size limit.
pub fn is_ndjson(headers: &HeaderMap) -> bool {
    matches!(media_type(headers).as_deref(), Some("application/x-ndjson" | "application/ndjson"))
}

/// Reads the whole body, which may have at most `limit` bytes.
pub async fn read_limited(headers: &HeaderMap, body: Body, limit: usize) -> Result<bytes::Bytes> {
    let too_large = || Error::new(Kind::TooLarge, format!("The body is larger than {limit} bytes."));
    // A stated length is checked before any byte of the body is read.
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(broken_off(error.as_ref())),
    }
}

/// Parses a JSON object; an error names the invalid field by its pointer.
///
/// # Errors
/// `Malformed` if the text is not JSON, `Invalid` if it is not an object or a field is invalid.
pub fn parse_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let text = error.inner().to_string();
        let text = without_position(&text);
        // For an enum that is neither a string nor an object, serde_json reports an error of syntax.
        let is_value = || text == "expected value" && serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
        if !error.inner().is_data() && !is_value() {
            return Error::malformed(format!("The body is not JSON: {}.", error.inner()));
        }
        Error::invalid(pointer(error.path()), brief(&plain(text), MAX_REPEATED))
    })?;
    deserializer.end().map_err(|error| Error::malformed(format!("The body is not JSON: {error}.")))?;
    Ok(value)
}

/// Rewords serde's message about a value in the terms of JSON instead of Rust.
fn plain(message: &str) -> String {
    if message == "expected value" {
        return "has the wrong type".to_owned();
    }
    let parts = message.split_once(": ").filter(|(kind, _)| kind.starts_with("invalid "));
    let Some((kind, (found, wanted))) =
        parts.and_then(|(kind, rest)| Some((kind, rest.rsplit_once(", expected ")?)))
    else {
        return message.to_owned();
    };
    let is_number =
        wanted.len() <= 5 && wanted.starts_with(['i', 'u']) && wanted.ends_with(|c: char| c.is_ascii_digit());
    let wanted = match wanted {
        _ if is_number && kind == "invalid value" => return "is out of range".to_owned(),
        _ if is_number => "a whole number",
        "a sequence" => "an array",
        "a map" => "an object",
        "a boolean" => "true or false",
        rust if ["struct", "newtype", "enum", "variant"].iter().any(|word| rust.starts_with(word)) => {
            "an object"
        }
        other => other,
    };
    let found = match found.split_once(' ') {
        None if found == "sequence" => "an array".to_owned(),
        None if found == "map" => "an object".to_owned(),
        Some(("string", text)) => format!("the string {text}"),
        Some(("boolean", value)) => value.to_owned(),
        Some(("integer", value)) => format!("the number {value}"),
        Some(("floating", value)) => format!("the number {}", value.trim_start_matches("point ")),
        _ => found.to_owned(),
    };
    // The value is an object without the single key that an enum requires.
    if wanted == found {
        return "must not be empty".to_owned();
    }
    format!("must be {wanted}, not {found}")
}

/// Escapes a name for use in a JSON pointer (RFC 6901).
pub fn pointer_part(name: &str) -> String {
    brief(name, MAX_REPEATED).replace('~', "~0").replace('/', "~1")
}

/// Converts the path of a field to a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } | Segment::Enum { variant: key } => {
            format!("{pointer}/{}", pointer_part(key))
        }
        Segment::Unknown => pointer,
    })
}

/// Removes the ` at line 1 column 7` at the end of serde_json's messages; the pointer is more helpful.
fn without_position(message: &str) -> &str {
    message.rfind(" at line ").map_or(message, |at| &message[..at])
}

/// Query parameters of a route, except `limit` and `cursor`, which `page::Paging` reads.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        check_query_text(parts)?;
        let pairs: Vec<(String, String)> =
            query_pairs(parts).into_iter().filter(|(name, _)| name != "limit" && name != "cursor").collect();
        let mut names = HashSet::new();
        if let Some((twice, _)) = pairs.iter().find(|(name, _)| !names.insert(name.as_str())) {
            return Err(bad_parameter(twice, "is given more than once"));
        }
        let plain = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
        let uri = format!("/?{plain}").parse().map_err(|_| Error::malformed("The query cannot be read."))?;
        axum::extract::Query::try_from_uri(&uri)
            .map(|query: axum::extract::Query<T>| Params(query.0))
            .map_err(|rejection| {
                let text = rejection.body_text();
                // "Failed to deserialize query string: region: invalid value …"
                let detail = text.rsplit_once("query string: ").map_or(text.as_str(), |(_, detail)| detail);
                match detail.split_once(": ") {
                    Some((name, detail)) if detail.starts_with("unknown field") => {
                        bad_parameter(name, "is unknown here")
                    }
                    Some((name, detail)) if pairs.iter().any(|(known, _)| known == name) => {
                        // Our own types say "must …" or "is …"; serde's say "invalid digit …".
                        let is_ours = ["must ", "is ", "has "].iter().any(|verb| detail.starts_with(verb));
                        let because = if is_ours { "" } else { "is invalid: " };
                        bad_parameter(name, &format!("{because}{detail}"))
                    }
                    _ => Error::malformed(format!("The query cannot be read: {detail}.")),
                }
            })
    }
}

/// Refuses a query that is not UTF-8, since decoding would silently change it.
fn check_query_text(parts: &Parts) -> Result<()> {
    let is_text = |encoded: &&str| percent_decode_str(encoded).decode_utf8().is_ok();
    let Some(pair) = parts.uri.query().unwrap_or_default().split('&').find(|pair| !is_text(pair)) else {
        return Ok(());
    };
    let name = percent_decode_str(pair.split('=').next().unwrap_or_default()).decode_utf8_lossy();
    Err(bad_parameter(&name, "is not UTF-8"))
}

/// The decoded pairs of the query, in order.
pub fn query_pairs(parts: &Parts) -> Vec<(String, String)> {
    url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

/// The `{id}` of a path. A value that is not a UUID identifies nothing: 404.
pub struct Id<T>(pub T);

impl<S: Send + Sync, T: From<Uuid>> FromRequestParts<S> for Id<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Path::<Uuid>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Id(T::from(id))),
            Err(_) => Err(Error::not_found("thing")),
        }
    }
}

/// The `{id}` of a path that may also be a slug. A value that is too long or not valid text identifies nothing: 404.
pub struct Reference(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Reference {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(reference)) if check_text(&reference, 100).is_ok() => Ok(Reference(reference)),
            _ => Err(Error::not_found("thing")),
        }
    }
}
