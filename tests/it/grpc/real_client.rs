//! Python's grpcio, which knows only the names of the methods: it reads their messages from the server.

use serde_json::json;

use crate::support::TestApp;
use crate::support::grpc::{Client, serve};
use crate::support::tls::MINTED;

#[tokio::test]
async fn a_client_that_knows_only_names_reports_and_reads() {
    let app = TestApp::builder().settings(&[MINTED]).spawn().await;
    let anna = app.user("anna", &["prices:write", "catalogue:write"]).await;
    let mut client = Client::start(&serve(&app).await);
    let token = json!([["authorization", format!("Bearer {}", anna.token)]]);
    let observation = |sku: &str, amount: &str| {
        json!({
            "store": "gog", "sku": sku, "title": "Stream of Games", "observed_at": "2024-09-01T12:00:00Z",
            "price": {"amount": amount, "currency": "EUR"},
        })
    };
    let report = json!({
        "path": "/salebell.v1.Prices/Report",
        "requests": [
            {"observations": [observation("a", "9.99"), observation("b", "what")]},
            {"observations": [observation("c", "19.99")]},
        ],
        "metadata": token,
    });
    let answer = client.ask("invoke", report.clone()).await;
    let response = &answer["answers"][0];
    assert_eq!((&response["accepted"], &response["rejected_count"]), (&json!("2"), &json!("1")), "{answer}");
    let refusal = &response["rejected"][0];
    assert_eq!((&refusal["index"], &refusal["problem"]["reason"]), (&json!("1"), &json!("invalid")));
    assert_eq!(refusal["problem"]["fields"][0]["field"], "price");
    app.record_all().await;
    let batch = json!({
        "path": "/salebell.v1.Prices/GetBatch", "requests": [{"id": response["batch_id"]}], "metadata": token,
    });
    let batch = client.ask("invoke", batch).await;
    assert_eq!(batch["answers"][0]["batch"]["recorded"], "2", "{batch}");
    let search = json!({"path": "/salebell.v1.Games/Search", "requests": [{"text": "stream of games"}]});
    let found = client.ask("invoke", search).await;
    let game = &found["answers"][0]["games"][0]["id"];
    let prices =
        json!({"path": "/salebell.v1.Games/ListPrices", "requests": [{"game_id": game, "limit": 1}]});
    let prices = client.ask("invoke", prices).await;
    assert_eq!(prices["answers"].as_array().unwrap().len(), 2, "{prices}");
    assert_eq!(prices["answers"][0]["changes"][0]["observed_at"], "2024-09-01T12:00:00Z", "{prices}");
    let stranger = json!({"path": report["path"], "requests": report["requests"]});
    assert_eq!(client.ask("invoke", stranger).await["code"], "UNAUTHENTICATED");
}
