//! Downloads: ranges, conditions, headers, and share links.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use futures_util::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::files::uploads::{bytes, hex};
use crate::support::s3::Store;
use crate::support::{TestApp, User};

crate::on_both_stores!(
    bytes_are_served_whole_in_ranges_and_under_conditions,
    a_link_serves_any_client_up_to_its_limit,
);

pub async fn upload(app: &TestApp, user: &User, name: &str, kind: &str, body: bytes::Bytes) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("name", name).finish();
    let request = app.post(&format!("/v1/files?{query}")).bearer_auth(&user.token).body(body);
    let file: Value = request.header("content-type", kind).send().await.unwrap().json().await.unwrap();
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn bytes_are_served_whole_in_ranges_and_under_conditions(store: Store) {
    // Downloads through Salebell are the same for every store.
    let app = TestApp::builder().store(store).settings(&[("SALEBELL_FILES__PRESIGN", "false")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(1_000_000);
    let path = upload(&app, &anna, "Ä \"x\".html", "text/html", whole.clone()).await + "/content";
    let get = |headers: &[(&str, &str)]| {
        let request = app.get(&path).bearer_auth(&anna.token);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send()
    };
    let answer = get(&[]).await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "content-length")), (200, "1000000"));
    let (tag, modified) = (header(&answer, "etag").to_owned(), header(&answer, "last-modified").to_owned());
    assert!(tag.starts_with('"'), "strong");
    let sum = header(&answer, "repr-digest").strip_prefix("sha-256=:").unwrap().strip_suffix(':').unwrap();
    let sum: String = STANDARD.decode(sum).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, hex(&whole));
    assert_eq!(
        header(&answer, "content-disposition"),
        "attachment; filename=\"_ _x_.html\"; filename*=UTF-8''%C3%84%20%22x%22.html"
    );
    assert_eq!(
        (header(&answer, "x-content-type-options"), header(&answer, "accept-ranges")),
        ("nosniff", "bytes")
    );
    assert_eq!(answer.bytes().await.unwrap(), whole);

    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=999999-", 999_999, 1_000_000),
        ("bytes=-10", 999_990, 1_000_000),
        ("bytes=250000-600000", 250_000, 600_001),
        ("bytes=999990-2000000", 999_990, 1_000_000),
    ] {
        for condition in [None, Some(("if-range", tag.as_str())), Some(("if-range", modified.as_str()))] {
            let headers: Vec<_> = [("range", range)].into_iter().chain(condition).collect();
            let answer = get(&headers).await.unwrap();
            assert_eq!(answer.status(), 206, "{range}");
            assert_eq!(header(&answer, "content-range"), format!("bytes {from}-{}/1000000", to - 1));
            assert_eq!(answer.bytes().await.unwrap(), whole.slice(from..to), "{range}");
        }
    }
    for (headers, status) in [
        (vec![("range", "bytes=1000000-")], 416),
        (vec![("range", "bytes=0-1"), ("if-range", "\"other\"")], 200),
        (vec![("range", "bytes=0-1"), ("if-range", "Mon, 01 Jan 2024 00:00:00 GMT")], 200),
        (vec![("range", "bytes=0-1,4-5")], 200),
        (vec![("if-none-match", tag.as_str())], 304),
        (vec![("if-none-match", "*")], 304),
        (vec![("if-none-match", "\"other\"")], 200),
        (vec![("if-modified-since", modified.as_str())], 304),
        (vec![("if-match", tag.as_str())], 200),
        (vec![("if-match", "\"other\"")], 412),
        (vec![("if-unmodified-since", "Mon, 01 Jan 2024 00:00:00 GMT")], 412),
    ] {
        let answer = get(&headers).await.unwrap();
        assert_eq!(answer.status(), status, "{headers:?}");
        if status == 416 {
            assert_eq!(header(&answer, "content-range"), "bytes */1000000");
        }
    }
    let head = app.request(Method::HEAD, &path).bearer_auth(&anna.token).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), header(&head, "content-length"), header(&head, "etag")),
        (200, "1000000", tag.as_str())
    );
}

async fn a_link_serves_any_client_up_to_its_limit(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let (anna, mallory) = (app.user("anna", &[]).await, app.user("mallory", &[]).await);
    let whole = bytes(300_000);
    let path = upload(&app, &anna, "a.bin", "", whole.clone()).await;
    let links = format!("{path}/links");
    let link = async |body: Value| {
        let answer = app.post(&links).bearer_auth(&anna.token).json(&body).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "cache-control")), (201, "no-store"));
        answer.json::<Value>().await.unwrap()
    };
    let refused = app.post(&links).bearer_auth(&anna.token).json(&json!({"max_downloads": 0}));
    assert_eq!(refused.send().await.unwrap().status(), 422);
    let stranger = app.post(&links).bearer_auth(&mallory.token).json(&json!({}));
    assert_eq!(stranger.send().await.unwrap().status(), 404);

    // Twenty concurrent requests for a link with three downloads.
    let three = link(json!({"max_downloads": 3})).await;
    let address = three["path"].as_str().unwrap();
    let head = app.request(Method::HEAD, address).send().await.unwrap();
    assert_eq!((head.status().as_u16(), header(&head, "cache-control")), (200, "private, no-store"));
    let answers = join_all((0..20).map(|_| app.get(address).send())).await;
    let served: Vec<_> =
        answers.into_iter().map(Result::unwrap).filter(|answer| answer.status() == 200).collect();
    assert_eq!(served.len(), 3);
    for answer in served {
        assert_eq!(answer.bytes().await.unwrap(), whole);
    }
    for range in ["bytes=100000-", "bytes=1-", "bytes=0-0", "bytes=0-"] {
        let answer = app.get(address).header("range", range).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{range}");
    }
    let listed = app.see(&anna, &links).await;
    assert_eq!(listed["items"][0]["downloads"], 3);
    assert_eq!(listed["items"][0].get("path"), None, "shown once");

    let hour = link(json!({"expires_at": app.clock.now() + TimeDelta::hours(1)})).await;
    let revoked = link(json!({})).await;
    let remove = format!("{links}/{}", revoked["id"].as_str().unwrap());
    for (user, status) in [(&mallory, 404), (&anna, 204), (&anna, 404)] {
        let answer = app.request(Method::DELETE, &remove).bearer_auth(&user.token).send().await.unwrap();
        assert_eq!(answer.status(), status);
    }
    assert_eq!(app.get(revoked["path"].as_str().unwrap()).send().await.unwrap().status(), 404);
    assert_eq!(app.get(hour["path"].as_str().unwrap()).send().await.unwrap().status(), 200);
    app.clock.advance(TimeDelta::hours(2));
    assert_eq!(app.get(hour["path"].as_str().unwrap()).send().await.unwrap().status(), 404);
    assert_eq!(app.get("/d/guess").send().await.unwrap().status(), 404);
}
