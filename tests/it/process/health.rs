//! Liveness, readiness, metrics.

use salebell::error::Problem;

use crate::support::TestApp;
use crate::support::binary::Binary;
use crate::support::database::TestDatabase;

async fn reasons(app: &TestApp) -> Vec<String> {
    let answer = app.get("/readyz").send().await.unwrap();
    match answer.status().as_u16() {
        200 => Vec::new(),
        503 => {
            assert_eq!(answer.headers()["retry-after"], "1");
            let problem: Problem = answer.json().await.unwrap();
            problem.errors.into_iter().map(|error| error.pointer).collect()
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_app_with_its_database_is_ready_until_it_stops() {
    let app = TestApp::builder().settings(&[("SALEBELL_SERVER__LINGER_S", "60")]).spawn().await;
    assert!(reasons(&app).await.is_empty());
    app.state.stopping.cancel();
    assert_eq!(reasons(&app).await, ["process"]);
}

#[tokio::test]
async fn a_process_is_alive_without_its_database_but_not_ready() {
    // Nothing listens on port 1.
    let app = TestApp::builder()
        .settings(&[("SALEBELL_DATABASE__URL", "postgres://nobody@127.0.0.1:1/none")])
        .spawn()
        .await;
    assert_eq!(app.get("/healthz").send().await.unwrap().status(), 200);
    assert_eq!(reasons(&app).await, ["database"]);
}

#[tokio::test]
async fn a_database_without_the_schema_is_not_ready_until_it_is_migrated() {
    let database = TestDatabase::create_bare().await;
    let app = TestApp::builder().settings(&[("SALEBELL_DATABASE__URL", &database.url)]).spawn().await;
    assert_eq!(reasons(&app).await, ["migrations"]);
    salebell::store::migrate(&app.state.writer).await.unwrap();
    // One probe's result is reused for a second.
    for _ in 0..100 {
        if reasons(&app).await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it is not ready although it is migrated");
}

#[tokio::test]
async fn a_busy_pool_does_not_make_a_process_unready() {
    let app = TestApp::builder().settings(&[("SALEBELL_DATABASE__MAX_CONNECTIONS", "5")]).spawn().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(app.state.writer.acquire().await.unwrap());
    }
    assert!(reasons(&app).await.is_empty());
}

#[tokio::test]
async fn metrics_report_requests_by_route_and_the_resources_of_the_process() {
    let database = TestDatabase::create().await;
    let api = Binary::api_on(&database);
    let url = api.url().await;
    let metrics = api.logged("metrics on ").await;
    for path in ["/v1/me?secret=1", "/v1/nothing", "/readyz"] {
        reqwest::get(format!("{url}{path}")).await.unwrap();
    }
    let answer = reqwest::get(metrics).await.unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = answer.text().await.unwrap();
    for line in [
        r#"http_requests_total{method="GET",route="/v1/me",status="4xx"} 1"#,
        r#"http_requests_total{method="GET",route="unmatched",status="4xx"} 1"#,
        r#"http_requests_total{method="GET",route="/readyz",status="2xx"} 1"#,
        r#"http_request_duration_seconds_bucket{route="/readyz",status="2xx",le="+Inf"} 1"#,
        r#"database_connections_max 20"#,
        r#"bus_dead_messages 0"#,
        r#"build_info{version=""#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let value = |name: &str| {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!((1e6..1e9).contains(&value("process_resident_memory_bytes ")));
    assert!((5.0..200.0).contains(&value("process_open_fds ")));
    assert_eq!(value("bus_oldest_message_age_seconds"), 0.0);
}
