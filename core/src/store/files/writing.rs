//! Writing of files: by one request at a time, whose id is in the row. The request records what it has made durable
//! in the row; once another request has replaced it, its records have no effect.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{Quota, check_room, lock_room, no_file};
use crate::database::pool::PgPool;
use crate::domain::file::UNFINISHED_LIFE;
use crate::domain::ids::{AccountId, FileId};
use crate::error::{Error, Kind, Result};
use crate::store::files::FileState;
use crate::store::lease::Lease;

/// A request that wants to write.
pub struct Writer<'a> {
    pub id: Uuid,
    /// Offset at which it begins; must be equal to the number of bytes stored.
    pub offset: i64,
    /// Length of the whole file, if the request states it.
    pub length: Option<i64>,
    /// New location, in case the writer needs one of its own.
    pub new_place: &'a str,
}

/// State of the file with which a writer begins.
pub struct WriteLease {
    pub stored: i64,
    pub length: Option<i64>,
    /// State of the SHA-256 so far. `None`: at the beginning.
    pub hash_state: Option<Vec<u8>>,
    /// Location of the piece to write to, and the offset in the file at which it starts.
    pub place: String,
    pub piece_start: i64,
    /// State from which the store of blobs continues the piece.
    pub progress: Option<Value>,
    /// Maximum number of bytes accepted, whatever the length of the file.
    pub room: i64,
}

/// Outcome of a request to write.
pub enum Beginning {
    Begun(WriteLease),
    /// The file has this number of bytes, not the number that the writer assumes.
    OtherOffset(i64),
    /// All bytes of the file are stored.
    Complete,
}

/// Leases a file to a writer. The previous writer loses it.
///
/// # Errors
/// `NotFound`: the account has no such file. `Forbidden`: it is a concatenation. `Invalid`: the length differs from
/// the known one, or is less than what is stored. `QuotaExceeded` or `TooLarge`: the account's limits do not allow
/// it.
pub async fn begin_writing(
    pool: &PgPool,
    account: AccountId,
    id: FileId,
    writer: &Writer<'_>,
    quota: Quota,
    now: DateTime<Utc>,
) -> Result<Beginning> {
    let mut transaction = pool.begin().await?;
    let (_, room) = lock_room(&mut transaction, account, quota).await?;
    let file = sqlx::query!(
        r#"select state as "state: FileState", length, stored, hash_state, concat, writer from files
         where id = $1 and account_id = $2 and state <> 'removing' and expires_at > $3
         for no key update"#,
        id.0,
        account.0,
        now,
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(no_file)?;
    if file.concat.as_deref() == Some("final") {
        return Err(Error::new(
            Kind::Forbidden,
            "The file is a concatenation of others and cannot be written to.",
        ));
    }
    if file.stored != writer.offset {
        return Ok(Beginning::OtherOffset(file.stored));
    }
    let length = match (file.length, writer.length) {
        (Some(known), Some(announced)) if known != announced => {
            let detail = format!("is {known} bytes and cannot be changed to {announced}");
            return Err(Error::invalid("Upload-Length", detail));
        }
        (known, announced) => known.or(announced),
    };
    if file.state == FileState::Complete {
        return Ok(Beginning::Complete);
    }
    let already_counted = file.length.unwrap_or(file.stored) - file.stored;
    let coming = length.map_or(0, |length| length - file.stored);
    if coming < 0 {
        return Err(Error::invalid("Upload-Length", "is less than the bytes that have arrived"));
    }
    check_room((1, room + already_counted - coming), 0, quota)?;
    check_room((1, i64::MAX), length.unwrap_or(0), quota)?;
    let last = sqlx::query!(
        "select start_at, length, place, progress from file_pieces where file_id = $1 order by start_at desc limit 1",
        id.0,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let (piece_start, place, progress) = match last {
        // The last writer ended properly: no other request writes to its location.
        Some(last) if file.writer.is_none() => (last.start_at, last.place, last.progress),
        last => {
            // A row with the same start exists only if nothing was stored in it.
            sqlx::query!(
                "insert into file_pieces (file_id, start_at, place) values ($1, $2, $3)
                 on conflict (file_id, start_at) do update set place = excluded.place, progress = null",
                id.0,
                file.stored,
                writer.new_place,
            )
            .execute(&mut *transaction)
            .await?;
            debug_assert!(last.is_none_or(|last| last.start_at + last.length == file.stored));
            (file.stored, writer.new_place.to_owned(), None)
        }
    };
    sqlx::query!(
        "update files set writer = $2, length = $3, updated_at = $4 where id = $1",
        id.0,
        writer.id,
        length,
        now,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let most = quota.largest - file.stored;
    let room = if length.is_some() { coming.min(most) } else { room.min(most).max(0) };
    Ok(Beginning::Begun(WriteLease {
        stored: file.stored,
        length,
        hash_state: file.hash_state,
        place,
        piece_start,
        progress,
        room,
    }))
}

/// Whether an upload is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadActivity {
    /// No request is writing: the offset in the row is final for now.
    Resting,
    BeingWritten,
}

/// Returns whether an upload is being written. A writer that has reported nothing since `silent_since` loses it: its
/// later records have no effect, and the next writer begins a piece of its own.
pub async fn take_from_silent(
    pool: &PgPool,
    id: FileId,
    silent_since: DateTime<Utc>,
) -> Result<UploadActivity> {
    // Id of no writer. It is not null, because the last writer has not ended properly.
    let no_writer = Uuid::nil();
    sqlx::query!(
        "update files set writer = $2
         where id = $1 and state = 'uploading' and writer <> $2 and updated_at <= $3",
        id.0,
        no_writer,
        silent_since,
    )
    .execute(pool)
    .await?;
    let written = sqlx::query_scalar!(
        r#"select exists (
            select from files where id = $1 and state = 'uploading' and writer is not null and writer <> $2) as "written!""#,
        id.0,
        no_writer,
    )
    .fetch_one(pool)
    .await?;
    Ok(if written { UploadActivity::BeingWritten } else { UploadActivity::Resting })
}

/// Bytes that a writer has made durable.
pub struct DurableBytes<'a> {
    pub file: FileId,
    pub writer: Uuid,
    pub piece_start: i64,
    /// Number of bytes of the file that are stored.
    pub stored: i64,
    pub hash_state: &'a [u8],
    /// State with which the store of blobs can continue the piece.
    pub progress: Option<&'a Value>,
}

/// Records what is durable, unless another request writes by now. With `ends`, the writer ends and the next one may
/// continue its piece.
pub async fn record_written(
    pool: &PgPool,
    written: &DurableBytes<'_>,
    ends: bool,
    now: DateTime<Utc>,
) -> Result<Lease> {
    let recorded = sqlx::query!(
        "with file as (
            update files set stored = $3, hash_state = $4, writer = case when $6 then null else writer end,
                updated_at = $7, expires_at = least(keep_until, $8)
            where id = $1 and writer = $2 and state = 'uploading' and expires_at > $7
            returning id
         )
         update file_pieces p set length = $3 - p.start_at, progress = $9
         from file where p.file_id = file.id and p.start_at = $5",
        written.file.0,
        written.writer,
        written.stored,
        written.hash_state,
        written.piece_start,
        ends,
        now,
        now + UNFINISHED_LIFE,
        written.progress,
    )
    .execute(pool)
    .await?;
    Ok(Lease::of(&recorded))
}

/// A piece that can be read only after the store of blobs has sealed it.
pub struct OpenPiece {
    pub length: i64,
    pub place: String,
    pub progress: Value,
}

/// Lists the unsealed pieces of a file before the piece at `piece_start`, left by writers that did not finish.
pub async fn list_open_pieces(pool: &PgPool, id: FileId, piece_start: i64) -> Result<Vec<OpenPiece>> {
    let pieces = sqlx::query_as!(
        OpenPiece,
        r#"select length, place, progress as "progress!" from file_pieces
         where file_id = $1 and start_at < $2 and progress is not null"#,
        id.0,
        piece_start,
    )
    .fetch_all(pool)
    .await?;
    Ok(pieces)
}

/// Completes a file whose bytes are all stored, in pieces that can be read.
pub async fn complete_file(
    pool: &PgPool,
    written: &DurableBytes<'_>,
    sha256: &[u8],
    now: DateTime<Utc>,
) -> Result<Lease> {
    let completed = sqlx::query!(
        "with file as (
            update files set state = 'complete', length = $3, stored = $3, sha256 = $4, hash_state = null, writer = null,
                updated_at = $6, completed_at = $6, expires_at = keep_until
            where id = $1 and writer = $2 and state = 'uploading' and coalesce(length, $3) = $3
            returning id, account_id, length, concat
         ),
         -- For the statistics; the parts of another count as that one.
         counted as (
            insert into activity (day, account_id, kind, count, amount, last_at)
            select ($6::timestamptz at time zone 'UTC')::date, account_id, 'upload', 1, length, $6 from file
            where concat is null
            on conflict (day, account_id, kind) do update
                set count = activity.count + 1, amount = activity.amount + excluded.amount, last_at = excluded.last_at
         )
         update file_pieces p set progress = null,
            length = case when p.start_at = $5 then $3 - p.start_at else p.length end
         from file where p.file_id = file.id",
        written.file.0,
        written.writer,
        written.stored,
        sha256,
        written.piece_start,
        now,
    )
    .execute(pool)
    .await?;
    Ok(Lease::of(&completed))
}

/// Records that the process that reads a concatenation is alive. The lease is lost if the file is gone or complete.
pub async fn touch_final(pool: &PgPool, id: FileId, now: DateTime<Utc>) -> Result<Lease> {
    let touched = sqlx::query!(
        "update files set updated_at = $2 where id = $1 and state = 'uploading' and concat = 'final'",
        id.0,
        now,
    )
    .execute(pool)
    .await?;
    Ok(Lease::of(&touched))
}

/// Claims a concatenation whose process has not been alive since `dead_since`.
pub async fn claim_final(
    pool: &PgPool,
    dead_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Option<FileId>> {
    let claimed = sqlx::query_scalar!(
        "update files set updated_at = $2 where id = (
            select id from files
            where state = 'uploading' and concat = 'final' and updated_at <= $1 and expires_at > $2
            order by updated_at limit 1 for no key update skip locked)
         returning id",
        dead_since,
        now,
    )
    .fetch_optional(pool)
    .await?;
    Ok(claimed.map(FileId))
}

/// Completes a concatenation that was read to its end, with its hash. The lease is lost if the file is gone.
pub async fn complete_final(pool: &PgPool, id: FileId, sha256: &[u8], now: DateTime<Utc>) -> Result<Lease> {
    let completed = sqlx::query!(
        "with file as (
            update files set state = 'complete', stored = length, sha256 = $2, updated_at = $3, completed_at = $3,
                expires_at = keep_until
            where id = $1 and state = 'uploading' and concat = 'final'
            returning account_id, length
         )
         insert into activity (day, account_id, kind, count, amount, last_at)
         select ($3::timestamptz at time zone 'UTC')::date, account_id, 'upload', 1, length, $3 from file
         on conflict (day, account_id, kind) do update
            set count = activity.count + 1, amount = activity.amount + excluded.amount, last_at = excluded.last_at",
        id.0,
        sha256,
        now,
    )
    .execute(pool)
    .await?;
    Ok(Lease::of(&completed))
}
