//! The price history of a game: changes and buckets, carried forward, complete across pages.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::TestApp;
use crate::support::catalogue::answer;

/// Reports `(store, region, price, observed_at)` of one game; returns the game's path.
async fn history(app: &TestApp, prices: &[(&str, &str, &str, &str)]) -> String {
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let observations: Vec<Value> = prices
        .iter()
        .map(|(store, region, price, at)| {
            json!({"store": store, "sku": "1", "title": "Game", "region": region, "price": price,
                "regular_price": "20.00", "currency": "EUR", "observed_at": at})
        })
        .collect();
    app.report(&shop, json!(observations)).await;
    app.record_all().await;
    let games = app.read("/v1/games").await;
    assert_eq!(games["items"].as_array().unwrap().len(), 1);
    format!("/v1/games/{}", games["items"][0]["id"].as_str().unwrap())
}

/// Points as `store time price`, or `store time min..max last`.
fn lines(points: &[Value]) -> Vec<String> {
    let amount = |value: &Value| value["amount"].as_str().unwrap().to_owned();
    let day = |value: &Value| value.as_str().unwrap()[..10].to_owned();
    let line = |point: &Value| {
        let store = point["store"]["slug"].as_str().unwrap();
        if point["start"].is_string() {
            format!(
                "{store} {} {}..{} {}",
                day(&point["start"]),
                amount(&point["min"]),
                amount(&point["max"]),
                amount(&point["last"])
            )
        } else {
            format!("{store} {} {}", day(&point["observed_at"]), amount(&point["price"]))
        }
    };
    points.iter().map(line).collect()
}

const PRICES: &[(&str, &str, &str, &str)] = &[
    ("steam", "ZZ", "20.00", "2025-11-30T00:00:00Z"),
    ("steam", "ZZ", "10.00", "2026-01-01T12:00:00Z"),
    ("steam", "ZZ", "8.00", "2026-01-01T18:00:00Z"),
    ("steam", "ZZ", "20.00", "2026-01-04T00:00:00Z"),
    ("steam", "ZZ", "5.00", "2026-03-10T00:00:00Z"),
    ("gog", "DE", "15.00", "2026-01-02T00:00:00Z"),
];

#[tokio::test]
async fn changes_begin_with_the_price_in_force() {
    let app = TestApp::spawn().await;
    let game = history(&app, PRICES).await;
    let all =
        ["2025-11-30 20.00", "2026-01-01 10.00", "2026-01-01 8.00", "2026-01-04 20.00", "2026-03-10 5.00"];
    let steam: Vec<String> = all.iter().map(|line| format!("steam {line}")).collect();
    let gog = "gog 2026-01-02 15.00".to_owned();
    let day = |day: &str| format!("{day}T00:00:00Z");
    for (query, expected) in [
        ("store=steam".to_owned(), steam.clone()),
        ("region=DE&store=gog".to_owned(), vec![gog.clone()]),
        ("region=US".to_owned(), steam.clone()),
        (format!("store=steam&since={}", day("2026-01-03")), steam[2..].to_vec()),
        (format!("store=steam&since={}", day("2026-01-04")), steam[3..].to_vec()),
        (format!("store=steam&since={}&until={}", day("2026-01-01"), day("2026-01-04")), steam[..3].to_vec()),
        (format!("store=steam&until={}", day("2025-01-01")), vec![]),
        (format!("store=steam&since={}", day("2027-01-01")), steam[4..].to_vec()),
    ] {
        for limit in [1, 2, 200] {
            let points = app.read_all(&format!("{game}/prices?{query}"), limit).await;
            assert_eq!(lines(&points), expected, "{query} by {limit}");
        }
    }
    // Two offers, one after the other.
    for limit in [1, 4, 5, 6] {
        let points = app.read_all(&format!("{game}/prices"), limit).await;
        let mut found = lines(&points);
        assert_eq!(found.len(), 6);
        found.retain(|line| line != &gog);
        assert_eq!(found, steam);
        let offers: Vec<&Value> = points.iter().map(|point| &point["offer_id"]).collect();
        assert!(offers.windows(2).filter(|pair| pair[0] != pair[1]).count() == 1, "offers are mixed");
    }
    let first = &app.read(&format!("{game}/prices?store=steam&limit=2")).await["items"][1];
    assert_eq!(first["price"], json!({"amount": "10.00", "currency": "EUR"}));
    assert_eq!(first["regular_price"], json!({"amount": "20.00", "currency": "EUR"}));
    assert_eq!((first["cut"].as_i64(), first["region"].as_str()), (Some(50), Some("ZZ")));
}

#[tokio::test]
async fn buckets_carry_the_price_forward() {
    let app = TestApp::spawn().await;
    let game = history(&app, PRICES).await;
    let read = async |query: &str, limit| {
        lines(&app.read_all(&format!("{game}/prices?store=steam&{query}"), limit).await)
    };
    for limit in [1, 2, 3, 200] {
        let days = read("resolution=day&since=2025-12-31T15:00:00Z&until=2026-01-05T12:00:00Z", limit).await;
        assert_eq!(
            days,
            [
                "steam 2025-12-31 20.00..20.00 20.00",
                "steam 2026-01-01 8.00..20.00 8.00",
                "steam 2026-01-02 8.00..8.00 8.00",
                "steam 2026-01-03 8.00..8.00 8.00",
                "steam 2026-01-04 20.00..20.00 20.00",
                "steam 2026-01-05 20.00..20.00 20.00",
            ]
        );
        let weeks =
            read("resolution=week&since=2026-01-01T00:00:00Z&until=2026-01-19T00:00:00Z", limit).await;
        assert_eq!(
            weeks,
            [
                "steam 2025-12-29 8.00..20.00 20.00",
                "steam 2026-01-05 20.00..20.00 20.00",
                "steam 2026-01-12 20.00..20.00 20.00",
            ]
        );
        let months = read("resolution=month&until=2026-05-01T00:00:00Z", limit).await;
        assert_eq!(
            months,
            [
                "steam 2025-11-01 20.00..20.00 20.00",
                "steam 2025-12-01 20.00..20.00 20.00",
                "steam 2026-01-01 8.00..20.00 20.00",
                "steam 2026-02-01 20.00..20.00 20.00",
                "steam 2026-03-01 5.00..20.00 5.00",
                "steam 2026-04-01 5.00..5.00 5.00",
            ]
        );
    }
    assert_eq!(read("resolution=day&until=2025-11-30T00:00:00Z", 200).await, Vec::<String>::new());

    // Without `until`, the price is carried up to now and no further.
    let now: DateTime<Utc> = app.clock.now();
    let months = read("resolution=month", 200).await;
    assert!(months.last().unwrap().starts_with(&format!("steam {}-{:02}-01", now.year(), now.month())));
}

#[tokio::test]
async fn pages_of_buckets_hold_whatever_the_changes_are() {
    let app = TestApp::spawn().await;
    // Three offers with occasional price changes over half a year.
    let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut prices = Vec::new();
    for (number, store) in ["steam", "gog", "epic"].iter().enumerate() {
        for step in 0..12_i64 {
            let at = start + TimeDelta::hours((step * step * 31 + 17 * number as i64) % 4_000 + 1);
            prices.push((*store, format!("{}.00", 5 + (step * 7 + number as i64) % 15), at.to_rfc3339()));
        }
    }
    let prices: Vec<_> =
        prices.iter().map(|(store, price, at)| (*store, "ZZ", price.as_str(), at.as_str())).collect();
    let game = history(&app, &prices).await;
    for resolution in ["change", "day", "week", "month"] {
        let path = format!(
            "{game}/prices?resolution={resolution}&since=2026-01-10T00:00:00Z&until=2026-06-01T00:00:00Z"
        );
        let whole = app.read_all(&path, 200).await;
        for limit in [1, 7, 50] {
            if limit > 1 || resolution != "day" {
                assert_eq!(app.read_all(&path, limit).await, whole, "{resolution} by {limit}");
            }
        }
    }
    // The buckets agree with the changes: each has the last change at or before its end.
    let until = "until=2026-06-01T00:00:00Z";
    let changes = app.read_all(&format!("{game}/prices?{until}"), 200).await;
    let days = app.read_all(&format!("{game}/prices?resolution=day&{until}"), 200).await;
    let instant = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    for day in &days {
        let end = instant(&day["start"]) + TimeDelta::days(1);
        let last = changes
            .iter()
            .rfind(|change| change["offer_id"] == day["offer_id"] && instant(&change["observed_at"]) < end);
        assert_eq!(day["last"], last.unwrap()["price"], "{day}");
    }
}

#[tokio::test]
async fn an_invalid_query_of_history_is_refused() {
    let app = TestApp::spawn().await;
    let game = history(&app, PRICES).await;
    for (query, parameter) in [
        ("since=yesterday", "since"),
        ("until=10000-01-01T00:00:00Z", "until"),
        ("since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
        ("resolution=hour", "resolution"),
        ("store=nobody", "store"),
        ("region=Germany", "region"),
    ] {
        let refused = answer(app.get(&format!("{game}/prices?{query}"))).await;
        assert_eq!((refused.status.as_u16(), refused.pointers()), (400, vec![parameter]), "{query}");
    }
    let unknown = uuid::Uuid::now_v7();
    assert_eq!(answer(app.get(&format!("/v1/games/{unknown}/prices"))).await.status, 404);
}
