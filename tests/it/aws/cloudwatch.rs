//! Metrics for CloudWatch: lines in its embedded metric format, from real processes that do real work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::TimeDelta;
use nix::sys::signal::Signal;
use reqwest::Method;
use salebell::store::{delivery_queue, dispatch as dispatch_queue};
use salebell::telemetry::table::{self, CloudWatch, MetricKind};
use salebell::worker::dispatch;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::support::binary::Binary;
use crate::support::database::TestDatabase;
use crate::support::journal::{Journal, beside_a_journald};
use crate::support::sink::Sink;
use crate::support::{TestApp, eventually, instance};
use test_support::ec2::{Ec2, Group};

/// Parses every line and checks it against the format.
fn parse(lines: &str) -> Vec<Value> {
    let schema = serde_json::from_str(include_str!("emf.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let check = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let wrong: Vec<String> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:?} in {line}");
        // Short enough that neither the journal nor CloudWatch truncates it.
        assert!(line.len() < 48 * 1024, "{}", line.len());
        check_targets(&value);
        value
    };
    lines.lines().map(check).collect()
}

/// Checks what a schema cannot express: every name that a directive mentions exists and has the right type, and there
/// are no others.
fn check_targets(line: &Value) {
    let mut known: BTreeSet<&str> = BTreeSet::from(["_aws", "service", "environment", "version"]);
    for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
        for dimension in
            directive["Dimensions"].as_array().unwrap().iter().flat_map(|set| set.as_array().unwrap())
        {
            let dimension = dimension.as_str().unwrap();
            // A restricted alphabet: no address, no e-mail, no token.
            let value =
                line[dimension].as_str().unwrap_or_else(|| panic!("{dimension} is no text in {line}"));
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            assert!(value.len() <= 24 && value.chars().all(plain), "{dimension} is {value}");
            known.insert(dimension);
        }
        for metric in directive["Metrics"].as_array().unwrap() {
            let name = metric["Name"].as_str().unwrap();
            let entry = table::find(name).unwrap();
            assert_eq!(metric["Unit"], entry.unit);
            match entry.kind {
                MetricKind::Counter => assert!(line[name].is_u64(), "{name} in {line}"),
                MetricKind::Gauge => assert!(line[name].is_number(), "{name} in {line}"),
                MetricKind::Histogram => {
                    let list = |of: &str| line[name][of].as_array().unwrap().clone();
                    assert_eq!(list("Values").len(), list("Counts").len());
                    let count: u64 = list("Counts").iter().map(|count| count.as_u64().unwrap()).sum();
                    assert_eq!(line[name]["Count"], count);
                }
            }
            let sets = directive["Dimensions"].to_string();
            assert_eq!(
                sets == r#"[["environment"]]"#,
                entry.cloudwatch == CloudWatch::Fleet,
                "{name}: {sets}"
            );
            assert!(known.insert(name), "{name} stands twice in {line}");
        }
    }
    let all: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(all, known);
}

/// Sums of the counters and numbers of values of the distributions, by name and further dimensions.
fn sums(lines: &[Value]) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in lines {
        for (name, value) in line.as_object().unwrap() {
            let Some(metric) = table::find(name) else { continue };
            let added = match metric.kind {
                MetricKind::Counter => value.as_f64().unwrap(),
                MetricKind::Histogram => value["Count"].as_f64().unwrap(),
                MetricKind::Gauge => continue,
            };
            let CloudWatch::By(labels) = metric.cloudwatch else { continue };
            let labels: String =
                labels.iter().map(|label| format!(" {}", line[*label].as_str().unwrap())).collect();
            *sums.entry(format!("{name}{labels}")).or_insert(0.0) += added;
        }
    }
    sums.retain(|_, sum| *sum > 0.0);
    sums
}

/// Sums of the same metrics at the Prometheus endpoint.
fn totals(text: &str) -> BTreeMap<String, f64> {
    let mut totals = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let Some(metric) = table::find(name.strip_suffix("_count").unwrap_or(name)) else { continue };
        let CloudWatch::By(wanted) = metric.cloudwatch else { continue };
        if metric.kind == MetricKind::Gauge {
            continue;
        }
        let value_of = |label: &&str| {
            let (_, rest) = labels.split_once(&format!("{label}=\"")).unwrap();
            format!(" {}", rest.split('"').next().unwrap())
        };
        let labels: String = wanted.iter().map(value_of).collect();
        *totals.entry(format!("{}{labels}", metric.name)).or_insert(0.0) += value.parse::<f64>().unwrap();
    }
    totals.retain(|_, total| *total > 0.0);
    totals
}

/// Waits until the process has reported everything since its last line.
async fn next_line(process: &Binary) {
    let lines = || process.printed_so_far().lines().count();
    let before = lines();
    eventually("a further line", async || lines() > before).await;
}

async fn scrape(process: &Binary) -> String {
    let url = process.logged("metrics on ").await;
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

const EMF: (&str, &str) = ("SALEBELL_TELEMETRY__EMF", "stdout");
const PROD: (&str, &str) = ("SALEBELL_TELEMETRY__ENVIRONMENT", "prod");
const OFTEN: (&str, &str) = ("SALEBELL_TELEMETRY__EMF_EVERY_S", "1");
const DEBUG: (&str, &str) = ("SALEBELL_LOG__LEVEL", "debug");

fn observation(sku: u32, price: &str, day: u32) -> Value {
    json!({"store": "steam", "sku": sku.to_string(), "title": format!("Game {sku}"), "price": price,
        "regular_price": "20.00", "currency": "EUR", "observed_at": format!("2026-01-{day:02}T00:00:00Z")})
}

#[tokio::test]
async fn the_written_values_add_up_to_those_of_prometheus() {
    let app = TestApp::spawn().await;
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let anna = app.user("anna.secret@example.com", &[]).await;
    let sink = Sink::start().await;
    let hook = app.hook(&anna, &sink.url("/a-secret-path?token=secret-token")).await;
    let key = app.state.config.webhook.encryption_keys[0].expose_secret();
    let webhooks = [
        ("SALEBELL_WEBHOOK__ALLOW_HTTP", "true"),
        ("SALEBELL_WEBHOOK__ALLOW_NETWORKS", "127.0.0.0/8"),
        crate::support::RINGS_ALWAYS,
        ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", key),
    ];
    // The API writes a line every second; the worker's first line is its last.
    let api = instance::start(&app, "api", &[&webhooks[..], &[EMF, PROD, OFTEN, DEBUG]].concat());
    let worker = instance::start(&app, "worker", &[&webhooks[..], &[EMF, PROD, DEBUG]].concat());
    let url = api.url().await;
    let report = async |observations: Value| {
        let request = app.client.post(format!("{url}/v1/prices")).bearer_auth(&shop.token);
        let answer = request.json(&json!({"observations": observations})).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        answer.json::<Value>().await.unwrap()
    };
    let first = report(json!((0..20).map(|sku| observation(sku, "20.00", 1)).collect::<Vec<_>>())).await;
    eventually("recorded", async || app.batch(&shop, &first).await["done"] == true).await;
    let games = app.see(&anna, "/v1/games?limit=20").await;
    for game in games["items"].as_array().unwrap().iter().take(5) {
        let watch = json!({"game_id": game["id"], "rule": {"any_sale": {}}});
        assert_eq!(app.call(&anna, Method::POST, "/v1/watches", watch).await.status, 201);
    }
    for day in 2..5 {
        let sales = (0..20).map(|sku| observation(sku, if day == 2 { "9.99" } else { "5.00" }, day));
        report(json!(sales.collect::<Vec<_>>())).await;
        // Requests of other routes and with other statuses, while lines are written.
        for path in ["v1/deals", "v1/nothing", "v1/me?email=ben@example.com", "healthz"] {
            app.client.get(format!("{url}/{path}")).send().await.unwrap();
        }
        next_line(&api).await;
    }
    sink.wait_for("/a-secret-path", 5).await;
    let path = format!("/v1/channels/{}/deliveries", hook.id);
    eventually("delivered", async || {
        let deliveries = app.see(&anna, &path).await;
        deliveries["items"].as_array().unwrap().iter().filter(|one| one["state"] == "delivered").count() == 5
    })
    .await;
    app.until("select not exists (select from bus_messages)").await;
    app.until("select not exists (select from events where rings and dispatched_at is null)").await;

    let mut written = String::new();
    for process in [api, worker] {
        let text = scrape(&process).await;
        process.signal(Signal::SIGTERM);
        process.logged("stopped").await;
        written.push_str(&process.log());
        let printed = process.printed().await;
        written.push_str(&printed);
        let lines = parse(&printed);
        eprintln!("{} lines {} bytes; series {}\n{printed}", lines.len(), printed.len(), sums(&lines).len());
        assert_eq!(sums(&lines), totals(&text));
        assert!(lines.iter().all(|line| line["environment"] == "prod" && line["version"].is_string()));
        let sums = sums(&lines);
        let of = |name: &str| sums.get(name).copied().unwrap_or_default();
        let times: BTreeSet<i64> =
            lines.iter().map(|line| line["_aws"]["Timestamp"].as_i64().unwrap()).collect();
        if lines[0]["service"] == "api" {
            assert!(times.len() >= 2, "a line a second, and the last");
            assert_eq!(of("salebell_prices_accepted_total"), 80.0);
            assert_eq!(of("http_requests_total 4xx"), 6.0);
            assert_eq!(of("http_request_duration_seconds"), of("http_requests_total 2xx") + 6.0);
            continue;
        }
        assert_eq!((times.len(), lines[0]["service"].as_str()), (1, Some("worker")));
        let rounds = "salebell_worker_rounds_total{task=\"dispatch\",outcome=\"more\"} ";
        assert!(text.lines().any(|line| line.starts_with(rounds)), "{text}");
        assert_eq!(
            of("salebell_observations_total recorded") + of("salebell_observations_total unchanged"),
            80.0
        );
        assert_eq!(of("salebell_transitions_total sale.started"), 20.0);
        assert_eq!(of("salebell_notices_total"), 5.0);
        assert_eq!(of("salebell_delivery_attempts_total delivered"), 5.0);
        assert_eq!(of("salebell_sent_lag_seconds"), 5.0);
        assert_eq!(of("salebell_delivery_lag_seconds"), 5.0);
        let lag = lines.iter().find_map(|line| line.get("salebell_sent_lag_seconds")).unwrap();
        assert!((0.0..60.0).contains(&lag["Max"].as_f64().unwrap()), "{lag}");
    }
    for secret in [&shop.token, &anna.token, &hook.secret, key, "example.com", "secret", "whsec_"] {
        assert!(!written.contains(secret), "{secret} is in\n{written}");
    }
}

#[tokio::test]
async fn a_line_is_a_message_of_the_journal_and_there_is_nothing_else_in_it() {
    let (app, journal) = (TestApp::spawn().await, Journal::start());
    for command in ["api", "worker"] {
        let settings = [("SALEBELL_TELEMETRY__EMF", "journal"), PROD, OFTEN];
        let mut process = instance::start_under(&journal.wrapper(), &app, command, &settings);
        process.logged("metrics on ").await;
        let id = process.id().to_string();
        let of_process = || {
            let entries = journal.of("salebell::emf").into_iter();
            entries.filter(|entry| entry["SYSLOG_PID"] == id).collect::<Vec<_>>()
        };
        eventually("it reports the current state", async || !of_process().is_empty()).await;
        process.signal(Signal::SIGTERM);
        assert_eq!(process.exit_code().await, Some(0), "{}", process.log());
        for entry in of_process() {
            assert_eq!((entry["PRIORITY"].as_str(), entry["SYSLOG_IDENTIFIER"].as_str()), ("5", "salebell"));
            let lines = parse(&entry["MESSAGE"]);
            assert_eq!((lines.len(), lines[0]["service"].as_str()), (1, Some(command)));
        }
    }
}

#[tokio::test]
async fn a_journald_forwards_lines_unchanged() {
    let Some(wrapper) = beside_a_journald() else { return };
    let app = TestApp::spawn().await;
    let settings = [("SALEBELL_TELEMETRY__EMF", "journal"), PROD];
    let api = instance::start_under(&wrapper, &app, "api", &settings);
    let url = api.url().await;
    for _ in 0..3 {
        assert_eq!(reqwest::get(format!("{url}/healthz")).await.unwrap().status(), 200);
    }
    api.signal(Signal::SIGTERM);
    api.logged("stopped").await;
    let lines = parse(&api.printed().await);
    assert_eq!(sums(&lines)["http_requests_total 2xx"], 3.0);
}

#[tokio::test]
async fn without_a_database_the_lines_are_written_without_unknown_values() {
    let settings = [
        ("SALEBELL_DATABASE__URL", "postgres://nobody@127.0.0.1:1/none"),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__LINGER_S", "0"),
        ("SALEBELL_DATABASE__ACQUIRE_TIMEOUT_MS", "300"),
        EMF,
        OFTEN,
    ];
    let api = Binary::start(&["api"], &settings);
    let url = api.url().await;
    let text = scrape(&api).await;
    assert!(text.contains("bus_oldest_message_age_seconds NaN"), "{text}");
    assert!(text.contains("deliveries_oldest_due_age_seconds NaN"), "{text}");
    for _ in 0..3 {
        assert_eq!(reqwest::get(format!("{url}/v1/deals")).await.unwrap().status(), 503);
        next_line(&api).await;
    }
    api.signal(Signal::SIGTERM);
    let lines = parse(&api.printed().await);
    assert_eq!(sums(&lines)["http_requests_total 5xx"], 3.0);
    assert!(sums(&lines)["salebell_failures_total error"] >= 3.0, "{:?}", sums(&lines));
    assert!(lines.iter().all(|line| line["environment"] == "local"));
    for line in &lines {
        let fleet = |name: &&String| table::find(name).is_some_and(|it| it.cloudwatch == CloudWatch::Fleet);
        assert_eq!(line.as_object().unwrap().keys().find(fleet), None, "{line}");
    }
}

#[tokio::test]
async fn the_queues_are_polled_at_an_interval_however_often_metrics_are_requested() {
    let database = TestDatabase::create().await;
    let api = Binary::api_on(&database);
    let began = std::time::Instant::now();
    assert!(scrape(&api).await.contains("\nbus_dead_messages 0\n"));
    let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
    sqlx::query(
        "insert into bus_messages (id, topic, payload, sent_at, visible_at, dead_at)
         values (gen_random_uuid(), 'prices', '', now(), now(), now())",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let found = async || scrape(&api).await.contains("\nbus_dead_messages 1\n");
    eventually("it is polled again", found).await;
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_queues_report_the_age_of_their_oldest_entry() {
    let app = TestApp::spawn().await;
    let (shop, anna) =
        (app.user("shop", &["prices:write", "catalogue:write"]).await, app.user("anna", &[]).await);
    let pool = &app.state.writer;
    let in_a_minute = || app.clock.now() + TimeDelta::minutes(1);
    let near = |age: f64| assert!((60.0..90.0).contains(&age), "{age}");
    app.report(&shop, json!([observation(1, "20.00", 1)])).await;
    app.record_all().await;
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    let games = app.see(&anna, "/v1/games").await;
    app.hook(&anna, "http://127.0.0.1:1/").await;
    for (priority, cadence) in [("high", "immediate"), ("normal", "daily")] {
        let watch = json!({"game_id": games["items"][0]["id"], "rule": {"any_sale": {}}, "cadence": cadence,
            "priority": priority});
        assert_eq!(app.call(&anna, Method::POST, "/v1/watches", watch).await.status, 201);
    }
    assert_eq!(dispatch_queue::age(pool, in_a_minute()).await.unwrap(), 0.0);
    app.report(&shop, json!([observation(1, "9.99", 2)])).await;
    app.record_all().await;
    near(dispatch_queue::age(pool, in_a_minute()).await.unwrap());
    assert_eq!(delivery_queue::age(pool, in_a_minute()).await.unwrap(), 0.0);
    while dispatch::step(&app.state).await.unwrap().is_more() {}
    assert_eq!(dispatch_queue::age(pool, in_a_minute()).await.unwrap(), 0.0);
    near(delivery_queue::age(pool, in_a_minute()).await.unwrap());
    assert_eq!(delivery_queue::age(pool, app.clock.now() - TimeDelta::minutes(1)).await.unwrap(), 0.0);
    // Only deliveries that were due at once are timed from their event.
    let timed: Vec<bool> =
        sqlx::query_scalar("select event_at is not null from delivery_queue order by next_attempt_at")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(timed, [true, false]);
}

#[tokio::test]
async fn a_boot_that_failed_is_counted() {
    let ec2 = Ec2::start(Group::new("salebell-test")).await;
    let aws = ec2.environment(&ec2.launch("i-1").await);
    let mut settings = vec![EMF, PROD, ("SALEBELL_DATABASE__URL", "postgres://hunter2@nowhere/")];
    settings.extend(aws.iter().map(|(key, value)| (*key, value.as_str())));
    let boot = Binary::start(&["ready", "--abandon", "--reason", "a test"], &settings);
    let lines = parse(&boot.printed().await);
    let line = lines.iter().find(|line| line["salebell_boots_failed_total"] == 1).unwrap();
    assert_eq!((&line["service"], &line["environment"]), (&json!("boot"), &json!("prod")));
}
