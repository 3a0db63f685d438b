//! Request ids, which the response, the problem document and the log show, and trace context.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};

use super::around::{AnswerFuture, Around, InnerService};
use crate::api::request_state::RequestProgress;
use crate::app::App;
use crate::error::REQUEST_ID;
use crate::telemetry::trace_context::{TraceContext, request_id};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Uses the client's `x-request-id` if it is short and plain, else generates one; tower-http's `SetRequestIdLayer`
/// would accept any. It also attaches `TraceContext` and `RequestProgress` for the inner layers and the handler.
pub struct Identify;

impl Around for Identify {
    fn call<S: InnerService>(_: &App, mut request: Request, inner: &mut S) -> AnswerFuture {
        let id = request_id(request.headers());
        let trace = TraceContext::of(request.headers());
        request.extensions_mut().insert(trace);
        request.extensions_mut().insert(Arc::new(RequestProgress::default()));
        let answer = inner.call(request);
        Box::pin(async move {
            let header = HeaderValue::from_str(&id);
            let mut answer = REQUEST_ID.scope(id, answer).await?;
            if let Ok(id) = header {
                answer.headers_mut().insert(HEADER, id);
            }
            Ok(answer)
        })
    }
}
