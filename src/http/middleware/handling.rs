//! How the work of a request is run: what becomes of its panic, and whose processor time it uses.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::response::IntoResponse;
use futures_util::FutureExt;

use super::around::{AnswerFuture, Around, InnerService};
use crate::app::App;
use crate::error::Error;
use crate::http::request_state::RequestProgress;

/// Answers 500 where the handler panics. A panic leaves nothing behind that another request could see: transactions roll
/// back. `CatchPanicLayer` of tower-http does the same and puts every body into a box for it.
pub struct CatchPanic;

impl Around for CatchPanic {
    fn call<S: InnerService>(_: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let work = AssertUnwindSafe(inner.call(request)).catch_unwind();
        Box::pin(async move {
            work.await.unwrap_or_else(|_| Ok(Error::internal("a handler panicked").into_response()))
        })
    }
}

/// Shares the processor fairly among accounts.
pub struct ShareCpu;

impl Around for ShareCpu {
    fn call<S: InnerService>(app: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let (app, progress) = (app.clone(), RequestProgress::of(&request));
        let work = inner.call(request);
        Box::pin(async move { app.cpu.share(|| progress.account(), work).await })
    }
}
