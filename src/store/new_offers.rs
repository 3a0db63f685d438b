//! What a report makes when it names something for the first time: stores, games, offers.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::ids::{GameId, StoreId};
use crate::domain::observed_offers::{ObservedOffer, ObservedOffers};
use crate::domain::title::normalise;
use crate::error::Result;
use crate::store::matching::{self, Wanted};

/// New offers that are made in one transaction.
const SLICE: usize = 2_000;

/// The ids of the stores by their slugs; unknown ones are made when `may_create`.
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
        // In the order of the slugs: two workers that make the same stores do not form a circle.
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

/// Those of `slugs` that no store has.
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

/// Makes offers, each matched to a game by its title, or with a new game.
///
/// One at a time in the whole fleet, so that two reports of a new game do not make it twice; in slices, so that others
/// wait no longer for their turn than the database lets a statement run, and what is made stays made.
pub async fn create_offers(
    connection: &mut PgConnection,
    unknown: &[&ObservedOffer<'_>],
    now: DateTime<Utc>,
) -> Result<()> {
    for slice in unknown.chunks(SLICE) {
        create_slice(connection, slice, now).await?;
    }
    Ok(())
}

async fn create_slice(
    connection: &mut PgConnection,
    unknown: &[&ObservedOffer<'_>],
    now: DateTime<Utc>,
) -> Result<()> {
    let mut wanted: Vec<Wanted<'_>> = Vec::with_capacity(unknown.len());
    let (mut regions, mut platforms, mut urls) = (Vec::new(), Vec::new(), Vec::new());
    for offer in unknown {
        let first = offer.observations[0];
        let Some(store_id) = offer.store_id else { continue };
        // Without a title the sku is all that is known.
        let title = offer.titled().title.as_deref().unwrap_or(&first.sku);
        wanted.push(Wanted { title, store_id, sku: &first.sku });
        regions.push(first.region.as_str());
        platforms.push(offer.observations.iter().find_map(|seen| seen.platform.as_deref()));
        urls.push(offer.observations.iter().find_map(|seen| seen.url.as_deref()));
    }

    let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtext('salebell new offers'))::text as locked")
        .fetch_one(&mut *transaction)
        .await?;
    let (choices, new_games) = matching::choose_games(&mut transaction, &wanted).await?;
    let normalised: Vec<String> = new_games.iter().map(|game| normalise(game.title)).collect();
    sqlx::query!(
        "insert into games (id, title, normalised_title, match_title, created_at, updated_at)
         select id, title, normalised, key, $5, $5
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as n (id, title, normalised, key)",
        &new_games.iter().map(|game| game.id).collect::<Vec<_>>() as &[GameId],
        &new_games.iter().map(|game| game.title).collect::<Vec<_>>() as &[&str],
        &normalised,
        &new_games.iter().map(|game| game.key.as_str()).collect::<Vec<_>>() as &[&str],
        now,
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "insert into offers (id, game_id, store_id, sku, region, platform, url, spelling, created_at, updated_at)
         select n.id, g.id, n.store_id, n.sku, n.region, n.platform, n.url, n.spelling, $9, $9
         from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
             as n (id, game_id, store_id, sku, region, platform, url, spelling)
         join games g on g.id = n.game_id
         on conflict (store_id, sku, region) do nothing",
        &choices.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>(),
        &choices.iter().map(|choice| choice.game_id).collect::<Vec<_>>() as &[GameId],
        &wanted.iter().map(|offer| offer.store_id).collect::<Vec<_>>() as &[StoreId],
        &wanted.iter().map(|offer| offer.sku).collect::<Vec<_>>() as &[&str],
        &regions as &[&str],
        &platforms as &[Option<&str>],
        &urls as &[Option<&str>],
        &choices.iter().map(|choice| choice.spelling.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        now,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}
