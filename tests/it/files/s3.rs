//! Files in S3: parts that fill over many requests and instances, writers that were superseded, failures of S3, and
//! what is left behind.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use reqwest::Method;
use reqwest::redirect::Policy;
use salebell::files::blobs::OpenUpload;
use salebell::worker::files;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use url::Url;

use crate::files::downloads::upload;
use crate::files::uploads::{bytes, content, create, fed, header, hex, offset, patch, sent, stored, tus};
use crate::support::s3::{Store, flaky};
use crate::support::{TestApp, User, eventually, raw};

const MIB: usize = 1 << 20;

/// Multipart uploads that are open in S3.
async fn open_uploads(app: &TestApp) -> Vec<OpenUpload> {
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    app.state.files.blobs.list_open_uploads(later).await.unwrap()
}

/// Waits until the store holds this number of objects: obsolete tails are removed concurrently with the answer.
async fn holds(app: &TestApp, objects: usize) {
    for _ in 0..500 {
        if app.blobs().await.len() == objects {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", app.blobs().await);
}

async fn assert_whole(app: &TestApp, user: &User, path: &str, whole: &[u8]) {
    assert_eq!(app.see(user, path).await["sha256"], hex(whole));
    assert!(content(app, user, path).await == whole, "the bytes are others");
}

#[tokio::test]
async fn parts_fill_over_many_requests_to_two_instances() {
    let app = TestApp::builder().store(Store::S3).spawn().await;
    let other = TestApp::builder().beside(&app).spawn().await;
    let anna = app.user("anna", &[]).await;
    // Whole parts without a rest, and with a rest.
    for length in [10 * MIB, 12 * MIB + 7] {
        let whole = bytes(length);
        let path = create(&app, &anna, length).await;
        for (at, start) in (0..length).step_by(300_000).enumerate() {
            let end = (start + 300_000).min(length);
            let instance = if at % 2 == 0 { &app } else { &other };
            let patched = sent(patch(instance, &anna, &path, start, whole.slice(start..end))).await;
            assert_eq!(
                (patched.status().as_u16(), header(&patched, "upload-offset")),
                (204, &*end.to_string())
            );
        }
        assert_whole(&other, &anna, &path, &whole).await;
        // A single object, whatever it was assembled from.
        holds(&app, 1).await;
        assert!(open_uploads(&app).await.is_empty());
        assert_eq!(sent(tus(&app, &anna, Method::DELETE, &path)).await.status(), 204);
        assert_eq!(app.blobs().await.len(), 0);
    }
}

#[tokio::test]
async fn a_broken_connection_keeps_parts_and_tail() {
    let app = TestApp::builder().store(Store::S3).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(13 * MIB);
    let path = create(&app, &anna, whole.len()).await;
    for end in [6 * MIB + 5, 12 * MIB] {
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
        let acknowledged = async {
            eventually("stored", async || stored(&app, &anna, &path).await >= end).await;
        };
        tokio::time::timeout(Duration::from_secs(20), acknowledged)
            .await
            .expect("all received bytes are acknowledged");
    }
    let rest = whole.slice(12 * MIB..);
    assert_eq!(sent(patch(&app, &anna, &path, 12 * MIB, rest)).await.status(), 204);
    assert_whole(&app, &anna, &path, &whole).await;
}

#[tokio::test]
async fn a_writer_that_is_overtaken_within_a_part_damages_nothing() {
    let app = TestApp::builder().store(Store::S3).spawn().await;
    let other = TestApp::builder().beside(&app).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(20 * MIB);
    let path = create(&app, &anna, whole.len()).await;
    let (feed, body) = fed();
    let first = tokio::spawn(sent(patch(&app, &anna, &path, 0, body)));
    feed.send(Ok(whole.slice(..7 * MIB))).unwrap();
    eventually("stored", async || stored(&app, &anna, &path).await >= 7 * MIB).await;
    // Bytes that it still sends fill further parts of its own upload, before and after the other writer has begun.
    feed.send(Ok(bytes(4 * MIB))).unwrap();
    let (feed_other, body) = fed();
    let second = tokio::spawn(sent(patch(&other, &anna, &path, 7 * MIB, body)));
    feed_other.send(Ok(whole.slice(7 * MIB..13 * MIB + 1))).unwrap();
    eventually("stored", async || stored(&other, &anna, &path).await > 13 * MIB).await;
    feed.send(Ok(bytes(8 * MIB))).unwrap();
    drop(feed);
    assert!(
        matches!(first.await.unwrap().status().as_u16(), 409 | 204),
        "it was not informed that it was overtaken"
    );
    // The second writer disappears, and the third completes the object.
    drop(feed_other);
    assert_eq!(second.await.unwrap().status(), 204);
    sqlx::query("update files set writer = gen_random_uuid()").execute(&app.state.writer).await.unwrap();
    let rest = whole.slice(13 * MIB + 1..);
    assert_eq!(sent(patch(&app, &anna, &path, 13 * MIB + 1, rest)).await.status(), 204);
    let sealed = "select count(*) from file_pieces where progress is null";
    let sealed: i64 = sqlx::query_scalar(sealed).fetch_one(&app.state.writer).await.unwrap();
    assert_eq!(sealed, 3);
    assert_whole(&app, &anna, &path, &whole).await;
    assert!(open_uploads(&app).await.is_empty());
    assert_eq!(sent(tus(&app, &anna, Method::DELETE, &path)).await.status(), 204);
    app.clock.advance(TimeDelta::hours(26));
    files::sweep_orphans(&app.state).await.unwrap();
    assert_eq!(app.blobs().await.len(), 0);
}

#[tokio::test]
async fn abandoned_uploads_leave_nothing() {
    let app = TestApp::builder().store(Store::S3).spawn().await;
    let anna = app.user("anna", &[]).await;
    for how in ["removed by its owner", "expired", "lost its row"] {
        let path = create(&app, &anna, 20 * MIB).await;
        assert_eq!(sent(patch(&app, &anna, &path, 0, bytes(6 * MIB))).await.status(), 204);
        assert_eq!((open_uploads(&app).await.len(), app.blobs().await.len()), (1, 1), "{how}");
        // The sweep keeps what a row refers to.
        files::sweep_orphans(&app.state).await.unwrap();
        assert_eq!(open_uploads(&app).await.len(), 1, "{how}");
        match how {
            "removed by its owner" => {
                assert_eq!(sent(tus(&app, &anna, Method::DELETE, &path)).await.status(), 204);
            }
            "expired" => {
                app.clock.advance(TimeDelta::hours(25));
                files::remove_expired(&app.state).await.unwrap();
            }
            _ => {
                sqlx::query("delete from files").execute(&app.state.writer).await.unwrap();
                app.clock.advance(TimeDelta::hours(26));
                files::sweep_orphans(&app.state).await.unwrap();
            }
        }
        assert_eq!((open_uploads(&app).await.len(), app.blobs().await.len()), (0, 0), "{how}");
    }
}

#[tokio::test]
async fn bytes_with_a_checksum_that_does_not_match_are_cut_even_when_parts_were_sent() {
    let app = TestApp::builder().store(Store::S3).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(15 * MIB);
    let path = create(&app, &anna, whole.len()).await;
    assert_eq!(sent(patch(&app, &anna, &path, 0, whole.slice(..MIB))).await.status(), 204);
    let sum = |bytes: &[u8]| format!("sha1 {}", STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes)));
    for (sent_bytes, status) in [(bytes(9 * MIB), 460), (whole.slice(MIB..10 * MIB), 204)] {
        let request = patch(&app, &anna, &path, MIB, sent_bytes);
        let answer = sent(request.header("upload-checksum", sum(&whole[MIB..10 * MIB]))).await;
        assert_eq!(answer.status(), status);
    }
    assert_eq!(sent(patch(&app, &anna, &path, 10 * MIB, whole.slice(10 * MIB..))).await.status(), 204);
    assert_whole(&app, &anna, &path, &whole).await;
}

#[tokio::test]
async fn occasional_failures_of_s3_lose_no_acknowledged_bytes() {
    let app = TestApp::builder().store(Store::S3).spawn().await;
    let endpoint = flaky(&app.bucket.as_ref().unwrap().endpoint, 4).await;
    let other =
        TestApp::builder().beside(&app).settings(&[("SALEBELL_FILES__S3_ENDPOINT", &endpoint)]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(17 * MIB);
    let path = create(&app, &anna, whole.len()).await;
    let mut at = 0;
    for step in [2 * MIB, 9 * MIB, 100_000, 5 * MIB] {
        let end = at + step;
        let patched = sent(patch(&other, &anna, &path, at, whole.slice(at..end))).await;
        assert_eq!(patched.status(), 204);
        assert_eq!(offset(&app, &anna, &path).await, end);
        at = end;
    }
    // S3 is permanently unavailable: the request fails, and the offset stays.
    let without_s3 = TestApp::builder()
        .beside(&app)
        .settings(&[("SALEBELL_FILES__S3_ENDPOINT", "http://127.0.0.1:1")])
        .spawn()
        .await;
    let failed = sent(patch(&without_s3, &anna, &path, at, whole.slice(at..))).await;
    assert_eq!(failed.status(), 503);
    assert_eq!(offset(&app, &anna, &path).await, at);
    assert_eq!(sent(patch(&other, &anna, &path, at, whole.slice(at..))).await.status(), 204);
    assert_whole(&other, &anna, &path, &whole).await;
}

#[tokio::test]
async fn every_object_is_encrypted_with_the_configured_key() {
    let key = "arn:aws:kms:us-east-1:123456789012:key/0192f0c1-2345-4000-8000-000000000000";
    let app =
        TestApp::builder().store(Store::S3).settings(&[("SALEBELL_FILES__S3_KMS_KEY", key)]).spawn().await;
    let anna = app.user("anna", &[]).await;
    // An object that is put at once, one that consists of parts, and the tail of an incomplete file.
    for length in [1_000, 12 * MIB + 7] {
        upload(&app, &anna, "a", "text/plain", bytes(length)).await;
    }
    let begun = create(&app, &anna, 8 * MIB).await;
    assert_eq!(sent(patch(&app, &anna, &begun, 0, bytes(6 * MIB))).await.status(), 204);
    let bucket = app.bucket.as_ref().unwrap();
    let root = format!("{}/{}", bucket.endpoint, bucket.name);
    let list = sent(reqwest::Client::new().get(format!("{root}?list-type=2"))).await.text().await.unwrap();
    let names: Vec<&str> =
        list.split("<Key>").skip(1).map(|rest| rest.split_once("</Key>").unwrap().0).collect();
    assert_eq!(names.len(), 3, "{list}");
    for name in names {
        // The S3 of the tests does not verify the signature, but requires one.
        let signed = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let head = reqwest::Client::new().head(format!("{root}/{name}")).header("authorization", signed);
        let head = sent(head).await;
        assert_eq!(header(&head, "x-amz-server-side-encryption"), "aws:kms", "{name}");
        assert_eq!(header(&head, "x-amz-server-side-encryption-aws-kms-key-id"), key, "{name}");
    }
}

#[tokio::test]
async fn downloads_are_redirected_to_s3_itself() {
    let app = TestApp::builder().store(Store::S3).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(6 * MIB);
    let path = upload(&app, &anna, "Ä \"x\".html", "text/html", whole.clone()).await;
    let address = format!("{path}/content");
    let still = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let get = |address: &str| still.get(format!("{}{address}", app.url)).bearer_auth(&anna.token);
    let redirect = sent(get(&address)).await;
    assert_eq!((redirect.status().as_u16(), header(&redirect, "cache-control")), (302, "private, no-store"));
    let location = header(&redirect, "location");
    assert!(location.starts_with(&app.bucket.as_ref().unwrap().endpoint), "{location}");
    // The signature also covers the headers that S3 shall send. The S3 of the tests does not send them.
    let query: BTreeMap<_, _> = Url::parse(location).unwrap().query_pairs().into_owned().collect();
    for (name, value) in [
        ("X-Amz-Expires", "60"),
        ("response-cache-control", "private, no-store"),
        ("response-content-type", "text/html"),
        (
            "response-content-disposition",
            "attachment; filename=\"_ _x_.html\"; filename*=UTF-8''%C3%84%20%22x%22.html",
        ),
    ] {
        assert_eq!(query.get(name).map(String::as_str), Some(value), "{location}");
    }
    let followed = sent(app.get(&address).bearer_auth(&anna.token)).await;
    assert_eq!(followed.url().port(), Url::parse(location).unwrap().port(), "it came from S3");
    assert!(followed.bytes().await.unwrap() == whole);
    let part = sent(app.get(&address).bearer_auth(&anna.token).header("range", "bytes=100-199")).await;
    assert_eq!((part.status().as_u16(), part.bytes().await.unwrap()), (206, whole.slice(100..200)));

    // Requests that S3 cannot judge are answered by Salebell, as are those for missing files.
    let head = sent(app.request(Method::HEAD, &address).bearer_auth(&anna.token)).await;
    let tag = header(&head, "etag").to_owned();
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, &*whole.len().to_string()));
    for (name, value, status) in [
        ("if-none-match", tag.as_str(), 304),
        ("if-match", tag.as_str(), 200),
        ("if-range", tag.as_str(), 200),
        ("range", "bytes=6291456-", 416),
    ] {
        assert_eq!(sent(get(&address).header(name, value)).await.status(), status, "{name}");
    }

    // A link with a limited number of downloads is not redirected to an address that could be used more often.
    for (link, status) in [(json!({}), 302), (json!({"max_downloads": 1}), 200)] {
        let made = app.post(&format!("{path}/links")).bearer_auth(&anna.token).json(&link);
        let made: serde_json::Value = sent(made).await.json().await.unwrap();
        let answer = sent(still.get(format!("{}{}", app.url, made["path"].as_str().unwrap()))).await;
        assert_eq!(answer.status(), status, "{link}");
    }
}
