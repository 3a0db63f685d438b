//! Intake of price reports: the observations of a report are checked and put on the bus as the messages of one batch.
//!
//! The transport of a report parses it and passes on one observation at a time; the [`Receipt`] summarizes the batch
//! when the report ends. A bus that outlives the database accepts reports while the database is unavailable. The
//! messages then carry a description of the batch, from which the worker records it, and the worker decides about
//! unknown stores.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Caller;
use crate::domain::batch::{self, BatchNote, Closing, MAX_OBSERVATIONS, PriceMessage};
use crate::domain::ids::BatchId;
use crate::domain::observation::{Checked, FieldProblem, Observation, ReportedObservation};
use crate::error::{Error, FieldError, Kind, Problem, Result};
use crate::store::batches;
use crate::store::recording::stores;

/// Largest observation, in bytes of the report.
pub const MAX_OBSERVATION_BYTES: usize = 64 << 10;
/// Size of the waiting observations, in bytes of the report's text, from which they are sent as a message.
const MAX_MESSAGE_TEXT: usize = 4 << 20;
/// Timeout of a query that the report can do without.
const OPTIONAL_QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of refusals and warnings that a receipt lists; further ones are only counted.
const MAX_LISTED: usize = 1_000;
/// Maximum number of bytes of JSON that the listed refusals and warnings may have together.
const MAX_LISTED_BYTES: usize = 256 << 10;
/// Approximate cost of adding an observation to a message, in bytes of work: large amounts run on a separate thread.
const WORK_PER_OBSERVATION: usize = 128;

/// Summary of a report, all of whose accepted observations are on the bus.
#[derive(Debug)]
pub struct Receipt {
    pub batch_id: BatchId,
    pub accepted: i64,
    /// Accepted observations that are too old to trigger a notice (`prices.rings_within_s`).
    pub too_old_to_ring: i64,
    /// Number of all refusals, including those that are not listed.
    pub rejected_count: i64,
    pub rejected: Vec<ListedProblem>,
    /// Number of observations that were accepted without a field that was not understood, including those that are not
    /// listed.
    pub warnings_count: i64,
    pub warnings: Vec<ListedProblem>,
}

/// A problem with one observation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListedProblem {
    /// Zero-based index of the observation in the report, or of its line.
    pub index: u64,
    pub problem: Problem,
}

/// Space left in a receipt for listing individual problems. Refusals and warnings share it.
struct ListingSpace {
    items: usize,
    bytes: usize,
}

impl ListingSpace {
    fn new() -> ListingSpace {
        ListingSpace { items: MAX_LISTED, bytes: MAX_LISTED_BYTES }
    }

    fn is_used_up(&self) -> bool {
        self.items == 0
    }

    /// Adds an item to its list. The first item that does not fit uses up the space, so the listed items are always the
    /// first ones of the report.
    fn list(&mut self, list: &mut Vec<ListedProblem>, item: ListedProblem) {
        let bytes = if self.is_used_up() { None } else { serde_json::to_vec(&item).ok() };
        let left = bytes.and_then(|bytes| self.bytes.checked_sub(bytes.len() + 1));
        if left.is_some() {
            list.push(item);
        }
        self.items = if left.is_some() { self.items - 1 } else { 0 };
        self.bytes = left.unwrap_or(0);
    }
}

/// Whether the database holds the batch before its last message is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noted {
    Stored,
    /// The database was unavailable: only the messages describe the batch.
    OnlyInMessages,
}

/// A report that is being read.
pub struct PriceIntake {
    app: App,
    reporter: Caller,
    batch_id: BatchId,
    created_at: DateTime<Utc>,
    traceparent: String,
    backfill: bool,
    /// Observations that are not on the bus yet, with their zero-based index in the report.
    waiting: Vec<(u64, Observation)>,
    /// Size of the waiting observations in bytes of the report's text, which bounds what a report holds in memory.
    waiting_bytes: usize,
    sent: Closing,
    too_old_to_ring: i64,
    rejected: Vec<ListedProblem>,
    warnings_count: i64,
    warnings: Vec<ListedProblem>,
    listing: ListingSpace,
}

impl PriceIntake {
    /// Begins a batch. With `backfill` its observations are history and trigger no notices.
    pub fn begin(app: App, reporter: Caller, traceparent: String, backfill: bool) -> PriceIntake {
        PriceIntake {
            created_at: app.clock.now(),
            app,
            reporter,
            batch_id: BatchId::now_v7(),
            traceparent,
            backfill,
            waiting: Vec::new(),
            waiting_bytes: 0,
            sent: Closing { parts: 0, accepted: 0, rejected: 0 },
            too_old_to_ring: 0,
            rejected: Vec::new(),
            warnings_count: 0,
            warnings: Vec::new(),
            listing: ListingSpace::new(),
        }
    }

    /// Checks an observation of `size` bytes of text, and keeps it until it is sent.
    pub fn take(&mut self, index: u64, reported: ReportedObservation, size: usize) {
        match reported.check(self.app.clock.now()) {
            Ok(Checked { observation, warnings }) => {
                self.waiting_bytes += size;
                self.waiting.push((index, observation));
                if !warnings.is_empty() {
                    self.warn(index, warnings);
                }
            }
            Err(problems) => self.refuse(index, || field_errors(problems)),
        }
    }

    /// Counts an observation that is refused. `error` is called only while the receipt has space to list it.
    pub fn refuse(&mut self, index: u64, error: impl FnOnce() -> Error) {
        self.sent.rejected += 1;
        if !self.listing.is_used_up() {
            self.listing.list(&mut self.rejected, ListedProblem { index, problem: error().problem() });
        }
    }

    fn warn(&mut self, index: u64, warnings: Vec<FieldProblem>) {
        self.warnings_count += 1;
        if !self.listing.is_used_up() {
            let problem = field_errors(warnings).problem();
            self.listing.list(&mut self.warnings, ListedProblem { index, problem });
        }
    }

    /// Sends the waiting observations if they are enough for a message.
    ///
    /// # Errors
    /// `Unavailable` if the bus is, or if the database is and the bus depends on it.
    pub async fn send_if_full(&mut self) -> Result<()> {
        if self.waiting.len() < MAX_OBSERVATIONS && self.waiting_bytes < MAX_MESSAGE_TEXT {
            return Ok(());
        }
        self.refuse_unknown_stores().await?;
        if self.waiting.is_empty() {
            return Ok(());
        }
        // Before the first message, because its effects must never be visible without the batch.
        if self.sent.parts == 0 {
            self.note_batch(None).await?;
        }
        let messages = self.take_messages().await?;
        self.send(messages, None).await
    }

    /// Sends the remaining observations and closes the batch. If the process dies in between, the reporter has no
    /// receipt and reports again.
    ///
    /// # Errors
    /// Those of [`send_if_full`](Self::send_if_full).
    pub async fn finish(mut self) -> Result<Receipt> {
        // Refusing unknown stores may have emptied the buffer.
        self.refuse_unknown_stores().await?;
        let mut messages = self.take_messages().await?;
        let waiting: usize = messages.iter().map(Vec::len).sum();
        let mut closing = Closing {
            parts: self.sent.parts + messages.len() as i32,
            accepted: self.sent.accepted + waiting as i64,
            rejected: self.sent.rejected,
        };
        let noted = self.note_batch(Some(closing.clone())).await?;
        if noted == Noted::OnlyInMessages && messages.is_empty() {
            // Without the database, only an empty closing message tells the worker that the batch is complete.
            messages.push(Vec::new());
            closing.parts += 1;
        }
        if !messages.is_empty() {
            self.send(messages, Some(&closing)).await?;
        }
        Ok(Receipt {
            batch_id: self.batch_id,
            accepted: self.sent.accepted,
            too_old_to_ring: self.too_old_to_ring,
            rejected_count: self.sent.rejected,
            rejected: self.rejected,
            warnings_count: self.warnings_count,
            warnings: self.warnings,
        })
    }

    /// Refuses observations of unknown stores, unless the reporter may create stores.
    async fn refuse_unknown_stores(&mut self) -> Result<()> {
        if self.reporter.may("catalogue:write") || self.waiting.is_empty() {
            return Ok(());
        }
        let mut slugs: Vec<&str> = self.waiting.iter().map(|(_, seen)| seen.store.as_str()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        let unknown = self.if_available(stores::unknown_stores(&self.app.writer, &slugs)).await?;
        let Some(unknown) = unknown.filter(|unknown| !unknown.is_empty()) else { return Ok(()) };
        let (refused, known) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, seen)| unknown.contains(&seen.store));
        self.waiting = known;
        for (index, _) in refused as Vec<(u64, Observation)> {
            self.refuse(index, || {
                Error::invalid("/store", "is unknown; creating it requires catalogue:write")
            });
        }
        Ok(())
    }

    /// Runs a query. `None`: the database is unavailable, and the bus does not depend on it.
    async fn if_available<T>(&self, query: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        if !self.app.bus.outlives_database() {
            return query.await.map(Some);
        }
        if !self.app.health.readiness.reasons().await.is_empty() {
            return Ok(None);
        }
        match self.app.deadline.run(OPTIONAL_QUERY_TIMEOUT, query).await {
            Err(error) if error.kind == Kind::Unavailable => Ok(None),
            done => done.map(Some),
        }
    }

    /// Description of the batch.
    fn note(&self, closing: Option<Closing>) -> BatchNote {
        BatchNote { account_id: self.reporter.account, created_at: self.created_at, closing }
    }

    async fn note_batch(&self, closing: Option<Closing>) -> Result<Noted> {
        let (note, now) = (self.note(closing), self.app.clock.now());
        let query = batches::note_batch(&self.app.writer, self.batch_id, &note, now);
        let stored = self.if_available(query).await?;
        Ok(stored.map_or(Noted::OnlyInMessages, |()| Noted::Stored))
    }

    /// Removes the waiting observations from the buffer, split into messages that the bus can carry.
    async fn take_messages(&mut self) -> Result<Vec<Vec<Observation>>> {
        self.waiting_bytes = 0;
        let observations: Vec<Observation> = self.waiting.drain(..).map(|(_, seen)| seen).collect();
        if observations.is_empty() {
            return Ok(Vec::new());
        }
        let Some(max) = self.app.bus.max_payload() else { return Ok(vec![observations]) };
        let work = observations.len() * WORK_PER_OBSERVATION;
        let split = move || batch::split(observations, max);
        self.app.cpu.compute(Some(self.reporter.account), work, split).await?.map_err(Error::internal)
    }

    /// Puts messages on the bus. With `closing` they are the last ones of the batch.
    async fn send(&mut self, messages: Vec<Vec<Observation>>, closing: Option<&Closing>) -> Result<()> {
        let carries_note = self.app.bus.outlives_database();
        let (mut parts, mut accepted, mut too_old) = (Vec::new(), 0, 0);
        let reported_at = self.app.clock.now();
        let rings_from = reported_at - self.app.config.prices.rings_within;
        for (part, observations) in (self.sent.parts..).zip(messages) {
            accepted += observations.len() as i64;
            too_old += observations.iter().filter(|seen| seen.observed_at < rings_from).count() as i64;
            let message = PriceMessage {
                batch_id: self.batch_id,
                part,
                may_create_stores: self.reporter.may("catalogue:write"),
                backfill: self.backfill,
                traceparent: Some(self.traceparent.clone()),
                reported_at,
                observations,
                batch: carries_note.then(|| self.note(closing.cloned())),
            };
            parts.push(message);
        }
        let pack = move || parts.iter().map(PriceMessage::pack).collect::<std::io::Result<Vec<_>>>();
        let work = accepted as usize * WORK_PER_OBSERVATION;
        let payloads = self.app.cpu.compute(Some(self.reporter.account), work, pack).await?;
        let payloads = payloads.map_err(Error::internal)?;
        self.app.bus.send_batch(&payloads).await?;
        self.sent.parts += payloads.len() as i32;
        self.sent.accepted += accepted;
        // A backfill triggers no notices at any age.
        self.too_old_to_ring += if self.backfill { 0 } else { too_old };
        metrics::counter!("salebell_prices_accepted_total").increment(accepted as u64);
        Ok(())
    }
}

fn field_errors(problems: Vec<FieldProblem>) -> Error {
    let field = |(name, detail)| FieldError { pointer: format!("/{name}"), detail };
    Error::invalid_fields(problems.into_iter().map(field).collect())
}
