//! `salebell.v1.Prices`: reports as streams of messages.

use bytes::Bytes;
use futures_util::stream;
use prost::Message;
use salebell::grpc::reports::RawReport;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::support::grpc::{games, message, observation, pb, prices, services, with_token};
use crate::support::{TestApp, User};

const SCOPES: [&str; 2] = ["prices:write", "catalogue:write"];

fn keyed(
    messages: Vec<pb::ReportRequest>,
    user: &User,
    key: &str,
) -> Request<stream::Iter<std::vec::IntoIter<pb::ReportRequest>>> {
    let mut request = with_token(stream::iter(messages), &user.token);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.state.writer).await.unwrap()
}

/// Reports messages whose observations are any bytes.
async fn report_bytes(
    app: &TestApp,
    user: &User,
    messages: Vec<RawReport>,
) -> Result<Response<pb::ReportResponse>, Status> {
    let mut client = tonic::client::Grpc::new(services(app, &CancellationToken::new()));
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<RawReport, pb::ReportResponse>::default();
    let path = "/salebell.v1.Prices/Report".parse().unwrap();
    client.client_streaming(with_token(stream::iter(messages), &user.token), path, codec).await
}

#[tokio::test]
async fn an_invalid_observation_costs_no_other_and_the_rest_is_recorded() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let mut dear = observation("b", "9.99");
    dear.regular_price = Some(pb::Money { amount: "1.00".to_owned(), currency: "EUR".to_owned() });
    let mut odd = observation("c", "9.99");
    odd.price.as_mut().unwrap().currency = "ABC".to_owned();
    let mut linked = observation("d", "7.00");
    linked.url = "what".to_owned();
    let messages = vec![message(&[observation("a", "9.99"), dear]), message(&[]), message(&[odd, linked])];
    let mut client = prices(&app);
    let answer = client.report(with_token(stream::iter(messages), &anna.token)).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.rejected_count, answer.warnings_count), (2, 2, 1));
    let fields = |items: &[pb::ListedProblem]| -> Vec<(u64, String, String)> {
        let item = |item: &pb::ListedProblem| {
            let problem = item.problem.as_ref().unwrap();
            assert_eq!(problem.fields.len(), 1, "{problem:?}");
            (item.index, problem.reason.clone(), problem.fields[0].field.clone())
        };
        items.iter().map(item).collect()
    };
    let item = |index, field: &str| (index, "invalid".to_owned(), field.to_owned());
    assert_eq!(fields(&answer.rejected), [item(1, "regular_price"), item(2, "price.currency")]);
    assert_eq!(fields(&answer.warnings), [item(3, "url")]);
    app.record_all().await;
    let get = with_token(pb::GetBatchRequest { id: answer.batch_id }, &anna.token);
    let batch = client.get_batch(get).await.unwrap().into_inner().batch.unwrap();
    assert!(batch.done, "{batch:?}");
    assert_eq!((batch.accepted, batch.rejected, batch.recorded, batch.failed), (2, 2, 2, 0));
    let search = pb::GamesSearchRequest { text: "Game a".to_owned(), ..Default::default() };
    let found = games(&app).search(search).await.unwrap().into_inner().games;
    assert_eq!(found[0].title, "Game a");
}

#[tokio::test]
async fn an_observation_that_cannot_be_decoded_costs_no_other() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let good = Bytes::from(observation("a", "9.99").encode_to_vec());
    // Field 1 is a text: here it is not UTF-8, and there it is longer than the observation.
    let (not_utf8, cut_off) = (Bytes::from_static(b"\x0a\x01\xff"), Bytes::from_static(b"\x0a\x09g"));
    let mut long = observation("b", "9.99");
    long.title = "x".repeat(70_000);
    let long = Bytes::from(long.encode_to_vec());
    let observations = vec![not_utf8, good.clone(), cut_off, long];
    let report = vec![RawReport { observations, backfill: false }];
    let answer = report_bytes(&app, &anna, report).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.rejected_count), (1, 3));
    let refusal = |item: &pb::ListedProblem| (item.index, item.problem.as_ref().unwrap().reason.clone());
    let refusals: Vec<(u64, String)> = answer.rejected.iter().map(refusal).collect();
    let expected = [(0, "malformed"), (2, "malformed"), (3, "too-large")];
    assert_eq!(refusals, expected.map(|(index, reason)| (index, reason.to_owned())));
}

#[test]
fn a_message_is_read_as_the_contract_describes_it() {
    let contract = pb::ReportRequest {
        observations: vec![observation("a", "9.99"), observation("b", "1.00")],
        backfill: true,
    };
    let raw = RawReport::decode(contract.encode_to_vec().as_slice()).unwrap();
    assert!(raw.backfill);
    let observations: Vec<pb::Observation> =
        raw.observations.into_iter().map(|bytes| pb::Observation::decode(bytes).unwrap()).collect();
    assert_eq!(observations, contract.observations);
}

#[tokio::test]
async fn a_repetition_gets_the_first_response_however_it_is_divided() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let mut client = prices(&app);
    let (a, b, bad) = (observation("a", "9.99"), observation("b", "8.00"), observation("", "7.00"));
    let first = keyed(vec![message(&[a.clone(), b.clone(), bad.clone()])], &anna, "\"one\"");
    let first = client.report(first).await.unwrap();
    assert_eq!(first.metadata().get("idempotency-replayed"), None);
    let again = keyed(vec![message(std::slice::from_ref(&a)), message(&[b, bad])], &anna, "one");
    let again = client.report(again).await.unwrap();
    assert_eq!(again.metadata().get("idempotency-replayed").unwrap(), "true");
    assert_eq!(first.into_inner(), again.into_inner());
    assert_eq!(count(&app, "select count(*) from batches").await, 1);
    let other = client.report(keyed(vec![message(&[a])], &anna, "one")).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    let details = other.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "Idempotency-Key");
    // HTTP has the same keys.
    let body = serde_json::json!({"observations": []});
    let http = app.post("/v1/prices").bearer_auth(&anna.token).header("idempotency-key", "one").json(&body);
    assert_eq!(http.send().await.unwrap().status(), 422);
    let invalid = client.report(keyed(vec![], &anna, "a b")).await.unwrap_err();
    assert_eq!(invalid.get_error_details().error_info().unwrap().reason, "malformed");
}

#[tokio::test]
async fn a_large_response_is_kept_without_its_refusals() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let mut client = prices(&app);
    let bad = pb::Observation { sku: "x".repeat(300), ..observation("", "what") };
    let messages = vec![message(&vec![bad; 1_200])];
    let first = client.report(keyed(messages.clone(), &anna, "one")).await.unwrap().into_inner();
    assert_eq!(first.rejected_count, 1_200);
    assert!(first.rejected.len() > 100 && first.rejected.len() <= 1_000, "{}", first.rejected.len());
    let again = client.report(keyed(messages, &anna, "one")).await.unwrap().into_inner();
    assert_eq!((again.batch_id, again.rejected_count), (first.batch_id, 1_200));
    assert!(again.rejected.is_empty() && again.detail.is_some());
}

#[tokio::test]
async fn only_the_first_message_makes_a_report_history() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &SCOPES).await;
    let mut client = prices(&app);
    let mut history = message(&[pb::Observation {
        observed_at: Some(prost_types::Timestamp { seconds: 1_600_000_000, nanos: 0 }),
        ..observation("a", "9.99")
    }]);
    let now = history.clone();
    history.backfill = true;
    let mut report = async |messages: Vec<pb::ReportRequest>| {
        client.report(with_token(stream::iter(messages), &anna.token)).await
    };
    let late = report(vec![now.clone(), history.clone()]).await.unwrap_err();
    assert_eq!(late.code(), Code::InvalidArgument);
    let details = late.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "backfill");
    let answer = report(vec![history.clone(), now.clone(), history]).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.too_old_to_ring), (3, 0));
}
