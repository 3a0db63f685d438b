//! Reading files of prices with any content: quotes, namespaces, encodings; and the memory that it needs.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::report::read_peak;
use crate::pricing::imports::{finish, import};
use crate::support::binary::Binary;
use crate::support::{TestApp, User};

const SCOPES: [&str; 2] = ["prices:write", "catalogue:write"];

fn merchant() -> Value {
    json!({"format": "merchant", "constants": {"store": "Shop", "region": "DE"}})
}

/// Every offer with its price in minor units.
async fn offers(app: &TestApp) -> Vec<(String, i64)> {
    sqlx::query_as("select sku, amount from offers order by sku").fetch_all(&app.state.writer).await.unwrap()
}

async fn refusals(app: &TestApp, user: &User, done: &Value) -> Vec<Value> {
    let path = format!("{}?format=ndjson", done["refusals"].as_str().unwrap());
    let refusals = app.get(&path).bearer_auth(&user.token).send().await.unwrap().text().await.unwrap();
    refusals.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn expect(offers: &[(&str, i64)]) -> Vec<(String, i64)> {
    offers.iter().map(|(sku, amount)| ((*sku).to_owned(), *amount)).collect()
}

#[tokio::test]
async fn an_open_quote_gives_no_product_the_price_of_another() {
    let rows = [
        ["id", "title", "description", "price"],
        ["r1", "Game one", "\"Best game", "10 EUR"],
        ["r2", "Game two", "fine", "1 EUR"],
        ["r3", "Game three", "say \"hi\"", "2 EUR"],
        ["r4", "Game four", "z", "3 EUR"],
    ];
    // The same if a quotation mark some rows below would close it.
    let mut closed = rows;
    closed[3][2] = "24\"";
    for rows in [rows, closed] {
        for (name, delimiter) in [("a.tsv", "\t"), ("a.csv", ","), ("b.csv", ";")] {
            let app = TestApp::spawn().await;
            let anna = app.user("anna", &SCOPES).await;
            let body: String = rows.iter().map(|row| format!("{}\n", row.join(delimiter))).collect();
            let done = finish(&app, &anna, &import(&app, &anna, merchant(), name, body).await).await;
            assert_eq!((&done["accepted"], &done["refused"]), (&json!(4), &json!(0)), "{name}: {done}");
            let expected = expect(&[("r1", 1000), ("r2", 100), ("r3", 200), ("r4", 300)]);
            assert_eq!(offers(&app).await, expected, "{name}");

            // Rows of observations are read alike.
            let app = TestApp::spawn().await;
            let anna = app.user("anna", &SCOPES).await;
            let body: String = rows.iter().map(|row| format!("{}\n", row.join(delimiter))).collect();
            let options =
                json!({"columns": {"sku": "id"}, "constants": {"store": "Shop", "currency": "EUR"}});
            let body = body.replace(" EUR", "");
            let done = finish(&app, &anna, &import(&app, &anna, options, name, body).await).await;
            assert_eq!((&done["accepted"], &done["refused"]), (&json!(4), &json!(0)), "{name}: {done}");
            assert_eq!(offers(&app).await, expected, "{name}");
        }
    }
}

#[tokio::test]
async fn rows_that_may_be_one_field_are_refused_each_with_its_line() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let body = "id\ttitle\tdescription\tprice\n\
        r1\tOne\t\"Best\n\
        r2\tTwo\t15\"\t1 EUR\n\
        r3\tThree\t\"two\nlines, a\ttab, \"\"marks\"\"\"\t3 EUR\n\
        r4\tFour\tz\t4 EUR\n";
    let done = finish(&app, &anna, &import(&app, &anna, merchant(), "a.tsv", body).await).await;
    assert_eq!(offers(&app).await, expect(&[("r3", 300), ("r4", 400)]), "{done}");
    let refused = refusals(&app, &anna, &done).await;
    assert_eq!(refused.iter().map(|one| one["line"].as_i64().unwrap()).collect::<Vec<_>>(), [2, 3]);
    assert!(refused[0]["reason"].as_str().unwrap().contains("quotation mark"), "{refused:?}");
    assert!(refused[1]["reason"].as_str().unwrap().contains("begins on line 2"), "{refused:?}");
}

#[tokio::test]
async fn an_open_quote_beside_a_ragged_row_gives_no_product_the_price_of_another() {
    for (name, body) in [
        (
            "a.tsv",
            "id\ttitle\tdescription\tprice\nr1\tCable\t\"2m\t10.00 EUR\nr2\tMonitor 24\"\t99.00 EUR\nr3\tThree\tz\t3.00 EUR\n",
        ),
        (
            "b.tsv",
            "id\tdescription\tprice\ttitle\tsale_price\nr1\tnice\t10.00 EUR\t\"G1\t\nr2\tG2\"\t1.00 EUR\nr3\tx\t3 EUR\tG3\t\n",
        ),
        (
            "c.csv",
            "price,title,id\n10.00 EUR,\"Best game,r1\n1.00 EUR,Foo,Bar\",r2\n3.00 EUR,Game three,r3\n",
        ),
    ] {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &SCOPES).await;
        let done = finish(&app, &anna, &import(&app, &anna, merchant(), name, body).await).await;
        assert_eq!((&done["accepted"], &done["refused"]), (&json!(1), &json!(2)), "{name}: {done}");
        assert_eq!(offers(&app).await, expect(&[("r3", 300)]), "{name}");
        let refused = refusals(&app, &anna, &done).await;
        assert_eq!(
            refused.iter().map(|one| one["line"].as_i64().unwrap()).collect::<Vec<_>>(),
            [2, 3],
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_header_that_can_be_read_in_two_ways_fails_the_import() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    for (header, why) in [
        ("id,\"title,price", "the header on line 1 has a quotation mark that is never closed"),
        ("id,price,Price", "the product data has the column \"price\" more than once"),
    ] {
        let body = format!("{header}\nr1,1.00 EUR,2.00 EUR\n");
        let done = finish(&app, &anna, &import(&app, &anna, merchant(), "a.csv", body).await).await;
        assert_eq!(done["state"], "failed", "{header}: {done}");
        assert!(done.to_string().replace("\\\"", "\"").contains(why), "{header}: {done}");
    }
    assert_eq!(offers(&app).await, []);
}

#[tokio::test]
async fn text_beside_elements_inside_an_attribute_is_not_its_value() {
    let product = |id: &str, more: &str| format!("<item>{id}<title>Game {}</title>{more}</item>", id.len());
    let items = [
        product("<g:id>a</g:id>", "<g:price>19<sup>99</sup> EUR</g:price>"),
        product("<g:id>bb</g:id>", "<g:price>2<b>0</b> EUR</g:price>"),
        product(
            "<g:id>ccc</g:id>",
            "<g:price>20 EUR</g:price><g:sale_price>1<sup>9</sup> EUR</g:sale_price>",
        ),
        product(
            "<g:id>dddd</g:id>",
            "<g:price>20 EUR</g:price><g:availability>in_stock<i> no</i></g:availability>",
        ),
        product("<g:id>e<b>1</b></g:id>", "<g:price>20 EUR</g:price>"),
        product("<g:id>link</g:id>", "<g:price>20 EUR</g:price><g:link>https://s.example/<b>1</b></g:link>"),
    ];
    let body = format!("<rss xmlns:g=\"http://base.google.com/ns/1.0\">\n{}\n</rss>", items.join("\n"));
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let done = finish(&app, &anna, &import(&app, &anna, merchant(), "a.xml", body).await).await;
    assert_eq!(offers(&app).await, expect(&[("link", 2000)]), "{done}");
    let refused = refusals(&app, &anna, &done).await;
    let reasons: Vec<&str> = refused.iter().map(|one| one["reason"].as_str().unwrap()).collect();
    for (reason, name) in reasons.iter().zip(["price", "price", "sale_price", "availability", "id", "link"]) {
        assert!(reason.contains("elements inside") && reason.contains(name), "{reasons:?}");
    }
    assert_eq!(reasons.len(), 6, "{reasons:?}");
}

#[tokio::test]
async fn invisible_characters_around_a_sku_do_not_make_another_offer_by_any_route() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let line = |sku: &str| json!({"store": "Shop", "sku": sku, "title": "Game", "region": "DE", "price": "9.99", "currency": "EUR"});
    // With a byte order mark before its first line, as Windows editors write.
    let lines = format!("\u{feff}{}\n{}\n", line("d1"), line("\u{200b}d1"));
    let reported =
        app.post("/v1/prices").header("content-type", "application/x-ndjson").bearer_auth(&anna.token);
    let reported: Value = reported.body(lines.clone()).send().await.unwrap().json().await.unwrap();
    assert_eq!((&reported["accepted"], &reported["rejected_count"]), (&json!(2), &json!(0)), "{reported}");
    let csv = "sku,title,store,region,price,currency\n\u{2060}d1\u{feff},Game,Shop,DE,9.99,EUR\n";
    let xml = "<rss><item><g:id>\u{200b}d1</g:id><title>Game</title><g:price>9.99 EUR</g:price></item></rss>";
    for (name, options, body) in
        [("a.ndjson", json!({}), lines.as_str()), ("a.csv", json!({}), csv), ("a.xml", merchant(), xml)]
    {
        let done = finish(&app, &anna, &import(&app, &anna, options, name, body.to_owned()).await).await;
        assert_eq!(done["refused"], 0, "{name}: {done}");
        assert_eq!(offers(&app).await, expect(&[("d1", 999)]), "{name}");
    }
}

#[tokio::test]
async fn elements_count_by_namespace_and_not_by_local_name() {
    let declared = "xmlns:x=\"http://base.google.com/ns/1.0\" xmlns:c=\"http://base.google.com/cns/1.0\" \
        xmlns:media=\"http://search.yahoo.com/mrss/\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\"";
    let inside = "<c:price>3.00 EUR</c:price><c:sale_price>1.00 EUR</c:sale_price>\
        <media:title>Picture</media:title><dc:title>Other</dc:title>\
        <x:shipping><x:price>4.99 EUR</x:price></x:shipping><x:price>20.00 EUR</x:price>";
    let rss = format!(
        "<rss {declared} xmlns:atom=\"http://www.w3.org/2005/Atom\"><channel><item>{inside}\
         <atom:link rel=\"self\" href=\"https://shop.example/self\"/><title>Game</title>\
         <link>https://shop.example/1</link><x:id>g1</x:id></item></channel></rss>"
    );
    let atom = format!(
        "<feed xmlns=\"http://www.w3.org/2005/Atom\" {declared}><entry><id>tag:shop.example,2026:1</id>{inside}\
         <link rel=\"self\" href=\"https://shop.example/self\"/><link rel=\"edit\" href=\"https://shop.example/edit\"/>\
         <link rel=\"enclosure\" href=\"https://shop.example/picture\"/>\
         <link rel=\"alternate\" href=\"https://shop.example/1\"/><title>Game</title><x:id>g1</x:id></entry></feed>"
    );
    for (name, body) in [("rss.xml", rss), ("atom.xml", atom)] {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &SCOPES).await;
        let done = finish(&app, &anna, &import(&app, &anna, merchant(), name, body).await).await;
        assert_eq!(done["transitions"], json!({"first.seen": 1}), "{name}: {done}");
        let offer: (String, i64, Option<String>, String) = sqlx::query_as(
            "select o.sku, o.amount, o.url, g.title from offers o join games g on g.id = o.game_id",
        )
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
        let expected = ("g1".to_owned(), 2000, Some("https://shop.example/1".to_owned()), "Game".to_owned());
        assert_eq!(offer, expected, "{name}");
    }
}

#[tokio::test]
async fn files_are_read_in_the_encoding_that_they_name() {
    let xml = |encoding: &str| {
        format!(
            "<?xml version=\"1.0\" encoding=\"{encoding}\"?><rss><channel><item><g:id>1</g:id>\
             <title>Größe</title><g:price>5.00 EUR</g:price></item></channel></rss>"
        )
    };
    let latin = |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<u8>>();
    let utf16 = |text: &str, mark: bool, big: bool| -> Vec<u8> {
        let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    };
    let mut windows = latin(&xml("windows-1252").replace("Größe", "Gr\u{f6}\u{df}e!"));
    let mark = windows.iter().position(|byte| *byte == b'!').unwrap();
    windows[mark] = 0x80;
    let semicolons = "id;title;price\r\n1;Größe;5.00 EUR\r\n";
    for (name, body, title) in [
        ("latin.xml", latin(&xml("ISO-8859-1")), "Größe"),
        ("windows.xml", windows, "Größe€"),
        ("little.xml", utf16(&xml("UTF-16"), true, false), "Größe"),
        ("big.xml", utf16(&xml("UTF-16"), true, true), "Größe"),
        ("bare.xml", utf16(&xml("utf-16"), false, false), "Größe"),
        // Text that was created as UTF-16 and saved as UTF-8.
        ("not.xml", xml("utf-16").into_bytes(), "Größe"),
        ("mark.xml", format!("\u{feff}{}", xml("ISO-8859-1")).into_bytes(), "Größe"),
        ("excel.csv", format!("\u{feff}sep=;\r\n{semicolons}").into_bytes(), "Größe"),
        ("unicode.txt", utf16(&semicolons.replace(';', "\t"), true, false), "Größe"),
    ] {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &SCOPES).await;
        let done = finish(&app, &anna, &import(&app, &anna, merchant(), name, body).await).await;
        assert_eq!((&done["accepted"], &done["refused"]), (&json!(1), &json!(0)), "{name}: {done}");
        let found: String =
            sqlx::query_scalar("select title from games").fetch_one(&app.state.writer).await.unwrap();
        assert_eq!(found, title, "{name}");
    }
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let done = finish(&app, &anna, &import(&app, &anna, merchant(), "a.xml", xml("klingon")).await).await;
    assert_eq!(done["state"], "failed");
    assert!(done["failure"].as_str().unwrap().contains("klingon"), "{done}");
    // Bytes that are invalid in the encoding invalidate their item only.
    let body = [
        b"<rss><item><id>0</id><title>\xff</title><price>1 EUR</price></item>".as_slice(),
        b"<item><id>1</id><title>T</title><price>2 EUR</price></item></rss>",
    ]
    .concat();
    let done = finish(&app, &anna, &import(&app, &anna, merchant(), "a.xml", body).await).await;
    assert_eq!((&done["accepted"], &done["refused"]), (&json!(1), &json!(1)), "{done}");
}

/// An input: its beginning, the repeated part, and its end.
struct Shape {
    name: &'static str,
    begin: String,
    unit: String,
    end: String,
}

fn shape(name: &'static str, begin: &str, unit: &str, end: &str) -> Shape {
    Shape { name, begin: begin.to_owned(), unit: unit.to_owned(), end: end.to_owned() }
}

/// Anything that can be numerous, long, deep or wide, in each format. The suffixes of the names are those of the
/// formats.
fn shapes() -> Vec<Shape> {
    let csv = "store,sku,price,currency\n";
    let timed = "store,sku,price,currency,observed_at,title\n";
    let rss = "<rss xmlns:g=\"http://base.google.com/ns/1.0\"><channel>";
    let item = format!("{rss}<item>");
    let entry = "<feed xmlns=\"http://www.w3.org/2005/Atom\"><entry>";
    let long = "x".repeat(60_000);
    let ended = "</item></channel></rss>";
    vec![
        shape("one-line.csv", csv, "a", ""),
        shape("delimiters.csv", csv, ",", ""),
        shape("header.csv", "", "a,", ""),
        shape("marks.csv", csv, "\"", ""),
        shape("open.csv", csv, "a,\"b,free,EUR\n", ""),
        shape("opened-and-closed.csv", csv, "\",\",\n", ""),
        shape("empty-lines.csv", csv, "\n", ""),
        shape("empty-records.csv", csv, ",,,\n", ""),
        shape("refused.csv", csv, "GOG,1,free,EUR\n", ""),
        shape("long-cells.csv", csv, &format!("GOG,{long},1,EUR\n"), ""),
        shape("tabs.tsv", "id\tprice\n", "\"\t\"\n", ""),
        shape("times.csv", timed, &format!("GOG,a,1.00,EUR,2026-01-01T00:00:00Z,{}\n", "t".repeat(180)), ""),
        shape("nested.ndjson", "", "[", ""),
        shape("keys.ndjson", "", &format!("{{{}\"a\":1}}\n", "\"a\":1,".repeat(10_000)), ""),
        shape("unknown.ndjson", "", &format!("{{\"{long}\": 1}}\n"), ""),
        shape("white.ndjson", "", " \n", ""),
        shape("not-json.ndjson", "", "x\n", ""),
        shape("empty.xml", &item, "<x/>", ended),
        shape("empty-of-google.rss", &item, "<g:x/>", ended),
        shape("elements.rss", &item, "<g:image>u</g:image>", ended),
        shape("links.atom", entry, "<link href='u'/>", "</entry></feed>"),
        shape("empty.atom", entry, "<x/>", "</entry></feed>"),
        shape("comments.rss", &item, "<!-- -->", ended),
        shape("instructions.rss", &item, "<?a b?>", ended),
        shape("references.rss", &format!("{item}<title>"), "&amp;", &format!("</title>{ended}")),
        shape("text.rss", &format!("{item}<title>"), "text<x/>", &format!("</title>{ended}")),
        shape("cdata.rss", &item, "<![CDATA[x]]>", ended),
        shape("attributes.rss", &format!("{item}<x"), " a='b'", &format!("/>{ended}")),
        shape("namespaces.rss", &item, "<x xmlns:a='b' xmlns:c='d'/>", ended),
        shape("names.rss", &item, &format!("<{long}>"), ended),
        shape("deep.rss", &item, "<x>", ended),
        shape("entities.rss", "<!DOCTYPE a [", "<!ENTITY a 'b'>", "]><rss/>"),
        shape("items.rss", rss, "<item/>", "</channel></rss>"),
        shape("outside.rss", rss, "<x/>", "</channel></rss>"),
    ]
}

/// Size of a large shape after decompression, in bytes. `ALLOWANCE` is the additional memory, in KiB, that it may take
/// over a small one: the buffers, the observations that are sorted (16 MiB), and what the allocator keeps.
const LARGE: usize = 4 << 20;
const ALLOWANCE: u64 = 28 << 10;

#[tokio::test]
async fn memory_stays_flat_whatever_the_shape_of_a_file() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let settings = [
        ("SALEBELL_DATABASE__URL", app.database.url.as_str()),
        ("SALEBELL_FILES__DIRECTORY", app.files.path().to_str().unwrap()),
        ("SALEBELL_WORKER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_LOG__TO", "stderr"),
    ];
    let mut worker = Binary::start(&["worker"], &settings);
    let mut small = 0;
    for large in [false, true] {
        for shape in shapes() {
            let products = !shape.name.ends_with(".csv") && !shape.name.ends_with(".ndjson");
            let options =
                if products { merchant() } else { json!({"constants": {"store": "GOG", "currency": "EUR"}}) };
            let size = if large { LARGE } else { 4_096 };
            let (name, body) = pack(&shape, size);
            forget_peak(&worker);
            let waiting = import(&app, &anna, options, &name, body).await;
            let done = wait(&app, &anna, &mut worker, &waiting).await;
            let peak = read_peak(worker.id()).unwrap();
            if large {
                assert!(peak < small + ALLOWANCE, "{name}: {peak} KiB, and {small} for small ones; {done}");
            } else {
                small = small.max(peak);
            }
        }
    }
    // Input that decompresses endlessly, and input whose decompression demands more memory than it has bytes.
    let zeros = vec![b'\n'; 64 << 20];
    let mut gzip = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    tokio::io::AsyncWriteExt::write_all(&mut gzip, &zeros).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut gzip).await.unwrap();
    let window = {
        let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
        packed.window_log(27).unwrap();
        packed.write_all(&zeros).unwrap();
        packed.finish().unwrap()
    };
    let bomb = zstd::encode_all(zeros.as_slice(), 3).unwrap();
    for (name, body) in
        [("bomb.csv.gz", gzip.into_inner()), ("window.csv.zst", window), ("bomb.csv.zst", bomb)]
    {
        forget_peak(&worker);
        let waiting = import(&app, &anna, json!({}), name, body).await;
        let done = wait(&app, &anna, &mut worker, &waiting).await;
        assert_eq!(done["state"], "failed", "{name}: {done}");
        let peak = read_peak(worker.id()).unwrap();
        assert!(peak < small + ALLOWANCE, "{name}: {peak} KiB, and {small} for small ones; {done}");
    }
}

/// Makes a shape of about this size, compressed with one of the codings.
fn pack(shape: &Shape, size: usize) -> (String, Vec<u8>) {
    let mut body = shape.begin.clone().into_bytes();
    while body.len() < size {
        body.extend_from_slice(shape.unit.as_bytes());
    }
    body.extend_from_slice(shape.end.as_bytes());
    match shape.name.len() % 2 {
        0 => (shape.name.to_owned(), body),
        // Compressed too little to count as a bomb: in blocks with another window each.
        _ => (
            format!("{}.zst", shape.name),
            body.chunks(4_096).flat_map(|part| zstd::encode_all(part, 1).unwrap()).collect(),
        ),
    }
}

/// Makes the kernel measure the peak again.
fn forget_peak(worker: &Binary) {
    std::fs::write(Path::new("/proc").join(worker.id().to_string()).join("clear_refs"), "5").unwrap();
}

async fn wait(app: &TestApp, user: &User, worker: &mut Binary, import: &Value) -> Value {
    let path = format!("/v1/imports/{}", import["id"].as_str().unwrap());
    loop {
        let seen = app.see(user, &path).await;
        if ["done", "failed"].contains(&seen["state"].as_str().unwrap()) {
            return seen;
        }
        assert!(worker.is_running(), "{}", worker.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
