//! `POST /v1/prices`: a report is read, checked item by item, and put on the bus before it is acknowledged.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::auth::Caller;
use super::body::{
    BodyHash, Params, check_not_encoded, hash_body, is_ndjson, media_type, parse_json, read_limited,
};
use super::idempotency::{self, Begun};
use super::lines::{Line, Lines};
use super::trace::TraceContext;
use crate::app::App;
use crate::domain::batch::{MAX_OBSERVATIONS, PriceMessage};
use crate::domain::observation::{Observation, ReportedObservation};
use crate::error::{Error, FieldError, Kind, Problem, REQUEST_ID, Result};
use crate::store::batches::{self, Closing};
use crate::store::new_offers;

/// The most observations of a JSON report; NDJSON has no limit.
const MAX_JSON_OBSERVATIONS: usize = 1000;
/// A message is sent when its observations had so many bytes of text in the report.
const MAX_MESSAGE_TEXT: usize = 4 << 20;
/// So many refusals are told one by one; the rest are counted.
const MAX_TOLD_REFUSALS: usize = 20_000;
/// And about so many bytes of them.
const MAX_TOLD_BYTES: usize = 8 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportParams {
    /// Of an NDJSON report: historical, rings no bells.
    #[serde(default)]
    backfill: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportRequest<'a> {
    #[serde(borrow)]
    observations: Vec<&'a RawValue>,
    #[serde(default)]
    backfill: bool,
}

#[derive(Serialize)]
struct ReportResponse {
    batch_id: Uuid,
    accepted: i64,
    /// All refusals, also those beyond the ones that are told.
    rejected_count: i64,
    rejected: Vec<Rejected>,
}

#[derive(Serialize)]
struct Rejected {
    /// The how-manieth observation of the report, or line of it, from 0.
    index: u64,
    problem: Problem,
}

/// Takes a report: JSON of up to 1000 observations, or NDJSON of any length, which may be packed with gzip or zstd.
pub async fn report(
    State(app): State<App>,
    caller: Caller,
    trace: TraceContext,
    Params(params): Params<ReportParams>,
    request: Request,
) -> Result<Response> {
    caller.require("prices:write")?;
    let report = Report::new(app.clone(), caller, trace);
    if is_ndjson(request.headers()) {
        return report.take_lines(request, params.backfill).await;
    }
    if media_type(request.headers()).as_deref() != Some("application/json") {
        let detail = "The body must be application/json or application/x-ndjson.";
        return Err(Error::new(Kind::UnsupportedMediaType, detail));
    }
    check_not_encoded(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = read_limited(&parts.headers, body, app.config.server.max_json_bytes).await?;
    Ok(report.read_json(&body, params.backfill).await?.into_response())
}

impl IntoResponse for ReportResponse {
    fn into_response(self) -> Response {
        let location = format!("/v1/batches/{}", self.batch_id);
        (StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(self)).into_response()
    }
}

/// A report while it is read.
struct Report {
    app: App,
    caller: Caller,
    batch_id: Uuid,
    traceparent: String,
    backfill: bool,
    /// Observations that are not on the bus yet, with their place in the report.
    waiting: Vec<(u64, Observation)>,
    /// The bytes of their text, which bound what a report holds in memory.
    waiting_bytes: usize,
    sent: Closing,
    rejected: Vec<Rejected>,
    /// About so many bytes of answer they are.
    told_bytes: usize,
}

impl Report {
    fn new(app: App, caller: Caller, trace: TraceContext) -> Report {
        Report {
            app,
            caller,
            batch_id: Uuid::now_v7(),
            traceparent: trace.traceparent(),
            backfill: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
            sent: Closing { parts: 0, accepted: 0, rejected: 0 },
            rejected: Vec::new(),
            told_bytes: 0,
        }
    }

    async fn read_json(mut self, body: &[u8], backfill: bool) -> Result<ReportResponse> {
        let request: ReportRequest<'_> = parse_json(body)?;
        if request.observations.len() > MAX_JSON_OBSERVATIONS {
            let detail = format!("has more than {MAX_JSON_OBSERVATIONS} items; use application/x-ndjson");
            return Err(Error::invalid("/observations", detail));
        }
        self.backfill = backfill || request.backfill;
        for (index, raw) in request.observations.iter().enumerate() {
            self.take(index as u64, raw.get().as_bytes());
        }
        self.finish().await
    }

    /// NDJSON, under an `Idempotency-Key` whose body is known only at its end.
    async fn take_lines(mut self, request: Request, backfill: bool) -> Result<Response> {
        let begun =
            idempotency::begin(&self.app, &self.caller, request.uri(), request.headers(), None).await?;
        let execution = match begun {
            Begun::Execution(execution) => execution,
            Begun::Repetition(repetition) => return repetition.answer(hash_body(request).await?.as_ref()),
        };
        let hash = BodyHash::default();
        let lines = Lines::of(request, execution.has_key().then(|| hash.clone()))?;
        // A report that breaks off is given up: what of it is on the bus may come again, and changes nothing then.
        self.read_ndjson(lines, backfill).await?;
        // One that has come whole is finished even when its client hangs up now: the repetition finds its answer.
        let work = async move {
            let answer = self.finish().await.into_response();
            execution.finish(answer, hash.value().as_ref()).await
        };
        let id = REQUEST_ID.try_with(Clone::clone).unwrap_or_default();
        tokio::spawn(REQUEST_ID.scope(id, work)).await.map_err(Error::internal)
    }

    async fn read_ndjson(&mut self, mut lines: Lines, backfill: bool) -> Result<()> {
        self.backfill = backfill;
        while let Some((index, line)) = lines.next().await? {
            match line {
                Line::Text(text) => self.take(index, &text),
                Line::TooLong => self.refuse(index, Error::new(Kind::TooLarge, "The line is too long.")),
            }
            if self.waiting.len() == MAX_OBSERVATIONS || self.waiting_bytes >= MAX_MESSAGE_TEXT {
                self.refuse_unknown_stores().await?;
                if !self.waiting.is_empty() {
                    self.open_batch().await?;
                    self.send().await?;
                }
            }
        }
        Ok(())
    }

    /// Checks one observation.
    fn take(&mut self, index: u64, text: &[u8]) {
        // The path of a wrong field costs time, so it is looked for only when there is one.
        let reported = serde_json::from_slice::<ReportedObservation>(text)
            .or_else(|_| parse_json(text))
            .and_then(|reported| reported.check(self.app.clock.now()).map_err(field_errors));
        match reported {
            Ok(observation) => {
                self.waiting_bytes += text.len();
                self.waiting.push((index, observation));
            }
            Err(error) => self.refuse(index, error),
        }
    }

    fn refuse(&mut self, index: u64, error: Error) {
        self.sent.rejected += 1;
        let size = |text: &str| text.len() + 100;
        self.told_bytes += size(&error.detail)
            + error.errors.iter().map(|field| size(&field.detail) + field.pointer.len()).sum::<usize>();
        if self.rejected.len() < MAX_TOLD_REFUSALS && self.told_bytes < MAX_TOLD_BYTES {
            self.rejected.push(Rejected { index, problem: error.problem() });
        }
    }

    /// Whoever may not write the catalogue may not invent stores.
    async fn refuse_unknown_stores(&mut self) -> Result<()> {
        if self.caller.may("catalogue:write") || self.waiting.is_empty() {
            return Ok(());
        }
        let mut slugs: Vec<&str> = self.waiting.iter().map(|(_, seen)| seen.store.as_str()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        let unknown = new_offers::unknown_stores(&self.app.writer, &slugs).await?;
        if unknown.is_empty() {
            return Ok(());
        }
        let (refused, known) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, seen)| unknown.contains(&seen.store));
        self.waiting = known;
        for (index, _) in refused as Vec<(u64, Observation)> {
            self.refuse(index, Error::invalid("/store", "is unknown; catalogue:write is needed to make one"));
        }
        Ok(())
    }

    /// Before the first of several messages, so that whoever sees their effects finds the batch.
    async fn open_batch(&mut self) -> Result<()> {
        if self.sent.parts > 0 {
            return Ok(());
        }
        let now = self.app.clock.now();
        batches::create_batch(&self.app.writer, self.caller.account, self.batch_id, None, now).await
    }

    /// Puts what waits on the bus, as one message.
    async fn send(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.waiting_bytes = 0;
        let observations: Vec<Observation> =
            self.waiting.drain(..).map(|(_, observation)| observation).collect();
        let accepted = observations.len() as i64;
        let message = PriceMessage {
            batch_id: self.batch_id,
            part: self.sent.parts,
            may_create_stores: self.caller.may("catalogue:write"),
            backfill: self.backfill,
            traceparent: Some(self.traceparent.clone()),
            reported_at: self.app.clock.now(),
            observations,
        };
        self.app.bus.send_batch(&[message.pack().map_err(Error::internal)?]).await?;
        self.sent.parts += 1;
        self.sent.accepted += accepted;
        metrics::counter!("salebell_prices_accepted_total").increment(accepted as u64);
        Ok(())
    }

    /// The report has been read to its end: what is left is sent, and the batch is closed.
    async fn finish(mut self) -> Result<ReportResponse> {
        // A refusal by the way may have left nothing to send.
        self.refuse_unknown_stores().await?;
        let (account, id, now) = (self.caller.account, self.batch_id, self.app.clock.now());
        if self.sent.parts == 0 {
            // One message or none, as nearly always. The batch comes first, so that whoever sees the message's
            // effects finds it; if we die before the message is sent, nobody has heard of the batch.
            let closing = Closing {
                parts: i32::from(!self.waiting.is_empty()),
                accepted: self.waiting.len() as i64,
                rejected: self.sent.rejected,
            };
            batches::create_batch(&self.app.writer, account, id, Some(&closing), now).await?;
            self.send().await?;
        } else {
            self.send().await?;
            batches::close_batch(&self.app.writer, id, &self.sent, now).await?;
        }
        Ok(ReportResponse {
            batch_id: id,
            accepted: self.sent.accepted,
            rejected_count: self.sent.rejected,
            rejected: self.rejected,
        })
    }
}

fn field_errors(problems: Vec<(&'static str, String)>) -> Error {
    let field = |(name, detail)| FieldError { pointer: format!("/{name}"), detail };
    Error::invalid_fields(problems.into_iter().map(field).collect())
}
