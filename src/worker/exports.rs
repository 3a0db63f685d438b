//! Exports: rows are read a page at a time and written to a file that belongs to the export's owner and lives like
//! any other file.
//!
//! A worker that takes over starts again from the beginning and removes what the previous one has written.

mod rows;

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use self::rows::RowSource;
use super::driver::{Progress, Task};
use crate::app::App;
use crate::clock::delta;
use crate::domain::export::{ExportFilter, ExportKind};
use crate::domain::ids::FileId;
use crate::error::{Error, Kind, Result, chain};
use crate::files::blobs::{BlobWriter, Blobs};
use crate::health::watchdog::Heartbeat;
use crate::store::exports::{self, ClaimedExport, ExportProgress};
use crate::store::files::removal;
use crate::store::files::writing::{self, Beginning, Writer};
use crate::store::files::{self, NewFile, Quota};
use crate::store::lease::Lease;
use crate::tables::{TableFormat, TableWriter};

/// Interval at which the progress is recorded and the lease is renewed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes collected before they are written.
const WRITE_AT_ONCE: usize = 256 * 1024;
/// Approximate cost of writing a row, in bytes.
const WORK_OF_A_ROW: usize = 128;
/// Attempts after which an export that fails on our side is given up.
const MAX_TRIES: i32 = 5;
/// Wait before an export that failed on our side is tried again.
const RETRY: TimeDelta = TimeDelta::seconds(10);

/// Content and format of an export. They are stored with it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(
    description = "Content and format of an export.",
    example = json!({"kind": "prices", "format": "parquet", "filter": {"store": "steam"}}),
)]
pub struct ExportOptions {
    pub kind: ExportKind,
    pub format: TableFormat,
    #[serde(default)]
    #[schema(required)]
    pub filter: ExportFilter,
}

/// Task that writes exports one after another.
pub struct ExportTask;

impl Task for ExportTask {
    const NAME: &'static str = "exports";
    const LOG_TARGET: &'static str = "salebell::exports";

    async fn round(&mut self, app: &App, heartbeat: &Heartbeat) -> Result<Progress> {
        step(app, || heartbeat.beat()).await
    }
}

/// Claims an export and writes it. `beat` is called while it works.
///
/// # Errors
/// `Unavailable`: the database is unavailable. A claimed export is due again when its lease has expired.
pub async fn step(app: &App, beat: impl Fn()) -> Result<Progress> {
    let (holder, now) = (Uuid::now_v7(), app.clock.now());
    let claim = exports::claim_export(&app.writer, holder, now, lease(app));
    let Some(export) = app.deadline.run(app.config.worker.lease, claim).await? else {
        return Ok(Progress::Idle);
    };
    let mut writing = Writing { app, export: &export, holder, written: ExportProgress::default() };
    let ended = writing.write_all(beat).await;
    if ended.is_err()
        && let Some(file) = writing.written.file_id
    {
        // The owner must never see a partial file.
        let _ = removal::hide_file(&app.writer, export.account_id, file, app.clock.now()).await;
    }
    let failure = match ended {
        Ok(()) => None,
        Err(Stop::Lost) => return Ok(Progress::More),
        Err(Stop::Stopping) => {
            exports::release_export(&app.writer, export.id, holder, app.clock.now()).await?;
            return Ok(Progress::More);
        }
        Err(Stop::Refused(error)) => Some(error.detail),
        Err(Stop::Ours(error)) if export.tries >= MAX_TRIES && error.kind != Kind::Unavailable => {
            log::error!(target: "salebell::exports", "export.id" = export.id.to_string();
                "an export is given up: {}", chain(&error));
            Some("internal errors, several times in a row".to_owned())
        }
        Err(Stop::Ours(error)) => {
            log::warn!(target: "salebell::exports", "export.id" = export.id.to_string();
                "an export is tried again after: {}", chain(&error));
            exports::release_export(&app.writer, export.id, holder, app.clock.now() + RETRY).await?;
            return Ok(Progress::More);
        }
    };
    let now = app.clock.now();
    exports::finish_export(&app.writer, export.id, holder, &writing.written, failure.as_deref(), now).await?;
    Ok(Progress::More)
}

fn lease(app: &App) -> DateTime<Utc> {
    app.clock.now() + delta(app.config.worker.lease)
}

/// Why an export is not written to its end.
enum Stop {
    /// It was cancelled, or another worker has it.
    Lost,
    Stopping,
    /// The owner's quota is too small for it.
    Refused(Error),
    Ours(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        match error.kind {
            Kind::QuotaExceeded | Kind::TooLarge => Stop::Refused(error),
            _ => Stop::Ours(error),
        }
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Ours(Error::unavailable(error))
    }
}

struct Writing<'a> {
    app: &'a App,
    export: &'a ClaimedExport,
    holder: Uuid,
    written: ExportProgress,
}

/// The file while it is written.
struct Growing {
    id: FileId,
    writer: Uuid,
    piece: BlobWriter,
    piece_start: i64,
    hasher: Sha256,
    /// Number of bytes that the account's quota still allows.
    room: i64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
}

impl Writing<'_> {
    async fn write_all(&mut self, beat: impl Fn()) -> Result<(), Stop> {
        let (app, export) = (self.app, self.export);
        if let Some(left) = export.file_id {
            let _ = removal::hide_file(&app.writer, export.account_id, left, app.clock.now()).await;
        }
        let options: ExportOptions =
            serde_json::from_value(export.options.clone()).map_err(Error::internal)?;
        let mut rows = RowSource::new(app.clone(), export.account_id, options.kind, options.filter.clone());
        self.written.rows_total = rows.estimate().await?;
        let mut table = TableWriter::new(options.format, rows.columns())?;
        let mut file = self.begin_file(&options).await?;
        let mut reported_at = Instant::now();
        self.report_progress().await?;
        while let Some(page) = rows.next().await? {
            beat();
            if app.stopping.is_cancelled() {
                return Err(Stop::Stopping);
            }
            self.written.rows += page.len() as i64;
            // A Parquet row group is compressed in one go.
            let (account, work) = (Some(export.account_id), page.len() * WORK_OF_A_ROW);
            let write = move || {
                let bytes = table.write(&page);
                (table, bytes)
            };
            let (same, bytes) = app.cpu.compute(account, work, write).await?;
            table = same;
            self.append(&mut file, bytes?).await?;
            if reported_at.elapsed() >= PROGRESS_INTERVAL {
                reported_at = Instant::now();
                self.report_progress().await?;
                if app.files.blobs.free().await? == 0 {
                    return Err(Stop::Ours(Error::unavailable("the disk is full")));
                }
            }
        }
        let rest = app.cpu.compute(Some(export.account_id), usize::MAX, move || table.finish()).await?;
        self.append(&mut file, rest?).await?;
        self.flush(&mut file).await?;
        file.piece.seal().await?;
        // A cancellation after this point comes too late for the file, but not for the export.
        self.report_progress().await?;
        let sha256 = file.hasher.finalize();
        let written = writing::DurableBytes {
            file: file.id,
            writer: file.writer,
            piece_start: file.piece_start,
            stored: self.written.bytes,
            hash_state: &[],
            progress: None,
        };
        match writing::complete_file(&app.writer, &written, &sha256, app.clock.now()).await? {
            Lease::Held => Ok(()),
            Lease::Lost => Err(Stop::Lost),
        }
    }

    async fn begin_file(&mut self, options: &ExportOptions) -> Result<Growing, Stop> {
        let (app, account, now) = (self.app, self.export.account_id, self.app.clock.now());
        let (ending, media_type) = options.format.names();
        let kind = serde_json::to_value(options.kind).map_err(Error::internal)?;
        let name = format!("{}-{}.{ending}", kind.as_str().unwrap_or("export"), now.format("%Y-%m-%d"));
        let settings = &app.config.files;
        let quota = Quota {
            bytes: settings.bytes_per_account,
            files: settings.files_per_account,
            largest: settings.max_bytes,
        };
        let new = NewFile {
            id: FileId::now_v7(),
            name: &name,
            media_type,
            length: None,
            metadata: "",
            concat: None,
            upload_concat: None,
            keep_until: self.export.keep_until,
        };
        let file = files::create_file(&app.writer, account, &new, quota, now).await?;
        self.written.file_id = Some(file.id);
        let writer = Uuid::now_v7();
        let place = Blobs::new_place(file.id, 0, writer);
        let wanted = Writer { id: writer, offset: 0, length: None, new_place: &place };
        let begun = writing::begin_writing(&app.writer, account, file.id, &wanted, quota, now).await?;
        let Beginning::Begun(turn) = begun else { return Err(Stop::Lost) };
        Ok(Growing {
            id: file.id,
            writer,
            piece: app.files.blobs.open(&turn.place, 0, None).await?,
            piece_start: turn.piece_start,
            hasher: Sha256::new(),
            room: turn.room,
            waiting: Vec::new(),
            waiting_bytes: 0,
        })
    }

    async fn append(&mut self, file: &mut Growing, bytes: Bytes) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.written.bytes += bytes.len() as i64;
        if self.written.bytes > file.room {
            let detail = format!("The account has room for {} bytes, and the export is larger.", file.room);
            return Err(Stop::Refused(Error::new(Kind::QuotaExceeded, detail)));
        }
        file.waiting_bytes += bytes.len();
        file.waiting.push(bytes);
        if file.waiting_bytes >= WRITE_AT_ONCE {
            self.flush(file).await?;
        }
        Ok(())
    }

    async fn flush(&self, file: &mut Growing) -> Result<(), Stop> {
        file.waiting_bytes = 0;
        let writing = file.piece.write(std::mem::take(&mut file.waiting), std::mem::take(&mut file.hasher));
        file.hasher = writing.await.map_err(Error::internal)??;
        Ok(())
    }

    async fn report_progress(&self) -> Result<(), Stop> {
        let (app, id) = (self.app, self.export.id);
        match exports::record_progress(&app.writer, id, self.holder, &self.written, lease(app)).await? {
            Lease::Held => Ok(()),
            Lease::Lost => Err(Stop::Lost),
        }
    }
}
