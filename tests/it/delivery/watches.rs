//! Watches: kept by their owner, explained, and ringing once for each sale.

use chrono::TimeDelta;
use reqwest::Method;
use salebell::store::dispatch as queue;
use salebell::store::lease::Lease;
use salebell::worker::dispatch::{self, DispatchTask};
use salebell::worker::{deliver, driver};
use serde_json::{Value, json};

use crate::support::sink::Sink;
use crate::support::{TestApp, User};

const CHEAP: &str = "5.00";

async fn shop(app: &TestApp) -> User {
    app.user("shop", &["prices:write", "catalogue:write"]).await
}

fn seen(sku: &str, price: &str, day: u32) -> Value {
    json!({"store": "steam", "sku": sku, "title": "Hades", "price": price, "regular_price": "20.00",
        "currency": "EUR", "observed_at": format!("2026-01-{day:02}T00:00:00Z")})
}

/// Reports one price, records it, and dispatches the resulting events.
async fn report(app: &TestApp, shop: &User, observation: Value) {
    app.report(shop, json!([observation])).await;
    app.record_all().await;
    while dispatch::step(&app.state).await.unwrap().is_more() {}
}

async fn only_game(app: &TestApp) -> String {
    let games: Value = app.get("/v1/games").send().await.unwrap().json().await.unwrap();
    games["items"][0]["id"].as_str().unwrap().to_owned()
}

async fn watch(app: &TestApp, user: &User, body: Value) -> Value {
    let answer = app.post("/v1/watches").bearer_auth(&user.token).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

/// Kind and amount of every notice, oldest first.
async fn notices(app: &TestApp) -> Vec<(String, i64)> {
    let rows =
        sqlx::query!("select event_kind, amount from notices order by id").fetch_all(&app.state.writer).await;
    rows.unwrap().into_iter().map(|row| (row.event_kind, row.amount)).collect()
}

fn target(amount: &str) -> Value {
    json!({"price_at_most": {"amount": amount, "currency": "EUR"}})
}

#[tokio::test]
async fn a_watch_rings_once_per_sale() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let game = only_game(&app).await;
    watch(&app, &anna, json!({"game_id": game, "rule": {"any_sale": {}}})).await;
    report(&app, &shop, seen("a", "15.00", 2)).await;
    report(&app, &shop, seen("a", "15.00", 2)).await;
    report(&app, &shop, seen("a", "10.00", 3)).await;
    assert_eq!(notices(&app).await, [("sale.started".to_owned(), 1500)]);
    report(&app, &shop, seen("a", "20.00", 4)).await;
    report(&app, &shop, seen("a", "15.00", 5)).await;
    assert_eq!(notices(&app).await.len(), 2, "another sale is another notice");
}

#[tokio::test]
async fn a_sale_that_deepens_below_the_target_rings_then() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let game = only_game(&app).await;
    watch(&app, &anna, json!({"game_id": game, "rule": target("12.00")})).await;
    report(&app, &shop, seen("a", "15.00", 2)).await;
    assert_eq!(notices(&app).await, []);
    report(&app, &shop, seen("a", "12.00", 3)).await;
    report(&app, &shop, seen("a", CHEAP, 4)).await;
    assert_eq!(notices(&app).await, [("sale.deepened".to_owned(), 1200)]);
}

#[tokio::test]
async fn history_and_paused_watches_do_not_ring() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let game = only_game(&app).await;
    let kept = watch(&app, &anna, json!({"game_id": game, "rule": {"any_sale": {}}})).await;
    let body = json!({"observations": [seen("a", "15.00", 2)], "backfill": true});
    app.post("/v1/prices").bearer_auth(&shop.token).json(&body).send().await.unwrap();
    app.record_all().await;
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    assert_eq!(notices(&app).await, []);
    let path = format!("/v1/watches/{}", kept["id"].as_str().unwrap());
    let patched =
        app.request(reqwest::Method::PATCH, &path).bearer_auth(&anna.token).json(&json!({"paused": true}));
    assert_eq!(patched.send().await.unwrap().status(), 200);
    report(&app, &shop, seen("a", "10.00", 3)).await;
    assert_eq!(notices(&app).await, []);
}

/// Tries every kind of rule and scope against offers of every kind: the explanation agrees with the dispatch.
#[tokio::test]
async fn the_explanation_and_the_dispatch_agree() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let offers = [
        ("steam", "ZZ", None, "EUR", "20.00", "10.00"),
        ("steam", "DE", Some("windows"), "EUR", "20.00", "15.00"),
        ("gog", "US", Some("switch"), "USD", "20.00", "4.00"),
        ("gog", "DE", Some("switch"), "EUR", "4.00", "4.00"),
        ("epic", "ZZ", Some("windows"), "USD", "20.00", "20.00"),
    ];
    let observation = |n: usize, price: &str, day: u32| {
        let (store, region, platform, currency, ..) = offers[n];
        json!({"store": store, "sku": format!("{n}"), "title": "Hades", "region": region, "platform": platform,
            "currency": currency, "price": price, "regular_price": "20.00",
            "observed_at": format!("2026-01-{day:02}T00:00:00Z")})
    };
    for (n, offer) in offers.iter().enumerate() {
        report(&app, &shop, observation(n, offer.4, 1)).await;
        report(&app, &shop, observation(n, "20.00", 2)).await;
    }
    let game = only_game(&app).await;
    let rules = [
        json!({"any_sale": {}}),
        json!({"new_low": {}}),
        json!({"cut_at_least": {"percent": 50}}),
        target("12.00"),
        json!({"price_at_most": {"amount": "4.00", "currency": "USD"}}),
    ];
    let scopes = [
        json!({}),
        json!({"stores": ["GOG", "epic"]}),
        json!({"regions": ["de"]}),
        json!({"platforms": ["Switch"]}),
        json!({"currency": "EUR"}),
        // Every region on offer: otherwise this one would sort first.
        json!({"paused": true, "regions": ["ZZ", "DE", "US"]}),
        json!({"stores": ["steam"], "regions": ["FR"], "platforms": ["windows"]}),
    ];
    let mut watches = Vec::new();
    for rule in &rules {
        for scope in &scopes {
            let mut body = scope.clone();
            body["game_id"] = json!(game);
            body["rule"] = rule.clone();
            let answer = app.post("/v1/watches").bearer_auth(&anna.token).json(&body).send().await.unwrap();
            // A target in another currency than the scope's is refused at once.
            if answer.status() != 422 {
                watches.push(answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(watches.len(), rules.len() * scopes.len() - 1);
    for (n, offer) in offers.iter().enumerate() {
        report(&app, &shop, observation(n, offer.5, 3)).await;
    }
    let mut rang = 0;
    for id in &watches {
        let path = format!("/v1/watches/{id}/explain");
        let explained: Value =
            app.get(&path).bearer_auth(&anna.token).send().await.unwrap().json().await.unwrap();
        for offer in explained["offers"].as_array().unwrap() {
            assert_eq!(offer["would_ring"], json!(!offer["notice_id"].is_null()), "{id} {offer:#}");
            assert_eq!(offer["would_ring"], json!(offer["reasons"].as_array().unwrap().is_empty()));
            rang += usize::from(offer["would_ring"] == true);
        }
    }
    assert_eq!(rang, notices(&app).await.len());
    assert!(rang > 20, "only {rang} rang");
}

#[tokio::test]
async fn a_large_event_is_dispatched_in_slices_that_another_worker_takes_up() {
    let app = TestApp::builder().settings(&[("SALEBELL_WORKER__FANOUT_SLICE", "3")]).spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let game = only_game(&app).await;
    for percent in 1..=10 {
        let rule = json!({"cut_at_least": {"percent": percent}});
        watch(&app, &anna, json!({"game_id": game, "rule": rule})).await;
    }
    app.report(&shop, json!([seen("a", "15.00", 2)])).await;
    app.record_all().await;
    // One worker dies after its first slice.
    let (now, lease) = (app.clock.now(), app.clock.now() + TimeDelta::seconds(60));
    let claimed = queue::claim_events(&app.state.writer, 10, 3, now, lease).await.unwrap();
    let event = &claimed.waiting[0];
    let times = queue::Times { now, daily: now, lease };
    let first = queue::WatchSlice { after: None, end: event.slice_end };
    let second = queue::WatchSlice { after: first.end, end: None };
    let made = queue::make_slice(&app.state.writer, event, first, &times).await.unwrap();
    // The second slice is made meanwhile, and its worker disappears.
    let lost = queue::make_slice(&app.state.writer, event, second, &times).await.unwrap();
    assert_eq!((made.notices, lost.notices), (3, 7));
    assert_eq!(queue::commit_slice(made, event, &times).await.unwrap(), Lease::Held);
    drop(lost);
    assert!(!dispatch::step(&app.state).await.unwrap().is_more(), "the event is leased");
    app.clock.advance(TimeDelta::seconds(61));
    assert!(dispatch::step(&app.state).await.unwrap().is_more());
    assert_eq!(notices(&app).await.len(), 10);
    // The worker presumed dead resumes: nothing is made twice.
    let late = queue::make_slice(&app.state.writer, event, second, &times).await.unwrap();
    assert_eq!(late.notices, 0);
    assert_eq!(queue::commit_slice(late, event, &times).await.unwrap(), Lease::Lost);
    assert_eq!(notices(&app).await.len(), 10);
}

#[tokio::test]
async fn a_worker_that_stops_releases_a_large_event() {
    let app = TestApp::builder().settings(&[("SALEBELL_WORKER__FANOUT_SLICE", "1")]).spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let game = only_game(&app).await;
    let first = watch(&app, &anna, json!({"game_id": game, "rule": {"any_sale": {}}})).await;
    sqlx::query(
        "insert into watches select (w).* from (
            select jsonb_populate_record(w, jsonb_build_object('id', uuid_v7(now()))) as w
            from watches w, generate_series(1, 400)) copies",
    )
    .execute(&app.state.writer)
    .await
    .unwrap();
    drop(first);
    app.report(&shop, json!([seen("a", "15.00", 2)])).await;
    app.record_all().await;
    let worker = tokio::spawn(driver::run(app.state.clone(), DispatchTask::default()));
    app.until("select count(*) > 3 from notices").await;
    app.state.stopping.cancel();
    worker.await.unwrap();
    let (waits, free): (bool, bool) =
        sqlx::query_as("select dispatched_at is null, leased_until is null from events where rings")
            .fetch_one(&app.state.writer)
            .await
            .unwrap();
    assert!(waits, "it was stopped in the middle");
    assert!(free, "the next worker continues at once");
}

#[tokio::test]
async fn deliveries_go_to_the_channels_of_the_watch_when_they_are_due() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let game = only_game(&app).await;
    let mut channels = Vec::new();
    for state in ["active", "active", "disabled"] {
        let id = uuid::Uuid::now_v7();
        sqlx::query!(
            "insert into channels (id, account_id, kind, name, url, state, secret, created_at, updated_at)
             values ($1, $2, 'webhook', 'mine', 'http://127.0.0.1:9/', $3, ''::bytea, now(), now())",
            id,
            anna.account.0,
            state
        )
        .execute(&app.state.writer)
        .await
        .unwrap();
        channels.push(id);
    }
    watch(&app, &anna, json!({"game_id": game, "rule": {"any_sale": {}}})).await;
    watch(&app, &anna, json!({"game_id": game, "rule": {"any_sale": {}}, "channels": [channels[1]]})).await;
    watch(&app, &anna, json!({"game_id": game, "rule": {"any_sale": {}}, "channels": []})).await;
    watch(&app, &anna, json!({"game_id": game, "rule": {"any_sale": {}}, "cadence": "daily"})).await;
    report(&app, &shop, seen("a", "15.00", 2)).await;
    assert_eq!(notices(&app).await.len(), 4);
    let now = app.clock.now();
    let due = sqlx::query!(
        r#"select count(*) filter (where next_attempt_at <= $1) as "now!",
            count(*) filter (where next_attempt_at > $1 and extract(hour from next_attempt_at) = 9) as "later!",
            count(*) filter (where channel_id = $2) as "disabled!" from delivery_queue"#,
        now,
        channels[2]
    )
    .fetch_one(&app.state.writer)
    .await
    .unwrap();
    assert_eq!((due.now, due.later, due.disabled), (3, 2, 0));
}

#[tokio::test]
async fn a_watch_is_seen_and_changed_by_its_owner_only() {
    let app = TestApp::spawn().await;
    let (shop, anna, ben) = (shop(&app).await, app.user("anna", &[]).await, app.user("ben", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let game = only_game(&app).await;
    let kept = watch(&app, &anna, json!({"game_id": game, "rule": target("12"), "stores": ["Steam"]})).await;
    assert_eq!(kept["rule"], target("12.00"));
    assert_eq!(kept["stores"], json!(["steam"]));
    let path = format!("/v1/watches/{}", kept["id"].as_str().unwrap());
    let patch = |user: &User, body: Value| {
        app.request(reqwest::Method::PATCH, &path).bearer_auth(&user.token).json(&body)
    };
    for path in [path.clone(), format!("{path}/explain")] {
        assert_eq!(app.get(&path).bearer_auth(&ben.token).send().await.unwrap().status(), 404);
    }
    assert_eq!(patch(&ben, json!({})).send().await.unwrap().status(), 404);
    let mine: Value =
        app.get("/v1/watches").bearer_auth(&ben.token).send().await.unwrap().json().await.unwrap();
    assert_eq!(mine["items"], json!([]));

    let got = app.get(&path).bearer_auth(&anna.token).send().await.unwrap();
    let tag = got.headers()["etag"].to_str().unwrap().to_owned();
    let changed = patch(&anna, json!({"stores": null, "rule": {"new_low": {}}})).header("if-match", &tag);
    let changed: Value = changed.send().await.unwrap().json().await.unwrap();
    assert_eq!((&changed["stores"], &changed["rule"]), (&Value::Null, &json!({"new_low": {}})));
    assert_eq!(patch(&anna, json!({})).header("if-match", &tag).send().await.unwrap().status(), 412);
    for (body, pointer) in [
        (json!({"rule": {"cut_at_least": {"percent": 0}}}), "/rule/cut_at_least/percent"),
        (json!({"rule": {"price_at_most": {"amount": "x", "currency": "EUR"}}}), "/rule/price_at_most"),
        (json!({"rule": {"some_sale": {}}}), "/rule"),
        (json!({"stores": ["nowhere"]}), "/stores/0"),
        (json!({"regions": ["Europe"]}), "/regions/0"),
        (json!({"regions": ["DE", "EU"]}), "/regions/1"),
        (json!({"regions": ["DE", ""]}), "/regions/1"),
        (json!({"channels": [game]}), "/channels/0"),
        (json!({"currency": "XXX"}), "/currency"),
    ] {
        let refused = patch(&anna, body).send().await.unwrap();
        assert_eq!(refused.status(), 422);
        let problem: Value = refused.json().await.unwrap();
        assert!(problem["errors"][0]["pointer"].as_str().unwrap().starts_with(pointer), "{problem:#}");
    }
    let gone = app.request(reqwest::Method::DELETE, &path).bearer_auth(&anna.token).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    assert_eq!(app.get(&path).bearer_auth(&anna.token).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_delivery_cancelled_for_its_price_is_sent_when_the_price_matches_again() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    let sink = Sink::start().await;
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let game = only_game(&app).await;
    app.hook(&anna, &sink.url("/hook")).await;
    watch(&app, &anna, json!({"game_id": game, "rule": target("12.00")})).await;
    report(&app, &shop, seen("a", "10.00", 2)).await;
    report(&app, &shop, seen("a", "13.00", 3)).await;
    assert_eq!(deliver::step(&app.state).await.unwrap().cancelled, 1);
    report(&app, &shop, seen("a", "9.00", 4)).await;
    assert_eq!(deliver::step(&app.state).await.unwrap().sent, 1);
    assert_eq!(sink.received("/hook")[0].json()["data"]["price"]["amount"], "9.00");
    assert_eq!(notices(&app).await.len(), 1, "the notice is still one");
}

#[tokio::test]
async fn the_same_watch_created_again_is_the_existing_one() {
    let app = TestApp::spawn().await;
    let (shop, anna, ben) = (shop(&app).await, app.user("anna", &[]).await, app.user("ben", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    app.report(
        &shop,
        json!([{"store": "gog", "sku": "b", "title": "Celeste", "price": "20.00", "currency": "EUR"}]),
    )
    .await;
    app.record_all().await;
    let games = app.see(&anna, "/v1/games").await;
    let [game, other] = [&games["items"][0]["id"], &games["items"][1]["id"]];
    let channels =
        [app.hook(&anna, "http://127.0.0.1/a").await.id, app.hook(&anna, "http://127.0.0.1/b").await.id];
    let full = json!({"game_id": game, "rule": target("12.00"), "stores": ["steam", "gog"], "regions": ["DE", "US"],
        "currency": "EUR", "platforms": ["windows", "linux"], "channels": channels});
    let plain = json!({"game_id": game, "rule": {"any_sale": {}}});
    let with = |base: &Value, field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        body
    };
    let post =
        async |user: &User, body: &Value| app.call(user, Method::POST, "/v1/watches", body.clone()).await;
    let (made_full, made_plain) = (post(&anna, &full).await, post(&anna, &plain).await);
    assert_eq!((made_full.status, made_plain.status), (201, 201), "{} {}", made_full.body, made_plain.body);

    // The same watch in any notation: lists in another order or with repetitions, stores by name, other numbers of
    // decimal places, and fields that are not part of the identity.
    for (made, again) in [
        (&made_full, with(&full, "stores", json!(["GOG", "Steam", "gog"]))),
        (&made_full, with(&full, "regions", json!(["us", "de"]))),
        (&made_full, with(&full, "platforms", json!(["Linux", "windows"]))),
        (&made_full, with(&full, "channels", json!([channels[1], channels[0]]))),
        (&made_full, with(&full, "rule", target("12"))),
        (&made_full, with(&full, "priority", json!("high"))),
        (&made_plain, plain.clone()),
        (&made_plain, with(&plain, "stores", Value::Null)),
        (&made_plain, with(&plain, "paused", json!(true))),
        (&made_plain, with(&plain, "cadence", json!("immediate"))),
    ] {
        let found = post(&anna, &again).await;
        assert_eq!((found.status, &found.body), (200, &made.body), "{again}");
        assert_eq!(found.etag, made.etag, "{again}");
    }
    // A different watch, whichever field differs.
    for another in [
        with(&full, "game_id", other.clone()),
        with(&full, "rule", target("12.01")),
        with(&full, "stores", json!(["gog"])),
        with(&full, "regions", Value::Null),
        with(&full, "platforms", json!(["windows", "linux", "mac"])),
        with(&full, "currency", Value::Null),
        with(&full, "channels", json!([channels[0]])),
        with(&full, "channels", json!([])),
        with(&full, "channels", Value::Null),
        with(&full, "cadence", json!("daily")),
        with(&plain, "rule", json!({"new_low": {}})),
        with(&plain, "rule", json!({"cut_at_least": {"percent": 10}})),
        with(&plain, "rule", json!({"cut_at_least": {"percent": 11}})),
    ] {
        assert_eq!(post(&anna, &another).await.status, 201, "{another}");
        assert_eq!(post(&anna, &another).await.status, 200, "{another}");
    }
    assert_eq!(post(&ben, &plain).await.status, 201, "another's is another");
}

#[tokio::test]
async fn of_twenty_concurrent_requests_for_the_same_watch_one_creates_it() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let body = json!({"game_id": only_game(&app).await, "rule": target("12.00")});
    let at_once = (0..20).map(|_| app.call(&anna, Method::POST, "/v1/watches", body.clone()));
    let answers = futures_util::future::join_all(at_once).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [[200; 19].as_slice(), &[201]].concat());
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    // It rings once.
    report(&app, &shop, seen("a", "10.00", 2)).await;
    assert_eq!(notices(&app).await.len(), 1);
}

#[tokio::test]
async fn a_watch_accepts_countries_and_keeps_stored_regions_of_other_kinds() {
    let app = TestApp::spawn().await;
    let (shop, anna) = (shop(&app).await, app.user("anna", &[]).await);
    report(&app, &shop, seen("a", "20.00", 1)).await;
    let body =
        json!({"game_id": only_game(&app).await, "rule": {"any_sale": {}}, "regions": ["uk", "de", "ZZ"]});
    let made = watch(&app, &anna, body).await;
    assert_eq!(made["regions"], json!(["GB", "DE", "ZZ"]));
    // As stored by a version that accepted any two letters as a region.
    sqlx::query("update watches set regions = '{EU,DE}'").execute(&app.state.writer).await.unwrap();
    let path = format!("/v1/watches/{}", made["id"].as_str().unwrap());
    let patch = async |body: Value| {
        let request = app.request(reqwest::Method::PATCH, &path).bearer_auth(&anna.token).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, paused) = patch(json!({"paused": true})).await;
    assert_eq!((status, &paused["regions"]), (200, &json!(["EU", "DE"])), "{paused}");
    let (status, refused) = patch(json!({"regions": ["EN"]})).await;
    assert_eq!(status, 422, "{refused}");
    assert!(refused["errors"][0]["detail"].as_str().unwrap().contains("\"EN\""), "{refused}");
}
