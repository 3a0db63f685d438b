//! Share links: addresses under which anybody may fetch a file, for a time and a number of downloads.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::files::StoredFile;
use crate::error::{Error, Result};
use crate::store::pool::PgPool;

/// A link as its owner sees it; its token is not kept.
#[derive(Clone, Debug)]
pub struct FileLink {
    pub id: Uuid,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub max_downloads: Option<i32>,
    pub downloads: i32,
}

pub struct NewLink<'a> {
    pub id: Uuid,
    /// SHA-256 of its token.
    pub digest: &'a [u8],
    pub expires_at: DateTime<Utc>,
    pub max_downloads: Option<i32>,
}

/// A file has no more links than this.
const MAX_LINKS: i64 = 100;

/// Makes a link to a complete file.
///
/// # Errors
/// `Conflict` beyond the number of links of a file.
pub async fn create_link(
    pool: &PgPool,
    file: Uuid,
    new: &NewLink<'_>,
    now: DateTime<Utc>,
) -> Result<FileLink> {
    let mut transaction = pool.begin().await?;
    // By a statement before the one that counts: a statement that waits for a lock still counts what was there when it
    // began.
    sqlx::query!("select 1 as one from files where id = $1 for no key update", file)
        .fetch_optional(&mut *transaction)
        .await?;
    let made = sqlx::query_as!(
        FileLink,
        "insert into file_links (id, file_id, digest, created_at, expires_at, max_downloads)
         select $1, f.id, $3, $4, $5, $6
         from files f
         where f.id = $2 and (select count(*) from file_links where file_id = $2) < $7
         returning id, created_at, expires_at, max_downloads, downloads",
        new.id,
        file,
        new.digest,
        now,
        new.expires_at,
        new.max_downloads,
        MAX_LINKS,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    made.ok_or_else(|| Error::conflict(format!("A file has no more than {MAX_LINKS} links.")))
}

/// A file's links, the newest first; `before` is the id after which the page begins.
pub async fn list_links(pool: &PgPool, file: Uuid, before: Option<Uuid>, rows: i64) -> Result<Vec<FileLink>> {
    let links = sqlx::query_as!(
        FileLink,
        "select id, created_at, expires_at, max_downloads, downloads from file_links
         where file_id = $1 and id < $2 order by id desc limit $3",
        file,
        before.unwrap_or(Uuid::max()),
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(links)
}

/// Takes a link back.
///
/// # Errors
/// `NotFound` when the file has no such link.
pub async fn delete_link(pool: &PgPool, file: Uuid, id: Uuid) -> Result<()> {
    let deleted =
        sqlx::query!("delete from file_links where file_id = $1 and id = $2", file, id).execute(pool).await?;
    if deleted.rows_affected() == 0 { Err(Error::not_found("link")) } else { Ok(()) }
}

/// The file of a link that is valid, for whoever knows its token, and whether its downloads are limited.
///
/// # Errors
/// `NotFound`: there is no such link, or its time is over, or its file's.
pub async fn find_shared(
    pool: &PgPool,
    digest: &[u8],
    now: DateTime<Utc>,
) -> Result<(Uuid, StoredFile, bool)> {
    let link = sqlx::query!(
        "select l.id, l.file_id, f.account_id, l.max_downloads from file_links l join files f on f.id = l.file_id
         where l.digest = $1 and l.expires_at > $2 and f.state = 'complete'",
        digest,
        now,
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(no_link)?;
    let file =
        super::files::find_file(pool, link.account_id, link.file_id, now).await.map_err(|_| no_link())?;
    Ok((link.id, file, link.max_downloads.is_some()))
}

/// Counts a download that begins at byte `start` and asks for `bytes` of a file of `length`.
///
/// What begins at the first byte is a download. What begins behind it goes on with one, and a limited link gives no
/// more bytes that way than its downloads could have left open: so ranges are no way around the limit.
///
/// # Errors
/// `NotFound`: its downloads are used up, or it was taken back meanwhile.
pub async fn count_download(pool: &PgPool, link: Uuid, start: i64, bytes: i64, length: i64) -> Result<()> {
    let counted = sqlx::query!(
        "update file_links set downloads = downloads + case when $2::bigint = 0 then 1 else 0 end,
            continued_bytes = continued_bytes + case when $2::bigint = 0 then 0 else $3::bigint end
         where id = $1 and case
            when max_downloads is null then true
            when $2::bigint = 0 then downloads < max_downloads
            else continued_bytes + $3::bigint <= downloads * $4::bigint
         end",
        link,
        start,
        bytes,
        length,
    )
    .execute(pool)
    .await?;
    if counted.rows_affected() == 0 { Err(no_link()) } else { Ok(()) }
}

fn no_link() -> Error {
    Error::not_found("link")
}
