//! Execution of a request's work: recovery from its panic, and fair use of processor time.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::response::IntoResponse;
use futures_util::FutureExt;

use super::around::{AnswerFuture, Around, InnerService};
use crate::api::request_state::RequestProgress;
use crate::app::App;
use crate::error::Error;

/// Responds with 500 if the handler panics. A panic leaves no state that another request could see: transactions roll
/// back. tower-http's `CatchPanicLayer` does the same, but boxes every body.
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
