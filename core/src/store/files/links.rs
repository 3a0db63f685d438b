//! Share links: URLs through which anyone may download a file, limited in time and number of downloads.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoredFile;
use crate::database::pool::PgPool;
use crate::domain::ids::{AccountId, FileId, LinkId};
use crate::domain::link::{Admission, Usage};
use crate::error::{Error, Result};

/// A link as its owner sees it. Its token is not stored.
#[derive(Clone, Debug)]
pub struct FileLink {
    pub id: LinkId,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub max_downloads: Option<i32>,
    /// Number of complete copies served.
    pub downloads: i32,
    /// Bytes of all answers; those in progress count in full.
    pub bytes_served: i64,
}

/// Fields of a new link.
pub struct NewLink<'a> {
    pub id: LinkId,
    /// SHA-256 of its token.
    pub digest: &'a [u8],
    pub expires_at: DateTime<Utc>,
    pub max_downloads: Option<i32>,
}

/// Maximum number of links of a file.
const MAX_LINKS: i64 = 100;

/// Creates a link to a complete file.
///
/// # Errors
/// `Conflict`: the file has the maximum number of links.
pub async fn create_link(
    pool: &PgPool,
    file: FileId,
    new: &NewLink<'_>,
    now: DateTime<Utc>,
) -> Result<FileLink> {
    let mut transaction = pool.begin().await?;
    // Locked by a statement before the one that counts: a statement that waits for a lock still counts the rows that
    // existed when it began.
    sqlx::query!("select 1 as one from files where id = $1 for no key update", file.0)
        .fetch_optional(&mut *transaction)
        .await?;
    let made = sqlx::query_as!(
        FileLink,
        "insert into file_links (id, file_id, digest, created_at, expires_at, max_downloads)
         select $1, f.id, $3, $4, $5, $6
         from files f
         where f.id = $2 and (select count(*) from file_links where file_id = $2) < $7
         returning id, created_at, expires_at, max_downloads, downloads, bytes_served",
        new.id.0,
        file.0,
        new.digest,
        now,
        new.expires_at,
        new.max_downloads,
        MAX_LINKS,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    made.ok_or_else(|| Error::conflict(format!("A file can have at most {MAX_LINKS} links.")))
}

/// Lists a file's links, the newest first; `before` is the last id of the previous page.
pub async fn list_links(
    pool: &PgPool,
    file: FileId,
    before: Option<LinkId>,
    rows: i64,
) -> Result<Vec<FileLink>> {
    let links = sqlx::query_as!(
        FileLink,
        "select id, created_at, expires_at, max_downloads, downloads, bytes_served from file_links
         where file_id = $1 and id < $2 order by id desc limit $3",
        file.0,
        before.unwrap_or(LinkId::max()).0,
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(links)
}

/// Revokes a link.
///
/// # Errors
/// `NotFound`: the file has no such link.
pub async fn delete_link(pool: &PgPool, file: FileId, id: LinkId) -> Result<()> {
    let deleted = sqlx::query!("delete from file_links where file_id = $1 and id = $2", file.0, id.0)
        .execute(pool)
        .await?;
    if deleted.rows_affected() == 0 { Err(Error::not_found("link")) } else { Ok(()) }
}

/// A link and its file, for a client that knows its token.
pub struct SharedFile {
    pub link: LinkId,
    pub file: StoredFile,
    /// Maximum number of downloads. `None`: unlimited.
    pub most: Option<u64>,
    pub usage: Usage,
}

/// Finds the file of a valid link.
///
/// # Errors
/// `NotFound`: there is no such link, or the link or its file has expired.
pub async fn find_shared(pool: &PgPool, digest: &[u8], now: DateTime<Utc>) -> Result<SharedFile> {
    let link = sqlx::query!(
        "select l.id, l.file_id, f.account_id, l.max_downloads, l.downloads, l.bytes_served, l.given, f.length
         from file_links l join files f on f.id = l.file_id
         where l.digest = $1 and l.expires_at > $2 and f.state = 'complete'",
        digest,
        now,
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(no_link)?;
    let file = super::find_file(pool, AccountId(link.account_id), FileId(link.file_id), now)
        .await
        .map_err(|_| no_link())?;
    Ok(SharedFile {
        link: LinkId(link.id),
        file,
        most: link.max_downloads.map(|most| u64::from(most.unsigned_abs())),
        usage: usage(link.length, link.downloads, link.bytes_served, &link.given),
    })
}

/// Reserves the bytes from `start` up to, but not including, `end` for an answer. They count as served from here on,
/// even if the process dies; `count_served` subtracts those that were not sent.
///
/// # Errors
/// `NotFound`: the link was revoked.
pub async fn promise_bytes(pool: &PgPool, link: LinkId, start: u64, end: u64) -> Result<Admission> {
    let mut transaction = pool.begin().await?;
    let (most, usage) = lock_link(&mut transaction, link).await?.ok_or_else(no_link)?;
    let admission = usage.admit(most.unwrap_or(u64::MAX), start, end);
    if admission == Admission::Granted {
        sqlx::query!(
            "update file_links set bytes_served = bytes_served + $2 where id = $1",
            link.0,
            to_i64(end - start),
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
    }
    Ok(admission)
}

/// Counts `sent` bytes from `start` on. `promised` bytes were counted before they were sent.
pub async fn count_served(pool: &PgPool, link: LinkId, promised: u64, start: u64, sent: u64) -> Result<()> {
    let mut transaction = pool.begin().await?;
    // The link may have been revoked meanwhile.
    let Some((_, mut usage)) = lock_link(&mut transaction, link).await? else { return Ok(()) };
    usage.give(start, sent);
    let given: Vec<i64> = usage.given.iter().copied().map(to_i64).collect();
    sqlx::query!(
        "update file_links set downloads = $2, bytes_served = bytes_served + $3, given = $4 where id = $1",
        link.0,
        i32::try_from(usage.downloads).unwrap_or(i32::MAX),
        to_i64(sent) - to_i64(promised),
        &given,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

async fn lock_link(connection: &mut PgConnection, link: LinkId) -> Result<Option<(Option<u64>, Usage)>> {
    let link = sqlx::query!(
        "select l.max_downloads, l.downloads, l.bytes_served, l.given, f.length
         from file_links l join files f on f.id = l.file_id where l.id = $1 for no key update of l",
        link.0,
    )
    .fetch_optional(&mut *connection)
    .await?;
    Ok(link.map(|link| {
        let most = link.max_downloads.map(|most| u64::from(most.unsigned_abs()));
        (most, usage(link.length, link.downloads, link.bytes_served, &link.given))
    }))
}

fn usage(length: Option<i64>, downloads: i32, bytes: i64, given: &[i64]) -> Usage {
    Usage {
        length: length.unwrap_or_default().unsigned_abs(),
        downloads: u64::from(downloads.unsigned_abs()),
        bytes: bytes.max(0).unsigned_abs(),
        given: given.iter().map(|part| part.max(&0).unsigned_abs()).collect(),
    }
}

/// Converts a number of bytes for the database.
fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Error for a link that does not exist or is no longer valid; clients must not learn which.
pub fn no_link() -> Error {
    Error::not_found("link")
}
