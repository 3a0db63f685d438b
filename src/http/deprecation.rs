//! Deprecated routes: the headers that announce their end (`Deprecation`, RFC 9745; `Sunset`, RFC 8594), and what is
//! answered after it.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{Error, Kind};

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// A route that should no longer be used.
#[derive(Debug)]
pub struct Deprecated {
    pub method: Method,
    /// Path of the route in the URL table, such as `/v1/games/{id}`.
    pub path: &'static str,
    /// Time from which on the route is deprecated; it may lie in the future.
    pub since: DateTime<Utc>,
    /// Time from which on the route answers 410; `None` while that is not decided.
    pub sunset: Option<DateTime<Utc>>,
    /// What to use in its place, as a route: `GET /v1/deals`.
    pub replacement: &'static str,
    /// URL of the page that says what to change.
    pub documentation: &'static str,
}

/// Routes of the URL table that are deprecated.
pub static DEPRECATED: &[Deprecated] = &[];

impl Deprecated {
    fn of<'t>(table: &'t [Deprecated], method: &Method, path: &str) -> Option<&'t Deprecated> {
        // Every GET implies HEAD.
        let stands_for = |one: &Method| one == method || (*one == Method::GET && *method == Method::HEAD);
        table.iter().find(|one| one.path == path && stands_for(&one.method))
    }

    /// Date of the sunset as HTTP writes it; `None` without one.
    fn sunset_text(&self) -> Option<String> {
        self.sunset.map(|sunset| sunset.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
    }

    fn put_headers(&self, headers: &mut HeaderMap) {
        let since = format!("@{}", self.since.timestamp());
        let link = format!("<{}>; rel=\"deprecation\"; type=\"text/html\"", self.documentation);
        let texts = [(DEPRECATION, Some(since)), (SUNSET, self.sunset_text()), (header::LINK, Some(link))];
        for (name, text) in texts {
            // A `Link` of the handler, such as that of the next page, stays.
            if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.append(name, value);
            }
        }
    }

    /// The refusal after the sunset.
    fn refusal(&self) -> Error {
        let ended = self.sunset_text().map(|date| format!(" ended on {date}")).unwrap_or_default();
        let Deprecated { method, path, replacement, documentation, .. } = self;
        Error::new(Kind::Gone, format!("{method} {path}{ended}. Use {replacement}: {documentation}"))
    }
}

/// Announces the end of the routes of a table, and refuses them from then on: 410.
pub async fn middleware(
    State((app, table)): State<(App, &'static [Deprecated])>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(route) = Deprecated::of(table, request.method(), path) else { return next.run(request).await };
    let is_over = route.sunset.is_some_and(|sunset| sunset <= app.clock.now());
    let mut answer = if is_over { route.refusal().into_response() } else { next.run(request).await };
    route.put_headers(answer.headers_mut());
    answer
}

/// Marks the operations of a table in an OpenAPI document, with the headers and the refusal.
pub fn mark(document: &mut Value, table: &[Deprecated]) {
    for route in table {
        let method = route.method.as_str().to_lowercase();
        let Some(operation) =
            document["paths"].get_mut(route.path).and_then(|path| path.get_mut(method)?.as_object_mut())
        else {
            continue;
        };
        operation.insert("deprecated".to_owned(), true.into());
        let Some(answers) = operation.get_mut("responses").and_then(Value::as_object_mut) else { continue };
        for answer in answers.values_mut().filter(|answer| answer.get("$ref").is_none()) {
            for (name, description) in [
                (
                    "Deprecation",
                    "Time from which on the operation is deprecated, such as `@1767225600` (RFC 9745).",
                ),
                ("Sunset", "Time from which on the operation answers 410 (RFC 8594)."),
            ] {
                answer["headers"][name] = json!({"description": description, "schema": {"type": "string"}});
            }
        }
        if route.sunset.is_some() {
            answers.insert("410".to_owned(), json!({"$ref": "#/components/responses/Gone"}));
        }
    }
}
