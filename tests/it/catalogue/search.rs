//! Search over titles: a query finds the intended games, the best match first.

use serde_json::Value;

use crate::support::catalogue::answer;
use crate::support::{TestApp, User};

const TITLES: &[&str] = &[
    "The Witcher® 3: Wild Hunt",
    "The Witcher 2: Assassins of Kings",
    "The Witcher 3: Wild Hunt - Blood and Wine",
    "Witch It",
    "Half-Life 2",
    "Pokémon™ Légendes: Z-A",
    "Assassin's Creed® II",
    "Grand Theft Auto V",
    "DOOM",
    "DOOM Eternal",
    "The Room",
    "東方紅魔郷",
    "!!!",
    "Within the Wild",
    "Baldur's Gate 3",
];

async fn catalogue(app: &TestApp) -> User {
    let user = app.librarian().await;
    for title in TITLES {
        app.new_game(&user, title).await;
    }
    user
}

fn titles(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["title"].as_str().unwrap()).collect()
}

fn path(query: &str) -> String {
    let mut url = url::Url::parse("http://localhost/v1/games").unwrap();
    url.query_pairs_mut().append_pair("q", query);
    url[url::Position::BeforePath..].to_owned()
}

#[tokio::test]
async fn the_intended_game_comes_first() {
    let app = TestApp::spawn().await;
    catalogue(&app).await;
    for (query, first) in [
        ("witcher 3", "The Witcher® 3: Wild Hunt"),
        ("WITCHER 3", "The Witcher® 3: Wild Hunt"),
        ("the witcher 3 wild hunt blood", "The Witcher 3: Wild Hunt - Blood and Wine"),
        // while it is being typed
        ("witc", "Witch It"),
        ("wild hu", "The Witcher® 3: Wild Hunt"),
        ("doom", "DOOM"),
        ("doom e", "DOOM Eternal"),
        // misspelt
        ("wicther 3", "The Witcher® 3: Wild Hunt"),
        ("withcer", "The Witcher® 3: Wild Hunt"),
        ("witcher wlid", "The Witcher® 3: Wild Hunt"),
        ("baldurs gaet", "Baldur's Gate 3"),
        ("etrenal", "DOOM Eternal"),
        // spelled differently
        ("assassins creed", "Assassin's Creed® II"),
        ("pokemon legendes", "Pokémon™ Légendes: Z-A"),
        ("witcher 7 doom", "The Witcher® 3: Wild Hunt"),
        ("half life", "Half-Life 2"),
        ("halflife", "Half-Life 2"),
        ("half-life", "Half-Life 2"),
        ("東方", "東方紅魔郷"),
        ("!!!", "!!!"),
    ] {
        let found = app.read(&path(query)).await;
        let found = titles(found["items"].as_array().unwrap());
        assert_eq!(found.first(), Some(&first), "{query}: {found:?}");
    }
    for query in ["zzzzz", "xqzt jkl"] {
        assert_eq!(app.read(&path(query)).await["items"], serde_json::json!([]), "{query}");
    }
    assert_eq!(app.read(&path(" ")).await["items"].as_array().unwrap().len(), TITLES.len());
}

#[tokio::test]
async fn signs_that_distinguish_games_decide_a_search() {
    let app = TestApp::spawn().await;
    let user = catalogue(&app).await;
    for title in
        ["Burrow Tales", "Burrow Tales+", "Burrow Tales++", "Tom & Jerry", "Rosencrantz and Guildenstern"]
    {
        app.new_game(&user, title).await;
    }
    for (query, first, count) in [
        ("burrow tales", "Burrow Tales", 3),
        ("burrow tales+", "Burrow Tales+", 3),
        ("Burrow Tales ++", "Burrow Tales++", 3),
        ("tom and jerry", "Tom & Jerry", 1),
        ("TOM & JERRY", "Tom & Jerry", 1),
        ("tom jerry", "Tom & Jerry", 1),
        ("rosencrantz & guildenstern", "Rosencrantz and Guildenstern", 1),
        ("baldur´s gate 3", "Baldur's Gate 3", 1),
        ("witcher 3", "The Witcher® 3: Wild Hunt", 2),
        ("and", "Rosencrantz and Guildenstern", 2),
    ] {
        let found = app.read(&path(query)).await;
        let found = titles(found["items"].as_array().unwrap());
        assert_eq!((found.first(), found.len()), (Some(&first), count), "{query}: {found:?}");
    }
}

#[tokio::test]
async fn a_search_is_whole_by_pages() {
    let app = TestApp::spawn().await;
    let user = catalogue(&app).await;
    for number in 0..30 {
        app.new_game(&user, &format!("Wild {} of the Hunt {}", "Ride ".repeat(number % 4), number / 4)).await;
    }
    for query in ["wild", "the wild hunt", "wlid hutn", "hunt of the w", "witchr", "halflife"] {
        let whole = app.read_all(&path(query), 200).await;
        assert!(!whole.is_empty(), "{query}");
        for limit in [1, 4, 7] {
            assert_eq!(app.read_all(&path(query), limit).await, whole, "{query} by {limit}");
        }
    }
    // Titles added meanwhile shift nothing; all pages use the search method of the first page.
    let (before, first) =
        (app.read_all(&path("wlid"), 200).await, app.read(&format!("{}&limit=3", path("wlid"))).await);
    app.new_game(&user, "Wlid").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = app.read(&format!("{}&limit=200&cursor={cursor}", path("wlid"))).await;
    let seen =
        [first["items"].as_array().unwrap().clone(), rest["items"].as_array().unwrap().clone()].concat();
    assert!(before.iter().all(|game| seen.iter().filter(|other| *other == game).count() == 1));
    assert_eq!(titles(app.read(&path("wlid")).await["items"].as_array().unwrap()), ["Wlid"]);

    let other = answer(app.get(&format!("{}&cursor={cursor}", path("wild")))).await;
    assert_eq!((other.status.as_u16(), other.pointers()), (400, vec!["cursor"]));
}

#[tokio::test]
async fn a_search_follows_changes() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let game = app.new_game(&user, "Quake").await;
    let request = |method, body: Value| {
        app.request(method, &format!("/v1/games/{game}")).bearer_auth(&user.token).json(&body)
    };
    let renamed = answer(request(reqwest::Method::PATCH, serde_json::json!({"title": "Unreal"}))).await;
    assert_eq!(renamed.status, 200);
    assert_eq!(titles(app.read(&path("unraal")).await["items"].as_array().unwrap()), ["Unreal"]);
    assert_eq!(app.read(&path("quake")).await["items"], serde_json::json!([]));
    answer(request(reqwest::Method::DELETE, Value::Null)).await;
    assert_eq!(app.read(&path("unreal")).await["items"], serde_json::json!([]));
}

#[tokio::test]
async fn no_input_breaks_a_search() {
    let app = TestApp::spawn().await;
    let user = catalogue(&app).await;
    app.new_game(&user, &"ﷺ".repeat(500)).await;
    for query in [
        "'",
        "\"",
        "\\",
        "' | 'x",
        "a & b",
        "!doom",
        "doom:*",
        "(doom",
        "<->",
        "%",
        "_",
        "a%_b\\",
        ":*",
        "&&",
        "' OR 1=1 --",
        "1e5 -3.2 http://a.b/c?d=e user@host.com",
        "\u{202e}doom",
        "👾",
        "ﷺ",
        "a",
        "\u{301}",
        "many words that are not in any title at all but go on and on and on and on",
    ] {
        assert_eq!(answer(app.get(&path(query))).await.status, 200, "{query:?}");
    }
    for query in ["a\0b".to_owned(), "x".repeat(201)] {
        let refused = answer(app.get(&path(&query))).await;
        assert_eq!((refused.status.as_u16(), refused.pointers()), (400, vec!["q"]), "{query:?}");
    }
    let refused = answer(app.get("/v1/games?q=%ff")).await;
    assert_eq!((refused.status.as_u16(), refused.pointers()), (400, vec!["q"]), "what is no UTF-8");
}
