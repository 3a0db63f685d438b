//! Stores that sell games.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, Postgres, QueryBuilder};
use uuid::Uuid;

use super::offer_removal::delete_offers;
use crate::database::pool::PgPool;
use crate::domain::ids::{OfferId, StoreId};
use crate::domain::title;
use crate::error::{Error, Result};

/// A store.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct Store {
    pub id: StoreId,
    /// Name in URLs and reports; unique.
    pub slug: String,
    pub name: String,
    pub url: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Fields of a store that a caller can set, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreFields {
    pub slug: String,
    pub name: String,
    pub url: Option<String>,
}

/// Finds a store by its id, its slug, or its name (names are matched by their slug).
pub async fn find_store(executor: impl PgExecutor<'_>, reference: &str) -> Result<Option<Store>> {
    let store = sqlx::query_as!(
        Store,
        "select id, slug, name, url, created_at, updated_at from stores where id = $1 or slug = $2
         order by id = $1 desc limit 1",
        reference.parse::<Uuid>().unwrap_or_default(),
        title::slug(reference),
    )
    .fetch_optional(executor)
    .await?;
    Ok(store)
}

/// Query for stores by slug; `after` is the last slug of the previous page.
pub fn list_stores_query(after: Option<&str>, rows: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("select id, slug, name, url, created_at, updated_at from stores");
    if let Some(after) = after {
        query.push(" where slug > ").push_bind(after.to_owned());
    }
    query.push(" order by slug limit ").push_bind(rows);
    query
}

/// Lists one page of stores, by slug.
pub async fn list_stores(
    executor: impl PgExecutor<'_>,
    after: Option<&str>,
    rows: i64,
) -> Result<Vec<Store>> {
    Ok(list_stores_query(after, rows).build_query_as().fetch_all(executor).await?)
}

/// Creates a store.
///
/// # Errors
/// `Conflict`: its slug is taken.
pub async fn create_store(
    executor: impl PgExecutor<'_>,
    fields: &StoreFields,
    now: DateTime<Utc>,
) -> Result<Store> {
    let store = sqlx::query_as!(
        Store,
        "insert into stores (id, slug, name, url, created_at, updated_at) values ($1, $2, $3, $4, $5, $5)
         returning id, slug, name, url, created_at, updated_at",
        Uuid::now_v7(),
        fields.slug,
        fields.name,
        fields.url,
        now,
    )
    .fetch_one(executor)
    .await?;
    Ok(store)
}

/// Changes a store to the result of `change`, which receives the locked row and may refuse.
///
/// # Errors
/// `NotFound`: there is no such store. `Conflict`: the new slug is taken. Also the errors of `change`.
pub async fn update_store(
    pool: &PgPool,
    id: StoreId,
    now: DateTime<Utc>,
    change: impl FnOnce(&Store) -> Result<StoreFields>,
) -> Result<Store> {
    let mut transaction = pool.begin().await?;
    let store = sqlx::query_as!(
        Store,
        "select id, slug, name, url, created_at, updated_at from stores where id = $1 for update",
        id.0,
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Error::not_found("store"))?;
    let fields = change(&store)?;
    let unchanged =
        StoreFields { slug: store.slug.clone(), name: store.name.clone(), url: store.url.clone() };
    if fields == unchanged {
        return Ok(store);
    }
    let store = sqlx::query_as!(
        Store,
        "update stores set slug = $2, name = $3, url = $4, updated_at = $5 where id = $1
         returning id, slug, name, url, created_at, updated_at",
        id.0,
        fields.slug,
        fields.name,
        fields.url,
        now,
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(store)
}

/// Offers removed in one transaction when a store is removed.
const DELETE_SLICE: i64 = 1_000;

/// Removes a store with its offers and their history, unless `check` refuses.
///
/// A store has up to millions of offers, so they are removed in slices. A removal that was interrupted can be
/// repeated.
///
/// # Errors
/// `NotFound`: there is no such store. Also the errors of `check`.
pub async fn delete_store(pool: &PgPool, id: StoreId, check: impl Fn(&Store) -> Result<()>) -> Result<()> {
    loop {
        let mut transaction = pool.begin().await?;
        let store = sqlx::query_as!(
            Store,
            "select id, slug, name, url, created_at, updated_at from stores where id = $1 for update",
            id.0,
        )
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or_else(|| Error::not_found("store"))?;
        check(&store)?;
        let offers = sqlx::query_scalar!(
            "select id from offers where store_id = $1 order by id limit $2 for update",
            id.0,
            DELETE_SLICE,
        )
        .fetch_all(&mut *transaction)
        .await?;
        let offers: Vec<OfferId> = offers.into_iter().map(OfferId).collect();
        delete_offers(&mut transaction, &offers).await?;
        let last = (offers.len() as i64) < DELETE_SLICE;
        if last {
            sqlx::query!("delete from stores where id = $1", id.0).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        if last {
            return Ok(());
        }
    }
}
