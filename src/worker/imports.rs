//! Imports: a file is read row by row on a thread of its own. Portions of its observations become messages on the
//! bus, and rows that are refused are stored with their line numbers.
//!
//! The same file is always cut into the same portions. A worker that takes over therefore reads from the beginning
//! and sends from where the previous worker stopped; a message that was sent twice counts once (`batch_parts`).

use std::collections::HashMap;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::io::StreamReader;
use uuid::Uuid;

use super::driver::{Progress, Task};
use crate::app::App;
use crate::clock::delta;
use crate::domain::batch::PriceMessage;
use crate::domain::observation::{Checked, Observation};
use crate::error::{Error, Kind, Result, chain};
use crate::feed::error::FeedError;
use crate::feed::input::{self, Input};
use crate::feed::options::ImportOptions;
use crate::feed::records::shorten;
use crate::feed::rows::{Meaning, Rows};
use crate::feed::sorting::{LineObservation, Sorter};
use crate::files::blobs::extents::{Extent, read_extents};
use crate::health::watchdog::Heartbeat;
use crate::store::files;
use crate::store::imports::{self, ClaimedImport, Reached, RowRefusal};
use crate::store::lease::Lease;
use crate::store::recording::stores;

/// Maximum number of observations of one message: few enough to be recorded quickly and to keep several messages in
/// little memory. A later version may lower this bound but not raise it, because a worker that takes over skips as many
/// portions as the previous version has sent.
const PORTION: usize = 2_048;
/// Approximate bound on the bytes of one message before compression: every bus accepts a message of that size.
const PORTION_BYTES: usize = 150 << 10;
/// Interval at which the progress is recorded and the lease is renewed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of messages of an import that wait to be recorded: the bus serves others too.
const MAX_WAITING: i64 = 16;
/// Interval at which the worker polls for recorded messages.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Attempts after which an import that fails on our side is given up.
const MAX_TRIES: i32 = 5;
/// Attempts after which an import that never comes to an end is given up.
const MAX_DEATHS: i32 = 20;
/// Wait before an import that failed on our side is tried again.
const RETRY: TimeDelta = TimeDelta::seconds(10);
/// Maximum number of refusals stored, and of warnings; further ones are only counted.
const MAX_REFUSALS: i64 = 100_000;
/// Maximum number of stores remembered as known or unknown.
const MAX_KNOWN_STORES: usize = 10_000;
/// Refusals written at once.
const REFUSALS_AT_ONCE: usize = 1_000;

/// Task that reads imports one after another.
pub struct ImportTask;

impl Task for ImportTask {
    const NAME: &'static str = "imports";
    const LOG_TARGET: &'static str = "salebell::imports";

    async fn round(&mut self, app: &App, heartbeat: &Heartbeat) -> Result<Progress> {
        step(app, || heartbeat.beat()).await
    }
}

/// Claims an import and sends all of it. `beat` is called while it works.
///
/// # Errors
/// `Unavailable`: the database is unavailable. A claimed import is due again when its lease has expired.
pub async fn step(app: &App, beat: impl Fn() + Sync) -> Result<Progress> {
    let (holder, now) = (Uuid::now_v7(), app.clock.now());
    let claim = imports::claim_import(&app.writer, holder, now, lease(app));
    let Some(import) = app.deadline.run(app.config.worker.lease, claim).await? else {
        return Ok(Progress::Idle);
    };
    let mut sending = Sending::new(app, &import, holder, &beat);
    // Earlier workers crashed on this import; do not try again.
    if import.tries > MAX_DEATHS {
        sending.finish(Some("reading the file has failed several times in a row".to_owned())).await?;
        return Ok(Progress::More);
    }
    match sending.send_all().await {
        Ok(()) => sending.finish(None).await?,
        Err(Stop::Lost) => {}
        Err(Stop::Input(unreadable)) => sending.finish(Some(chain(&unreadable))).await?,
        Err(Stop::Ours(error)) if import.tries >= MAX_TRIES && error.kind != Kind::Unavailable => {
            log::error!(target: "salebell::imports", "import.id" = import.id.to_string();
                "an import is given up: {}", chain(&error));
            sending.finish(Some("internal errors, several times in a row".to_owned())).await?;
        }
        Err(Stop::Ours(error)) => {
            log::warn!(target: "salebell::imports", "import.id" = import.id.to_string();
                "an import is tried again after: {}", chain(&error));
            imports::release_import(&app.writer, import.id, holder, app.clock.now() + RETRY).await?;
        }
        Err(Stop::Stopping) => {
            imports::release_import(&app.writer, import.id, holder, app.clock.now()).await?;
        }
    }
    Ok(Progress::More)
}

fn lease(app: &App) -> DateTime<Utc> {
    app.clock.now() + delta(app.config.worker.lease)
}

/// Why an import is not sent to its end.
enum Stop {
    /// It was cancelled, or another worker has it.
    Lost,
    /// The owner's file or options cannot be read.
    Input(Unreadable),
    Ours(Error),
    Stopping,
}

/// Why a file cannot be read, worded for its owner.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("the file is gone")]
    Gone,
    #[error("{0}")]
    BadOptions(String),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("what is sorted cannot be written to worker.scratch")]
    Scratch(#[source] io::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Ours(error)
    }
}

/// Message from the reading thread.
enum FromReader {
    /// Observations of one message. With `waits`, the first observation is of the same offer as the last of the
    /// portion before, which must be recorded first.
    Portion {
        seen: Vec<LineObservation>,
        waits: bool,
    },
    Refused(Vec<RowRefusal>),
    /// The end of the file.
    End,
    Failed(Unreadable),
}

/// An import on its way to the bus.
struct Sending<'a> {
    app: &'a App,
    import: &'a ClaimedImport,
    holder: Uuid,
    /// Called while the import is sent or waits.
    beat: &'a (dyn Fn() + Sync),
    /// How far the import has come, beginning with how far the previous worker had come.
    reached: Reached,
    portion: i32,
    read: Arc<ReadSoFar>,
    known_stores: HashMap<String, bool>,
    reported_at: Instant,
    refusals_kept: i64,
    warnings_kept: i64,
}

/// Counts kept by the reading thread.
#[derive(Default)]
struct ReadSoFar {
    rows: AtomicU64,
    refused: AtomicU64,
    warnings: AtomicU64,
}

impl<'a> Sending<'a> {
    fn new(
        app: &'a App,
        import: &'a ClaimedImport,
        holder: Uuid,
        beat: &'a (dyn Fn() + Sync),
    ) -> Sending<'a> {
        let reached = Reached {
            portions: import.portions_sent,
            parts: import.parts_sent,
            accepted: import.accepted,
            ..Reached::default()
        };
        Sending {
            app,
            import,
            holder,
            beat,
            reached,
            portion: 0,
            read: Arc::default(),
            known_stores: HashMap::new(),
            reported_at: Instant::now(),
            refusals_kept: 0,
            warnings_kept: 0,
        }
    }

    async fn send_all(&mut self) -> Result<(), Stop> {
        let (input, bytes) = self.open().await?;
        let options: ImportOptions =
            serde_json::from_value(self.import.options.clone()).map_err(Error::internal)?;
        let meaning = options.meaning().map_err(|problem| Stop::Input(Unreadable::BadOptions(problem)))?;
        let (sender, mut messages) = mpsc::channel(2);
        let reading = Reading {
            meaning,
            now: self.import.created_at,
            scratch: self.app.config.worker.scratch.clone(),
            read: self.read.clone(),
            sender,
        };
        let thread = tokio::task::spawn_blocking(move || reading.read(input));
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        let ended = loop {
            let next = tokio::select! {
                next = messages.recv() => next,
                _ = progress.tick() => {
                    self.report_progress(&bytes).await?;
                    continue;
                }
                () = self.app.stopping.cancelled() => break Err(Stop::Stopping),
            };
            (self.beat)();
            match next {
                Some(FromReader::Portion { seen, waits }) => self.send_portion(seen, waits, &bytes).await?,
                Some(FromReader::Refused(refusals)) => self.refuse(&refusals).await?,
                Some(FromReader::End) => break Ok(()),
                Some(FromReader::Failed(unreadable)) => break Err(Stop::Input(unreadable)),
                None => {
                    break Err(Stop::Ours(Error::internal("the reading thread has ended without a word")));
                }
            }
        };
        drop(messages);
        thread.await.map_err(Error::internal)?;
        self.count(&bytes);
        ended
    }

    /// Opens the file: its decompressed bytes, and a counter of the stored bytes read so far.
    async fn open(&self) -> Result<(Input, Arc<AtomicU64>), Stop> {
        let (app, import) = (self.app, self.import);
        let file = files::find_file(&app.writer, import.account_id, import.file_id, app.clock.now()).await;
        let file = match file {
            Err(error) if error.kind == Kind::NotFound => {
                return Err(Stop::Input(Unreadable::Gone));
            }
            file => file?,
        };
        let pieces = files::list_pieces(&app.writer, file.id).await?;
        let extents = pieces.into_iter().map(|piece| Extent {
            place: piece.place,
            start: 0,
            end: piece.length.unsigned_abs(),
        });
        let stream = StreamReader::new(read_extents(app.files.blobs.clone(), extents.collect()));
        let size = file.length.map(i64::unsigned_abs);
        let input = input::open(stream, Some(Path::new(&import.file_name)), size).await;
        let input = input.map_err(|error| Stop::Input(error.into()))?;
        let bytes = input.read.clone();
        Ok((input, bytes))
    }

    async fn send_portion(
        &mut self,
        seen: Vec<LineObservation>,
        waits: bool,
        bytes: &AtomicU64,
    ) -> Result<(), Stop> {
        self.portion += 1;
        if self.portion <= self.import.portions_sent {
            return Ok(());
        }
        let room = if waits { 0 } else { MAX_WAITING };
        while i64::from(self.reached.parts)
            - imports::count_recorded_parts(&self.app.writer, self.import.id).await?
            > room
        {
            if self.app.stopping.is_cancelled() {
                return Err(Stop::Stopping);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
            self.report_progress(bytes).await?;
        }
        let observations = self.without_unknown_stores(seen).await?;
        let accepted = observations.len() as i64;
        if accepted > 0 {
            let message = PriceMessage {
                batch_id: self.import.id.batch(),
                part: self.reached.parts,
                may_create_stores: self.import.may_create_stores,
                backfill: self.import.backfill,
                traceparent: None,
                reported_at: self.import.created_at,
                observations,
                batch: None,
            };
            self.app.bus.send_batch(&[message.pack().map_err(Error::internal)?]).await?;
            self.reached.parts += 1;
            self.reached.accepted += accepted;
        }
        self.reached.portions = self.portion;
        // Before the next portion is sent: a worker that takes over must not send this one under another number.
        self.report_progress_now(bytes).await
    }

    /// Refuses observations of unknown stores unless the importer may write the catalogue.
    async fn without_unknown_stores(&mut self, seen: Vec<LineObservation>) -> Result<Vec<Observation>, Stop> {
        if !self.import.may_create_stores {
            // A file may name a new store on every line.
            if self.known_stores.len() > MAX_KNOWN_STORES {
                self.known_stores.clear();
            }
            let mut slugs: Vec<&str> = seen.iter().map(|seen| seen.observation.store.as_str()).collect();
            slugs.sort_unstable();
            slugs.dedup();
            slugs.retain(|slug| !self.known_stores.contains_key(*slug));
            let unknown = stores::unknown_stores(&self.app.writer, &slugs).await?;
            let judged =
                slugs.into_iter().map(|slug| (slug.to_owned(), !unknown.iter().any(|one| one == slug)));
            self.known_stores.extend(judged.collect::<Vec<_>>());
        }
        let (taken, refused): (Vec<_>, Vec<_>) = seen
            .into_iter()
            .partition(|seen| self.known_stores.get(&seen.observation.store).copied().unwrap_or(true));
        self.read.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
        let why = "store is unknown; creating it requires catalogue:write";
        let refusals: Vec<RowRefusal> = refused
            .into_iter()
            .map(|seen| RowRefusal { line: seen.line as i64, reason: why.to_owned(), warning: false })
            .collect();
        self.refuse(&refusals).await?;
        Ok(taken.into_iter().map(|seen| seen.observation).collect())
    }

    async fn refuse(&mut self, refusals: &[RowRefusal]) -> Result<(), Stop> {
        let has_room = |refusal: &&RowRefusal| {
            let kept = if refusal.warning { &mut self.warnings_kept } else { &mut self.refusals_kept };
            *kept += 1;
            *kept <= MAX_REFUSALS
        };
        let kept: Vec<&RowRefusal> = refusals.iter().filter(has_room).collect();
        if !kept.is_empty() {
            imports::record_refusals(&self.app.writer, self.import.id, &kept).await?;
        }
        Ok(())
    }

    /// Records the progress, at most once per interval.
    async fn report_progress(&mut self, bytes: &AtomicU64) -> Result<(), Stop> {
        (self.beat)();
        if self.reported_at.elapsed() < PROGRESS_INTERVAL {
            return Ok(());
        }
        self.report_progress_now(bytes).await
    }

    async fn report_progress_now(&mut self, bytes: &AtomicU64) -> Result<(), Stop> {
        self.count(bytes);
        self.reported_at = Instant::now();
        let (app, id) = (self.app, self.import.id);
        match imports::record_progress(&app.writer, id, self.holder, &self.reached, lease(app)).await? {
            Lease::Held => Ok(()),
            Lease::Lost => Err(Stop::Lost),
        }
    }

    fn count(&mut self, bytes: &AtomicU64) {
        self.reached.rows = self.read.rows.load(Ordering::Relaxed) as i64;
        self.reached.refused = self.read.refused.load(Ordering::Relaxed) as i64;
        self.reached.warnings = self.read.warnings.load(Ordering::Relaxed) as i64;
        self.reached.bytes = bytes.load(Ordering::Relaxed) as i64;
    }

    async fn finish(&self, failure: Option<String>) -> Result<()> {
        let (app, id) = (self.app, self.import.id);
        imports::finish_import(
            &app.writer,
            id,
            self.holder,
            &self.reached,
            failure.as_deref(),
            app.clock.now(),
        )
        .await?;
        Ok(())
    }
}

/// The reading thread.
struct Reading {
    meaning: Meaning,
    /// Time of observation for rows that state none.
    now: DateTime<Utc>,
    scratch: PathBuf,
    read: Arc<ReadSoFar>,
    sender: mpsc::Sender<FromReader>,
}

/// Observations that will become one message.
#[derive(Default)]
struct Portion {
    seen: Vec<LineObservation>,
    bytes: usize,
}

impl Portion {
    fn push(&mut self, seen: LineObservation) {
        self.bytes += seen.observation.wire_size();
        self.seen.push(seen);
    }

    fn is_full(&self) -> bool {
        self.seen.len() >= PORTION || self.bytes >= PORTION_BYTES
    }

    /// Removes and returns the first `count` observations.
    fn take_front(&mut self, count: usize) -> Vec<LineObservation> {
        let rest = self.seen.split_off(count);
        self.bytes = rest.iter().map(|seen| seen.observation.wire_size()).sum();
        std::mem::replace(&mut self.seen, rest)
    }
}

/// The receiver of the reading thread's messages is gone.
struct ReceiverGone;

/// Input that ends once the receiver is gone: a parser that finds no row in it must not read forever.
struct CancellableInput {
    inner: Box<dyn BufRead + Send>,
    sender: mpsc::Sender<FromReader>,
}

impl Read for CancellableInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl BufRead for CancellableInput {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.sender.is_closed() {
            Err(io::Error::other("nobody waits for it any more"))
        } else {
            self.inner.fill_buf()
        }
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
    }
}

impl Reading {
    fn read(self, input: Input) {
        let end = match self.read_rows(input) {
            Ok(Ok(())) => FromReader::End,
            Ok(Err(ReceiverGone)) => return,
            Err(unreadable) => FromReader::Failed(unreadable),
        };
        let _ = self.sender.blocking_send(end);
    }

    /// Reads all rows. If rows may state a time of observation, they are sorted first, by offer and then by time;
    /// otherwise they are sent in the order of the file.
    fn read_rows(&self, mut input: Input) -> Result<Result<(), ReceiverGone>, Unreadable> {
        input.reader = Box::new(CancellableInput { inner: input.reader, sender: self.sender.clone() });
        let mut rows = Rows::open(input, &self.meaning, self.now)?;
        let mut sorter = rows.may_state_times().then(|| Sorter::new(&self.scratch));
        let (mut portion, mut refused) = (Portion::default(), Vec::new());
        while let Some(row) = rows.read_next()? {
            self.read.rows.fetch_add(1, Ordering::Relaxed);
            let checked = row.reported.and_then(|reported| reported.check(self.now).map_err(in_words));
            let line = row.line as i64;
            match checked {
                Ok(Checked { observation, warnings }) => {
                    if !warnings.is_empty() {
                        self.read.warnings.fetch_add(1, Ordering::Relaxed);
                        refused.push(RowRefusal { line, reason: shorten(in_words(warnings)), warning: true });
                    }
                    let seen = LineObservation { line: row.line, observation };
                    match &mut sorter {
                        Some(sorter) => sorter.push(seen).map_err(Unreadable::Scratch)?,
                        None => portion.push(seen),
                    }
                }
                Err(reason) => {
                    self.read.refused.fetch_add(1, Ordering::Relaxed);
                    refused.push(RowRefusal { line, reason: shorten(reason), warning: false });
                }
            }
            if portion.is_full() {
                let seen = std::mem::take(&mut portion).seen;
                if self.sender.blocking_send(FromReader::Portion { seen, waits: false }).is_err() {
                    return Ok(Err(ReceiverGone));
                }
            }
            if refused.len() == REFUSALS_AT_ONCE
                && self.sender.blocking_send(FromReader::Refused(std::mem::take(&mut refused))).is_err()
            {
                return Ok(Err(ReceiverGone));
            }
            if self.sender.is_closed() {
                return Ok(Err(ReceiverGone));
            }
        }
        if self.sender.blocking_send(FromReader::Refused(refused)).is_err() {
            return Ok(Err(ReceiverGone));
        }
        let Some(sorter) = sorter else {
            return Ok(match portion.seen {
                none if none.is_empty() => Ok(()),
                seen => self
                    .sender
                    .blocking_send(FromReader::Portion { seen, waits: false })
                    .map_err(|_| ReceiverGone),
            });
        };
        self.send_sorted(sorter).map_err(Unreadable::Scratch)
    }

    /// Sends sorted observations. Those of an offer stay in one portion; if they need several, each portion waits for
    /// the one before.
    fn send_sorted(&self, sorter: Sorter) -> io::Result<Result<(), ReceiverGone>> {
        let mut sorted = sorter.finish()?;
        let (mut portion, mut waits) = (Portion::default(), false);
        // Index at which the current offer begins.
        let mut begin = 0;
        while let Some(seen) = sorted.read_next()? {
            if portion.seen.last().is_some_and(|last| !last.is_of_offer(&seen)) {
                begin = portion.seen.len();
            }
            portion.push(seen);
            if !portion.is_full() {
                continue;
            }
            // The last offer may have more observations and stays behind, unless it fills the whole portion.
            let full = portion.take_front(if begin == 0 { portion.seen.len() } else { begin });
            let is_split = begin == 0;
            begin = 0;
            if self.sender.blocking_send(FromReader::Portion { seen: full, waits }).is_err() {
                return Ok(Err(ReceiverGone));
            }
            waits = is_split;
        }
        match portion.seen {
            none if none.is_empty() => Ok(Ok(())),
            seen => {
                Ok(self.sender.blocking_send(FromReader::Portion { seen, waits }).map_err(|_| ReceiverGone))
            }
        }
    }
}

fn in_words(problems: Vec<(&'static str, String)>) -> String {
    problems.into_iter().map(|(field, problem)| format!("{field} {problem}")).collect::<Vec<_>>().join("; ")
}
