//! Files as their owner sees them. `writing` has how they are written, `removal` how they are removed.

pub mod links;
pub mod removal;
pub mod writing;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor, Postgres, QueryBuilder};

use super::accounts;
use crate::database::pool::{PgPool, Transaction};
use crate::domain::file::UNFINISHED_LIFE;
use crate::domain::ids::{AccountId, FileId};
use crate::domain::text_enum::text_enum;
use crate::error::{Error, Kind, Result};

text_enum! {
    pub enum FileState {
        Uploading = "uploading",
        Complete = "complete",
        /// Hidden from its owner; its bytes are being removed.
        Removing = "removing",
    }
}

/// A file, complete or being uploaded.
#[derive(Clone, Debug, FromRow)]
pub struct StoredFile {
    pub id: FileId,
    pub account_id: AccountId,
    pub name: String,
    pub media_type: String,
    pub state: FileState,
    /// Length in bytes. `None`: not known yet.
    pub length: Option<i64>,
    /// Number of bytes that are stored.
    pub stored: i64,
    /// Known once the file is complete.
    pub sha256: Option<Vec<u8>>,
    /// `Upload-Metadata` of tus.
    pub metadata: String,
    /// `partial` or `final` if the file is part or result of a tus concatenation.
    pub concat: Option<String>,
    pub created_at: DateTime<Utc>,
    pub completed_at: Option<DateTime<Utc>>,
    /// Time of its removal; within a day while it is incomplete and no bytes arrive.
    pub expires_at: DateTime<Utc>,
}

impl StoredFile {
    pub fn is_complete(&self) -> bool {
        self.state == FileState::Complete
    }
}

/// Location of a range of a file's bytes.
#[derive(Clone, Debug, FromRow)]
pub struct FilePiece {
    pub start_at: i64,
    pub length: i64,
    pub place: String,
}

/// Fields of a new file.
pub struct NewFile<'a> {
    pub id: FileId,
    pub name: &'a str,
    pub media_type: &'a str,
    pub length: Option<i64>,
    pub metadata: &'a str,
    pub concat: Option<&'a str>,
    /// `Upload-Concat` of a concatenation, as received.
    pub upload_concat: Option<&'a str>,
    pub keep_until: DateTime<Utc>,
}

/// Limits of an account.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub bytes: i64,
    pub files: i64,
    /// Maximum number of bytes of one file.
    pub largest: i64,
}

const COLUMNS: &str =
    "id, account_id, name, media_type, state, length, stored, sha256, metadata, concat, created_at,
    completed_at, expires_at";

/// Creates an upload without any bytes.
///
/// # Errors
/// `QuotaExceeded` or `TooLarge`: the account's limits do not allow it.
pub async fn create_file(
    pool: &PgPool,
    account: AccountId,
    new: &NewFile<'_>,
    quota: Quota,
    now: DateTime<Utc>,
) -> Result<StoredFile> {
    let mut transaction = pool.begin().await?;
    let room = lock_room(&mut transaction, account, quota).await?;
    check_room(room, new.length.unwrap_or(0), quota)?;
    let file = insert_file(&mut transaction, account, new, now).await?;
    transaction.commit().await?;
    Ok(file)
}

async fn insert_file(
    transaction: &mut Transaction,
    account: AccountId,
    new: &NewFile<'_>,
    now: DateTime<Utc>,
) -> Result<StoredFile> {
    let mut query = QueryBuilder::new(
        "insert into files (id, account_id, name, media_type, length, metadata, concat, upload_concat, created_at,
            updated_at, keep_until, expires_at) values (",
    );
    let mut values = query.separated(", ");
    values.push_bind(new.id).push_bind(account).push_bind(new.name).push_bind(new.media_type);
    values.push_bind(new.length).push_bind(new.metadata).push_bind(new.concat);
    values.push_bind(new.upload_concat).push_bind(now).push_bind(now);
    values.push_bind(new.keep_until).push_bind(new.keep_until.min(now + UNFINISHED_LIFE));
    query.push(") returning ").push(COLUMNS);
    Ok(query.build_query_as().fetch_one(&mut **transaction).await?)
}

/// Number of files that an account may still create, and of bytes that it may still upload. Locks the account.
pub(super) async fn lock_room(
    transaction: &mut Transaction,
    account: AccountId,
    quota: Quota,
) -> Result<(i64, i64)> {
    accounts::lock_account(&mut **transaction, account).await?;
    // A piece shared by several files counts once. An upload in progress counts with its full length.
    let used = sqlx::query!(
        r#"select
            (select count(*) from files where account_id = $1) as "files!",
            (select coalesce(sum(greatest(coalesce(length, stored) - stored, 0)), 0)::bigint
                from files where account_id = $1 and state = 'uploading') as "coming!",
            (select coalesce(sum(length), 0)::bigint from (
                select distinct on (p.place) p.length
                from files f join file_pieces p on p.file_id = f.id
                where f.account_id = $1
            ) pieces) as "there!""#,
        account.0,
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok((quota.files - used.files, quota.bytes - used.coming - used.there))
}

pub(super) fn check_room((files, bytes): (i64, i64), wanted: i64, quota: Quota) -> Result<()> {
    if wanted > quota.largest {
        let detail = format!("A file can have at most {} bytes.", quota.largest);
        return Err(Error::new(Kind::TooLarge, detail));
    }
    if files <= 0 {
        let detail = format!("An account can have at most {} files.", quota.files);
        return Err(Error::new(Kind::QuotaExceeded, detail));
    }
    if wanted > bytes {
        let detail = format!("The account has room for {} more bytes.", bytes.max(0));
        return Err(Error::new(Kind::QuotaExceeded, detail));
    }
    Ok(())
}

/// Concatenates complete parts in the given order. The hash of the file is not known yet.
///
/// # Errors
/// `Invalid`: one of the parts is not a complete partial upload of the account. `QuotaExceeded` or `TooLarge`: the
/// account's limits do not allow it.
pub async fn create_final(
    pool: &PgPool,
    account: AccountId,
    new: &NewFile<'_>,
    parts: &[FileId],
    quota: Quota,
    now: DateTime<Utc>,
) -> Result<StoredFile> {
    let mut transaction = pool.begin().await?;
    let room = lock_room(&mut transaction, account, quota).await?;
    // Locked, so that no part is removed while its pieces are taken over.
    let found = sqlx::query!(
        r#"select id, stored from files
         where id = any($1) and account_id = $2 and state = 'complete' and concat = 'partial' and expires_at > $3
         order by id for no key update"#,
        parts as &[FileId],
        account.0,
        now,
    )
    .fetch_all(&mut *transaction)
    .await?;
    let mut length = 0;
    for part in parts {
        let Some(found) = found.iter().find(|found| found.id == part.0) else {
            let detail = format!("names {part}, which is not a complete partial upload of yours");
            return Err(Error::invalid("Upload-Concat", detail));
        };
        length += found.stored;
    }
    // It needs no quota of bytes: its bytes exist already.
    check_room((room.0, i64::MAX), length, quota)?;
    let file = insert_file(&mut transaction, account, &NewFile { length: Some(length), ..*new }, now).await?;
    sqlx::query!(
        "insert into file_pieces (file_id, start_at, length, place)
         select $1, (sum(p.length) over (order by named.place_in_order, p.start_at) - p.length)::bigint, p.length, p.place
         from unnest($2::uuid[]) with ordinality as named (id, place_in_order)
         join file_pieces p on p.file_id = named.id
         where p.length > 0",
        file.id.0,
        parts as &[FileId],
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(file)
}

/// Finds `Upload-Concat` of a concatenation, as received.
pub async fn find_upload_concat(pool: &PgPool, id: FileId) -> Result<Option<String>> {
    let concat = sqlx::query_scalar!("select upload_concat from files where id = $1", id.0);
    Ok(concat.fetch_optional(pool).await?.flatten())
}

/// Query for an account's files, the newest first; `before` is the last id of the previous page.
pub fn list_files_query(
    account: AccountId,
    state: Option<FileState>,
    before: Option<FileId>,
    rows: i64,
    now: DateTime<Utc>,
) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("select ");
    query.push(COLUMNS).push(" from files where account_id = ").push_bind(account);
    query.push(" and state <> 'removing' and expires_at > ").push_bind(now);
    if let Some(state) = state {
        query.push(" and state = ").push_bind(state.name());
    }
    query.push(" and id < ").push_bind(before.unwrap_or(FileId::max()));
    query.push(" order by id desc limit ").push_bind(rows);
    query
}

/// Lists one page of `list_files_query`.
pub async fn list_files(
    pool: &PgPool,
    account: AccountId,
    state: Option<FileState>,
    before: Option<FileId>,
    rows: i64,
    now: DateTime<Utc>,
) -> Result<Vec<StoredFile>> {
    let mut query = list_files_query(account, state, before, rows, now);
    Ok(query.build_query_as().fetch_all(pool).await?)
}

/// Finds a file of an account.
///
/// # Errors
/// `NotFound`: the account has no such file, or it has expired.
pub async fn find_file(
    executor: impl PgExecutor<'_>,
    account: AccountId,
    id: FileId,
    now: DateTime<Utc>,
) -> Result<StoredFile> {
    let mut query = QueryBuilder::<Postgres>::new("select ");
    query.push(COLUMNS).push(" from files where id = ").push_bind(id);
    query.push(" and account_id = ").push_bind(account);
    query.push(" and state <> 'removing' and expires_at > ").push_bind(now);
    query.build_query_as().fetch_optional(executor).await?.ok_or_else(no_file)
}

/// Lists the pieces of a file, in order.
pub async fn list_pieces(executor: impl PgExecutor<'_>, id: FileId) -> Result<Vec<FilePiece>> {
    let pieces = sqlx::query_as!(
        FilePiece,
        "select start_at, length, place from file_pieces where file_id = $1 and length > 0 order by start_at",
        id.0,
    )
    .fetch_all(executor)
    .await?;
    Ok(pieces)
}

/// Changes to a file; `None` leaves a field as it is.
pub struct FileChange {
    pub name: Option<String>,
    pub keep_until: Option<DateTime<Utc>>,
}

/// Applies the changes that `change` derives from the locked file.
///
/// # Errors
/// `NotFound`: the account has no such file. Also the errors of `change`.
pub async fn update_file(
    pool: &PgPool,
    account: AccountId,
    id: FileId,
    now: DateTime<Utc>,
    change: impl FnOnce(&StoredFile) -> Result<FileChange>,
) -> Result<StoredFile> {
    let mut transaction = pool.begin().await?;
    let mut query = QueryBuilder::<Postgres>::new("select ");
    query.push(COLUMNS).push(" from files where id = ").push_bind(id);
    query.push(" and account_id = ").push_bind(account);
    query.push(" and state <> 'removing' and expires_at > ").push_bind(now).push(" for no key update");
    let file: StoredFile =
        query.build_query_as().fetch_optional(&mut *transaction).await?.ok_or_else(no_file)?;
    let changes = change(&file)?;
    let mut query = QueryBuilder::<Postgres>::new("update files set name = coalesce(");
    query.push_bind(changes.name).push(", name), keep_until = coalesce(").push_bind(changes.keep_until);
    query
        .push(", keep_until), expires_at = case when state = 'complete' then coalesce(")
        .push_bind(changes.keep_until);
    query.push(", expires_at) else least(expires_at, coalesce(").push_bind(changes.keep_until);
    query.push(", expires_at)) end, updated_at = ").push_bind(now);
    query.push(" where id = ").push_bind(id).push(" returning ").push(COLUMNS);
    let file = query.build_query_as().fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(file)
}

pub(super) fn no_file() -> Error {
    Error::not_found("file")
}
