//! Matching of reported titles to games.
//!
//! Titles with the same key (`domain::title::key`) are one game in all stores. An exception is a store that sells two
//! products whose titles differ in punctuation only (`Foo: Bar` and `Foo Bar`): each of them is a game of its own.

use std::collections::{BTreeSet, HashMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::database::pool::PgPool;
use crate::domain::ids::{GameId, StoreId};
use crate::domain::title::{key, normalise, normalise_as_before, spelling};
use crate::error::Result;

/// Maximum number of games of one key that are considered, the oldest first.
const MAX_GAMES: i64 = 50;
/// Maximum number of offers of one game that are considered, the newest first: those of one report are adjacent.
const MAX_OFFERS: i64 = 200;
/// Games whose keys are filled by one statement.
const SLICE: i64 = 1_000;
/// Maximum number of titles listed as meaning the same game.
const MAX_LISTED: i64 = 1_000;

/// An offer that needs a game.
pub struct Wanted<'a> {
    pub title: &'a str,
    pub store_id: StoreId,
    pub sku: &'a str,
}

/// The game chosen for an offer.
pub struct Choice {
    pub game_id: GameId,
    /// The store's spelling of the title, if it differs from that of the game.
    pub spelling: Option<String>,
}

/// A game to be created.
pub struct NewGame<'a> {
    pub id: GameId,
    pub title: &'a str,
    pub key: String,
}

/// Chooses a game for each of `wanted`, in order, and returns those that must be created first. No other transaction
/// may create games meanwhile.
///
/// # Errors
/// Those of the database.
pub async fn choose_games<'a>(
    connection: &mut PgConnection,
    wanted: &[Wanted<'a>],
) -> Result<(Vec<Choice>, Vec<NewGame<'a>>)> {
    let offers: Vec<Offer<'_, 'a>> = wanted
        .iter()
        .map(|wanted| Offer { wanted, key: key(wanted.title), spelling: spelling(wanted.title) })
        .collect();
    let mut games = Games::default();
    games.load(connection, &offers).await?;
    Ok(games.choose(&offers))
}

struct Offer<'w, 'a> {
    wanted: &'w Wanted<'a>,
    key: String,
    spelling: String,
}

struct KnownGame {
    id: GameId,
    spelling: String,
}

/// The games of the wanted keys, and what the stores concerned sell of them.
#[derive(Default)]
struct Games<'a> {
    by_key: HashMap<String, Vec<KnownGame>>,
    /// By game and store: the spellings, each with an SKU that uses it.
    sold: HashMap<(GameId, StoreId), Vec<(String, String)>>,
    /// By store and SKU: its game in another region.
    elsewhere: HashMap<(StoreId, String), GameId>,
    made: Vec<NewGame<'a>>,
}

impl<'a> Games<'a> {
    async fn load(&mut self, connection: &mut PgConnection, offers: &[Offer<'_, 'a>]) -> Result<()> {
        let keys: BTreeSet<&str> = offers.iter().map(|offer| offer.key.as_str()).collect();
        let titles: BTreeSet<String> =
            offers.iter().map(|offer| normalise_as_before(offer.wanted.title)).collect();
        let stores: BTreeSet<StoreId> = offers.iter().map(|offer| offer.wanted.store_id).collect();
        // Games without a key yet are from the previous version.
        let rows = sqlx::query!(
            r#"select id as "id!", title as "title!" from (
                select id, title, row_number() over (partition by match_title order by id) as place
                from games where match_title = any($1)
            ) keyed where place <= $3
            union all
            select id, title from games where match_title is null and normalised_title = any($2)"#,
            &keys.into_iter().collect::<Vec<_>>() as &[&str],
            &titles.into_iter().collect::<Vec<_>>(),
            MAX_GAMES,
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut spellings = HashMap::with_capacity(rows.len());
        for row in rows {
            let spelling = spelling(&row.title);
            let id = GameId(row.id);
            spellings.insert(id, spelling.clone());
            self.by_key.entry(key(&row.title)).or_default().push(KnownGame { id, spelling });
        }
        for games in self.by_key.values_mut() {
            games.sort_unstable_by_key(|game| game.id);
        }
        if spellings.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query!(
            r#"select known.id as "game_id!", o.store_id, o.sku, o.spelling
            from unnest($1::uuid[]) as known (id)
            cross join lateral (
                select store_id, sku, spelling from offers where game_id = known.id order by id desc limit $3
            ) o
            where o.store_id = any($2)"#,
            &spellings.keys().copied().collect::<Vec<_>>() as &[GameId],
            &stores.into_iter().collect::<Vec<_>>() as &[StoreId],
            MAX_OFFERS,
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            let game = GameId(row.game_id);
            let spelling = row.spelling.or_else(|| spellings.get(&game).cloned()).unwrap_or_default();
            self.sell(game, StoreId(row.store_id), &row.sku, &spelling);
        }
        Ok(())
    }

    fn choose(mut self, offers: &[Offer<'_, 'a>]) -> (Vec<Choice>, Vec<NewGame<'a>>) {
        // Keys for which a store has several spellings: none of these offers may join a game of another spelling.
        let mut first = HashMap::with_capacity(offers.len());
        let mut several = HashSet::new();
        for offer in offers {
            let of_store = (offer.wanted.store_id, offer.key.as_str());
            if *first.entry(of_store).or_insert(offer.spelling.as_str()) != offer.spelling {
                several.insert(of_store);
            }
        }
        let choose = |offer| {
            let Offer { wanted, key, .. }: &Offer<'_, 'a> = offer;
            let alone = !several.contains(&(wanted.store_id, key.as_str()));
            self.choose_one(offer, alone)
        };
        let choices: Vec<Choice> = offers.iter().map(choose).collect();
        (choices, self.made)
    }

    /// Chooses the game that the SKU belongs to in another region; else the oldest with the same spelling; else the
    /// oldest of which the store sells nothing in another spelling; else a new one.
    fn choose_one(&mut self, offer: &Offer<'_, 'a>, may_be_spelled_otherwise: bool) -> Choice {
        let Wanted { title, store_id, sku } = *offer.wanted;
        let games = self.by_key.get(&offer.key).map(Vec::as_slice).unwrap_or_default();
        let is_free = |game: &&KnownGame| {
            let sold = self.sold.get(&(game.id, store_id));
            !sold.is_some_and(|sold| {
                sold.iter().any(|(spelling, other)| *spelling != offer.spelling && other != sku)
            })
        };
        let elsewhere = self.elsewhere.get(&(store_id, sku.to_owned()));
        let (same, others): (Vec<&KnownGame>, Vec<&KnownGame>) =
            games.iter().partition(|game| game.spelling == offer.spelling);
        let others = others.into_iter().filter(|_| may_be_spelled_otherwise);
        let found = games.iter().find(|game| Some(&game.id) == elsewhere);
        let found = found.or_else(|| same.into_iter().chain(others).find(is_free));
        let (game_id, is_spelled_so) = match found {
            Some(game) => (game.id, game.spelling == offer.spelling),
            None => {
                let id = GameId::now_v7();
                let game = KnownGame { id, spelling: offer.spelling.clone() };
                self.by_key.entry(offer.key.clone()).or_default().push(game);
                self.made.push(NewGame { id, title, key: offer.key.clone() });
                (id, true)
            }
        };
        self.sell(game_id, store_id, sku, &offer.spelling);
        Choice { game_id, spelling: (!is_spelled_so).then(|| offer.spelling.clone()) }
    }

    fn sell(&mut self, game: GameId, store: StoreId, sku: &str, spelling: &str) {
        self.elsewhere.entry((store, sku.to_owned())).or_insert(game);
        let sold = self.sold.entry((game, store)).or_default();
        if !sold.iter().any(|(known, _)| known == spelling) {
            sold.push((spelling.to_owned(), sku.to_owned()));
        }
    }
}

/// Fills the keys of some games without one: those from before keys existed, and those of a previous version that
/// still runs. Safe to run concurrently; a game whose title changes meanwhile is left for the next call. Returns how
/// many were filled; to be repeated until it returns 0.
///
/// # Errors
/// Those of the database.
pub async fn fill_keys(pool: &PgPool) -> Result<u64> {
    let games = sqlx::query!("select id, title from games where match_title is null limit $1", SLICE)
        .fetch_all(pool)
        .await?;
    let (ids, titles): (Vec<Uuid>, Vec<String>) = games.into_iter().map(|game| (game.id, game.title)).unzip();
    let keys: Vec<String> = titles.iter().map(|title| key(title)).collect();
    let normalised: Vec<String> = titles.iter().map(|title| normalise(title)).collect();
    let filled = sqlx::query!(
        "update games g set match_title = k.key, normalised_title = k.normalised
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as k (id, title, key, normalised)
         where g.id = k.id and g.title = k.title and g.match_title is null",
        &ids,
        &titles,
        &keys,
        &normalised,
    )
    .execute(pool)
    .await?;
    Ok(filled.rows_affected())
}

/// A game whose title means the same as another's.
pub struct SameGame {
    pub key: String,
    pub id: GameId,
    pub title: String,
    pub offers: i64,
}

/// Lists games that share their key with another, by key, the oldest first; limited to the first thousand keys.
pub async fn list_same_games(pool: &PgPool) -> Result<Vec<SameGame>> {
    let games = sqlx::query_as!(
        SameGame,
        r#"select g.match_title as "key!", g.id, g.title,
            (select count(*) from offers o where o.game_id = g.id) as "offers!"
        from games g
        where g.match_title in (
            select match_title from games where match_title is not null
            group by match_title having count(*) > 1 order by match_title limit $1)
        order by g.match_title, g.id"#,
        MAX_LISTED,
    )
    .fetch_all(pool)
    .await?;
    Ok(games)
}
