//! Uploads: tus, the IETF draft and plain bodies; what breaks, what contradicts itself, and who has access.

use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::TimeDelta;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::support::instance::head_of_patch;
use crate::support::s3::Store;
use crate::support::{TestApp, User, eventually, raw};

crate::on_both_stores!(
    an_upload_arrives_in_pieces_and_becomes_one_file,
    invalid_requests_are_refused_as_tus_specifies,
    a_broken_connection_keeps_the_received_bytes,
    the_offset_counts_bytes_in_flight_and_a_second_request_takes_over,
    another_instance_continues_an_upload,
    a_checksum_keeps_out_damaged_bytes,
    lengths_may_follow_later_and_files_are_concatenated,
    uploads_by_the_ietf_draft_work_and_resume,
    small_clients_send_the_file_itself,
    quotas_and_limits_hold,
    a_full_disk_refuses_early_and_keeps_the_received_bytes,
    a_stopping_process_keeps_the_received_bytes,
    a_stopping_process_accepts_the_bytes_already_sent,
);

/// Bytes without a repetition at the size of a block.
pub fn bytes(count: usize) -> Bytes {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes.into()
}

pub fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn tus(app: &TestApp, user: &User, method: Method, path: &str) -> RequestBuilder {
    app.request(method, path).bearer_auth(&user.token).header("tus-resumable", "1.0.0")
}

pub async fn sent(request: RequestBuilder) -> Response {
    request.send().await.unwrap()
}

pub fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Checks that the file is complete and equals what was sent, to the last byte.
pub async fn assert_whole(app: &TestApp, user: &User, path: &str, whole: &[u8]) {
    let file = app.see(user, path).await;
    assert_eq!((&file["state"], &file["sha256"]), (&json!("complete"), &json!(hex(whole))));
    assert!(content(app, user, path).await == whole, "the bytes are others");
}

/// Creates an upload of `length` bytes, and returns its path.
pub async fn create(app: &TestApp, user: &User, length: usize) -> String {
    let created = sent(tus(app, user, Method::POST, "/v1/files").header("upload-length", length)).await;
    assert_eq!(created.status(), 201, "{}", created.text().await.unwrap());
    header(&created, "location").to_owned()
}

pub fn patch(
    app: &TestApp,
    user: &User,
    path: &str,
    offset: usize,
    body: impl Into<reqwest::Body>,
) -> RequestBuilder {
    tus(app, user, Method::PATCH, path)
        .header("upload-offset", offset)
        .header("content-type", "application/offset+octet-stream")
        .body(body)
}

pub async fn offset(app: &TestApp, user: &User, path: &str) -> usize {
    let head = sent(tus(app, user, Method::HEAD, path)).await;
    assert_eq!(head.status(), 200);
    assert_eq!(header(&head, "cache-control"), "no-store");
    header(&head, "upload-offset").parse().unwrap()
}

/// Number of durable bytes, queried without interrupting an upload that is in progress.
pub async fn stored(app: &TestApp, user: &User, path: &str) -> usize {
    app.see(user, path).await["offset"].as_u64().unwrap().try_into().unwrap()
}

/// Reads the file's state, and its bytes once it is complete.
pub async fn content(app: &TestApp, user: &User, path: &str) -> Bytes {
    let answer = sent(app.get(&format!("{path}/content")).bearer_auth(&user.token)).await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap()
}

/// A body that the test feeds piece by piece; dropping the sender breaks it off.
pub fn fed() -> (mpsc::UnboundedSender<std::io::Result<Bytes>>, reqwest::Body) {
    let (feed, mut fed) = mpsc::unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |context| fed.poll_recv(context));
    (feed, reqwest::Body::wrap_stream(stream))
}

async fn an_upload_arrives_in_pieces_and_becomes_one_file(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(3_000_000);
    let request = tus(&app, &anna, Method::POST, "/v1/files")
        .header("upload-length", whole.len())
        .header("upload-metadata", "filename Li4vZmVlZC5jc3Y=,filetype dGV4dC9jc3Y=,note");
    let created = sent(request).await;
    assert_eq!((created.status().as_u16(), header(&created, "tus-resumable")), (201, "1.0.0"));
    assert!(header(&created, "upload-expires").ends_with(" GMT"), "{created:?}");
    let path = header(&created, "location").to_owned();

    let mut at = 0;
    for end in [1, 65_536, 65_537, 2_000_000, 3_000_000] {
        assert_eq!(offset(&app, &anna, &path).await, at);
        let patched = sent(patch(&app, &anna, &path, at, whole.slice(at..end))).await;
        assert_eq!(
            (patched.status().as_u16(), header(&patched, "upload-offset")),
            (204, end.to_string().as_str())
        );
        at = end;
    }
    let file: Value = app.see(&anna, &path).await;
    assert_eq!(
        (&file["state"], &file["name"], &file["media_type"]),
        (&json!("complete"), &json!("feed.csv"), &json!("text/csv"))
    );
    assert_eq!((&file["length"], &file["sha256"]), (&json!(3_000_000), &json!(hex(&whole))));
    assert_eq!(content(&app, &anna, &path).await, whole);
    let head = sent(tus(&app, &anna, Method::HEAD, &path)).await;
    assert_eq!(header(&head, "upload-metadata"), "filename Li4vZmVlZC5jc3Y=,filetype dGV4dC9jc3Y=,note");
    assert_eq!((header(&head, "upload-length"), header(&head, "upload-offset")), ("3000000", "3000000"));
    // One place holds all bytes, however many requests delivered them.
    let pieces: i64 =
        sqlx::query_scalar("select count(*) from file_pieces").fetch_one(&app.state.writer).await.unwrap();
    assert_eq!(pieces, 1);
}

#[tokio::test]
async fn an_upload_that_is_created_twice_under_a_key_is_one() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let announce = async || {
        let request = tus(&app, &anna, Method::POST, "/v1/files").header("upload-length", 5);
        let created = sent(request.header("idempotency-key", "\"once\"")).await;
        assert_eq!(created.status(), 201);
        header(&created, "location").to_owned()
    };
    let path = announce().await;
    assert_eq!(announce().await, path);
    assert_eq!(sent(patch(&app, &anna, &path, 0, "bytes")).await.status(), 204);
}

async fn invalid_requests_are_refused_as_tus_specifies(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let (anna, mallory) = (app.user("anna", &[]).await, app.user("mallory", &[]).await);
    let path = create(&app, &anna, 100).await;
    let stored = async |expected: usize| assert_eq!(offset(&app, &anna, &path).await, expected);

    let options = sent(app.request(Method::OPTIONS, "/v1/files")).await;
    assert_eq!((options.status().as_u16(), header(&options, "tus-max-size")), (204, "6442450944"));
    assert!(header(&options, "tus-extension").contains("creation-defer-length"));
    assert_eq!(header(&options, "tus-checksum-algorithm"), "sha1,sha256");

    let other = patch(&app, &anna, &path, 0, "x");
    let mut other = other.build().unwrap();
    other.headers_mut().insert("tus-resumable", "0.2.2".parse().unwrap());
    let other = app.client.execute(other).await.unwrap();
    assert_eq!((other.status().as_u16(), header(&other, "tus-version")), (412, "1.0.0"));
    stored(0).await;

    let wrong_offset = sent(patch(&app, &anna, &path, 7, "x")).await;
    assert_eq!((wrong_offset.status().as_u16(), header(&wrong_offset, "upload-offset")), (409, "0"));
    let wrong_type = patch(&app, &anna, &path, 0, "x").build().unwrap();
    let mut wrong_type = wrong_type;
    wrong_type.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(app.client.execute(wrong_type).await.unwrap().status(), 415);
    assert_eq!(sent(patch(&app, &anna, &path, 0, bytes(101))).await.status(), 413);
    let (feed, body) = fed();
    feed.send(Ok(bytes(60))).unwrap();
    feed.send(Ok(bytes(60))).unwrap();
    drop(feed);
    assert_eq!(
        sent(patch(&app, &anna, &path, 0, body)).await.status(),
        413,
        "without a length announced before"
    );
    let kept = offset(&app, &anna, &path).await;
    assert!(kept <= 100, "{kept}");

    for stranger in [
        sent(patch(&app, &mallory, &path, kept, "x")).await,
        sent(tus(&app, &mallory, Method::HEAD, &path)).await,
        sent(tus(&app, &mallory, Method::DELETE, &path)).await,
        sent(app.get(&format!("{path}/content")).bearer_auth(&mallory.token)).await,
    ] {
        assert_eq!(stranger.status(), 404);
    }
    stored(kept).await;
    assert_eq!(sent(app.get(&format!("{path}/content")).bearer_auth(&anna.token)).await.status(), 409);

    for (name, value, status) in [
        ("upload-length", "-1", 400),
        ("upload-length", "many", 400),
        ("upload-length", "99999999999999999999", 413),
        ("upload-length", "9223372036854775807", 413),
        ("upload-length", "9223372036854775808", 413),
        ("upload-length", "18446744073709551616", 413),
        ("upload-length", "99999999999999999999999999", 413),
        ("upload-length", "99999999999999999999999999a", 400),
        ("upload-length", "6442450945", 413),
        ("upload-defer-length", "2", 400),
        ("upload-concat", "whole", 400),
        ("upload-concat", "final;/v1/files/0192f0c1-2345-7000-8000-000000000000", 422),
    ] {
        let answer = sent(tus(&app, &anna, Method::POST, "/v1/files").header(name, value)).await;
        assert_eq!(answer.status(), status, "{name}: {value}: {}", answer.text().await.unwrap());
    }
    assert_eq!(sent(tus(&app, &anna, Method::POST, "/v1/files")).await.status(), 400);

    // Terminated: nothing of it is left.
    assert_eq!(sent(tus(&app, &anna, Method::DELETE, &path)).await.status(), 204);
    assert_eq!(sent(tus(&app, &anna, Method::HEAD, &path)).await.status(), 404);
    assert_eq!(app.blobs().await, [""; 0]);
}

async fn a_broken_connection_keeps_the_received_bytes(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(1_000_000);
    let path = create(&app, &anna, whole.len()).await;
    for end in [300_000, 700_001] {
        let at = offset(&app, &anna, &path).await;
        let mut stream = raw::connect(&app.url).await;
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\n\
             Content-Type: application/offset+octet-stream\r\nUpload-Offset: {at}\r\nContent-Length: {}\r\n\r\n",
            anna.token,
            whole.len() - at,
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&whole[at..end]).await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        let mut reported = 0;
        for _ in 0..500 {
            reported = stored(&app, &anna, &path).await;
            if reported == end {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(reported, end);
    }
    assert_eq!(sent(patch(&app, &anna, &path, 700_001, whole.slice(700_001..))).await.status(), 204);
    assert_eq!(app.see(&anna, &path).await["sha256"], hex(&whole));
}

async fn the_offset_counts_bytes_in_flight_and_a_second_request_takes_over(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(500_000);
    let path = create(&app, &anna, whole.len()).await;
    let (feed, body) = fed();
    let first = tokio::spawn(sent(patch(&app, &anna, &path, 0, body)));
    feed.send(Ok(whole.slice(..200_000))).unwrap();
    // The connection is open and idle. What has arrived is still reported.
    let mut reported = 0;
    while reported < 200_000 {
        reported = stored(&app, &anna, &path).await;
    }
    assert_eq!(reported, 200_000);
    let second = sent(patch(&app, &anna, &path, 200_000, whole.slice(200_000..))).await;
    assert_eq!(second.status(), 204);
    assert_eq!(first.await.unwrap().status(), 409);
    assert_eq!(app.see(&anna, &path).await["sha256"], hex(&whole));
    assert_eq!(content(&app, &anna, &path).await, whole);
    drop(feed);
}

async fn another_instance_continues_an_upload(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let other = TestApp::builder().beside(&app).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(900_000);
    let path = create(&app, &anna, whole.len()).await;
    let (feed, body) = fed();
    let first = tokio::spawn(sent(patch(&app, &anna, &path, 0, body)));
    feed.send(Ok(whole.slice(..300_000))).unwrap();
    eventually("stored", async || stored(&app, &anna, &path).await >= 300_000).await;
    // The other instance does not know of the open request, and takes over the upload.
    assert_eq!(offset(&other, &anna, &path).await, 300_000);
    let second = sent(patch(&other, &anna, &path, 300_000, whole.slice(300_000..600_000))).await;
    assert_eq!(second.status(), 204);
    // Further bytes of the first request are discarded.
    feed.send(Ok(bytes(1))).unwrap();
    drop(feed);
    assert_eq!(first.await.unwrap().status(), 409);
    assert_eq!(offset(&app, &anna, &path).await, 600_000);
    assert_eq!(sent(patch(&app, &anna, &path, 600_000, whole.slice(600_000..))).await.status(), 204);
    assert_eq!(app.see(&anna, &path).await["sha256"], hex(&whole));
    assert_eq!(content(&other, &anna, &path).await, whole);
    let part =
        app.get(&format!("{path}/content")).bearer_auth(&anna.token).header("range", "bytes=299990-300009");
    assert_eq!(sent(part).await.bytes().await.unwrap(), whole.slice(299_990..300_010), "across two pieces");
}

async fn a_checksum_keeps_out_damaged_bytes(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(200_000);
    let path = create(&app, &anna, whole.len()).await;
    let sum = |algorithm: &str, bytes: &[u8]| {
        let kind = if algorithm == "sha1" { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 };
        format!("{algorithm} {}", STANDARD.encode(digest(kind, bytes)))
    };
    let part = whole.slice(..100_000);
    let damaged = patch(&app, &anna, &path, 0, bytes(100_001).slice(1..));
    assert_eq!(sent(damaged.header("upload-checksum", sum("sha1", &part))).await.status(), 460);
    assert_eq!(offset(&app, &anna, &path).await, 0);
    let unknown = patch(&app, &anna, &path, 0, part.clone());
    assert_eq!(sent(unknown.header("upload-checksum", "crc32 AAAAAA==")).await.status(), 400);
    let right = patch(&app, &anna, &path, 0, part.clone());
    assert_eq!(sent(right.header("upload-checksum", sum("sha1", &part))).await.status(), 204);
    let rest = whole.slice(100_000..);
    // In a trailer, first with a wrong checksum.
    for (checksum, status) in [(sum("sha256", b"other"), "460"), (sum("sha256", &rest), "204")] {
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\nConnection: close\r\n\
             Content-Type: application/offset+octet-stream\r\nUpload-Offset: 100000\r\nTransfer-Encoding: chunked\r\n\
             Trailer: Upload-Checksum\r\n\r\n{:x}\r\n",
            anna.token,
            rest.len(),
        );
        let tail = format!("\r\n0\r\nUpload-Checksum: {checksum}\r\n\r\n");
        let answer = raw::exchange(&app.url, [head.as_bytes(), &rest, tail.as_bytes()].concat()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert_eq!(app.see(&anna, &path).await["sha256"], hex(&whole));
}

async fn lengths_may_follow_later_and_files_are_concatenated(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(400_000);
    let deferred = tus(&app, &anna, Method::POST, "/v1/files").header("upload-defer-length", "1");
    let path = header(&sent(deferred).await, "location").to_owned();
    assert_eq!(sent(patch(&app, &anna, &path, 0, whole.slice(..100))).await.status(), 204);
    let head = sent(tus(&app, &anna, Method::HEAD, &path)).await;
    assert_eq!((header(&head, "upload-defer-length"), header(&head, "upload-length")), ("1", ""));
    let too_short = patch(&app, &anna, &path, 100, "").header("upload-length", 99);
    assert_eq!(sent(too_short).await.status(), 422);
    let announcing = patch(&app, &anna, &path, 100, whole.slice(100..)).header("upload-length", whole.len());
    assert_eq!(sent(announcing).await.status(), 204);
    assert_eq!(app.see(&anna, &path).await["sha256"], hex(&whole));

    let empty = create(&app, &anna, 0).await;
    assert_eq!(app.see(&anna, &empty).await["sha256"], hex(b""));
    assert_eq!(content(&app, &anna, &empty).await.len(), 0);

    let mut parts = Vec::new();
    for part in [whole.slice(..150_000), Bytes::new(), whole.slice(150_000..)] {
        let request = tus(&app, &anna, Method::POST, "/v1/files")
            .header("upload-length", part.len())
            .header("upload-concat", "partial")
            .header("content-type", "application/offset+octet-stream");
        let created = sent(request.body(part)).await;
        assert_eq!(created.status(), 201);
        parts.push(header(&created, "location").to_owned());
    }
    let concat = format!("final;{}", parts.join(" "));
    let put = sent(tus(&app, &anna, Method::POST, "/v1/files").header("upload-concat", &concat)).await;
    assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
    let path = header(&put, "location").to_owned();
    assert_eq!(app.see(&anna, &path).await["sha256"], hex(&whole));
    assert_eq!(sent(patch(&app, &anna, &path, whole.len(), "")).await.status(), 403);
    let head = sent(tus(&app, &anna, Method::HEAD, &path)).await;
    assert_eq!(header(&head, "upload-concat"), concat);
    // The parts are removed, and the whole file stays.
    for part in parts {
        assert_eq!(sent(tus(&app, &anna, Method::DELETE, &part)).await.status(), 204);
    }
    assert_eq!(content(&app, &anna, &path).await, whole);
}

async fn uploads_by_the_ietf_draft_work_and_resume(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(300_000);
    let draft = |method: Method, path: &str| app.request(method, path).bearer_auth(&anna.token);
    let created = draft(Method::POST, "/v1/files?name=feed.xml").header("upload-complete", "?0");
    let created = sent(created.header("content-type", "text/xml").body(whole.slice(..100_000))).await;
    assert_eq!((created.status().as_u16(), header(&created, "upload-complete")), (201, "?0"));
    assert!(header(&created, "upload-limit").contains("max-size=6442450944"));
    let path = header(&created, "location").to_owned();
    let head = sent(draft(Method::HEAD, &path)).await;
    assert_eq!(
        (head.status().as_u16(), header(&head, "upload-offset"), header(&head, "upload-complete")),
        (204, "100000", "?0")
    );
    assert_eq!(sent(draft(Method::HEAD, &path).header("upload-offset", "1")).await.status(), 400);

    let append = |at: usize, complete: &'static str, body: Bytes| {
        draft(Method::PATCH, &path)
            .header("upload-offset", at)
            .header("upload-complete", complete)
            .header("content-type", "application/partial-upload")
            .body(body)
    };
    let wrong = sent(append(5, "?0", whole.slice(5..10))).await;
    assert_eq!((wrong.status().as_u16(), header(&wrong, "upload-offset")), (409, "100000"));
    let problem: Value = wrong.json().await.unwrap();
    assert_eq!((&problem["expected-offset"], &problem["provided-offset"]), (&json!(100_000), &json!(5)));
    let more = sent(append(100_000, "?0", whole.slice(100_000..200_000))).await;
    assert_eq!((more.status().as_u16(), header(&more, "upload-offset")), (204, "200000"));
    let last = sent(append(200_000, "?1", whole.slice(200_000..))).await;
    assert_eq!((last.status().as_u16(), header(&last, "upload-complete")), (200, "?1"));
    let file: Value = last.json().await.unwrap();
    assert_eq!((&file["sha256"], &file["name"]), (&json!(hex(&whole)), &json!("feed.xml")));
    let again = sent(append(300_000, "?1", Bytes::new())).await;
    assert_eq!(again.status(), 400);
    assert!(again.json::<Value>().await.unwrap()["type"].as_str().unwrap().ends_with("#completed-upload"));
    assert_eq!(content(&app, &anna, &path).await, whole);
}

async fn small_clients_send_the_file_itself(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let put = app.request(Method::PUT, "/v1/files/caf%C3%A9.csv").bearer_auth(&anna.token).body("a,b\n");
    let put = sent(put.header("content-type", "text/csv")).await;
    assert_eq!(put.status(), 201);
    let file: Value = put.json().await.unwrap();
    assert_eq!(
        (&file["name"], &file["state"], &file["length"]),
        (&json!("café.csv"), &json!("complete"), &json!(4))
    );

    let post = app.post("/v1/files?expires_in=3600").bearer_auth(&anna.token);
    let post =
        sent(post.header("content-disposition", "attachment; filename=\"x/y.bin\"").body(bytes(10))).await;
    let file: Value = post.json().await.unwrap();
    assert_eq!((&file["name"], &file["media_type"]), (&json!("y.bin"), &json!("application/octet-stream")));
    let life = file["expires_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap()
        - app.clock.now();
    assert!(life > TimeDelta::minutes(59) && life <= TimeDelta::hours(1), "{life}");

    for (query, status) in [("expires_in=0", 422), ("expires_in=1300000", 422), ("expires_in=x", 400)] {
        let refused = app.post(&format!("/v1/files?{query}")).bearer_auth(&anna.token).body("x");
        assert_eq!(sent(refused).await.status(), status, "{query}");
    }
    let form = app
        .post("/v1/files")
        .bearer_auth(&anna.token)
        .header("content-type", "multipart/form-data; boundary=x");
    assert_eq!(sent(form.body("--x--")).await.status(), 415);

    // A part of a resumable upload is not taken for the whole file.
    for (name, value) in [
        ("Tus-Resumable", "1.0.0"),
        ("Upload-Offset", "0"),
        ("Upload-Checksum", "sha256 AAAA"),
        ("Upload-Incomplete", "?1"),
    ] {
        let part = app.request(Method::PUT, "/v1/files/part").bearer_auth(&anna.token).header(name, value);
        let refused = sent(part.body("a part")).await;
        assert_eq!(refused.status(), 400, "{name}: {value}");
        let problem: Value = refused.json().await.unwrap();
        assert!(problem["detail"].as_str().unwrap().starts_with(name), "{problem}");
    }
    assert_eq!(app.see(&anna, "/v1/files").await["items"].as_array().unwrap().len(), 2);

    // A body that breaks off leaves nothing.
    let (feed, body) = fed();
    feed.send(Ok(bytes(10))).unwrap();
    feed.send(Err(std::io::Error::other("gone"))).unwrap();
    assert!(app.post("/v1/files").bearer_auth(&anna.token).body(body).send().await.is_err());
    app.until("select count(*) = 2 from files").await;
    assert_eq!(app.see(&anna, "/v1/files").await["items"].as_array().unwrap().len(), 2);

    // The same key creates one file, however often the request is repeated.
    let keyed = |body: &'static str| {
        app.post("/v1/files?name=k").bearer_auth(&anna.token).header("idempotency-key", "\"k\"").body(body)
    };
    let first: Value = sent(keyed("one")).await.json().await.unwrap();
    let second: Value = sent(keyed("one")).await.json().await.unwrap();
    assert_eq!(first["id"], second["id"]);
    assert_eq!(sent(keyed("two")).await.status(), 422);
}

async fn quotas_and_limits_hold(store: Store) {
    let app = TestApp::builder()
        .store(store)
        .settings(&[
            ("SALEBELL_FILES__BYTES_PER_ACCOUNT", "1000"),
            ("SALEBELL_FILES__FILES_PER_ACCOUNT", "3"),
            ("SALEBELL_FILES__MAX_BYTES", "900"),
            ("SALEBELL_FILES__UPLOADS_IN_FLIGHT_PER_ACCOUNT", "1"),
        ])
        .spawn()
        .await;
    let (anna, ben) = (app.user("anna", &[]).await, app.user("ben", &[]).await);
    let announced = |user: &User, length: usize| {
        sent(tus(&app, user, Method::POST, "/v1/files").header("upload-length", length))
    };
    assert_eq!(announced(&anna, 901).await.status(), 413);
    let path = create(&app, &anna, 600).await;
    assert_eq!(announced(&anna, 401).await.status(), 413, "what is announced counts");
    let keyed =
        app.post("/v1/files").bearer_auth(&anna.token).header("idempotency-key", "\"k\"").body(bytes(401));
    assert_eq!(sent(keyed).await.status(), 413, "under a key too");
    let deferred = sent(tus(&app, &anna, Method::POST, "/v1/files").header("upload-defer-length", "1")).await;
    let deferred = header(&deferred, "location").to_owned();
    assert_eq!(sent(patch(&app, &anna, &deferred, 0, bytes(401))).await.status(), 413);
    assert_eq!(sent(patch(&app, &anna, &deferred, 0, bytes(300))).await.status(), 204);
    assert_eq!(announced(&anna, 99).await.status(), 201);
    assert_eq!(announced(&anna, 0).await.status(), 413, "three files");
    assert_eq!(announced(&ben, 900).await.status(), 201, "another account has its own room");

    let (feed, body) = fed();
    let first = tokio::spawn(sent(patch(&app, &anna, &path, 0, body)));
    feed.send(Ok(bytes(10))).unwrap();
    eventually("stored", async || stored(&app, &anna, &path).await >= 10).await;
    assert_eq!(sent(patch(&app, &anna, &deferred, 300, "x")).await.status(), 429);
    drop(feed);
    assert_eq!(first.await.unwrap().status(), 204);
    assert_eq!(sent(patch(&app, &anna, &deferred, 300, "x")).await.status(), 204);
}

async fn a_full_disk_refuses_early_and_keeps_the_received_bytes(store: Store) {
    let app = TestApp::builder()
        .store(store)
        .settings(&[("SALEBELL_FILES__RESERVE_BYTES", "9000000000000000")])
        .spawn()
        .await;
    let anna = app.user("anna", &[]).await;
    let refused = sent(tus(&app, &anna, Method::POST, "/v1/files").header("upload-length", 1)).await;
    assert_eq!(refused.status(), 507);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["type"], "/problems/insufficient-storage");
    assert_eq!(app.see(&anna, "/v1/files").await["items"], json!([]));
}

async fn a_stopping_process_keeps_the_received_bytes(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let path = create(&app, &anna, 1_000).await;
    let (feed, body) = fed();
    let first = tokio::spawn(sent(patch(&app, &anna, &path, 0, body)));
    feed.send(Ok(bytes(10))).unwrap();
    eventually("stored", async || stored(&app, &anna, &path).await >= 10).await;
    feed.send(Ok(bytes(20))).unwrap();
    eventually("stored", async || stored(&app, &anna, &path).await >= 30).await;
    app.state.stopping.cancel();
    let answer = tokio::time::timeout(Duration::from_secs(10), first).await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    let stored: (i64, bool) = sqlx::query_as("select stored, writer is null from files")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(stored, (30, true));
    drop(feed);
}

async fn a_stopping_process_accepts_the_bytes_already_sent(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    // Few enough bytes for the write not to block: all of them are in the kernel when the process is stopped.
    let sent = 100_000;
    let (part, whole) = (create(&app, &anna, 1_000_000).await, create(&app, &anna, sent).await);
    let begin =
        async |path: &str, length| raw::begin(&app.url, &head_of_patch(&anna.token, path, 0, length)).await;
    let (mut more, mut all) = (begin(&part, 1_000_000).await, begin(&whole, sent).await);
    for stream in [&mut more, &mut all] {
        stream.write_all(&bytes(sent)).await.unwrap();
    }
    app.state.stopping.cancel();
    let answer = raw::read_answer(&mut more).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let answer = raw::read_answer(&mut all).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "what is whole is done: {answer}");
    let stored: Vec<(i64, bool)> =
        sqlx::query_as("select stored, sha256 is not null from files order by length desc")
            .fetch_all(&app.state.writer)
            .await
            .unwrap();
    assert_eq!(stored, [(sent as i64, false), (sent as i64, true)]);
}
