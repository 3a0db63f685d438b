//! Weekly statistics: what is counted, when weeks are computed, and how they are shown.

use chrono::{Datelike, TimeDelta, Timelike};
use reqwest::Method;
use salebell::domain::week::Week;
use salebell::worker::{deliver, dispatch, schedule, statistics};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::binary::command;
use crate::support::{TestApp, User};

const OWN: &str = "/v1/stats/weekly";
const ALL: &str = "/v1/admin/stats/weekly";

/// Starts an app whose clock stands at noon on a Tuesday, so no week ends unintentionally during a test.
async fn spawn() -> TestApp {
    let app = TestApp::spawn().await;
    let now = app.clock.now();
    let days = 7 + 1 - i64::from(now.weekday().num_days_from_monday());
    app.clock.advance(TimeDelta::days(days) + TimeDelta::hours(12 - i64::from(now.hour())));
    assert_eq!(app.clock.now().weekday(), chrono::Weekday::Tue);
    app
}

fn week(app: &TestApp) -> Week {
    Week::at(app.clock.now())
}

async fn upload(app: &TestApp, user: &User, body: &str) -> String {
    let request = app.post("/v1/files").bearer_auth(&user.token).body(body.to_owned());
    let file: Value = request.send().await.unwrap().json().await.unwrap();
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

async fn price(app: &TestApp, user: &User, price: &str) {
    let seen = json!([{"store": "gog", "sku": "a", "title": "Hades", "price": price, "regular_price": "20.00",
        "currency": "EUR", "observed_at": app.clock.now()}]);
    app.report(user, seen).await;
    app.record_all().await;
}

/// Reports a sale that rings for a watch through a channel.
async fn ring(app: &TestApp, user: &User, url: &str) {
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    price(app, &shop, "20.00").await;
    let game = app.see(user, "/v1/games?q=hades").await["items"][0]["id"].clone();
    app.hook(user, url).await;
    let watch =
        app.call(user, Method::POST, "/v1/watches", json!({"game_id": game, "rule": {"any_sale": {}}})).await;
    assert_eq!(watch.status, 201, "{}", watch.body);
    app.clock.advance(TimeDelta::seconds(1));
    price(app, &shop, "10.00").await;
    while dispatch::step(&app.state).await.unwrap().is_more() {}
}

/// Waits until the statistics show this count; events are counted with a short delay.
async fn counted(app: &TestApp, kind: &'static str, count: i64, amount: i64) {
    let sum = || async {
        sqlx::query_as::<_, (i64, i64)>(
            "select coalesce(sum(count), 0)::bigint, coalesce(sum(amount), 0)::bigint from activity where kind = $1",
        )
        .bind(kind)
        .fetch_one(&app.state.writer)
        .await
        .unwrap()
    };
    for _ in 0..3000 {
        if sum().await == (count, amount) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{kind}: {:?} and not {count}, {amount}", sum().await);
}

/// Non-zero figures of an item.
fn figures(item: &Value) -> Value {
    let no_figures = ["week", "from", "to", "computed_at", "complete", "accounts", "account"];
    let figures = item.as_object().unwrap().iter();
    figures
        .filter(|(name, value)| !no_figures.contains(&name.as_str()) && **value != 0)
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn weeks(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["week"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn use_by_an_account_is_counted_for_it_and_for_the_service() {
    let app = spawn().await;
    let sink = crate::support::sink::Sink::start().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &["operator"]).await);
    let path = upload(&app, &anna, "twelve bytes").await;
    let get = |path: String| app.get(&path);
    let content = format!("{path}/content");
    get(content.clone()).bearer_auth(&anna.token).send().await.unwrap().bytes().await.unwrap();
    let rest = get(content.clone()).bearer_auth(&anna.token).header("range", "bytes=8-");
    assert_eq!(rest.send().await.unwrap().status(), 206);
    // Neither of these requests counts as a download.
    app.request(Method::HEAD, &content).bearer_auth(&anna.token).send().await.unwrap();
    let tag = get(content.clone()).bearer_auth(&anna.token).header("if-none-match", "*");
    assert_eq!(tag.send().await.unwrap().status(), 304);
    // A stranger's download counts for the owner of the file.
    let link = app.call(&anna, Method::POST, &format!("{path}/links"), json!({})).await;
    get(link.body["path"].as_str().unwrap().to_owned()).send().await.unwrap().bytes().await.unwrap();
    upload(&app, &ben, "1234").await;
    counted(&app, "upload", 2, 16).await;
    counted(&app, "download", 2, 28).await;

    ring(&app, &anna, &sink.url("/hook")).await;
    assert_eq!(deliver::step(&app.state).await.unwrap().sent, 1);
    // The accounts of anna, ben and the shop.
    counted(&app, "login", 3, 0).await;
    schedule::step(&app.state).await.unwrap();

    let own = app.see(&anna, OWN).await;
    assert_eq!(weeks(&own), [week(&app).to_string()]);
    let item = &own["items"][0];
    assert_eq!(
        figures(item),
        json!({"uploads": 1, "uploaded_bytes": 12, "downloads": 2, "downloaded_bytes": 28, "watches": 1, "notices": 1,
            "deliveries": 1, "delivered": 1, "logins": 1})
    );
    assert_eq!((&item["complete"], &item["from"]), (&json!(false), &json!(week(&app).monday())));
    assert!(item.get("account").is_none(), "{item}");
    assert_eq!(
        figures(&app.see(&ben, OWN).await["items"][0]),
        json!({"uploads": 1, "uploaded_bytes": 4, "logins": 1})
    );
    let all = app.see(&ben, ALL).await;
    assert_eq!(
        figures(&all["items"][0]),
        json!({"uploads": 2, "uploaded_bytes": 16, "downloads": 2, "downloaded_bytes": 28, "reports": 2,
            "observations": 2, "watches": 1, "notices": 1, "deliveries": 1, "delivered": 1, "logins": 3})
    );
    assert_eq!(all["items"][0]["accounts"], 3);
}

#[tokio::test]
async fn a_file_of_parts_is_one_upload() {
    let app = spawn().await;
    let anna = app.user("anna", &[]).await;
    let create = |concat: String, body: &'static str| {
        let request = app.post("/v1/files").bearer_auth(&anna.token).header("tus-resumable", "1.0.0");
        let request = request.header("upload-concat", &concat);
        match concat.as_str() {
            "partial" => request
                .header("upload-length", body.len())
                .header("content-type", "application/offset+octet-stream")
                .body(body),
            _ => request,
        }
    };
    let mut parts = String::new();
    for part in ["12345", "678"] {
        let made = create("partial".to_owned(), part).send().await.unwrap();
        assert_eq!(made.status(), 201);
        parts = format!("{parts} {}", made.headers()["location"].to_str().unwrap());
    }
    let made = create(format!("final;{}", parts.trim()), "").send().await.unwrap();
    assert_eq!(made.status(), 201);
    counted(&app, "upload", 1, 8).await;
}

#[tokio::test]
async fn a_login_is_counted_once_an_hour_however_many_see_it() {
    let app = spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    for (minutes, count) in [(0, 2), (59, 2), (2, 4)] {
        app.clock.advance(TimeDelta::minutes(minutes));
        for user in [&anna, &ben, &anna] {
            app.see(user, "/v1/me").await;
            // Another process has its own memory.
            let others = salebell::store::activity_counter::Activity::new(
                app.state.writer.clone(),
                app.state.deadline.clone(),
            );
            others.note_login(user.account, app.clock.now());
        }
        counted(&app, "login", count, 0).await;
    }
}

#[tokio::test]
async fn use_that_cannot_be_counted_now_is_counted_later_without_delaying_requests() {
    let app = spawn().await;
    let anna = app.user("anna", &[]).await;
    let path = upload(&app, &anna, "12345").await + "/content";
    counted(&app, "login", 1, 0).await;
    for (table, away) in [("activity", "away"), ("away", "activity")] {
        let rename = sqlx::AssertSqlSafe(format!("alter table {table} rename to {away}"));
        sqlx::query(rename).execute(&app.state.writer).await.unwrap();
        let answer = app.get(&path).bearer_auth(&anna.token).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "12345", "{table}");
    }
    // The second download may have arrived while the first one was being written.
    app.state.activity.note_download(anna.account, 1, 90, app.clock.now());
    counted(&app, "download", 2, 100).await;
}

#[tokio::test]
async fn weeks_that_were_missed_are_caught_up_though_their_sources_are_gone() {
    let app = spawn().await;
    let anna = app.user("anna", &["operator", "prices:write", "catalogue:write"]).await;
    upload(&app, &anna, "gone soon").await;
    price(&app, &anna, "20.00").await;
    counted(&app, "login", 1, 0).await;
    let first = week(&app);
    // The whole fleet is down for five weeks; then every job finds five weeks of work, and files and batches older than
    // their retention.
    app.clock.advance(TimeDelta::weeks(5));
    schedule::step(&app.state).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("select (select count(*) from files) + (select count(*) from batches)")
            .fetch_one(&app.state.writer)
            .await
            .unwrap();
    assert_eq!(left, 0);
    let all = app.see(&anna, ALL).await;
    let expected: Vec<String> = (0..=5).map(|back| week(&app).back(back).to_string()).collect();
    assert_eq!(weeks(&all), expected);
    let complete: Vec<&Value> =
        all["items"].as_array().unwrap().iter().map(|item| &item["complete"]).collect();
    assert_eq!(complete, [false, true, true, true, true, true]);
    assert_eq!(
        figures(&app.see(&anna, &format!("{OWN}?week={first}")).await["items"][0]),
        json!({"uploads": 1, "uploaded_bytes": 9, "reports": 1, "observations": 1, "logins": 1})
    );
    assert_eq!(app.see(&anna, &format!("{OWN}?week={}", first.next())).await["items"], json!([]));

    // Pages, newest week first.
    let page = app.see(&anna, &format!("{ALL}?limit=4")).await;
    let next = format!("{ALL}?limit=4&cursor={}", page["next_cursor"].as_str().unwrap());
    let rest = app.see(&anna, &next).await;
    assert_eq!([weeks(&page), weeks(&rest)].concat(), expected);
    assert_eq!(rest["next_cursor"], Value::Null);
}

#[tokio::test]
async fn two_workers_at_once_compute_once_and_repetition_gives_the_same() {
    let app = spawn().await;
    let anna = app.user("anna", &["operator"]).await;
    upload(&app, &anna, "bytes").await;
    app.see(&anna, "/v1/me").await;
    counted(&app, "login", 1, 0).await;
    let both = tokio::join!(schedule::step(&app.state), schedule::step(&app.state));
    let (one, other) = (both.0.unwrap(), both.1.unwrap());
    let jobs: i64 =
        sqlx::query_scalar("select count(*) from jobs").fetch_one(&app.state.writer).await.unwrap();
    assert_eq!((one + other) as i64, jobs, "each job once");

    let rows = || async {
        sqlx::query_scalar::<_, Value>(
            "select jsonb_agg(to_jsonb(s) order by s.account_id, s.week) from weekly_statistics s",
        )
        .fetch_one(&app.state.writer)
        .await
        .unwrap()
    };
    let before = (rows().await, figures(&app.see(&anna, ALL).await["items"][0]));
    // The computation is not due before the hour is over, and a process that computes without a lease does no harm.
    assert_eq!(schedule::step(&app.state).await.unwrap(), 0);
    let all = tokio::join!(
        statistics::compute_due(&app.state),
        statistics::recompute(&app.state, week(&app)),
        statistics::compute_due(&app.state)
    );
    assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok(), "{all:?}");
    assert_eq!((rows().await, figures(&app.see(&anna, ALL).await["items"][0])), before);

    upload(&app, &anna, "more").await;
    app.clock.advance(TimeDelta::minutes(61));
    schedule::step(&app.state).await.unwrap();
    assert_eq!(app.see(&anna, OWN).await["items"][0]["uploaded_bytes"], 9, "the current week continues");
}

#[tokio::test]
async fn a_week_settles_a_week_after_its_end_and_keeps_its_watches() {
    let app = spawn().await;
    let anna = app.user("anna", &["operator"]).await;
    ring(&app, &anna, "http://127.0.0.1:9/never").await;
    let first = week(&app);
    let see = || async {
        let list = app.see(&anna, &format!("{OWN}?week={first}")).await;
        let item = &list["items"][0];
        let complete = item["complete"].as_bool().unwrap();
        (
            item["watches"].as_i64().unwrap(),
            item["deliveries"].as_i64().unwrap(),
            item["delivered"].as_i64().unwrap(),
            complete,
        )
    };
    schedule::step(&app.state).await.unwrap();
    assert_eq!(see().await, (1, 1, 0, false));
    app.clock.advance(first.end() - app.clock.now() + TimeDelta::minutes(1));
    schedule::step(&app.state).await.unwrap();
    assert_eq!(see().await, (1, 1, 0, true));
    // The later outcome: the delivery arrived, and the watch was removed with its channel.
    let delivery: Uuid =
        sqlx::query_scalar("select id from deliveries").fetch_one(&app.state.writer).await.unwrap();
    app.finish(delivery, "delivered", None).await;
    sqlx::query("delete from watches").execute(&app.state.writer).await.unwrap();
    app.clock.advance(TimeDelta::days(1));
    schedule::step(&app.state).await.unwrap();
    assert_eq!(see().await, (1, 1, 0, true), "it is left alone");
    app.clock.advance(TimeDelta::days(7));
    schedule::step(&app.state).await.unwrap();
    assert_eq!(see().await, (1, 1, 1, true));
    // Figures survive the removal of what they count, even if the week is recomputed.
    sqlx::query("delete from channels").execute(&app.state.writer).await.unwrap();
    sqlx::query("update weekly_statistics set deliveries = 7, uploads = 7")
        .execute(&app.state.writer)
        .await
        .unwrap();
    statistics::recompute(&app.state, first).await.unwrap();
    assert_eq!(see().await, (1, 1, 1, true));
    assert_eq!(app.see(&anna, &format!("{ALL}?week={first}")).await["items"][0]["uploads"], 0);
    for wrong in [first.back(1), week(&app).next()] {
        assert!(statistics::recompute(&app.state, wrong).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_deleted_account_takes_nothing_out_of_the_totals() {
    let app = spawn().await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &["operator"]).await);
    upload(&app, &anna, "bytes").await;
    ring(&app, &anna, "http://127.0.0.1:9/never").await;
    counted(&app, "login", 2, 0).await;
    // The account is removed before its notices were ever counted.
    sqlx::query("delete from accounts where id = $1")
        .bind(anna.account)
        .execute(&app.state.writer)
        .await
        .unwrap();
    schedule::step(&app.state).await.unwrap();
    let expected = json!({"uploads": 1, "uploaded_bytes": 5, "reports": 2, "observations": 2, "notices": 1, "deliveries": 1});
    let mut total = figures(&app.see(&ben, ALL).await["items"][0]);
    total.as_object_mut().unwrap().remove("logins");
    assert_eq!(total, expected);
    let of_week = app.see(&ben, &format!("{ALL}?week={}&by=account", week(&app))).await;
    let gone = of_week["items"].as_array().unwrap().iter().find(|item| item["notices"] == 1).unwrap();
    assert_eq!(gone["account"], json!({"id": anna.account, "issuer": null, "subject": null}));
}

#[tokio::test]
async fn accounts_see_their_own_statistics_and_operators_see_all() {
    let app = spawn().await;
    let (anna, ben) =
        (app.user("anna", &["prices:write", "catalogue:write"]).await, app.user("ben", &["operator"]).await);
    for _ in 0..3 {
        upload(&app, &anna, "bytes").await;
    }
    app.see(&ben, "/v1/me").await;
    counted(&app, "login", 2, 0).await;
    statistics::compute_due(&app.state).await.unwrap();
    assert_eq!(app.call(&anna, Method::GET, ALL, Value::Null).await.status, 403);
    assert_eq!(app.see(&ben, OWN).await["items"][0]["uploads"], 0);
    let path = format!("{OWN}?account={}", anna.account);
    assert_eq!(app.call(&ben, Method::GET, &path, Value::Null).await.status, 400);

    let of_anna = app.see(&ben, &format!("{ALL}?account={}", anna.account)).await;
    assert_eq!(
        (&of_anna["items"][0]["uploads"], &of_anna["items"][0]["account"]["subject"]),
        (&json!(3), &json!("anna"))
    );
    // Ordered by activity, one item a page.
    let by = format!("{ALL}?week={}&by=account&limit=1", week(&app));
    let page = app.see(&ben, &by).await;
    let rest = app.see(&ben, &format!("{by}&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    let names = [&page, &rest].map(|page| page["items"][0]["account"]["subject"].clone());
    assert_eq!((names, &rest["next_cursor"]), ([json!("anna"), json!("ben")], &Value::Null));

    let answer = app.get(OWN).bearer_auth(&anna.token).send().await.unwrap();
    let tag = answer.headers()["etag"].clone();
    let again = app.get(OWN).bearer_auth(&anna.token).header("if-none-match", tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    for (query, detail) in [
        ("week=2026", "The query parameter week must be an ISO week from 1970 on, such as 2026-W47."),
        ("week=2025-W53", "The query parameter week must be an ISO week from 1970 on, such as 2026-W47."),
        ("week=", "The query parameter week must be an ISO week from 1970 on, such as 2026-W47."),
        ("week=2026-W47&week=2026-W48", "The query parameter week is given more than once."),
        ("by=account", "The query parameter week is required with by."),
        ("by=colour", "The query parameter by is invalid: unknown variant `colour`, expected `account`."),
        ("weeks=1", "The query parameter weeks is unknown here."),
    ] {
        for path in [OWN, ALL] {
            if path == OWN && query.starts_with("by") {
                continue;
            }
            let answer = app.call(&ben, Method::GET, &format!("{path}?{query}"), Value::Null).await;
            assert_eq!((answer.status, &answer.body["detail"]), (400, &json!(detail)), "{path}?{query}");
        }
    }
}

#[tokio::test]
async fn csv_is_plain_and_names_are_no_formulas() {
    let app = spawn().await;
    let evil = app.user("=HYPERLINK(\"http://x\",\"a\")", &["operator"]).await;
    upload(&app, &evil, "bytes").await;
    counted(&app, "login", 1, 0).await;
    statistics::compute_due(&app.state).await.unwrap();
    let csv = |path: String| {
        let request = app.get(&path).bearer_auth(&evil.token).header("accept", "text/csv");
        async {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8; header=present");
            assert!(answer.headers()["content-disposition"].to_str().unwrap().starts_with("attachment;"));
            let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
            (answer.text().await.unwrap(), link)
        }
    };
    let week = week(&app);
    let (text, _) = csv(OWN.to_owned()).await;
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(
        lines[0],
        "week,from,to,computed_at,complete,uploads,uploaded_bytes,downloads,downloaded_bytes,reports,observations,\
         watches,notices,deliveries,delivered,logins"
    );
    assert!(lines[1].starts_with(&format!("{week},{},", week.monday())), "{text}");
    assert!(lines[1].ends_with(",false,1,5,0,0,0,0,0,0,0,0,1") && lines[2].is_empty(), "{text}");
    let (text, _) = csv(format!("{ALL}?week={week}&by=account")).await;
    let name = format!(",{},\"test\",\"'=HYPERLINK(\"\"http://x\"\",\"\"a\"\")\",1,5,", evil.account);
    assert!(text.contains(&name), "{text}");
    app.clock.advance(TimeDelta::days(7));
    statistics::compute_due(&app.state).await.unwrap();
    let (_, link) = csv(format!("{ALL}?limit=1")).await;
    let link = link.unwrap();
    let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap();
    let (text, link) = csv(next.to_owned()).await;
    assert!(text.contains(&format!("\r\n{week},")) && link.is_none(), "{text}");
}

/// Checks that every element is closed by its own tag, and that every text is escaped.
fn check_page(page: &str) {
    let page = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let (mut open, mut rest) = (Vec::new(), page);
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').unwrap_or_else(|| panic!("not closed: {}", &rest[at..]));
        let tag = &rest[at + 1..end];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed in another order");
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        }
        assert!(!tag.contains("style=") && !tag.contains(" on"), "{tag}");
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
    for entity in page.split('&').skip(1) {
        assert!(
            ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|known| entity.starts_with(known)),
            "{entity}"
        );
    }
    assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("src="));
}

#[tokio::test]
async fn the_report_shows_twelve_weeks_and_loads_nothing() {
    let app = spawn().await;
    let anna = app.user("<b>anna & \"co\"</b>", &["operator"]).await;
    let get = |query: &str| {
        let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        app.get(&format!("{ALL}{query}")).bearer_auth(&anna.token).header("accept", accept).send()
    };
    let empty = get("").await.unwrap().text().await.unwrap();
    assert!(empty.contains("Nothing has been counted yet"), "{empty}");
    check_page(&empty);

    let first = week(&app);
    upload(&app, &anna, "12345").await;
    counted(&app, "login", 1, 0).await;
    app.clock.advance(TimeDelta::weeks(13));
    for _ in 0..1234 {
        app.state.activity.note_download(anna.account, 0, 1 << 20, app.clock.now());
    }
    counted(&app, "download", 1234, 1234 << 20).await;
    statistics::compute_due(&app.state).await.unwrap();
    let answer = get("").await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(answer.headers()["vary"], "accept");
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    let page = answer.text().await.unwrap();
    check_page(&page);
    // The content security policy allows exactly the style of the page.
    let style = page.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, style.as_bytes());
    let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash);
    assert!(policy.contains(&format!("'sha256-{hash}'")), "{policy}");
    let title = format!("<h1>Weekly report {}</h1>", week(&app));
    for part in
        [title.as_str(), "1\u{202f}234", "1.2\u{a0}GiB", "&lt;b&gt;anna &amp; &quot;co&quot;&lt;/b&gt;"]
    {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert_eq!(page.matches("<svg").count(), 11);
    assert_eq!(page.matches("<g class=\"week").count(), 11 * 12);
    assert!(!page.contains(&format!("<td>{first}</td>")), "13 weeks ago");
    let old = get(&format!("?week={first}")).await.unwrap().text().await.unwrap();
    check_page(&old);
    assert!(old.contains(&format!("<td>{first}</td>")) && old.contains("not computed"), "{old}");
}

#[tokio::test]
async fn statistics_are_shown_and_recomputed_by_command() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    upload(&app, &anna, "bytes").await;
    counted(&app, "login", 1, 0).await;
    let run = async |arguments: &[&str]| {
        let arguments = [&["stats"], arguments].concat();
        let output =
            command(&arguments, &[("SALEBELL_DATABASE__URL", &app.database.url)]).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let now = week(&app).to_string();
    let (success, text, errors) = run(&["recompute", "--week", &now]).await;
    assert!(success && text.contains(&now), "{text}{errors}");
    let (_, text, _) = run(&["show"]).await;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["week", "uploads", "uploaded_bytes"]);
    assert_eq!(lines[1][..3], [format!("{now}*").as_str(), "1", "5"]);
    let account = anna.account.to_string();
    let (_, text, _) = run(&["show", "--account", &account, "--week", &now, "--format", "json"]).await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown["items"][0]["account"]["subject"], "anna");
    let (_, text, _) = run(&["show", "--format", "csv"]).await;
    assert!(text.starts_with("week,from,") && text.contains(&format!("\r\n{now},")), "{text}");

    let file = app.files.path().join("report.html");
    let (success, _, errors) = run(&["report", "--out", file.to_str().unwrap()]).await;
    assert!(success, "{errors}");
    let page = std::fs::read_to_string(file).unwrap();
    check_page(&page);
    assert!(page.contains(&now));
    for wrong in [
        &["recompute", "--week", "2026-W54"][..],
        &["recompute", "--week", "1999-W01"],
        &["report", "--out", "/"],
    ] {
        let (success, _, errors) = run(wrong).await;
        assert!(!success && !errors.is_empty(), "{wrong:?}");
    }
}
