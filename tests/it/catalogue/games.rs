//! Games: what is written can be read, permissions, and complete lists.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::TestApp;
use crate::support::catalogue::answer;

use salebell::domain::ids::GameId;

#[tokio::test]
async fn a_game_is_created_read_changed_and_removed() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let body = json!({"title": " The\tWitcher® 3:  Wild&nbsp;Hunt \u{200b}", "publisher": "CD PROJEKT RED", "released_on": "2015-05-19", "url": "https://thewitcher.com"});
    let created = app.create(&user, "/v1/games", body).await;
    assert_eq!(created.status, 201);
    let path = format!("/v1/games/{}", created.id());
    assert_eq!(created.header("location"), path);
    assert_eq!(created.body["title"], "The Witcher® 3: Wild Hunt");

    let read = answer(app.get(&path)).await;
    assert_eq!((read.status.as_u16(), &read.body), (200, &created.body));
    assert_eq!(read.header("etag"), created.header("etag"));
    let again = answer(app.get(&path).header("if-none-match", read.header("etag"))).await;
    assert_eq!(again.status, 304);

    // A merge patch: absent fields stay, null removes.
    let patch = |body| app.request(Method::PATCH, &path).bearer_auth(&user.token).json(&body);
    let patched = answer(
        patch(json!({"publisher": null, "title": "The \n Witcher&#32;3"}))
            .header("if-match", read.header("etag")),
    )
    .await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    assert_eq!(patched.body["title"], "The Witcher 3");
    assert_eq!(patched.body["publisher"], json!(null));
    assert_eq!(patched.body["released_on"], "2015-05-19");
    assert_eq!(patched.body["url"], "https://thewitcher.com");
    assert_eq!(app.read(&path).await, patched.body);

    let stale = answer(patch(json!({"title": "Other"})).header("if-match", read.header("etag"))).await;
    assert_eq!(
        (stale.status.as_u16(), stale.body["type"].as_str()),
        (412, Some("/problems/precondition-failed"))
    );
    let unchanged = answer(patch(json!({"title": "The Witcher 3"}))).await;
    assert_eq!(
        unchanged.header("etag"),
        patched.header("etag"),
        "a patch that changes nothing makes no version"
    );

    let remove = || app.request(Method::DELETE, &path).bearer_auth(&user.token);
    assert_eq!(answer(remove().header("if-match", read.header("etag"))).await.status, 412);
    assert_eq!(answer(remove()).await.status, 204);
    assert_eq!(answer(app.get(&path)).await.status, 404);
    assert_eq!(answer(remove()).await.status, 404);
    assert_eq!(answer(patch(json!({}))).await.status, 404);
}

#[tokio::test]
async fn invalid_fields_are_named_all_at_once() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let body = json!({"title": "a\u{0}b", "publisher": "p".repeat(201), "released_on": "0099-01-01", "url": "javascript:alert(1)"});
    let refused = app.create(&user, "/v1/games", body).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.pointers(), ["/title", "/publisher", "/url", "/released_on"]);

    for (body, pointer) in [
        (json!({}), "/title"),
        (json!({"title": "  "}), "/title"),
        (json!({"title": "x".repeat(501)}), "/title"),
        (json!({"title": "x", "titel": "y"}), "/titel"),
        (json!({"title": "x", "released_on": "2026-02-30"}), "/released_on"),
        (json!({"title": "x", "released_on": "+10000-01-01"}), "/released_on"),
        (json!({"title": 7}), "/title"),
    ] {
        let refused = app.create(&user, "/v1/games", body.clone()).await;
        assert_eq!(
            (refused.status.as_u16(), refused.pointers()),
            (422, vec![pointer]),
            "{body}: {}",
            refused.body
        );
    }
    let path = format!("/v1/games/{}", app.new_game(&user, "A").await);
    let patch = |body| app.request(Method::PATCH, &path).bearer_auth(&user.token).json(&body);
    for (body, pointer) in [(json!({"title": null}), "/title"), (json!({"id": Uuid::now_v7()}), "/id")] {
        let refused = answer(patch(body)).await;
        assert_eq!((refused.status.as_u16(), refused.pointers()), (422, vec![pointer]), "{}", refused.body);
    }
}

#[tokio::test]
async fn reads_are_open_and_writes_need_the_scope() {
    let app = TestApp::spawn().await;
    let (user, other) = (app.librarian().await, app.user("other", &["prices:write"]).await);
    let game = app.new_game(&user, "A").await;
    let store = app.new_store(&user, "S").await;
    let offer = app.new_offer(&user, game, store, "ZZ").await;
    for path in [format!("/v1/games/{game}"), format!("/v1/stores/{store}"), format!("/v1/offers/{offer}")] {
        app.read(&path).await;
        let list = path.rsplit_once('/').unwrap().0;
        app.read(list).await;
        for (method, path) in [(Method::POST, list), (Method::PATCH, &path), (Method::DELETE, &path)] {
            let request = || app.request(method.clone(), path).json(&json!({}));
            assert_eq!(answer(request()).await.status, 401, "{method} {path}");
            assert_eq!(answer(request().bearer_auth(&other.token)).await.status, 403, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_list_gives_each_game_once_while_others_are_added() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let mut games = Vec::new();
    for number in 0..7 {
        games.push(app.new_game(&user, &format!("Game {number}")).await.to_string());
    }
    games.reverse();
    let ids = |items: &[serde_json::Value]| {
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for limit in [1, 2, 3, 7, 200] {
        assert_eq!(ids(&app.read_all("/v1/games", limit).await), games);
    }

    let first = app.read("/v1/games?limit=3").await;
    app.new_game(&user, "Newer").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = app.read(&format!("/v1/games?limit=200&cursor={cursor}")).await;
    let seen =
        [first["items"].as_array().unwrap().clone(), rest["items"].as_array().unwrap().clone()].concat();
    assert_eq!(ids(&seen), games);

    for (path, wrong) in [
        (format!("/v1/stores?cursor={cursor}"), "cursor"),
        (format!("/v1/games?cursor={cursor}x"), "cursor"),
        (format!("/v1/offers?cursor={cursor}"), "cursor"),
        ("/v1/games?cursor=!".to_owned(), "cursor"),
        ("/v1/games?limit=0".to_owned(), "limit"),
        ("/v1/games?limit=201".to_owned(), "limit"),
        ("/v1/games?limit=many".to_owned(), "limit"),
    ] {
        let refused = answer(app.get(&path)).await;
        assert_eq!((refused.status.as_u16(), refused.pointers()), (400, vec![wrong]), "{path}");
    }
    assert_eq!(answer(app.get("/v1/games?order=title")).await.status, 400, "an unknown parameter");
}

#[tokio::test]
async fn a_text_that_is_not_an_id_finds_nothing() {
    let app = TestApp::spawn().await;
    for path in ["/v1/games/1", "/v1/games/%ff", "/v1/offers/x", "/v1/stores/%ff", "/v1/stores/!!!"] {
        assert_eq!(answer(app.get(path)).await.status, 404, "{path}");
    }
    let id = Uuid::now_v7();
    for path in [
        format!("/v1/games/{id}"),
        format!("/v1/games/{id}/offers"),
        format!("/v1/offers/{id}"),
        format!("/v1/stores/{id}"),
    ] {
        assert_eq!(answer(app.get(&path)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn many_readers_share_queries_and_get_their_own_game() {
    let app = TestApp::spawn().await;
    let user = app.librarian().await;
    let mut games = Vec::new();
    for number in 0..40 {
        games.push(GameId(app.new_game(&user, &format!("Game {number}")).await));
    }
    let loader = &app.state.games;
    let reads = (0..2_000).map(|at| {
        let (loader, id) = (loader.clone(), if at % 41 == 40 { GameId::nil() } else { games[at % 41] });
        tokio::spawn(async move { (at, loader.find_game(id).await.unwrap()) })
    });
    // Some clients disconnect before the answer; the others are not affected.
    for read in reads.collect::<Vec<_>>() {
        if read.id().to_string().ends_with('7') {
            read.abort();
            continue;
        }
        let (at, game) = read.await.unwrap();
        match at % 41 {
            40 => assert_eq!(game, None),
            number => assert_eq!(game.unwrap().title, format!("Game {number}")),
        }
    }
    app.state.reader().close().await;
    let reads = (0..50).map(|at| loader.find_game(games[at % 40]));
    for read in futures_util::future::join_all(reads).await {
        assert_eq!(read.unwrap_err().kind, salebell::error::Kind::Unavailable);
    }
}
