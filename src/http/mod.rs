//! The HTTP API: the URL table (`url_table!`), and the layers that every request passes through, in their order
//! (`layered`).

pub mod answer;
pub mod batches;
pub mod channels;
pub mod deals;
pub mod deliveries;
pub mod deprecation;
pub mod event_streams;
pub mod exports;
pub mod extract;
pub mod files;
pub mod front;
pub mod games;
pub mod health;
pub mod history;
pub mod imports;
pub mod json;
pub mod keys;
pub mod me;
pub mod middleware;
pub mod notices;
pub mod offers;
pub mod openapi;
pub mod pages;
pub mod prices;
pub mod problems;
pub mod quarantine;
pub mod stats;
pub mod stores;
pub mod url_table;
pub mod watches;

use std::sync::Arc;

use axum::http::{HeaderValue, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::Value;
use tower::ServiceBuilder;
use tower_http::set_header::SetResponseHeaderLayer;

use self::deprecation::{DEPRECATED, Deprecated};
use self::event_streams::EventStreamLimits;
use self::files::{content, links};
use self::middleware::access_log::AccessLog;
use self::middleware::around::around;
use self::middleware::cors::{self, Cors, MethodsOf};
use self::middleware::handling::{CatchPanic, ShareCpu};
use self::middleware::idempotency::{self, Idempotency};
use self::middleware::rate_limit;
use self::middleware::request_id::Identify;
use self::middleware::request_limits::HeadCheck;
use self::middleware::response_headers::{Allow, CacheControl, default_header};
use self::middleware::time_limits::{BodyWatch, RequestDeadline};
use self::openapi::{Document, Version};
use self::url_table::url_table;
use crate::app::App;
use crate::config::WebOrigin;
use crate::error::{Error, Kind, Result};
use crate::telemetry::gauges::Gauges;

/// Router of the whole API: every route behind every layer.
pub fn router(app: App) -> Router {
    layered(routes(), app)
}

// Every route: a path, the handler of each method, and how a route whose body is streamed treats `Idempotency-Key`.
url_table! {
    "/" => get(front::show);
    "/style.css" => get(pages::style);
    "/problems" => get(problems::list);
    "/problems/{type}" => get(problems::show);
    "/openapi.json" => get(openapi::get);
    "/healthz" => get(health::healthz);
    "/readyz" => get(health::readyz);
    "/v1/me" => get(me::show);
    "/v1/keys" => get(keys::list).post(keys::create);
    "/v1/keys/{id}" => get(keys::show).patch(keys::update).delete(keys::remove);
    "/v1/prices" => post(prices::report), Idempotency::Reports;
    "/v1/batches/{id}" => get(batches::get);
    "/v1/deals" => get(deals::list);
    "/v1/games" => get(games::list).post(games::create);
    "/v1/games/{id}" => get(games::show).patch(games::update).delete(games::remove);
    "/v1/games/{id}/offers" => get(offers::list_of_game);
    "/v1/games/{id}/prices" => get(history::list);
    "/v1/offers" => get(offers::list).post(offers::create);
    "/v1/offers/{id}" => get(offers::show).patch(offers::update).delete(offers::remove);
    "/v1/quarantine" => get(quarantine::list);
    "/v1/quarantine/{id}" => get(quarantine::show);
    "/v1/quarantine/{id}/discard" => post(quarantine::discard);
    "/v1/quarantine/{id}/release" => post(quarantine::release);
    "/v1/stores" => get(stores::list).post(stores::create);
    "/v1/stores/{id}" => get(stores::show).patch(stores::update).delete(stores::remove);
    "/v1/files" => get(files::list).post(files::create).options(files::options), Idempotency::Streaming;
    "/v1/files/{id}" => get(files::show).head(files::head).options(files::options_of_file);
    "/v1/files/{id}" => patch(files::patch).delete(files::remove);
    "/v1/files/{id}" => put(files::put).post(files::overridden);
    "/v1/files/{id}/content" => get(content::get);
    "/v1/files/{id}/links" => get(links::list).post(links::create);
    "/v1/files/{id}/links/{link}" => delete(links::remove);
    "/d/{token}" => get(content::shared);
    "/v1/exports" => get(exports::list).post(exports::create);
    "/v1/exports/{id}" => get(exports::show).delete(exports::cancel);
    "/v1/imports" => get(imports::list).post(imports::create);
    "/v1/imports/{id}" => get(imports::show).delete(imports::cancel);
    "/v1/imports/{id}/events" => get(imports::events);
    "/v1/imports/{id}/refusals" => get(imports::refusals);
    "/v1/stats/weekly" => get(stats::own);
    "/v1/admin/stats/weekly" => get(stats::admin);
    "/v1/watches" => get(watches::list).post(watches::create);
    "/v1/watches/{id}" => get(watches::show).patch(watches::update).delete(watches::remove);
    "/v1/watches/{id}/explain" => get(watches::explain);
    "/v1/notices" => get(notices::list);
    "/v1/notices/{id}" => get(notices::show).patch(notices::update);
    "/v1/channels" => get(channels::list).post(channels::create);
    "/v1/channels/{id}" => get(channels::show).patch(channels::update).delete(channels::remove);
    "/v1/channels/{id}/test" => post(channels::test);
    "/v1/channels/{id}/rotate-secret" => post(channels::rotate_secret);
    "/v1/channels/{id}/recover" => post(channels::recover);
    "/v1/channels/{id}/deliveries" => get(channels::list_deliveries);
    "/v1/deliveries/{id}" => get(deliveries::show);
    "/v1/deliveries/{id}/redeliver" => post(deliveries::redeliver);
}

/// The OpenAPI document of the API, in a version of the specification.
///
/// # Errors
/// Those of [`openapi::document`].
pub fn document(version: Version) -> Result<Value> {
    document_with(version, DEPRECATED)
}

/// The OpenAPI document where other routes are deprecated.
///
/// # Errors
/// Those of [`openapi::document`].
pub fn document_with(version: Version, deprecated: &[Deprecated]) -> Result<Value> {
    openapi::document(operations(), deprecated, version)
}

/// Wraps routes in the layers, which are listed from the outermost to the innermost.
pub fn layered(routes: Router<App>, app: App) -> Router {
    let table = Some(DEPRECATED).filter(|table| !table.is_empty());
    let deprecated = table.map(|table| from_fn_with_state((app.clone(), table), deprecation::middleware));
    let state: (App, MethodsOf) = (app.clone(), methods_of);
    let preflight =
        (!app.config.server.cors_origins.is_off()).then(|| from_fn_with_state(state, cors::preflight));
    let is_https = app.config.server.public_url.as_ref().is_some_and(WebOrigin::is_https);
    let hsts = is_https.then(|| default_header(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"));
    let layers = ServiceBuilder::new()
        // The request id, which the response repeats, and the trace context.
        .layer(around::<Identify>(&app))
        // One line in the access log for every request, and its metrics; status 499 if the client disconnects.
        .layer(around::<AccessLog>(&app))
        // Browsers must not guess a media type other than that of Content-Type.
        .layer(SetResponseHeaderLayer::overriding(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        // Browsers use no other than https for a year where `server.public_url` is https. Other names below ours are not
        // ours to decide on.
        .option_layer(hsts)
        // The API is not a web page: nothing may run in its responses, and no page may frame them.
        .layer(default_header(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        // A share link is a secret: pages that a response links to must not learn its URL.
        .layer(default_header(header::REFERRER_POLICY, "no-referrer"))
        // Pages of other sites may read the answer, as `server.cors_origins` allows it.
        .layer(around::<Cors>(&app))
        // Caches may store a response, and must revalidate it by its ETag.
        .layer(around::<CacheControl>(&app))
        // A 405 names the allowed methods, also for a path that is not in the table.
        .layer(around::<Allow>(&app))
        // Refusal of heads that are too large, not valid HTTP, or ambiguous: 400, 405, 414, 431. No body is read.
        .layer(around::<HeadCheck>(&app))
        // Refusal of a body that pauses or arrives too slowly; the end of a connection whose body is not read to its
        // end.
        .layer(around::<BodyWatch>(&app))
        // The timeout `server.request_timeout_s`: 408 or 503.
        .layer(around::<RequestDeadline>(&app))
        // Answers to the preflights of those pages.
        .option_layer(preflight)
        // Status 500 if the handler panics.
        .layer(around::<CatchPanic>(&app))
        // No account holds the processor for long while another waits.
        .layer(around::<ShareCpu>(&app))
        // The limits `server.rate_limits`: 429.
        .option_layer(
            app.request_limit.is_some().then(|| from_fn_with_state(app.clone(), rate_limit::middleware)),
        )
        // The announced end of deprecated routes, and 410 after it.
        .option_layer(deprecated)
        // One execution and one response for each POST with an Idempotency-Key.
        .layer(from_fn_with_state((app.clone(), idempotency_of as _), idempotency::middleware))
        // Limit of the event streams that an account may hold open; their handlers enforce it.
        .layer(Extension(EventStreamLimits::default()))
        // The OpenAPI document, which is built for its first reader.
        .layer(Extension(Document::new(operations)));
    // The innermost part is the handler with its extractors: Caller (401), Id (404), Params (400), Json (413, 415,
    // 422).
    routes
        .fallback(|| async { Error::new(Kind::NotFound, "There is nothing at this path.") })
        .method_not_allowed_fallback(|| async {
            Error::new(Kind::MethodNotAllowed, "The path supports other methods; see the Allow header.")
        })
        .layer(layers)
        .with_state(app)
}

/// Methods of a path of the URL table; every GET implies HEAD.
fn methods_of(path: &str) -> Vec<&'static str> {
    let of_path = ROUTES.iter().filter(|route| route.path == path);
    let mut methods: Vec<&str> = of_path.map(|route| route.method.as_str()).collect();
    if methods.contains(&"GET") && !methods.contains(&"HEAD") {
        methods.push("HEAD");
    }
    methods
}

/// Router of the loopback listener, for Prometheus, `salebell ready` and `salebell terminating`.
pub fn metrics_router(app: App) -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/drain", post(health::drain))
        .layer(Extension(Arc::new(Gauges::default())))
        .with_state(app)
}
