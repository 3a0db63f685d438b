//! Deals: every filter, every order, complete across pages.

use serde_json::{Value, json};

use crate::support::TestApp;
use crate::support::catalogue::answer;

/// Line by which the tests compare a deal.
fn line(deal: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    format!(
        "{} {} {} {} {} -{}%{}",
        text(&deal["title"]),
        text(&deal["store"]["slug"]),
        text(&deal["region"]),
        text(&deal["price"]["amount"]),
        text(&deal["price"]["currency"]),
        deal["cut"],
        if deal["new_low"] == true { " low" } else { "" },
    )
}

/// Reports, for each line, `title store region platform price regular currency day`, and records it.
async fn report(app: &TestApp, lines: &[&str]) {
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let observations: Vec<Value> = lines
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [title, store, region, platform, price, regular, currency, day] = words[..] else {
                panic!("{line}")
            };
            json!({"store": store, "sku": title, "title": title, "region": region, "platform": platform,
                "price": price, "regular_price": regular, "currency": currency,
                "observed_at": format!("2026-01-{day}T00:00:00Z")})
        })
        .collect();
    app.report(&shop, json!(observations)).await;
    app.record_all().await;
}

const REPORTS: &[&str] = &[
    "Alpha steam ZZ windows 10.00 20.00 EUR 01",
    "Beta steam DE windows 5.00 20.00 EUR 02",
    "Gamma steam US windows 19.00 20.00 USD 03",
    "Delta steam ZZ linux 20.00 20.00 EUR 04",
    "Alpha gog ZZ windows 20.00 20.00 EUR 03",
    "Alpha gog ZZ windows 4.00 20.00 EUR 05",
    "Beta gog ZZ switch 1500 3000 JPY 06",
    "Gamma gog DE switch 0.00 20.00 EUR 07",
    "Delta gog ZZ windows 5.00 20.00 EUR 01",
    "Delta gog ZZ windows 20.00 20.00 EUR 08",
];

#[tokio::test]
async fn every_filter_and_order_returns_the_matching_deals() {
    let app = TestApp::spawn().await;
    report(&app, REPORTS).await;
    let alpha = "Alpha steam ZZ 10.00 EUR -50%";
    let beta = "Beta steam DE 5.00 EUR -75%";
    let gamma = "Gamma steam US 19.00 USD -5%";
    let alpha_gog = "Alpha gog ZZ 4.00 EUR -80% low";
    let beta_gog = "Beta gog ZZ 1500 JPY -50%";
    let gamma_gog = "Gamma gog DE 0.00 EUR -100%";
    for (query, expected) in [
        ("sort=price", vec![gamma_gog, alpha_gog, beta, alpha, beta_gog, gamma]),
        ("sort=newest", vec![gamma_gog, beta_gog, alpha_gog, gamma, beta, alpha]),
        ("store=steam", vec![beta, alpha, gamma]),
        ("store=gog&sort=price", vec![gamma_gog, alpha_gog, beta_gog]),
        ("store=gog&sort=newest", vec![gamma_gog, beta_gog, alpha_gog]),
        // A buyer in Germany buys what is sold there and what is sold everywhere.
        ("region=de&sort=newest", vec![gamma_gog, beta_gog, alpha_gog, beta, alpha]),
        ("region=US&sort=price&currency=EUR", vec![alpha_gog, alpha]),
        ("currency=EUR", vec![gamma_gog, alpha_gog, beta, alpha]),
        ("currency=JPY", vec![beta_gog]),
        ("currency=GBP", vec![]),
        ("platform=Switch&sort=newest", vec![gamma_gog, beta_gog]),
        ("min_cut=75", vec![gamma_gog, alpha_gog, beta]),
        ("min_cut=75&sort=newest&store=steam", vec![beta]),
        ("currency=EUR&max_price=5.00", vec![gamma_gog, alpha_gog, beta]),
        ("currency=EUR&max_price=4.99&sort=price", vec![gamma_gog, alpha_gog]),
        ("currency=JPY&max_price=1500", vec![beta_gog]),
        ("new_low=true", vec![alpha_gog]),
        ("new_low=false&currency=EUR", vec![gamma_gog, beta, alpha]),
        ("store=gog&region=DE&currency=EUR&platform=switch&min_cut=100&max_price=0", vec![gamma_gog]),
    ] {
        for limit in [1, 2, 200] {
            let deals = app.read_all(&format!("/v1/deals?{query}"), limit).await;
            let found: Vec<String> = deals.iter().map(line).collect();
            assert_eq!(found, expected, "{query}");
        }
    }
    // Among equal cuts the later sale comes first; here, one statement made both.
    let by_cut = app.read_all("/v1/deals", 2).await;
    let cuts: Vec<i64> = by_cut.iter().map(|deal| deal["cut"].as_i64().unwrap()).collect();
    assert_eq!(cuts, [100, 80, 75, 50, 50, 5]);

    let deal = &app.read("/v1/deals?new_low=true").await["items"][0];
    assert_eq!(deal["regular_price"], json!({"amount": "20.00", "currency": "EUR"}));
    assert_eq!((deal["started_at"].as_str(), &deal["ends_at"]), (Some("2026-01-05T00:00:00Z"), &json!(null)));
    let offer = app.read(&format!("/v1/offers/{}", deal["offer_id"].as_str().unwrap())).await;
    assert_eq!((&offer["price"], &offer["game_id"]), (&deal["price"], &deal["game_id"]));
}

#[tokio::test]
async fn invalid_queries_are_refused() {
    let app = TestApp::spawn().await;
    report(&app, REPORTS).await;
    for (query, parameter) in [
        ("max_price=5.00", "max_price"),
        ("max_price=5.001&currency=EUR", "max_price"),
        ("max_price=-1&currency=EUR", "max_price"),
        ("currency=euro", "currency"),
        ("region=Germany", "region"),
        ("store=nobody", "store"),
        ("min_cut=101", "min_cut"),
        ("min_cut=half", "min_cut"),
        ("new_low=maybe", "new_low"),
        ("sort=title", "sort"),
        ("platform=%00", "platform"),
        ("platform=", "platform"),
        ("platform=%20", "platform"),
        ("region=", "region"),
        ("region=%20", "region"),
        ("store=", "store"),
        ("currency=", "currency"),
        ("max_price=&currency=EUR", "max_price"),
        ("sort=", "sort"),
        ("store=%00", "store"),
        ("sort=cut&sort=price", "sort"),
    ] {
        let refused = answer(app.get(&format!("/v1/deals?{query}"))).await;
        assert_eq!(
            (refused.status.as_u16(), refused.pointers()),
            (400, vec![parameter]),
            "{query}: {}",
            refused.body
        );
    }
    let cursor = |page: Value| page["next_cursor"].as_str().unwrap().to_owned();
    let by_cut = cursor(app.read("/v1/deals?limit=1").await);
    for query in ["sort=price", "store=steam", "min_cut=1", "sort=cut"] {
        let refused = answer(app.get(&format!("/v1/deals?limit=1&{query}&cursor={by_cut}"))).await;
        assert_eq!(refused.status, 400, "{query} takes the cursor of another query");
    }
}

#[tokio::test]
async fn paging_gives_each_deal_once_while_sales_start() {
    let app = TestApp::spawn().await;
    report(&app, REPORTS).await;
    for sort in ["cut", "price", "newest"] {
        let expected = app.read_all(&format!("/v1/deals?sort={sort}"), 200).await;
        let mut seen = Vec::new();
        let mut cursor = String::new();
        for round in 0.. {
            let page = app.read(&format!("/v1/deals?sort={sort}&limit=2{cursor}")).await;
            seen.extend(page["items"].as_array().unwrap().clone());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
            // It sorts before or after what was read already, depending on the order.
            let line = format!("New-{sort}-{round} steam ZZ windows 9.00 20.00 EUR 1{round}");
            report(&app, &[&line]).await;
        }
        let known: Vec<Value> = seen.iter().filter(|deal| expected.contains(deal)).cloned().collect();
        assert_eq!(known, expected, "{sort}");
        let mut ids: Vec<&str> = seen.iter().map(|deal| deal["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), seen.len(), "{sort} shows a deal twice");
    }
}
