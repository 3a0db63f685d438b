//! Cost of list queries: each query runs on a catalogue and on one ten times as large. It must use the same plan, scan
//! no big table completely, and read a bounded number of rows.

use salebell::database::pool::PgPool;
use salebell::domain::history::Resolution;
use salebell::domain::ids::{GameId, OfferId, QuarantinedPriceId, SaleId, StoreId};
use salebell::store::deals::{self, DealFilter, DealKey, DealSort};
use salebell::store::games;
use salebell::store::history::{self, HistoryFilter};
use salebell::store::offers::{self, OfferFilter};
use salebell::store::quarantine::{self, State, Which};
use salebell::store::search;
use salebell::store::stores;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Execute, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::support::TestApp;

/// Number of games in the smaller catalogue; each game has ten offers, and each offer five prices.
const GAMES: i64 = 3_000;
/// Rows fetched for a page: the page's items, and one row more that shows whether there is another page.
const PAGE: i64 = 51;
/// Maximum number of rows that a query may read for a page whose filters match every tenth row.
const MAX_ROWS: f64 = 2_500.0;
/// Maximum number of rows that a search may read: some hundred titles, every thirtieth of which contains the word.
const MAX_ROWS_OF_SEARCH: f64 = 9_000.0;

/// Makes a catalogue of `games` games, with planner statistics.
async fn catalogue(games: i64) -> TestApp {
    let app = TestApp::spawn().await;
    let script = include_str!("../../../benches/catalogue.sql").replace(":games", &games.to_string());
    let mut connection = app.state.writer.acquire().await.unwrap();
    sqlx::raw_sql("set statement_timeout = 0").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut *connection).await.unwrap();
    for table in ["stores", "games", "title_words", "offers", "sales", "price_history", "quarantined_prices"]
    {
        sqlx::raw_sql(AssertSqlSafe(format!("vacuum analyze {table}")))
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    drop(connection);
    app
}

/// Runs exactly the query that the service runs, and returns its plan with the measured figures.
async fn explain(pool: &PgPool, mut query: QueryBuilder<Postgres>) -> Value {
    let text = format!("explain (analyze, timing off, format json) {}", query.sql().as_str());
    let arguments = query.build().take_arguments().unwrap().unwrap();
    let plan: Value = sqlx::query_scalar_with(AssertSqlSafe(text), arguments)
        .persistent(false)
        .fetch_one(pool)
        .await
        .unwrap();
    plan[0]["Plan"].clone()
}

/// Calls `visit` with every node of a plan.
fn walk<'p>(plan: &'p Value, visit: &mut impl FnMut(&'p Value)) {
    visit(plan);
    for child in plan["Plans"].as_array().into_iter().flatten() {
        walk(child, visit);
    }
}

/// How the page is found: the kinds of the nodes and what they read, without the names of partitions. What is joined
/// afterwards is only a few dozen rows.
fn shape(plan: &Value) -> Vec<String> {
    let mut page = plan;
    walk(plan, &mut |node| {
        if ["CTE page", "CTE named"].iter().any(|name| node["Subplan Name"] == *name) {
            page = node;
        }
    });
    let mut shape = Vec::new();
    walk(page, &mut |node| {
        let relation = node["Relation Name"].as_str().unwrap_or_default();
        let text = if relation.starts_with("price_history") {
            "price_history".to_owned()
        } else {
            format!(
                "{} {relation} {}",
                node["Node Type"].as_str().unwrap(),
                node["Index Name"].as_str().unwrap_or_default()
            )
        };
        if shape.last() != Some(&text) {
            shape.push(text);
        }
    });
    shape
}

/// Number of rows read by the scans of a plan.
fn rows_read(plan: &Value) -> f64 {
    let mut rows = 0.0;
    walk(plan, &mut |node| {
        if node["Relation Name"].is_string() {
            let loops = node["Actual Loops"].as_f64().unwrap();
            let per_loop = |name: &str| node[name].as_f64().unwrap_or(0.0);
            rows += loops
                * (per_loop("Actual Rows")
                    + per_loop("Rows Removed by Filter")
                    + per_loop("Rows Removed by Index Recheck"));
        }
    });
    rows
}

/// Tables that a plan scans completely, except those that consist of a few pages.
fn read_whole(plan: &Value) -> Vec<&str> {
    let mut tables = Vec::new();
    walk(plan, &mut |node| {
        let whole = node["Node Type"] == "Seq Scan";
        let rows =
            node["Actual Rows"].as_f64().unwrap() + node["Rows Removed by Filter"].as_f64().unwrap_or(0.0);
        tables.extend(node["Relation Name"].as_str().filter(|_| whole && rows > 100.0));
    });
    tables
}

/// Every list query, with a name for its parameters.
async fn queries(pool: &PgPool) -> Vec<(String, QueryBuilder<Postgres>)> {
    let pick = |sql: &'static str| sqlx::query_scalar::<_, Uuid>(sql).fetch_one(pool);
    let store = Some(StoreId(pick("select id from stores where slug = 'store-7'").await.unwrap()));
    let game = GameId(pick("select id from games order by id offset 700 limit 1").await.unwrap());
    let offer = OfferId(pick("select id from offers order by id offset 7000 limit 1").await.unwrap());
    let of_game = pick(
        "select o.id from offers o join games g on g.id = o.game_id
        where g.id = (select id from games order by id offset 700 limit 1) order by o.id offset 4 limit 1",
    )
    .await
    .unwrap();
    let mut queries = vec![
        ("stores".to_owned(), stores::list_stores_query(Some("store-3"), PAGE)),
        ("games".to_owned(), games::list_games_query(None, PAGE)),
        ("games, a later page".to_owned(), games::list_games_query(Some(game), PAGE)),
    ];
    let any = OfferFilter::default;
    let germany = || Some(vec!["DE".to_owned()]);
    for (name, filter) in [
        ("all", any()),
        ("store", OfferFilter { store_id: store, ..any() }),
        ("region", OfferFilter { regions: germany(), ..any() }),
        ("rare region", OfferFilter { regions: Some(vec!["NZ".to_owned()]), ..any() }),
        ("store and region", OfferFilter { store_id: store, regions: germany(), ..any() }),
        ("game", OfferFilter { game_id: Some(game), ..any() }),
        ("game and store", OfferFilter { game_id: Some(game), store_id: store, ..any() }),
        ("one", OfferFilter { id: Some(offer), ..any() }),
    ] {
        for after in [None, Some(offer)] {
            let query = offers::list_offers_query(&filter, after, PAGE);
            queries.push((format!("offers of {name} after {after:?}"), query));
        }
    }

    let euro = Some("EUR".parse().unwrap());
    let now = salebell::clock::Clock::system().now();
    for sort in [DealSort::Cut, DealSort::Price, DealSort::Newest] {
        let after = match sort {
            DealSort::Cut => DealKey::Cut(50, SaleId::max()),
            DealSort::Price => DealKey::Price("EUR".to_owned(), 900, SaleId::nil()),
            DealSort::Newest => DealKey::Newest("2026-06-01T00:00:00Z".parse().unwrap(), SaleId::max()),
        };
        let any = || DealFilter { sort, ..DealFilter::default() };
        let places = || Some(vec!["DE".to_owned(), "ZZ".to_owned()]);
        for (name, filter) in [
            ("all", any()),
            ("store", DealFilter { store_id: store, ..any() }),
            ("region", DealFilter { regions: places(), ..any() }),
            ("currency", DealFilter { currency: euro, ..any() }),
            ("platform", DealFilter { platform: Some("windows".to_owned()), ..any() }),
            ("cut", DealFilter { min_cut: Some(30), ..any() }),
            ("price", DealFilter { currency: euro, max_amount: Some(2_500), ..any() }),
            ("new low", DealFilter { new_low: Some(false), ..any() }),
            (
                "store, cheap",
                DealFilter { store_id: store, currency: euro, max_amount: Some(2_500), ..any() },
            ),
            ("rare region", DealFilter { regions: Some(vec!["NZ".to_owned()]), ..any() }),
            ("rare platform", DealFilter { platform: Some("vita".to_owned()), ..any() }),
            ("rare currency", DealFilter { currency: Some("SEK".parse().unwrap()), ..any() }),
        ] {
            for after in [None, Some(after.clone())] {
                let text = format!("deals of {name} by {sort:?} after {after:?}");
                queries.push((text, deals::list_deals_query(&filter, after, PAGE, now).unwrap()));
            }
        }
    }

    for (typed, text) in [
        ("the", "'the'"),
        ("the w", "'the' & 'w'"),
        ("dark storm", "'dark' & ('storm' | 'stormkaro')"),
        ("karoveka", "'karoveka'"),
        ("da", "('da' | 'dark' | 'dadada' | 'dakaro')"),
        ("nothing such", "'nothing' & 'such'"),
        ("drogon kingdon", "('drogon' | 'dragon') & ('kingdon' | 'kingdom')"),
    ] {
        queries.push((format!("search for {typed:?}"), search::candidates_query(Some(typed), text)));
    }
    for state in [State::Held, State::Discarded] {
        for after in [None, Some(QuarantinedPriceId(offer.0))] {
            let query = quarantine::list_quarantine_query(Which::Of(state, after), PAGE);
            queries.push((format!("quarantine of {state:?} after {after:?}"), query));
        }
    }

    let instant = |text: &str| text.parse().unwrap();
    for (name, since, until) in [
        ("ever", "1970-01-01T00:00:00Z", "9999-01-01T00:00:00Z"),
        ("a quarter", "2026-04-10T00:00:00Z", "2026-07-10T00:00:00Z"),
    ] {
        let filter = HistoryFilter {
            game_id: game,
            store_id: None,
            regions: None,
            since: instant(since),
            until: instant(until),
        };
        for after in [None, Some((OfferId(of_game), instant("2026-05-01T00:00:00Z")))] {
            let text = format!("history of {name} after {after:?}");
            queries.push((format!("changes, {text}"), history::list_changes_query(&filter, after, PAGE)));
            for resolution in [Resolution::Day, Resolution::Month] {
                let query = history::list_buckets_query(&filter, resolution, after, PAGE);
                queries.push((format!("{resolution:?}, {text}"), query));
            }
        }
    }
    queries
}

#[tokio::test]
async fn no_list_costs_more_on_ten_times_the_catalogue() {
    let (small, large) = tokio::join!(catalogue(GAMES), catalogue(10 * GAMES));
    let (small, large) = (small.state.reader(), large.state.reader());
    let mut problems = Vec::new();
    for ((name, on_small), (_, on_large)) in queries(small).await.into_iter().zip(queries(large).await) {
        let (before, after) = (explain(small, on_small).await, explain(large, on_large).await);
        for table in read_whole(&after) {
            problems.push(format!("{name} reads all of {table}"));
        }
        let (rows_before, rows) = (rows_read(&before), rows_read(&after));
        // If there are few matches, gathering and sorting them may be cheaper than walking the index. Each of the two
        // halves of a search chooses its plan separately, and has its own limit of rows.
        let walks = name.starts_with("search") || !shape(&after).iter().any(|node| node.starts_with("Sort"));
        if shape(&before) != shape(&after) && !walks {
            problems.push(format!("{name} changes its plan:\n  {:?}\n  {:?}", shape(&before), shape(&after)));
        }
        let few = if name.starts_with("search") {
            rows < MAX_ROWS_OF_SEARCH
        } else {
            rows < MAX_ROWS && rows <= 1.5 * rows_before + 500.0
        };
        if !few {
            problems
                .push(format!("{name} looks at {rows_before} rows, and at {rows} of the large catalogue"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
