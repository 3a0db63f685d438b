//! The syntax of the URL table.

use axum::http::Method;

/// A method of a path.
#[derive(Debug)]
pub struct Route {
    pub method: Method,
    pub path: &'static str,
}

/// Makes the router and the list of its routes from the same lines, so that neither has a route that the other lacks:
///
/// ```text
/// "/v1/keys" => get(keys::list).post(keys::create);
/// "/v1/files" => get(files::list).post(files::create), Idempotency::Streaming;
/// ```
macro_rules! url_table {
    ($($path:literal => $($verb:ident($handler:path)).+ $(, $idempotency:expr)?;)+) => {
        /// Every method of every path.
        pub static ROUTES: &[$crate::http::url_table::Route] =
            &[$($($crate::http::url_table::Route { method: url_table!(@$verb), path: $path },)+)+];

        fn routes() -> axum::Router<$crate::app::App> {
            axum::Router::new()$(.route($path, axum::routing::MethodRouter::new()$(.$verb($handler))+))+
        }

        /// How the routes of a path treat `Idempotency-Key`. It is asked before a route's own layers run, so no such layer
        /// could say it.
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
