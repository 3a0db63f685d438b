//! Removal of files: the row is hidden first, then the bytes are removed, then the row. If the process dies in
//! between, the next round continues from there.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::database::pool::PgPool;
use crate::domain::ids::{AccountId, FileId};
use crate::error::Result;
use crate::store::files::no_file;

/// Hides a file of an account; its bytes are removed later.
///
/// # Errors
/// `NotFound`: the account has no such file.
pub async fn hide_file(pool: &PgPool, account: AccountId, id: FileId, now: DateTime<Utc>) -> Result<()> {
    let hidden = sqlx::query!(
        "update files set state = 'removing', writer = null, updated_at = $3
         where id = $1 and account_id = $2 and state <> 'removing' and expires_at > $3",
        id.0,
        account.0,
        now,
    )
    .execute(pool)
    .await?;
    if hidden.rows_affected() == 0 { Err(no_file()) } else { Ok(()) }
}

/// Hides files that have expired, and returns how many.
pub async fn hide_expired(pool: &PgPool, max: i64, now: DateTime<Utc>) -> Result<u64> {
    let hidden = sqlx::query!(
        "update files set state = 'removing', writer = null, updated_at = $1
         where id = any (array(
            select id from files where expires_at <= $1 and state <> 'removing'
            order by expires_at limit $2 for no key update skip locked))",
        now,
        max,
    )
    .execute(pool)
    .await?;
    Ok(hidden.rows_affected())
}

/// Lists hidden files after `after`, the last id of the previous page.
pub async fn list_hidden(pool: &PgPool, after: FileId, max: i64) -> Result<Vec<FileId>> {
    let hidden = sqlx::query_scalar!(
        "select id from files where state = 'removing' and id > $1 order by id limit $2",
        after.0,
        max,
    )
    .fetch_all(pool)
    .await?;
    Ok(hidden.into_iter().map(FileId).collect())
}

/// A location of bytes to remove, with the progress that its store of blobs has recorded.
pub struct PlaceToEmpty {
    pub place: String,
    pub progress: Option<Value>,
}

/// Lists the locations of a hidden file whose bytes no other file shares.
pub async fn list_places_to_empty(pool: &PgPool, id: FileId) -> Result<Vec<PlaceToEmpty>> {
    let places = sqlx::query_as!(
        PlaceToEmpty,
        "select distinct on (p.place) p.place, p.progress from file_pieces p
         where p.file_id = $1
            and not exists (select from file_pieces other where other.place = p.place and other.file_id <> $1)
         order by p.place",
        id.0,
    )
    .fetch_all(pool)
    .await?;
    Ok(places)
}

/// Deletes the row of a hidden file whose bytes are removed.
pub async fn forget_file(pool: &PgPool, id: FileId) -> Result<()> {
    sqlx::query!("delete from files where id = $1 and state = 'removing'", id.0).execute(pool).await?;
    Ok(())
}

/// Returns those of the names that belong to no file: neither as the location at the same index, nor as the tail of
/// the piece there.
pub async fn list_unknown_names(pool: &PgPool, names: &[String], places: &[String]) -> Result<Vec<String>> {
    let unknown = sqlx::query_scalar!(
        r#"select named.name as "name!" from unnest($1::text[], $2::text[]) as named (name, place)
         where not exists (
            select from file_pieces p
            where p.place = named.place and (p.place = named.name or p.progress ->> 'tail' = named.name))"#,
        names,
        places,
    )
    .fetch_all(pool)
    .await?;
    Ok(unknown)
}

/// Returns those of a store's open uploads to locations that belong to no piece. Each is identified only by its id.
pub async fn list_unknown_uploads(pool: &PgPool, places: &[String], ids: &[String]) -> Result<Vec<String>> {
    let unknown = sqlx::query_scalar!(
        r#"select named.id as "id!" from unnest($1::text[], $2::text[]) as named (place, id)
         where not exists (
            select from file_pieces p where p.place = named.place and p.progress ->> 'upload' = named.id)"#,
        places,
        ids,
    )
    .fetch_all(pool)
    .await?;
    Ok(unknown)
}

/// A piece that must exist in the store.
pub struct KeptPiece {
    pub file_id: FileId,
    pub start_at: i64,
    pub length: i64,
    pub place: String,
}

/// Lists pieces of complete files after the one named.
pub async fn list_kept_pieces(pool: &PgPool, after: (FileId, i64), max: i64) -> Result<Vec<KeptPiece>> {
    let pieces = sqlx::query_as!(
        KeptPiece,
        "select p.file_id, p.start_at, p.length, p.place
         from file_pieces p join files f on f.id = p.file_id
         where f.state = 'complete' and (p.file_id, p.start_at) > ($1, $2)
         order by p.file_id, p.start_at limit $3",
        after.0.0,
        after.1,
        max,
    )
    .fetch_all(pool)
    .await?;
    Ok(pieces)
}

/// Hides a complete file whose bytes are lost, in whichever account.
pub async fn hide_lost(pool: &PgPool, id: FileId, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("update files set state = 'removing', updated_at = $2 where id = $1", id.0, now)
        .execute(pool)
        .await?;
    Ok(())
}
