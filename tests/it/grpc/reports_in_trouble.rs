//! Reports that do not arrive, or arrive too often: nothing is acknowledged that could be lost.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::support::grpc::pb::prices_client::PricesClient;
use crate::support::grpc::{games, message, observation, pb, prices, services, with_token};
use crate::support::{TestApp, eventually};

const SCOPES: [&str; 2] = ["prices:write", "catalogue:write"];

/// A message, and then a wait without end.
fn unfinished() -> impl Stream<Item = pb::ReportRequest> + Send + 'static {
    stream::iter([message(&[observation("a", "9.99")])]).chain(stream::pending())
}

fn keyed<T>(messages: T, token: &str) -> Request<T> {
    let mut request = with_token(messages, token);
    request.metadata_mut().insert("idempotency-key", "one".parse().unwrap());
    request
}

#[tokio::test]
async fn a_report_that_has_not_arrived_when_the_listener_closes_is_not_acknowledged() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let closing = CancellationToken::new();
    let mut client = PricesClient::new(services(&app, &closing));
    let request = keyed(unfinished(), &anna.token);
    let call = tokio::spawn(async move { client.report(request).await });
    app.until("select exists (select from idempotency_keys)").await;
    closing.cancel();
    let refusal = call.await.unwrap().unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    assert!(refusal.get_error_details().retry_info().is_some());
    // Another instance accepts it with the same key.
    let mut other = prices(&app);
    let mut accepted = None;
    eventually("the key is free again", async || {
        let whole = stream::iter([message(&[observation("a", "9.99")])]);
        accepted = other.report(keyed(whole, &anna.token)).await.ok();
        accepted.is_some()
    })
    .await;
    assert_eq!(accepted.unwrap().into_inner().accepted, 1);
}

#[tokio::test]
async fn a_report_that_pauses_for_too_long_is_refused() {
    let settings = [("SALEBELL_SERVER__BODY_IDLE_TIMEOUT_S", "1")];
    let app = TestApp::builder().settings(&settings).spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let refusal = prices(&app).report(with_token(unfinished(), &anna.token)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::DeadlineExceeded, "{refusal:?}");
    assert_eq!(refusal.message(), "The body paused for too long.");
}

#[tokio::test]
async fn a_report_may_take_longer_than_the_timeout_of_a_request() {
    let settings =
        [("SALEBELL_SERVER__REQUEST_TIMEOUT_S", "1"), ("SALEBELL_SERVER__BODY_IDLE_TIMEOUT_S", "20")];
    let app = TestApp::builder().settings(&settings).spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let messages = stream::iter(0..5).then(async |at: u32| {
        tokio::time::sleep(Duration::from_millis(400)).await;
        message(&[observation(&at.to_string(), "9.99")])
    });
    let answer = prices(&app).report(with_token(messages.boxed(), &anna.token)).await.unwrap();
    assert_eq!(answer.into_inner().accepted, 5);
    // The caller's own deadline counts from the beginning.
    let mut request = with_token(unfinished(), &anna.token);
    request.set_timeout(Duration::from_millis(300));
    let refusal = prices(&app).report(request).await.unwrap_err();
    assert_eq!(refusal.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_message_has_at_most_a_mebibyte() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let report = async |count: usize| {
        let observations =
            vec![pb::Observation { title: "x".repeat(500), ..observation("a", "9.99") }; count];
        let request = with_token(stream::iter([message(&observations)]), &anna.token);
        prices(&app).report(request).await
    };
    assert_eq!(report(1_800).await.unwrap().into_inner().accepted, 1_800);
    assert_eq!(report(2_200).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn calls_count_together_with_the_requests_of_http() {
    let settings =
        [("SALEBELL_SERVER__RATE_LIMITS__WRITE", "3"), ("SALEBELL_SERVER__RATE_LIMITS__HEAVY", "3")];
    let app = TestApp::builder().settings(&settings).spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let write = || app.post("/v1/watches").bearer_auth(&anna.token).json(&json!({})).send();
    assert_eq!(write().await.unwrap().status(), 422);
    let report = async || {
        let messages = stream::iter([message(&[observation("a", "9.99")])]);
        prices(&app).report(with_token(messages, &anna.token)).await
    };
    let left = |metadata: &tonic::metadata::MetadataMap| {
        metadata.get("ratelimit").unwrap().to_str().unwrap().split(';').nth(1).unwrap().to_owned()
    };
    assert_eq!(left(report().await.unwrap().metadata()), "r=1");
    assert_eq!(left(report().await.unwrap().metadata()), "r=0");
    let refusal = report().await.unwrap_err();
    assert_eq!((refusal.code(), left(refusal.metadata()).as_str()), (Code::ResourceExhausted, "r=0"));
    let wait = refusal.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!((1..=60).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(write().await.unwrap().status(), 429);
    // Calls without a token count by address.
    for code in [None, None, None, Some(Code::ResourceExhausted)] {
        let answer = games(&app).search(pb::GamesSearchRequest::default()).await;
        assert_eq!(answer.err().map(|refusal| refusal.code()), code);
    }
}
