//! Creation of offers that are reported for the first time. Each gets a game by its title, a known one or a new one.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::ids::{GameId, StoreId};
use crate::domain::observed_offers::ObservedOffer;
use crate::domain::title::normalise;
use crate::error::Result;
use crate::store::matching::{self, Wanted};

/// New offers created in one transaction.
const SLICE: usize = 2_000;

/// Creates offers, each matched to a game by its title, or with a new game.
///
/// One process of the fleet does so at a time, so that two reports of a new game do not create it twice. It works in
/// slices, which stay committed, so that no other process waits for its turn longer than the statement timeout.
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
        // Without a title, only the SKU is known.
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
