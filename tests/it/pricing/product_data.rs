//! Meaning of the fields of product data: sale periods, availability, titles, prices, regions, URLs.

use serde_json::{Value, json};

use crate::pricing::imports::{SCOPES, finish, import};
use crate::support::{TestApp, User};

const COLUMNS: [&str; 7] =
    ["id", "title", "link", "price", "sale_price", "sale_price_effective_date", "availability"];

/// The same products in each format; the first column of a row is the id.
fn feeds(rows: &[[&str; 7]]) -> Vec<(&'static str, String)> {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let element = |name: &str, text: &str| match (name, text) {
        (_, "") => String::new(),
        ("title" | "link", text) => format!("<{name}>{}</{name}>", escaped(text)),
        (name, text) => format!("<g:{name}>{}</g:{name}>", escaped(text)),
    };
    let item =
        |row: &[&str; 7]| COLUMNS.iter().zip(row).map(|(name, text)| element(name, text)).collect::<String>();
    let items =
        |tag: &str| rows.iter().map(|row| format!("<{tag}>{}</{tag}>\n", item(row))).collect::<String>();
    let rss = format!(
        "<rss xmlns:g=\"http://base.google.com/ns/1.0\" version=\"2.0\"><channel>\n{}</channel></rss>",
        items("item")
    );
    let atom = format!(
        "<feed xmlns=\"http://www.w3.org/2005/Atom\" xmlns:g=\"http://base.google.com/ns/1.0\">\n{}</feed>",
        items("entry").replace("<link>", "<link href=\"").replace("</link>", "\"/>")
    );
    let lines = |delimiter: &str| {
        let cells =
            |row: &[&str; 7]| row.map(|text| format!("\"{}\"", text.replace('"', "\"\""))).join(delimiter);
        format!(
            "{}\n{}",
            COLUMNS.join(delimiter),
            rows.iter().map(|row| cells(row) + "\n").collect::<String>()
        )
    };
    vec![("feed.xml", rss), ("feed.atom", atom), ("feed.tsv", lines("\t")), ("feed.csv", lines(","))]
}

async fn offers(app: &TestApp) -> Vec<Value> {
    app.read("/v1/offers").await["items"].as_array().unwrap().clone()
}

async fn refusals(app: &TestApp, user: &User, done: &Value) -> Vec<Value> {
    let path = format!("{}?format=ndjson", done["refusals"].as_str().unwrap());
    let text = app.get(&path).bearer_auth(&user.token).send().await.unwrap().text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_value_that_is_not_understood_drops_the_field_with_a_warning() {
    let long_ago_to_far = "2020-01-01/2098-11-29";
    let rows = [
        ["1", "Right", "https://shop.example/1", "20.00 EUR", "10.00 EUR", long_ago_to_far, "in stock"],
        ["2", "Open", "https://shop.example/2", "20.00 EUR", "10.00 EUR", "2020-01-01/", ""],
        ["3", "Zeros", "", "20.00 EUR", "10.00 EUR", "0000-00-00/0000-00-00", ""],
        ["4", "Above", "", "EUR 20.00", "30.00 EUR", "", "preorder"],
        ["5", "No scheme", "shop.example/5", "EUR20.00", "", "", ""],
        ["6", "Script", "javascript:alert(1)", "20.00 EUR", "", "/", ""],
        ["7", "No sale", "", "20.00 EUR", "", "soon", ""],
        ["8", "Unknown", "", "20.00 EUR", "", "", "perhaps"],
        ["9", "No price", "", "20,00 EUR", "", "", ""],
    ];
    for (name, body) in feeds(&rows) {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &SCOPES).await;
        let options = json!({"format": "merchant", "constants": {"store": "Shop", "region": "UK", "time_zone": "Europe/Berlin"}});
        let done = finish(&app, &anna, &import(&app, &anna, options, name, body).await).await;
        assert_eq!(
            (&done["state"], &done["recorded"], &done["refused"], &done["warnings"]),
            (&json!("done"), &json!(7), &json!(2), &json!(5)),
            "{name}: {done}"
        );
        assert_eq!(done["transitions"], json!({"first.seen": 6, "sale.started": 1}), "{name}");
        let offers = offers(&app).await;
        for offer in &offers {
            let price = if offer["sku"] == "1" { "10.00" } else { "20.00" };
            assert_eq!(offer["price"]["amount"], price, "{name}: {offer}");
            assert_eq!(
                (&offer["regular_price"]["amount"], &offer["region"]),
                (&json!("20.00"), &json!("GB"))
            );
            let url = match offer["sku"].as_str().unwrap() {
                sku @ ("1" | "2") => json!(format!("https://shop.example/{sku}")),
                _ => Value::Null,
            };
            assert_eq!(offer["url"], url, "{name}: {offer}");
        }
        // The last second of the day in that time zone.
        let ends: Vec<&Value> =
            offers.iter().map(|offer| &offer["sale_ends_at"]).filter(|end| !end.is_null()).collect();
        assert_eq!(ends, [&json!("2098-11-29T22:59:59Z")], "{name}");

        let listed = refusals(&app, &anna, &done).await;
        let line = |listed: &Value| listed["line"].as_u64().unwrap() - 1;
        let kinds: Vec<(u64, &str)> =
            listed.iter().map(|listed| (line(listed), listed["kind"].as_str().unwrap())).collect();
        let warned = |at| (at, "warning");
        assert_eq!(
            kinds,
            [warned(2), warned(3), warned(4), warned(5), warned(6), (8, "refused"), (9, "refused")],
            "{name}: {listed:?}"
        );
        for (listed, why) in listed.iter().zip([
            "has no end",
            "not a time",
            "above the price",
            "link must start with",
            "link must start with",
            "\"perhaps\"",
            "price",
        ]) {
            assert!(listed["reason"].as_str().unwrap().contains(why), "{name}: {listed}");
        }
        let csv = app.get(done["refusals"].as_str().unwrap()).bearer_auth(&anna.token).send().await.unwrap();
        let csv = csv.text().await.unwrap();
        assert!(csv.starts_with("line,reason,kind\r\n3,\"sale_price_effective_date has no end"), "{csv}");
        assert!(csv.contains(",warning\r\n") && csv.ends_with(",refused\r\n"), "{csv}");
    }
}

#[tokio::test]
async fn a_feed_of_one_line_reports_every_reason() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let rows = [
        ["1", "", "", "20,00 EUR", "", "", ""],
        ["2", "", "shop.example/2", "20.00 EUR", "", "", ""],
        ["3", "", "", "20.00 EUR", "", "", "perhaps"],
        ["4", "", "", "1,000 EUR", "", "", ""],
    ];
    let rss = feeds(&rows).remove(0).1.replace('\n', "");
    let options = json!({"format": "merchant", "constants": {"store": "Shop"}});
    let done = finish(&app, &anna, &import(&app, &anna, options, "feed.xml", rss).await).await;
    assert_eq!(
        (&done["recorded"], &done["refused"], &done["warnings"]),
        (&json!(1), &json!(3), &json!(1)),
        "{done}"
    );
    let listed = refusals(&app, &anna, &done).await;
    assert_eq!((listed.len(), &listed[0]["line"], &listed[0]["kind"]), (1, &json!(1), &json!("refused")));
    for why in ["price must be a decimal number", "\"perhaps\"", "link must start with"] {
        assert_eq!(listed[0]["reason"].as_str().unwrap().matches(why).count(), 1, "{listed:?}");
    }
}

#[tokio::test]
async fn titles_are_shown_as_they_are_meant_in_every_format() {
    let rows = [
        ["1", "Assassin&#8217;s  Creed\n Caf&eacute;", "", "1 EUR", "", "", ""],
        ["2", "Bur\u{ad}row\u{200b}\u{a0}Tales&amp;Co", "", "1 EUR", "", "", ""],
        ["3", "R&D; &nosuch; \"x\"", "", "1 EUR", "", "", ""],
    ];
    let shown = ["Assassin’s Creed Café", "Burrow Tales&Co", "R&D; &nosuch; \"x\""];
    let mut bodies: Vec<_> = feeds(&rows)
        .into_iter()
        .map(|(name, body)| (name, body, json!({"format": "merchant", "constants": {"store": "Shop"}})))
        .collect();
    let fields = json!({"constants": {"store": "Shop", "price": "1", "currency": "EUR"}});
    let ndjson: String =
        rows.iter().map(|row| format!("{}\n", json!({"sku": row[0], "title": row[1]}))).collect();
    let csv: String =
        rows.iter().map(|row| format!("{},\"{}\"\n", row[0], row[1].replace('"', "\"\""))).collect();
    bodies.push(("prices.ndjson", ndjson, fields.clone()));
    bodies.push(("prices.csv", format!("sku,title\n{csv}"), fields));
    for (name, body, options) in bodies {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &SCOPES).await;
        let done = finish(&app, &anna, &import(&app, &anna, options, name, body).await).await;
        assert_eq!((&done["recorded"], &done["refused"]), (&json!(3), &json!(0)), "{name}: {done}");
        let games = app.read("/v1/games").await;
        let mut titles: Vec<&str> =
            games["items"].as_array().unwrap().iter().map(|game| game["title"].as_str().unwrap()).collect();
        titles.sort_unstable();
        assert_eq!(titles, shown, "{name}");
    }
    // The XML parser has already decoded once.
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let rss = "<rss xmlns:g=\"http://base.google.com/ns/1.0\"><channel><item><g:id>1</g:id><title>Tom &amp;amp; Jerry</title>\
        <g:price>1 EUR</g:price></item></channel></rss>";
    let options = json!({"format": "merchant", "constants": {"store": "Shop"}});
    finish(&app, &anna, &import(&app, &anna, options, "feed.xml", rss).await).await;
    assert_eq!(app.read("/v1/games").await["items"][0]["title"], "Tom & Jerry");
}

#[tokio::test]
async fn constants_name_the_zone_and_the_currency_of_rows_that_do_not() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let options = json!({"constants":
        {"store": "Shop", "currency": "EUR", "time_zone": "America/Los_Angeles", "region": "de"}});
    let csv = "sku,price,regular_price,observed_at,sale_ends_at\n\
        a,EUR 9.99,19.99,2026-01-20 04:00,2098-11-29\n\
        b,9.99EUR,19.99,2026-01-20 12:00:00 GMT,2098-11-30T07:59:59Z\n\
        c,9.99 USD,,2026-01-20 04:00,\n";
    let done = finish(&app, &anna, &import(&app, &anna, options, "a.csv", csv).await).await;
    assert_eq!((&done["recorded"], &done["refused"]), (&json!(2), &json!(1)), "{done}");
    for offer in offers(&app).await {
        assert_eq!(
            (&offer["observed_at"], &offer["sale_ends_at"], &offer["region"]),
            (&json!("2026-01-20T12:00:00Z"), &json!("2098-11-30T07:59:59Z"), &json!("DE"))
        );
    }
    let options = json!({"format": "merchant", "constants": {"store": "Shop", "currency": "EUR"}});
    let tsv = "id\tprice\tsale_price\n1\t20.00\t9.00 EUR\n2\t20.00 USD\t\n3\t20.00\t9.00 USD\n";
    let done = finish(&app, &anna, &import(&app, &anna, options, "a.tsv", tsv).await).await;
    assert_eq!((&done["recorded"], &done["refused"]), (&json!(1), &json!(2)), "{done}");
    let refused = refusals(&app, &anna, &done).await;
    assert_eq!(refused[0]["reason"], "has a price in USD, but the currency given for it is EUR");

    for constants in [
        json!({"store": "Shop", "region": "EU"}),
        json!({"store": "Shop", "time_zone": "Mars/Olympus"}),
        json!({"store": "Shop", "currency": "EURO"}),
    ] {
        for format in ["merchant", "observations"] {
            let body = json!({"file_id": uuid::Uuid::now_v7(), "format": format, "constants": constants});
            let answer = app.post("/v1/imports").bearer_auth(&anna.token).json(&body).send().await.unwrap();
            assert_eq!(answer.status(), 422, "{body}");
        }
    }
    let export = json!({"kind": "prices", "filter": {"region": "EU"}});
    let answer = app.post("/v1/exports").bearer_auth(&anna.token).json(&export).send().await.unwrap();
    assert_eq!(answer.status(), 422);
}

#[tokio::test]
async fn unavailability_is_reported_by_every_format() {
    let rows = [
        ["1", "In", "", "20.00 EUR", "10.00 EUR", "", "https://schema.org/InStock"],
        ["2", "Out", "", "20.00 EUR", "10.00 EUR", "", "Out of Stock"],
        ["3", "Pre", "", "20.00 EUR", "10.00 EUR", "", "PREORDER"],
    ];
    for (name, body) in feeds(&rows) {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &SCOPES).await;
        let options = json!({"format": "merchant", "constants": {"store": "Shop"}});
        let waiting = import(&app, &anna, options, name, body).await;
        while salebell::worker::imports::step(&app.state, || ()).await.unwrap().is_more() {}
        let payloads: Vec<Vec<u8>> = sqlx::query_scalar("select payload from bus_messages")
            .fetch_all(&app.state.writer)
            .await
            .unwrap();
        let reported: Vec<(String, bool)> = payloads
            .iter()
            .flat_map(|payload| salebell::domain::batch::PriceMessage::unpack(payload).unwrap().observations)
            .map(|seen| (seen.sku, seen.available))
            .collect();
        assert_eq!(
            reported,
            [("1".to_owned(), true), ("2".to_owned(), false), ("3".to_owned(), true)],
            "{name}: {waiting}"
        );
    }
}
