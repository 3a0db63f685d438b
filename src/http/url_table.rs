//! Syntax of the URL table.

use axum::http::Method;

/// A route: one method of one path.
#[derive(Debug)]
pub struct Route {
    pub method: Method,
    pub path: &'static str,
}

/// Generates the router, the list of its routes and their operations from the same lines, so none has a route that
/// another lacks:
///
/// ```text
/// "/v1/keys" => get(keys::list).post(keys::create);
/// "/v1/files" => get(files::list).post(files::create), Idempotency::Streaming;
/// ```
macro_rules! url_table {
    ($($path:literal => $($verb:ident($module:ident::$handler:ident)).+ $(, $idempotency:expr)?;)+) => {
        /// Every route of the API.
        pub static ROUTES: &[$crate::http::url_table::Route] =
            &[$($($crate::http::url_table::Route { method: url_table!(@$verb), path: $path },)+)+];

        fn routes() -> axum::Router<$crate::app::App> {
            axum::Router::new()$(.route($path, axum::routing::MethodRouter::new()$(.$verb($module::$handler))+))+
        }

        /// The operations of the OpenAPI document.
        fn operations() -> $crate::http::openapi::Operations {
            use $crate::http::openapi::outline::Handler as _;
            #[derive(utoipa::OpenApi)]
            #[openapi(paths($($($module::$handler),+),+))]
            struct Stated;
            $crate::http::openapi::Operations {
                outlines: vec![$($((url_table!(@$verb), $path, $module::$handler.outline()),)+)+],
                stated: <Stated as utoipa::OpenApi>::openapi(),
            }
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
