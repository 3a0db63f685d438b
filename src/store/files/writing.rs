//! How a file is written: by one request at a time, whose name stands in the row. What it has made durable it tells the
//! row; once another has taken its place, nothing that it says counts any more.

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
    /// Where it begins; the file must have so many bytes.
    pub offset: i64,
    /// The length of the whole, when the request tells it.
    pub length: Option<i64>,
    /// A place for it, should it need one of its own.
    pub new_place: &'a str,
}

/// What a writer begins with.
pub struct WriteLease {
    pub stored: i64,
    pub length: Option<i64>,
    /// The SHA-256 so far; `None` at the beginning.
    pub hash_state: Option<Vec<u8>>,
    /// Where it writes, and from which byte of the file on that piece is.
    pub place: String,
    pub piece_start: i64,
    /// What the store of blobs goes on with in that piece.
    pub progress: Option<Value>,
    /// No more than so many bytes may come, whatever the length.
    pub room: i64,
}

/// What became of a request to write.
pub enum Beginning {
    Begun(WriteLease),
    /// The file has another number of bytes than the writer thinks, which is this.
    OtherOffset(i64),
    /// All of its bytes are there.
    Complete,
}

/// Gives a file to a writer. Whoever wrote before has lost it.
///
/// # Errors
/// `NotFound`; `Forbidden` for one put together of others; `Invalid` when the length is another than was told before;
/// `QuotaExceeded`, `TooLarge`.
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
        (Some(known), Some(told)) if known != told => {
            let detail = format!("is {known} bytes and cannot be changed to {told}");
            return Err(Error::invalid("Upload-Length", detail));
        }
        (known, told) => known.or(told),
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
        // The last writer has ended well: nobody else writes to its place.
        Some(last) if file.writer.is_none() => (last.start_at, last.place, last.progress),
        last => {
            // Under the same start only where nothing was stored.
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
    /// The offset in its row stands.
    Resting,
    BeingWritten,
}

/// Says whether an upload is being written. A writer that has reported nothing since `silent_since` loses it: what it makes durable from then on counts no more, and the next one begins a place of its own.
pub async fn take_from_silent(
    pool: &PgPool,
    id: FileId,
    silent_since: DateTime<Utc>,
) -> Result<UploadActivity> {
    // Nobody's name: it is not null, for its place was not left well.
    let nobody = Uuid::nil();
    sqlx::query!(
        "update files set writer = $2
         where id = $1 and state = 'uploading' and writer <> $2 and updated_at <= $3",
        id.0,
        nobody,
        silent_since,
    )
    .execute(pool)
    .await?;
    let written = sqlx::query_scalar!(
        r#"select exists (
            select from files where id = $1 and state = 'uploading' and writer is not null and writer <> $2) as "written!""#,
        id.0,
        nobody,
    )
    .fetch_one(pool)
    .await?;
    Ok(if written { UploadActivity::BeingWritten } else { UploadActivity::Resting })
}

/// What a writer has made durable.
pub struct DurableBytes<'a> {
    pub file: FileId,
    pub writer: Uuid,
    pub piece_start: i64,
    /// Bytes of the file.
    pub stored: i64,
    pub hash_state: &'a [u8],
    /// What the store of blobs must know of the piece to go on with it.
    pub progress: Option<&'a Value>,
}

/// Records what is durable, unless another writes by now. `ends`: the writer has ended, and another may go on in its place.
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

/// The pieces of a file that were left by writers who did not come to their end, before the piece at `piece_start`.
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

/// Completes a file that has all of its bytes, in pieces that can be read.
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

/// Gives a sign of life of the process that reads a concatenated file. The file is lost when it is gone, or complete.
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

/// Takes a file that was put together and whose reader has given no sign of life since `dead_since`.
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

/// Completes a concatenated file that has been read to its end, with its hash. The file is lost when it is gone.
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
