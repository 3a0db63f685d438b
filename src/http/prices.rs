//! `POST /v1/prices`: a report is read, checked item by item, and put on the bus before it is acknowledged.
//!
//! On a bus that outlives the database a report is taken while that is away. Its messages say what its batch is, so that
//! whoever records them can write it down; an unknown store is judged then too, and not here.

use std::fmt;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::answer::{Answer, to_json};
use super::extract::body::{
    BodyHash, Params, check_not_encoded, hash_body, is_ndjson, media_type, parse_json, read_limited,
};
use super::extract::caller::{Caller, KnownCaller};
use super::extract::ndjson::{Line, Lines, MAX_LINE};
use super::middleware::idempotency::{self, Abridged, Begun};
use crate::app::App;
use crate::app::cpu_time::Stride;
use crate::domain::batch::{self, BatchNote, Closing, MAX_OBSERVATIONS, PriceMessage};
use crate::domain::ids::BatchId;
use crate::domain::object::Object;
use crate::domain::observation::{Checked, FieldProblem, Observation, ReportedObservation};
use crate::error::{Error, FieldError, Kind, Problem, Result};
use crate::store::{batches, new_offers};
use crate::telemetry::trace_context::TraceContext;

/// The most observations of a JSON report; NDJSON has no limit.
const MAX_JSON_OBSERVATIONS: usize = 1000;
/// A message is sent when its observations had so many bytes of text in the report.
const MAX_MESSAGE_TEXT: usize = 4 << 20;
/// How long the database may take for what a report can do without.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most items of a report that its answer tells of one by one; the others are counted,
const MAX_TOLD: usize = 1_000;
/// and the most bytes that they may have together.
const MAX_TOLD_BYTES: usize = 256 << 10;
/// What an observation costs until it is a message, in bytes, about: more of it go to a thread of their own.
const WORK_OF_ONE: usize = 128;

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
    observations: Observations<'a>,
    #[serde(default)]
    backfill: bool,
}

/// The observations of a JSON report as they stand in it: no more are looked at than it may have.
struct Observations<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Observations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Observations<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some(item) = items.next_element::<&'de RawValue>()? {
                    if found.len() == MAX_JSON_OBSERVATIONS {
                        let detail =
                            format!("has more than {MAX_JSON_OBSERVATIONS} items; use application/x-ndjson");
                        return Err(serde::de::Error::custom(detail));
                    }
                    found.push(item);
                }
                Ok(Observations(found))
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

#[derive(Serialize)]
struct ReportResponse {
    batch_id: BatchId,
    accepted: i64,
    /// Of those, the ones that are too old to ring anybody (`prices.rings_within_s`).
    too_old_to_ring: i64,
    /// All refusals, also those beyond the ones that are told.
    rejected_count: i64,
    rejected: Vec<Rejected>,
    /// Observations that were taken without a field that could not be understood, also those that are not told.
    warnings_count: i64,
    warnings: Vec<Rejected>,
    /// Why there are none of them in the lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
}

/// What is left of an answer for what it tells item by item. The lists of one answer share it.
struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    fn new() -> Room {
        Room { items: MAX_TOLD, bytes: MAX_TOLD_BYTES }
    }

    /// Nothing further is told, only counted.
    fn is_used_up(&self) -> bool {
        self.items == 0
    }

    /// Takes the room of one more item. False: there is too little, and none for what comes after it either, so that
    /// what is told is the beginning.
    fn take(&mut self, item: &impl Serialize) -> bool {
        let bytes = if self.is_used_up() { None } else { serde_json::to_vec(item).ok() };
        let left = bytes.and_then(|bytes| self.bytes.checked_sub(bytes.len() + 1));
        self.items = if left.is_some() { self.items - 1 } else { 0 };
        self.bytes = left.unwrap_or(0);
        left.is_some()
    }
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
    KnownCaller(caller): KnownCaller,
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
    Ok(report.read_json(body, params.backfill).await?.into_response())
}

impl IntoResponse for ReportResponse {
    fn into_response(mut self) -> Response {
        let location = format!("/v1/batches/{}", self.batch_id);
        let mut response =
            (StatusCode::ACCEPTED, [(header::LOCATION, location)], Answer(&self)).into_response();
        self.rejected.clear();
        self.warnings.clear();
        self.detail = Some(
            "The first answer told refusals and warnings one by one; those are not kept, only their count.",
        );
        if let Ok(short) = to_json(&self) {
            response.extensions_mut().insert(Abridged(short.into()));
        }
        response
    }
}

/// A report while it is read.
struct Report {
    app: App,
    caller: Caller,
    batch_id: BatchId,
    created_at: DateTime<Utc>,
    traceparent: String,
    backfill: bool,
    /// Observations that are not on the bus yet, with their place in the report.
    waiting: Vec<(u64, Observation)>,
    /// The bytes of their text, which bound what a report holds in memory.
    waiting_bytes: usize,
    sent: Closing,
    too_old_to_ring: i64,
    rejected: Vec<Rejected>,
    warnings_count: i64,
    warnings: Vec<Rejected>,
    room: Room,
}

impl Report {
    fn new(app: App, caller: Caller, trace: TraceContext) -> Report {
        Report {
            created_at: app.clock.now(),
            app,
            caller,
            batch_id: BatchId::now_v7(),
            traceparent: trace.traceparent(),
            backfill: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
            sent: Closing { parts: 0, accepted: 0, rejected: 0 },
            too_old_to_ring: 0,
            rejected: Vec::new(),
            warnings_count: 0,
            warnings: Vec::new(),
            room: Room::new(),
        }
    }

    async fn read_json(mut self, body: Bytes, backfill: bool) -> Result<ReportResponse> {
        let length = body.len();
        let parse = move || {
            let request: ReportRequest<'_> = parse_json(&body)?;
            let items = request.observations.0.iter().map(|raw| body.slice_ref(raw.get().as_bytes()));
            Ok::<_, Error>((items.collect::<Vec<Bytes>>(), request.backfill))
        };
        let (items, backfilled) = self.app.cpu.compute(Some(self.caller.account), length, parse).await??;
        self.backfill = backfill || backfilled;
        let mut stride = Stride::default();
        for (index, item) in items.iter().enumerate() {
            if item.len() > MAX_LINE {
                self.refuse(index as u64, Error::new(Kind::TooLarge, "The observation is too long."))
            } else {
                self.take(index as u64, item)
            }
            stride.advance(item.len()).await;
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
        let (app, account) = (self.app.clone(), self.caller.account);
        let work = async move {
            let answer = self.finish().await.into_response();
            execution.finish(answer, hash.value().as_ref()).await
        };
        idempotency::outlive(&app, account, work).await
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
                    // First of all, so that whoever sees the effects of its messages finds the batch.
                    if self.sent.parts == 0 {
                        self.note_batch(None).await?;
                    }
                    let messages = self.take_messages().await?;
                    self.send(messages, None).await?;
                }
            }
        }
        Ok(())
    }

    /// Checks one observation.
    fn take(&mut self, index: u64, text: &[u8]) {
        // The path of a wrong field costs time, so it is looked for only when there is one, and somebody is told of it.
        let reported = match serde_json::from_slice::<Object<ReportedObservation>>(text) {
            Ok(Object(reported)) => Ok(reported),
            Err(_) if self.room.is_used_up() => {
                self.sent.rejected += 1;
                return;
            }
            Err(_) => parse_json(text),
        };
        let reported =
            reported.and_then(|reported| reported.check(self.app.clock.now()).map_err(field_errors));
        match reported {
            Ok(Checked { observation, warnings }) => {
                self.waiting_bytes += text.len();
                self.waiting.push((index, observation));
                if !warnings.is_empty() {
                    self.warnings_count += 1;
                    self.warn(index, warnings);
                }
            }
            Err(error) => self.refuse(index, error),
        }
    }

    fn refuse(&mut self, index: u64, error: Error) {
        self.sent.rejected += 1;
        if self.room.is_used_up() {
            return;
        }
        let rejected = Rejected { index, problem: error.problem() };
        if self.room.take(&rejected) {
            self.rejected.push(rejected);
        }
    }

    fn warn(&mut self, index: u64, warnings: Vec<FieldProblem>) {
        if self.room.is_used_up() {
            return;
        }
        let warned = Rejected { index, problem: field_errors(warnings).problem() };
        if self.room.take(&warned) {
            self.warnings.push(warned);
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
        let unknown = self.if_there(new_offers::unknown_stores(&self.app.writer, &slugs)).await?;
        let Some(unknown) = unknown.filter(|unknown| !unknown.is_empty()) else { return Ok(()) };
        let (refused, known) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, seen)| unknown.contains(&seen.store));
        self.waiting = known;
        for (index, _) in refused as Vec<(u64, Observation)> {
            self.refuse(index, Error::invalid("/store", "is unknown; catalogue:write is needed to make one"));
        }
        Ok(())
    }

    /// What the database does; `None` when it is away, and the bus is not.
    async fn if_there<T>(&self, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        if !self.app.bus.outlives_database() {
            return work.await.map(Some);
        }
        if !self.app.readiness.reasons().await.is_empty() {
            return Ok(None);
        }
        match self.app.deadline.run(PATIENCE, work).await.unwrap_or_else(|late| Err(late.into())) {
            Err(error) if error.kind == Kind::Unavailable => Ok(None),
            done => done.map(Some),
        }
    }

    /// What is known of the batch.
    fn note(&self, closing: Option<Closing>) -> BatchNote {
        BatchNote { account_id: self.caller.account, created_at: self.created_at, closing }
    }

    /// False: only its messages know of the batch.
    async fn note_batch(&self, closing: Option<Closing>) -> Result<bool> {
        let (note, now) = (self.note(closing), self.app.clock.now());
        let noted = self.if_there(batches::note_batch(&self.app.writer, self.batch_id, &note, now)).await?;
        Ok(noted.is_some())
    }

    /// What waits, as the observations of messages that the bus can carry.
    async fn take_messages(&mut self) -> Result<Vec<Vec<Observation>>> {
        self.waiting_bytes = 0;
        let observations: Vec<Observation> = self.waiting.drain(..).map(|(_, seen)| seen).collect();
        let Some(max) = self.app.bus.max_payload() else {
            return Ok(if observations.is_empty() { Vec::new() } else { vec![observations] });
        };
        if observations.is_empty() {
            return Ok(Vec::new());
        }
        let (account, work) = (Some(self.caller.account), observations.len() * WORK_OF_ONE);
        let split = self.app.cpu.compute(account, work, move || batch::split(observations, max));
        split.await?.map_err(Error::internal)
    }

    /// Puts messages on the bus. With `closing` they are the last.
    async fn send(&mut self, messages: Vec<Vec<Observation>>, closing: Option<&Closing>) -> Result<()> {
        let carries = self.app.bus.outlives_database();
        let (mut parts, mut accepted, mut too_old) = (Vec::new(), 0, 0);
        let reported_at = self.app.clock.now();
        let rings_from = reported_at - self.app.config.prices.rings_within;
        for (part, observations) in (self.sent.parts..).zip(messages) {
            accepted += observations.len() as i64;
            too_old += observations.iter().filter(|seen| seen.observed_at < rings_from).count() as i64;
            let message = PriceMessage {
                batch_id: self.batch_id,
                part,
                may_create_stores: self.caller.may("catalogue:write"),
                backfill: self.backfill,
                traceparent: Some(self.traceparent.clone()),
                reported_at,
                observations,
                batch: carries.then(|| self.note(closing.cloned())),
            };
            parts.push(message);
        }
        let pack = move || parts.iter().map(PriceMessage::pack).collect::<std::io::Result<Vec<_>>>();
        let work = accepted as usize * WORK_OF_ONE;
        let payloads = self.app.cpu.compute(Some(self.caller.account), work, pack).await?;
        let payloads = payloads.map_err(Error::internal)?;
        self.app.bus.send_batch(&payloads).await?;
        self.sent.parts += payloads.len() as i32;
        self.sent.accepted += accepted;
        // What is history rings nobody anyway.
        self.too_old_to_ring += if self.backfill { 0 } else { too_old };
        metrics::counter!("salebell_prices_accepted_total").increment(accepted as u64);
        Ok(())
    }

    /// The report has been read to its end: the batch is closed, and what is left is sent. If we die in between, nobody
    /// has heard of the batch.
    async fn finish(mut self) -> Result<ReportResponse> {
        // A refusal by the way may have left nothing to send.
        self.refuse_unknown_stores().await?;
        let mut messages = self.take_messages().await?;
        let waiting: usize = messages.iter().map(Vec::len).sum();
        let mut closing = Closing {
            parts: self.sent.parts + messages.len() as i32,
            accepted: self.sent.accepted + waiting as i64,
            rejected: self.sent.rejected,
        };
        if !self.note_batch(Some(closing.clone())).await? && messages.is_empty() {
            // Nobody else could tell a worker that it is closed.
            messages.push(Vec::new());
            closing.parts += 1;
        }
        if !messages.is_empty() {
            self.send(messages, Some(&closing)).await?;
        }
        Ok(ReportResponse {
            batch_id: self.batch_id,
            accepted: self.sent.accepted,
            too_old_to_ring: self.too_old_to_ring,
            rejected_count: self.sent.rejected,
            rejected: self.rejected,
            warnings_count: self.warnings_count,
            warnings: self.warnings,
            detail: None,
        })
    }
}

fn field_errors(problems: Vec<(&'static str, String)>) -> Error {
    let field = |(name, detail)| FieldError { pointer: format!("/{name}"), detail };
    Error::invalid_fields(problems.into_iter().map(field).collect())
}
