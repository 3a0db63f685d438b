//! `POST /v1/prices`: price reports. A report is read item by item, and its observations are on the bus before it is
//! acknowledged.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::answer::JsonAnswer;
use super::extract::body::{
    BodyHash, Params, check_not_encoded, hash_body, is_ndjson, media_type, parse_json, read_limited,
};
use super::extract::caller::{Caller, KnownCaller};
use super::extract::ndjson::{Line, Lines, MAX_LINE};
use super::json::to_json;
use super::middleware::idempotency::{self, Abridged, Begun, Idempotency};
use crate::app::App;
use crate::app::cpu_time::Stride;
use crate::domain::ids::BatchId;
use crate::domain::object::Object;
use crate::domain::observation::ReportedObservation;
use crate::error::{Error, Kind, Problem, Result};
use crate::intake::{ListedProblem, PriceIntake, Receipt};
use crate::telemetry::trace_context::TraceContext;

/// Maximum number of observations of a JSON report; NDJSON has no limit.
const MAX_JSON_OBSERVATIONS: usize = 1000;

/// Query of a report.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ReportParams {
    /// Whether the report is historical and triggers no notices; a JSON report may state it in its body instead.
    #[serde(default)]
    backfill: bool,
}

/// A report of prices.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"observations": [{
    "store": "gog",
    "sku": "1207664643",
    "title": "The Witcher® 3: Wild Hunt",
    "price": "9.99",
    "regular_price": "49.99",
    "currency": "EUR",
}]}))]
#[serde(deny_unknown_fields)]
struct ReportRequest<'a> {
    /// The observations. An invalid one is refused by itself: the report is accepted without it.
    #[serde(borrow)]
    #[schema(value_type = Vec<ReportedObservation>, max_items = 1000)]
    observations: Observations<'a>,
    /// Whether the report is historical and triggers no notices.
    #[serde(default)]
    backfill: bool,
}

/// Raw observations of a JSON report; parsing stops at the first one beyond the limit.
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

/// What became of a report. All accepted observations are stored durably, but not recorded yet.
#[derive(Serialize, ToSchema)]
#[schema(as = ReportReceipt, example = json!({
    "batch_id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "accepted": 1,
    "too_old_to_ring": 0,
    "rejected_count": 1,
    "rejected": [{
        "index": 1,
        "problem": {
            "type": "/problems/invalid",
            "title": "Invalid fields",
            "status": 422,
            "detail": "price is required",
            "instance": "01a0b6f2-4444-7d3e-8a4b-1c2d3e4f5a6b",
            "errors": [{"pointer": "/price", "detail": "is required"}],
        },
    }],
    "warnings_count": 0,
    "warnings": [],
}))]
struct ReportResponse {
    /// Id of the batch that tells what becomes of the observations.
    batch_id: BatchId,
    /// Number of accepted observations.
    accepted: i64,
    /// Accepted observations that are too old to cause notices (`prices.rings_within_s`).
    too_old_to_ring: i64,
    /// Number of all refusals.
    rejected_count: i64,
    /// The first refusals.
    rejected: Vec<ListedProblem>,
    /// Number of observations that were accepted without a field that was not understood.
    warnings_count: i64,
    /// The first of those, with their problems. Refusals and warnings together are at most 1,000, and 256 KiB.
    warnings: Vec<ListedProblem>,
    /// Explains why the response to a repetition lists no refusals and warnings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<&'static str>,
}

impl From<Receipt> for ReportResponse {
    fn from(receipt: Receipt) -> ReportResponse {
        let Receipt {
            batch_id,
            accepted,
            too_old_to_ring,
            rejected_count,
            rejected,
            warnings_count,
            warnings,
        } = receipt;
        ReportResponse {
            batch_id,
            accepted,
            too_old_to_ring,
            rejected_count,
            rejected,
            warnings_count,
            warnings,
            detail: None,
        }
    }
}

/// Reports prices: JSON with up to 1000 observations, or NDJSON of any length.
///
/// NDJSON has one observation a line, and may be compressed. An invalid observation affects no other: the answer lists
/// it. Everything that was accepted is durable, and is recorded soon after.
#[utoipa::path(
    post,
    path = "/v1/prices",
    operation_id = "report_prices",
    tag = "prices",
    security(("token" = ["prices:write"])),
    params((
        "Content-Encoding" = Option<String>,
        Header,
        description = "Compression of NDJSON; JSON must not be compressed.",
        nullable = false,
        pattern = "^(gzip|zstd|identity)$"
    )),
    request_body(
        description = "The observations. Each, or each line, may have 64 KiB.",
        content((ReportRequest = "application/json"), (ReportedObservation = "application/x-ndjson"))
    ),
    responses(
        (
            status = 202,
            description = "The report was accepted, perhaps without some of its observations.",
            body = ReportResponse,
            headers(("Location" = String, description = "URL of the batch."))
        ),
        (
            status = 413,
            description = "The JSON is larger than `server.max_json_bytes`, or the NDJSON decompresses to more than \
                200 times its size.",
            body = Problem,
            content_type = "application/problem+json"
        ),
        (
            status = 415,
            description = "The body is neither JSON nor NDJSON, or has an encoding that is not accepted.",
            body = Problem,
            content_type = "application/problem+json"
        ),
        (
            status = 422,
            description = "The JSON is not a report, or the `Idempotency-Key` was used for another request.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
pub async fn report(
    State(app): State<App>,
    KnownCaller(caller): KnownCaller,
    trace: TraceContext,
    Params(params): Params<ReportParams>,
    request: Request,
) -> Result<Response> {
    caller.require("prices:write")?;
    if is_ndjson(request.headers()) {
        return report_lines(app, caller, trace, request, params.backfill).await;
    }
    if media_type(request.headers()).as_deref() != Some("application/json") {
        let detail = "The body must be application/json or application/x-ndjson.";
        return Err(Error::new(Kind::UnsupportedMediaType, detail));
    }
    check_not_encoded(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = read_limited(&parts.headers, body, app.config.server.max_json_bytes).await?;
    Ok(report_json(app, caller, trace, body, params.backfill).await?.into_response())
}

async fn report_json(
    app: App,
    caller: Caller,
    trace: TraceContext,
    body: Bytes,
    backfill: bool,
) -> Result<ReportResponse> {
    let length = body.len();
    let parse = move || {
        let request: ReportRequest<'_> = parse_json(&body)?;
        let items = request.observations.0.iter().map(|raw| body.slice_ref(raw.get().as_bytes()));
        Ok::<_, Error>((items.collect::<Vec<Bytes>>(), request.backfill))
    };
    let (items, backfilled) = app.cpu.compute(Some(caller.account), length, parse).await??;
    let mut intake = PriceIntake::begin(app, caller, trace.traceparent(), backfill || backfilled);
    let mut stride = Stride::default();
    for (index, item) in items.iter().enumerate() {
        take(&mut intake, index as u64, item);
        stride.advance(item.len()).await;
    }
    intake.finish().await.map(ReportResponse::from)
}

/// Accepts NDJSON. With an `Idempotency-Key`, the hash of the body is known only at its end.
async fn report_lines(
    app: App,
    caller: Caller,
    trace: TraceContext,
    request: Request,
    backfill: bool,
) -> Result<Response> {
    let (uri, headers) = (request.uri(), request.headers());
    let begun = idempotency::begin(&app, &caller, Idempotency::Reports, uri, headers, None).await?;
    let execution = match begun {
        Begun::Execution(execution) => execution,
        Begun::Repetition(repetition) => return repetition.answer(hash_body(request).await?.as_ref()),
    };
    let hash = BodyHash::default();
    let mut lines = Lines::of(request, execution.has_key().then(|| hash.clone()))?;
    let account = caller.account;
    let mut intake = PriceIntake::begin(app.clone(), caller, trace.traceparent(), backfill);
    // A report that breaks off is abandoned: its observations on the bus may be reported again, which changes nothing.
    while let Some((index, line)) = lines.next().await? {
        match line {
            Line::Text(text) => take(&mut intake, index, &text),
            Line::TooLong => intake.refuse(index, || Error::new(Kind::TooLarge, "The line is too long.")),
        }
        intake.send_if_full().await?;
    }
    // A report that has arrived completely is finished even if its client disconnects, and a repetition finds the
    // response.
    let work = async move {
        let answer = intake.finish().await.map(ReportResponse::from).into_response();
        execution.finish(answer, hash.value().as_ref()).await
    };
    idempotency::outlive(&app, account, work).await
}

/// Parses an observation and passes it to the intake.
fn take(intake: &mut PriceIntake, index: u64, text: &[u8]) {
    if text.len() > MAX_LINE {
        return intake.refuse(index, || Error::new(Kind::TooLarge, "The observation is too long."));
    }
    match serde_json::from_slice::<Object<ReportedObservation>>(text) {
        Ok(Object(reported)) => intake.take(index, reported, text.len()),
        // Finding the path of an invalid field takes a second, slower parse: only for refusals that are listed.
        Err(error) => intake.refuse(index, || {
            let explained = parse_json::<ReportedObservation>(text).err();
            explained.unwrap_or_else(|| Error::malformed(format!("The body is not JSON: {error}.")))
        }),
    }
}

impl IntoResponse for ReportResponse {
    fn into_response(mut self) -> Response {
        let location = format!("/v1/batches/{}", self.batch_id);
        let mut response =
            (StatusCode::ACCEPTED, [(header::LOCATION, location)], JsonAnswer(&self)).into_response();
        self.rejected.clear();
        self.warnings.clear();
        self.detail =
            Some("The first answer listed refusals and warnings individually; only their counts were kept.");
        if let Ok(short) = to_json(&self) {
            response.extensions_mut().insert(Abridged(short.into()));
        }
        response
    }
}
