//! Syntax of the URL table.

use axum::http::Method;

/// A route: one method of one path.
#[derive(Debug)]
pub struct Route {
    pub method: Method,
    pub path: &'static str,
}

/// Generates the router and the list of its routes from the same lines, so neither has a route that the other lacks:
///
/// ```text
/// "/v1/keys" => get(keys::list).post(keys::create);
/// "/v1/files" => get(files::list).post(files::create), Idempotency::Streaming;
/// ```
macro_rules! url_table {
    ($($path:literal => $($verb:ident($handler:path)).+ $(, $idempotency:expr)?;)+) => {
        /// Every route of the API.
        pub static ROUTES: &[$crate::http::url_table::Route] =
            &[$($($crate::http::url_table::Route { method: url_table!(@$verb), path: $path },)+)+];

        fn routes() -> axum::Router<$crate::app::App> {
            axum::Router::new()$(.route($path, axum::routing::MethodRouter::new()$(.$verb($handler))+))+
        }

        /// Returns how the routes of a path treat `Idempotency-Key`. The idempotency layer needs this before a route's
        /// own layers run, so no such layer could provide it.
        fn idempotency_of(path: &str) -> Idempotency {
            match path {
                $($($path => $idempotency,)?)+
                _ => Idempotency::Buffered,
            }
        }
    };
    (@get) => { axum::http::Method::GET };
    (@head) => { axum::http::Method::HEAD };
    (@options) => { axum::http::Method::OPTIONS };
    (@post) => { axum::http::Method::POST };
    (@put) => { axum::http::Method::PUT };
    (@patch) => { axum::http::Method::PATCH };
    (@delete) => { axum::http::Method::DELETE };
}

pub(super) use url_table;
