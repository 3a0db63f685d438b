//! The service `salebell.v1.Prices`: price reports, as `/v1/prices` and `/v1/batches/{id}` have them.

use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::convert::id;
use super::methods::REPORT;
use super::pb::{self, prices_server};
use super::reports::{RawReport, ReportHash, take};
use crate::api::idempotency::{self, Answer, Begun, Execution, MAX_KEPT, REPLAYED};
use crate::api::paced_body::broken_off;
use crate::app::App;
use crate::app::cpu_time::Stride;
use crate::auth::Caller;
use crate::error::{Error, Kind, Result};
use crate::intake::PriceIntake;
use crate::store::batches;
use crate::telemetry::trace_context::TraceContext;

/// Status of saved responses, which every saved response has: that of HTTP.
const OK: u16 = 200;

/// The service `salebell.v1.Prices`.
pub struct PricesService {
    app: App,
}

impl PricesService {
    pub fn new(app: App) -> PricesService {
        PricesService { app }
    }
}

#[tonic::async_trait]
impl prices_server::Prices for PricesService {
    async fn report(
        &self,
        request: Request<Streaming<RawReport>>,
    ) -> Result<Response<pb::ReportResponse>, Status> {
        let (metadata, extensions, messages) = request.into_parts();
        let (app, caller) = (&self.app, caller(&extensions)?);
        let optional = app.bus.outlives_database();
        match idempotency::begin(app, &caller, REPORT, optional, metadata.as_ref(), None).await? {
            Begun::Execution(execution) => {
                let trace = extensions.get::<TraceContext>().copied();
                let trace = trace.unwrap_or_else(|| TraceContext::of(metadata.as_ref()));
                accept(app, caller, trace, execution, messages).await
            }
            Begun::Repetition(repetition) => {
                let saved = repetition.open(hash_of(messages).await?.as_ref())?;
                let response = pb::ReportResponse::decode(saved.body.as_slice()).map_err(Error::internal)?;
                let mut response = Response::new(response);
                let replayed = [(REPLAYED, axum::http::HeaderValue::from_static("true"))];
                *response.metadata_mut() = MetadataMap::from_headers(replayed.into_iter().collect());
                Ok(response)
            }
        }
    }

    async fn get_batch(
        &self,
        request: Request<pb::GetBatchRequest>,
    ) -> Result<Response<pb::GetBatchResponse>, Status> {
        let caller = caller(request.extensions())?;
        let text = &request.get_ref().id;
        let batch = batches::get_batch(&self.app.writer, caller.account, id("batch", text)?).await;
        let batch = batch.map_err(|error| error.about(text))?;
        Ok(Response::new(pb::GetBatchResponse { batch: Some(batch.into()) }))
    }
}

/// The caller whom the layer has admitted.
fn caller(extensions: &Extensions) -> Result<Caller> {
    let caller = extensions.get::<Caller>().cloned();
    caller.ok_or_else(|| Error::internal("a method that requires a token was called without one"))
}

/// A report's messages, as one sequence of observations.
struct Reading {
    messages: Streaming<RawReport>,
    /// What the first message decides.
    backfill: Option<bool>,
}

impl Reading {
    /// The next message. `None` at the end of the report.
    async fn next(&mut self) -> Result<Option<RawReport>, Status> {
        let Some(message) = self.messages.message().await.map_err(broken)? else { return Ok(None) };
        let first = *self.backfill.get_or_insert(message.backfill);
        if message.backfill && !first {
            return Err(Error::invalid("/backfill", "must be set in the first message").into());
        }
        Ok(Some(message))
    }
}

/// The status of a stream that broke off. Pauses and pace are limits of our own, which the transport does not know.
fn broken(status: Status) -> Status {
    match broken_off(&status) {
        late if late.kind == Kind::Timeout => late.into(),
        _ => status,
    }
}

/// Accepts a report. One that breaks off is abandoned: its observations on the bus may be reported again, which changes
/// nothing.
async fn accept(
    app: &App,
    caller: Caller,
    trace: TraceContext,
    execution: Execution,
    messages: Streaming<RawReport>,
) -> Result<Response<pb::ReportResponse>, Status> {
    let account = caller.account;
    let mut reading = Reading { messages, backfill: None };
    let mut message = reading.next().await?;
    let backfill = reading.backfill.unwrap_or_default();
    let mut hash = ReportHash::new(backfill);
    let mut intake = PriceIntake::begin(app.clone(), caller, trace.traceparent(), backfill);
    let (mut index, mut stride) = (0, Stride::default());
    while let Some(part) = message {
        for observation in part.observations {
            let size = observation.len();
            if execution.has_key() {
                hash.update(&observation);
            }
            take(&mut intake, index, observation);
            intake.send_if_full().await?;
            stride.advance(size).await;
            index += 1;
        }
        message = reading.next().await?;
    }
    // A report that has arrived completely is finished even if its client disconnects, and a repetition finds the
    // response.
    let work = async move {
        let response = pb::ReportResponse::from(intake.finish().await?);
        save(execution, &response, hash.finish().as_ref()).await;
        Ok::<_, Error>(response)
    };
    Ok(Response::new(idempotency::outlive(app, account, work).await??))
}

/// Saves the response for a repetition: a large one without the individual refusals and warnings.
async fn save(execution: Execution, response: &pb::ReportResponse, hash: &[u8]) {
    let detail = "The first answer listed refusals and warnings individually; only their counts were kept.";
    let body = if response.encoded_len() <= MAX_KEPT {
        response.encode_to_vec()
    } else {
        let (rejected, warnings, detail) = (Vec::new(), Vec::new(), Some(detail.to_owned()));
        pb::ReportResponse { rejected, warnings, detail, ..response.clone() }.encode_to_vec()
    };
    let answer =
        Answer { status: OK, headers: serde_json::Map::new(), body: Some(body.as_slice()), secret: false };
    execution.save(answer, hash).await;
}

/// SHA-256 of a report that is read only for it.
async fn hash_of(messages: Streaming<RawReport>) -> Result<aws_lc_rs::digest::Digest, Status> {
    let mut reading = Reading { messages, backfill: None };
    let mut message = reading.next().await?;
    let mut hash = ReportHash::new(reading.backfill.unwrap_or_default());
    while let Some(part) = message {
        part.observations.iter().for_each(|observation| hash.update(observation));
        message = reading.next().await?;
    }
    Ok(hash.finish())
}
