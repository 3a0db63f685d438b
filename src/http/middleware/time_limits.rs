//! Time limits of a request: the pace of its body, and the deadline of its response.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::Version;
use axum::response::IntoResponse;

use super::around::{AnswerFuture, Around, InnerService};
use super::response_headers::close_connection;
use crate::api::hang_up::HangUp;
use crate::api::paced_body::{Pace, PacedBody};
use crate::api::request_state::RequestProgress;
use crate::app::App;
use crate::error::{Error, Kind};

/// Largest body, in bytes, that has usually arrived by the time its request is handled.
const SMALL_BODY_BYTES: u64 = 8 * 1024;

/// Limits the pace of the body, and closes an HTTP/1 connection on which the rest of the body is not read, because the
/// client must not send its next request behind it.
pub struct BodyWatch;

impl Around for BodyWatch {
    fn call<S: InnerService>(app: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let progress = RequestProgress::of(&request);
        let http1 = request.version() < Version::HTTP_2;
        let pace = Pace::of(&app.config);
        let answer = inner.call(request.map(|body| watch(body, pace, &progress)));
        Box::pin(async move {
            let mut answer = answer.await?;
            if http1 && progress.has_unread_body() {
                close_connection(&mut answer);
            }
            Ok(answer)
        })
    }
}

fn watch(body: Body, pace: Pace, progress: &Arc<RequestProgress>) -> Body {
    if body.is_end_stream() {
        progress.body_ended();
        return body;
    }
    let large = body.size_hint().exact().is_none_or(|length| length > SMALL_BODY_BYTES);
    if large {
        progress.mark_large();
    }
    Body::new(PacedBody::new(body, pace, progress.clone()))
}

/// Cancels a request after `server.request_timeout_s`, counted from the end of a streamed body. The work is dropped
/// then, as it is when the client disconnects. Its database connections are marked as suspect before that, because the
/// work may have been waiting for a database that is gone.
pub struct RequestDeadline;

impl Around for RequestDeadline {
    fn call<S: InnerService>(app: &App, request: Request, inner: &mut S) -> AnswerFuture {
        let (app, progress) = (app.clone(), RequestProgress::of(&request));
        let work = inner.call(request);
        Box::pin(async move {
            let answer = async {
                tokio::select! {
                    answer = work => answer,
                    () = give_up(&app, &progress) => Ok(overdue(&progress).into_response()),
                }
            };
            tokio::pin!(answer);
            // Declared after the work, so it is dropped before the work when the client disconnects.
            let hang_up = HangUp::new(&app);
            let answer = answer.as_mut().await;
            hang_up.disarm();
            answer
        })
    }
}

/// Waits until the request has exceeded its deadline, and marks connections as suspect.
async fn give_up(app: &App, progress: &RequestProgress) {
    progress.overdue(app.config.server.request_timeout).await;
    app.deadline.suspect_connections();
}

/// The refusal after the deadline: 408 (RFC 9110) if the request has not arrived, 503 if its handler was too slow.
fn overdue(progress: &RequestProgress) -> Error {
    if progress.has_body() {
        Error::unavailable("the handler took longer than server.request_timeout_s")
    } else {
        Error::new(Kind::Timeout, "The body did not arrive in time.")
    }
}
