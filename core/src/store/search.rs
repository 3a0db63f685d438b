//! Search for titles: by full text first, then with misspelt words corrected, then by similarity.
//!
//! The cost of a search must not grow with the catalogue, in which half of the titles contain "the". Each way
//! therefore takes a bounded number of candidates, in an order that an index provides, and the best of them are
//! shown.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::games::Game;
use crate::database::pool::PgPool;
use crate::domain::ids::GameId;
use crate::domain::search::{EXACT, allowed_distance, distance, score, swaps_and_omissions, words};
use crate::domain::title::{key, normalise};
use crate::error::Result;

/// Maximum number of titles considered that contain the words; if there are more, the newest.
const MAX_HOLDING: i64 = 300;
/// Maximum number of titles considered that begin with the search text, in alphabetical order.
const MAX_BEGINNING: i64 = 200;
/// Maximum number of completions of a word that is only begun.
const MAX_COMPLETIONS: i64 = 30;
/// Maximum number of alternatives to a misspelt word.
const MAX_ALTERNATIVES: usize = 8;

/// Ways of searching, each tried if the previous one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// The words as typed; the last of them may be only begun.
    Typed,
    /// With corrections of misspelt words.
    Mended,
    /// Titles that are similar, such as "half life" for "halflife".
    Alike,
}

/// Position of a game in the results. The way stays the same from page to page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchPosition {
    pub way: Way,
    pub score: i32,
    pub id: GameId,
}

#[derive(sqlx::FromRow)]
struct Candidate {
    #[sqlx(flatten)]
    game: Game,
    normalised_title: String,
    /// Similarity in thousandths; 0 if it was not computed.
    likeness: i32,
}

const COLUMNS: &str = "id, title, publisher, released_on, url, created_at, updated_at, normalised_title";

/// Finds games by what a user types of their title, the best first; `after` is the position of the last one of the
/// previous page.
///
/// # Errors
/// Those of the database.
pub async fn search_games(
    pool: &PgPool,
    text: &str,
    after: Option<SearchPosition>,
    rows: i64,
) -> Result<Vec<(SearchPosition, Game)>> {
    let (query, wanted) = (normalise(text), key(text));
    let query = query.as_str();
    let ways = match &after {
        Some(place) => vec![place.way],
        None => vec![Way::Typed, Way::Mended, Way::Alike],
    };
    let typed = words(query);
    let mut connection = pool.acquire().await?;
    let completions = match typed.last() {
        Some(last) => find_completions(&mut connection, last).await?,
        None => Vec::new(),
    };
    for way in ways {
        let candidates = match way {
            Way::Typed => {
                let text = tsquery(&typed, &completions, &HashMap::new());
                holding(&mut connection, Some(query), &text).await?
            }
            Way::Mended => {
                let alternatives = find_alternatives(&mut connection, &typed).await?;
                if alternatives.is_empty() {
                    Vec::new()
                } else {
                    holding(&mut connection, None, &tsquery(&typed, &completions, &alternatives)).await?
                }
            }
            Way::Alike => alike(&mut connection, query).await?,
        };
        let mut found: Vec<(SearchPosition, Game)> = candidates
            .into_iter()
            .map(|candidate| {
                let score = match way {
                    Way::Alike => candidate.likeness,
                    _ => score(query, &candidate.normalised_title),
                };
                // The words of "Burrow Tales" and "Burrow Tales+" are the same.
                let score = score + if key(&candidate.game.title) == wanted { EXACT } else { 0 };
                (SearchPosition { way, score, id: candidate.game.id }, candidate.game)
            })
            .collect();
        // A title that contains the words and begins with them was found twice.
        found.sort_by_key(|(place, _)| (-place.score, place.id));
        found.dedup_by_key(|(place, _)| place.id);
        if !found.is_empty() {
            if let Some(after) = after {
                found.retain(|(place, _)| (-place.score, place.id) > (-after.score, after.id));
            }
            found.truncate(rows as usize);
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Query for games whose titles contain the words of a `tsquery`, and for those whose titles begin with `beginning`.
pub fn candidates_query(beginning: Option<&str>, tsquery: &str) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(format!(
        "(select {COLUMNS}, 0 as likeness from games where search @@ to_tsquery('simple', "
    ));
    query.push_bind(tsquery.to_owned()).push(") order by id desc limit ").push_bind(MAX_HOLDING).push(")");
    if let Some(beginning) = beginning {
        query.push(format_args!(
            " union all (select {COLUMNS}, 0 as likeness from games where normalised_title like "
        ));
        let pattern = beginning.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        query.push_bind(pattern + "%").push(" order by normalised_title using ~<~ limit ");
        query.push_bind(MAX_BEGINNING).push(")");
    }
    query
}

async fn holding(
    connection: &mut PgConnection,
    beginning: Option<&str>,
    tsquery: &str,
) -> Result<Vec<Candidate>> {
    // Planned for its words each time: rare ones are looked up, common ones are found by walking through the newest
    // games.
    let mut query = candidates_query(beginning, tsquery);
    Ok(query.build_query_as().persistent(false).fetch_all(connection).await?)
}

/// Builds the `tsquery` of words, each with its alternatives, and the last with its completions: `('wicther' |
/// 'witcher') & ('wil' | 'wild' | 'wilds')`. Except as the last word, "and" is optional: the title may have a "&".
fn tsquery(typed: &[&str], completions: &[String], alternatives: &HashMap<String, Vec<String>>) -> String {
    let last = typed.len().saturating_sub(1);
    let terms =
        typed.iter().enumerate().filter(|(at, word)| **word != "and" || *at == last).map(|(at, word)| {
            let mut terms = vec![term(word)];
            terms.extend(completions.iter().filter(|_| at == last).map(|word| term(word)));
            terms.extend(alternatives.get(*word).into_iter().flatten().map(|word| term(word)));
            format!("({})", terms.join(" | "))
        });
    terms.collect::<Vec<_>>().join(" & ")
}

/// Quotes one word of a `tsquery`, so that none of its characters is an operator.
fn term(word: &str) -> String {
    format!("'{}'", word.replace('\\', "\\\\").replace('\'', "''"))
}

/// Finds the words that begin with `prefix`, the shortest first. A prefix in the `tsquery` itself would do as well,
/// but the planner cannot estimate its cost, which grows with the number of titles.
async fn find_completions(connection: &mut PgConnection, prefix: &str) -> Result<Vec<String>> {
    let completions = sqlx::query_scalar!(
        "select word from title_words where starts_with(word, $1) and word <> $1 order by length(word), word limit $2",
        prefix,
        MAX_COMPLETIONS,
    )
    .fetch_all(connection)
    .await?;
    Ok(completions)
}

/// Finds, for each misspelt word, those that may have been meant, the nearest first.
async fn find_alternatives(
    connection: &mut PgConnection,
    typed: &[&str],
) -> Result<HashMap<String, Vec<String>>> {
    let long: Vec<String> =
        typed.iter().filter(|word| allowed_distance(word) > 0).map(|word| (*word).to_owned()).collect();
    // Two letters swapped in a short word leave no trigram in common, so these variants are looked up one by one.
    let (mut of, mut neighbours) = (Vec::new(), Vec::new());
    for word in &long {
        for neighbour in swaps_and_omissions(word) {
            of.push(word.clone());
            neighbours.push(neighbour);
        }
    }
    let mut transaction = sqlx::Connection::begin(connection).await?;
    sqlx::query!("select set_config('pg_trgm.similarity_threshold', '0.25', true)")
        .fetch_one(&mut *transaction)
        .await?;
    let similar = sqlx::query!(
        r#"select typed.word as "typed!", known.word as "known!"
        from unnest($1::text[]) as typed (word)
        cross join lateral (
            select word from title_words w where w.word % typed.word
            order by similarity(w.word, typed.word) desc, w.word limit 100
        ) known
        union
        select near.typed, w.word from unnest($2::text[], $3::text[]) as near (typed, word)
        join title_words w on w.word = near.word"#,
        &long,
        &of,
        &neighbours,
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;

    let mut near: HashMap<String, Vec<(usize, String)>> = HashMap::new();
    for row in similar {
        let slips = distance(&row.typed, &row.known);
        if slips > 0 && slips <= allowed_distance(&row.typed) {
            near.entry(row.typed).or_default().push((slips, row.known));
        }
    }
    let nearest = near.into_iter().map(|(typed, mut known)| {
        known.sort_unstable();
        (typed, known.into_iter().take(MAX_ALTERNATIVES).map(|(_, word)| word).collect())
    });
    Ok(nearest.collect())
}

/// Query for games whose titles have a part that is similar to the query.
pub fn alike_query(query: &str) -> QueryBuilder<Postgres> {
    let mut builder = QueryBuilder::new(format!("select {COLUMNS}, (1000 * word_similarity("));
    builder.push_bind(query.to_owned());
    builder.push(", normalised_title))::integer as likeness from games where ").push_bind(query.to_owned());
    builder.push(" <% normalised_title limit ").push_bind(MAX_HOLDING);
    builder
}

async fn alike(connection: &mut PgConnection, query: &str) -> Result<Vec<Candidate>> {
    let mut transaction = sqlx::Connection::begin(connection).await?;
    set_up_alike(&mut transaction).await?;
    let candidates =
        alike_query(query).build_query_as().persistent(false).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(candidates)
}

/// Settings of a transaction for `alike_query`. Half of the trigrams are enough, and the index returns the rows in
/// the order of the table, the same for each page, which a parallel scan of the table would not guarantee.
pub async fn set_up_alike(connection: &mut PgConnection) -> Result<()> {
    sqlx::query!(
        "select set_config('pg_trgm.word_similarity_threshold', '0.5', true) as alike,
            set_config('enable_seqscan', 'off', true) as indexed,
            set_config('max_parallel_workers_per_gather', '0', true) as alone"
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}
