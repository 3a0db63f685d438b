//! Tries every method of the table without a token, and every owned resource with another account's token.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures_util::stream;
use salebell::grpc::{Access, METHODS};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt;
use tower::ServiceExt;

use crate::support::TestApp;
use crate::support::grpc::{message, observation, pb, prices, services, with_token};

/// Methods that need no token. This list may only shrink: a new method becomes open only with a stated reason.
const OPEN: &[&str] = &[
    // Load balancers have no token.
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    // It describes what is public in this repository.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    // The catalogue is readable without a token, as over HTTP.
    "/salebell.v1.Games/Get",
    "/salebell.v1.Games/ListOffers",
    "/salebell.v1.Games/ListPrices",
    "/salebell.v1.Games/Search",
];

/// Code of a refusal before the first message of the response. `None`: it is no refusal, or comes later.
async fn call(router: &Router, path: &str, token: Option<&str>) -> Option<Code> {
    let request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    let request = token
        .into_iter()
        .fold(request, |request, token| request.header("authorization", format!("Bearer {token}")));
    let empty_message = Body::from(vec![0; 5]);
    let answer = router.clone().oneshot(request.body(empty_message).unwrap()).await.unwrap();
    let status = answer.headers().get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

#[tokio::test]
async fn every_method_requires_a_token_unless_it_is_listed() {
    let app = TestApp::spawn().await;
    let router = services(&app, &CancellationToken::new());
    let mut wrong = Vec::new();
    for method in METHODS {
        let open = OPEN.contains(&method.path);
        assert_eq!(matches!(method.access, Access::Scope(_)), !open, "{}", method.path);
        for token in [None, Some("sbk_wrong"), Some("a.b.c")] {
            let code = call(&router, method.path, token).await;
            if (code == Some(Code::Unauthenticated)) == open {
                wrong.push(format!("{} answers {code:?} to the token {token:?}", method.path));
            }
        }
    }
    for path in OPEN {
        if !METHODS.iter().any(|method| method.path == *path) {
            wrong.push(format!("{path} is listed and does not exist"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_token_needs_the_scope_of_the_method() {
    let app = TestApp::spawn().await;
    let router = services(&app, &CancellationToken::new());
    let every = ["prices:write", "catalogue:write", "operator"];
    let mut tried = 0;
    for method in METHODS {
        let Access::Scope(scope) = method.access else { continue };
        let others: Vec<&str> = every.into_iter().filter(|other| *other != scope).collect();
        let poor = app.user("poor", &others).await;
        let code = call(&router, method.path, Some(&poor.token)).await;
        assert_eq!(code, Some(Code::PermissionDenied), "{}", method.path);
        let rich = app.user("rich", &[scope]).await;
        assert_ne!(call(&router, method.path, Some(&rich.token)).await, Some(Code::PermissionDenied));
        tried += 1;
    }
    assert_eq!(tried, METHODS.len() - OPEN.len());
}

#[tokio::test]
async fn a_batch_of_another_account_is_not_found() {
    let app = TestApp::spawn().await;
    let every = ["prices:write", "catalogue:write", "operator"];
    let (anna, mallory) = (app.user("anna", &every).await, app.user("mallory", &every).await);
    let mut client = prices(&app);
    let report = |token: &str| {
        let mut request = with_token(stream::iter([message(&[observation("a", "9.99")])]), token);
        request.metadata_mut().insert("idempotency-key", "one".parse().unwrap());
        request
    };
    let id = client.report(report(&anna.token)).await.unwrap().into_inner().batch_id;
    let get = |id: &str, token: &str| with_token(pb::GetBatchRequest { id: id.to_owned() }, token);
    let batch = client.get_batch(get(&id, &anna.token)).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(batch.id, id);
    for (id, token) in [(id.as_str(), &mallory.token), ("what", &anna.token), ("", &anna.token)] {
        let refusal = client.get_batch(get(id, token)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound);
        let details = refusal.get_error_details();
        let resource = details.resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("batch", id));
        assert_eq!(details.error_info().unwrap().reason, "not-found");
    }
    // A key belongs to its account.
    let other = client.report(report(&mallory.token)).await.unwrap();
    assert_eq!(other.metadata().get("idempotency-replayed"), None);
    assert_ne!(other.into_inner().batch_id, id);
}
