//! Stores of a report, found by their slugs.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::ids::StoreId;
use crate::domain::observed_offers::ObservedOffers;
use crate::error::Result;

/// Returns the ids of the observed stores by their slugs. With `may_create`, unknown ones are created.
pub async fn find_stores(
    connection: &mut PgConnection,
    observed: &ObservedOffers<'_>,
    may_create: bool,
    now: DateTime<Utc>,
) -> Result<HashMap<String, StoreId>> {
    let seen = observed.stores();
    let slugs: Vec<&str> = seen.keys().copied().collect();
    let mut stores = select_stores(connection, &slugs).await?;
    if may_create && stores.len() < slugs.len() {
        // In the order of the slugs, so that two workers that create the same stores do not deadlock.
        let unknown: BTreeMap<&str, &str> = seen
            .iter()
            .filter(|(slug, _)| !stores.contains_key(**slug))
            .map(|(slug, seen)| (*slug, seen.store_name.as_deref().unwrap_or(slug)))
            .collect();
        let ids: Vec<Uuid> = unknown.iter().map(|_| Uuid::now_v7()).collect();
        let (new_slugs, names): (Vec<&str>, Vec<&str>) = unknown.into_iter().unzip();
        sqlx::query!(
            "insert into stores (id, slug, name, created_at, updated_at)
             select id, slug, name, $4, $4 from unnest($1::uuid[], $2::text[], $3::text[]) as s (id, slug, name)
             on conflict (slug) do nothing",
            &ids,
            &new_slugs as &[&str],
            &names as &[&str],
            now,
        )
        .execute(&mut *connection)
        .await?;
        stores = select_stores(connection, &slugs).await?;
    }
    Ok(stores)
}

async fn select_stores(connection: &mut PgConnection, slugs: &[&str]) -> Result<HashMap<String, StoreId>> {
    let rows = sqlx::query!("select slug, id from stores where slug = any($1)", slugs as &[&str])
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(|row| (row.slug, StoreId(row.id))).collect())
}

/// Returns those of `slugs` that no store has.
pub async fn unknown_stores(executor: impl sqlx::PgExecutor<'_>, slugs: &[&str]) -> Result<Vec<String>> {
    let unknown = sqlx::query_scalar!(
        r#"select slug as "slug!" from unnest($1::text[]) as k (slug)
        where not exists (select from stores s where s.slug = k.slug)"#,
        slugs as &[&str],
    )
    .fetch_all(executor)
    .await?;
    Ok(unknown)
}
