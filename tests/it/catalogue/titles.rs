//! Assignment of reported titles to games.

use reqwest::Method;
use salebell::store::{self, matching};
use salebell::worker::schedule;
use serde_json::{Value, json};

use crate::support::{TestApp, User, instance};

async fn shop(app: &TestApp) -> User {
    app.user("shop", &["prices:write", "catalogue:write"]).await
}

fn seen(store: &str, sku: &str, title: &str) -> Value {
    json!({"store": store, "sku": sku, "title": title, "price": "9.99", "currency": "EUR"})
}

async fn report(app: &TestApp, shop: &User, observations: &[Value]) {
    let answer = app.report(shop, json!(observations)).await;
    assert_eq!(answer["rejected_count"], 0, "{answer}");
    app.record_all().await;
}

/// The skus of each game, by its title.
async fn games(app: &TestApp) -> Vec<(String, String)> {
    sqlx::query_as(
        "select g.title, coalesce(string_agg(s.slug || ':' || o.sku, ' ' order by s.slug, o.sku), '')
         from games g left join offers o on o.game_id = g.id left join stores s on s.id = o.store_id
         group by g.id, g.title order by g.title, min(o.sku)",
    )
    .fetch_all(&app.state.writer)
    .await
    .unwrap()
}

fn expected(games: &[(&str, &str)]) -> Vec<(String, String)> {
    games.iter().map(|(title, skus)| ((*title).to_owned(), (*skus).to_owned())).collect()
}

#[tokio::test]
async fn typography_does_not_make_another_game_but_some_signs_do() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let one = [
        ("1", "Assassin's Creed"),
        ("2", "Burrow Tales"),
        ("3", "Burrow Tales+"),
        ("4", "Burrow Tales++"),
        ("5", "Tom & Jerry"),
        ("6", "Wow!"),
        ("7", "Wow"),
        ("8", "#Blud"),
        ("9", "Blud"),
    ];
    let other = [
        ("1", "Assassin\u{b4}s Creed"),
        ("1b", "Assassin\u{2032}s\u{a0}Creed"),
        ("2", "BURROW:\r\nTales\u{2122}"),
        ("3", "Bur\u{ad}row Tales\u{200b} +"),
        ("4", "Burrow Tales++"),
        ("5", "Tom and Jerry"),
        ("6", "Wow !"),
        ("7", "&#87;ow"),
        ("8", "# Blud"),
        ("9", "Blud."),
    ];
    let seen_in = |store: &str, titles: &[(&str, &str)]| {
        titles.iter().map(|(sku, title)| seen(store, sku, title)).collect::<Vec<_>>()
    };
    report(&app, &shop, &seen_in("one", &one)).await;
    report(&app, &shop, &seen_in("two", &other)).await;
    let skus: Vec<(String, String)> = games(&app).await;
    let of = |title: &str| {
        skus.iter().find(|(known, _)| known == title).map(|(_, skus)| skus.as_str()).unwrap_or("no game")
    };
    assert_eq!(of("Assassin's Creed"), "one:1 two:1 two:1b");
    for (sku, title) in &one[1..] {
        assert_eq!(of(title), format!("one:{sku} two:{sku}"), "{title}: {skus:?}");
    }
    assert_eq!(skus.len(), one.len());
}

#[tokio::test]
async fn two_skus_of_a_store_are_never_one_game_because_of_signs() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    // In one report, in one report beside a known title, and in two reports.
    let both = [seen("one", "a", "Foo: Bar"), seen("one", "b", "Foo Bar"), seen("two", "x", "Foo Bar")];
    report(&app, &shop, &both).await;
    let two = [("Foo Bar", "one:b two:x"), ("Foo: Bar", "one:a")];
    assert_eq!(games(&app).await, expected(&two));
    report(&app, &shop, &both).await;
    report(&app, &shop, &[seen("two", "x", "Foo Bar"), seen("two", "y", "FOO \u{a0}: BAR")]).await;
    report(&app, &shop, &[seen("three", "q", "Foo - Bar")]).await;
    report(&app, &shop, &[seen("three", "r", "Foo Bar\u{2122}")]).await;
    let all = games(&app).await;
    let of = |skus: &str| all.iter().filter(|(_, known)| known.split(' ').any(|sku| sku == skus)).count();
    for sku in ["one:a", "one:b", "two:x", "two:y", "three:q", "three:r"] {
        assert_eq!(of(sku), 1, "{all:?}");
    }
    let together =
        |one: &str, other: &str| all.iter().any(|(_, skus)| skus.contains(one) && skus.contains(other));
    assert!(together("one:a", "two:y") && together("one:b", "two:x"), "{all:?}");
    assert!(!together("three:q", "three:r"), "{all:?}");

    // Another store's spelling of the title is the same game; so are two items that one store sells by the same name.
    let app = TestApp::spawn().await;
    let shop = self::shop(&app).await;
    report(&app, &shop, &[seen("one", "a", "Foo: Bar")]).await;
    let more = [seen("two", "x", "Foo Bar"), seen("two", "y", "foo bar"), seen("one", "c", "Foo : Bar")];
    report(&app, &shop, &more).await;
    assert_eq!(games(&app).await, expected(&[("Foo: Bar", "one:a one:c two:x two:y")]));
    let mut german = seen("two", "x", "Foo: Bar");
    german["region"] = json!("DE");
    report(&app, &shop, &[german]).await;
    assert_eq!(games(&app).await, expected(&[("Foo: Bar", "one:a one:c two:x two:x two:y")]));
}

/// Makes a game as the previous version writes it.
async fn game_of_before(app: &TestApp, title: &str, normalised: &str) {
    sqlx::query(
        "insert into games (id, title, normalised_title, created_at, updated_at) values ($1, $2, $3, now(), now())",
    )
    .bind(uuid::Uuid::now_v7())
    .bind(title)
    .bind(normalised)
    .execute(&app.state.writer)
    .await
    .unwrap();
}

async fn keys(app: &TestApp) -> Vec<(String, String, Option<String>)> {
    sqlx::query_as("select title, normalised_title, match_title from games order by title")
        .fetch_all(&app.state.writer)
        .await
        .unwrap()
}

#[tokio::test]
async fn games_of_the_version_before_get_their_keys_whenever_they_are_written() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    game_of_before(&app, "Burrow Tales+", "burrow tales").await;
    game_of_before(&app, "Assassin\u{b4}s Creed", "assassin s creed").await;
    for number in 0..2_500 {
        game_of_before(&app, &format!("Game {number}"), &format!("game {number}")).await;
    }
    // Before they have keys they are found, but not under another title.
    report(&app, &shop, &[seen("one", "a", "Burrow Tales+"), seen("one", "b", "Burrow Tales")]).await;
    let known = games(&app).await;
    let of = |title: &str| {
        known.iter().filter(|(known, _)| known == title).map(|(_, skus)| skus.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((of("Burrow Tales+"), of("Burrow Tales")), (vec!["one:a"], vec!["one:b"]));

    // `salebell migrate`, twice.
    store::migrate(&app.state.writer).await.unwrap();
    let filled = keys(&app).await;
    assert_eq!(
        filled[0],
        ("Assassin\u{b4}s Creed".into(), "assassins creed".into(), Some("assassins creed".into()))
    );
    assert!(filled.contains(&("Burrow Tales+".into(), "burrow tales".into(), Some("burrow tales +".into()))));
    assert!(filled.iter().all(|(_, _, key)| key.is_some()));
    assert_eq!(matching::fill_keys(&app.state.writer).await.unwrap(), 0);
    assert_eq!(keys(&app).await, filled);

    // While the previous version still runs, it creates and renames games; the worker catches up.
    game_of_before(&app, "Tom & Jerry", "tom jerry").await;
    sqlx::query("update games set title = 'Burrow Tales#', normalised_title = 'burrow tales' where title = 'Burrow Tales+'")
        .execute(&app.state.writer)
        .await
        .unwrap();
    let without: i64 = sqlx::query_scalar("select count(*) from games where match_title is null")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(without, 2);
    report(&app, &shop, &[seen("two", "a", "Burrow Tales+"), seen("two", "b", "Burrow Tales #")]).await;
    schedule::step(&app.state).await.unwrap();
    let filled = keys(&app).await;
    assert!(filled.iter().all(|(_, _, key)| key.is_some()));
    assert!(filled.contains(&("Tom & Jerry".into(), "tom jerry".into(), Some("tom and jerry".into()))));
    let known = games(&app).await;
    let of = |title: &str| {
        known.iter().filter(|(known, _)| known == title).map(|(_, skus)| skus.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((of("Burrow Tales#"), of("Burrow Tales+")), (vec!["one:a two:b"], vec!["two:a"]));
}

#[tokio::test]
async fn a_renamed_game_is_found_by_its_new_title() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    let game = app.new_game(&shop, "Burrow Tales").await;
    let rename = async |title: &str| {
        let path = format!("/v1/games/{game}");
        let request =
            app.request(Method::PATCH, &path).bearer_auth(&shop.token).json(&json!({"title": title}));
        assert_eq!(request.send().await.unwrap().status(), 200);
    };
    rename("Burrow Tales+").await;
    report(&app, &shop, &[seen("one", "a", "Burrow Tales +")]).await;
    rename("BURROW TALES+").await;
    report(&app, &shop, &[seen("two", "a", "Burrow Tales+"), seen("two", "b", "Burrow Tales")]).await;
    assert_eq!(games(&app).await, expected(&[("BURROW TALES+", "one:a two:a"), ("Burrow Tales", "two:b")]));
}

#[tokio::test]
async fn an_operator_sees_games_that_exist_twice_and_nothing_is_merged() {
    let app = TestApp::spawn().await;
    let shop = shop(&app).await;
    assert_eq!(instance::run(&app, &["games", "duplicates"]).await, "No two games have the same title.\n");
    report(&app, &shop, &[seen("one", "a", "Tom and Jerry"), seen("one", "b", "Burrow Tales+")]).await;
    game_of_before(&app, "Tom & Jerry", "tom jerry").await;
    game_of_before(&app, "Burrow Tales", "burrow tales").await;
    let listed = instance::run(&app, &["games", "duplicates"]).await;
    assert!(
        listed.contains("  1 offer  Tom and Jerry\n") && listed.contains("  0 offers  Tom & Jerry\n"),
        "{listed}"
    );
    assert!(!listed.contains("Burrow Tales"), "{listed}");
    assert_eq!(games(&app).await.len(), 4);
}
