//! `salebell report`: slightly malformed rows, from the file to the offer.

use serde_json::Value;

use crate::cli::report::{report, text, write};
use crate::support::TestApp;
use crate::support::scratch::Scratch;

#[tokio::test]
async fn a_line_that_is_accepted_without_a_field_is_not_a_failure() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let csv = "sku,title,price,url,observed_at,sale_ends_at\n\
        a,\"Two\nlines &amp; more\",EUR 9.99,https://shop.example/a,2026-01-20 12:00,2098-11-29\n\
        b,B,9.99,shop.example/b,2026-01-20 11:00:00+00,\n";
    let file = write(&scratch, "prices.csv", csv);
    let rejects = scratch.path().join("rejects.ndjson");
    let arguments = [
        "--set",
        "store=Steam",
        "--set",
        "currency=EUR",
        "--set",
        "time_zone=Europe/Berlin",
        "--set",
        "region=uk",
        "--rejects",
        rejects.to_str().unwrap(),
        &file,
    ];
    let output = report(&app, &scratch, &app.url, &shop, &arguments).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("2 accepted, 0 refused, 1 with a warning"), "{out}");
    assert!(err.contains("line 4: warning: url must start with"), "{err}");
    let rejected: Value = serde_json::from_str(&std::fs::read_to_string(&rejects).unwrap()).unwrap();
    assert_eq!(
        (&rejected["line"], &rejected["kind"]),
        (&serde_json::json!(4), &serde_json::json!("warning"))
    );
    let offers = app.read("/v1/offers").await;
    for offer in offers["items"].as_array().unwrap() {
        assert_eq!((&offer["region"], &offer["observed_at"]), (&"GB".into(), &"2026-01-20T11:00:00Z".into()));
    }
    let games = app.read("/v1/games").await;
    assert!(
        games["items"].as_array().unwrap().iter().any(|game| game["title"] == "Two lines & more"),
        "{games}"
    );
}

#[tokio::test]
async fn an_open_quote_gives_no_line_the_price_of_another() {
    let rows = "r1\tGame one\t\"Best game\t10\nr2\tGame two\tfine\t1\nr3\tGame three\tsay \"hi\"\t2\nr4\tGame four\tz\t3\n";
    for (name, body) in [
        ("open.tsv", rows.to_owned()),
        // A quotation mark some rows below would close it.
        ("closed.tsv", rows.replace("say \"hi\"", "24\"")),
        ("closed.csv", rows.replace("say \"hi\"", "24\"").replace('\t', ";")),
    ] {
        let app = TestApp::spawn().await;
        let scratch = Scratch::new();
        let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
        let header = if name.ends_with("tsv") { "id\ttitle\tnote\tprice\n" } else { "id;title;note;price\n" };
        let file = write(&scratch, name, format!("{header}{body}"));
        let arguments = ["--map", "sku=id", "--set", "store=Shop", "--set", "currency=EUR", &file];
        let output = report(&app, &scratch, &app.url, &shop, &arguments).await;
        assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
        let offers: Vec<(String, i64)> = sqlx::query_as("select sku, amount from offers order by sku")
            .fetch_all(&app.state.writer)
            .await
            .unwrap();
        let expected = [("r1", 1000), ("r2", 100), ("r3", 200), ("r4", 300)];
        assert_eq!(offers, expected.map(|(sku, amount)| (sku.to_owned(), amount)), "{name}");
    }
}
