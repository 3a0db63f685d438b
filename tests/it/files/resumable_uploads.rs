//! Resumable uploads of the IETF (draft-ietf-httpbis-resumable-upload), and the digests of RFC 9530 that belong to
//! them.

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::files::uploads::{assert_whole, bytes, create, fed, header, hex, offset, patch, sent, tus};
use crate::support::s3::Store;
use crate::support::{TestApp, User, raw};

crate::on_both_stores!(a_body_that_does_not_match_its_digest_is_not_kept,);

const PROBLEMS: &str = "https://iana.org/assignments/http-problem-types";

struct Draft {
    app: TestApp,
    anna: User,
}

impl Draft {
    async fn new(settings: &[(&str, &str)]) -> Draft {
        Draft::on(Store::Directory, settings).await
    }

    async fn on(store: Store, settings: &[(&str, &str)]) -> Draft {
        let app = TestApp::builder().store(store).settings(settings).spawn().await;
        let anna = app.user("anna", &[]).await;
        Draft { app, anna }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.app.request(method, path).bearer_auth(&self.anna.token)
    }

    fn post(&self, complete: &str) -> RequestBuilder {
        self.request(Method::POST, "/v1/files").header("upload-complete", complete)
    }

    /// Creates an upload of `length` bytes.
    async fn create(&self, length: usize) -> String {
        let created = sent(self.post("?0").header("upload-length", length)).await;
        assert_eq!((created.status().as_u16(), header(&created, "upload-complete")), (201, "?0"));
        header(&created, "location").to_owned()
    }

    fn append(
        &self,
        path: &str,
        at: usize,
        complete: &str,
        body: impl Into<reqwest::Body>,
    ) -> RequestBuilder {
        self.request(Method::PATCH, path)
            .header("upload-offset", at)
            .header("upload-complete", complete)
            .header("content-type", "application/partial-upload")
            .body(body)
    }

    /// Status, offset and completeness of the upload.
    async fn state(&self, path: &str) -> (u16, String, String) {
        let head = sent(self.request(Method::HEAD, path)).await;
        let text = |name| header(&head, name).to_owned();
        (head.status().as_u16(), text("upload-offset"), text("upload-complete"))
    }
}

/// Checks for a refusal with this status and type that does not claim that the upload is complete.
async fn assert_refused(answer: Response, status: u16, kind: &str) {
    assert_eq!(answer.status(), status, "{kind}");
    assert_eq!(header(&answer, "upload-complete"), "?0", "{kind}");
    assert_eq!(header(&answer, "content-type"), "application/problem+json");
    assert!(header(&answer, "upload-limit").contains("max-size="), "{kind}");
    let problem: Value = answer.json().await.unwrap();
    let kind = if kind.starts_with('#') { format!("{PROBLEMS}{kind}") } else { format!("/problems/{kind}") };
    assert_eq!((&problem["type"], &problem["status"]), (&json!(kind), &json!(status)));
}

#[tokio::test]
async fn features_and_limits_are_announced_in_advance() {
    let draft = Draft::new(&[]).await;
    let path = draft.create(10).await;
    for at in ["/v1/files", &path] {
        let options = sent(draft.request(Method::OPTIONS, at).header("upload-complete", "?1")).await;
        assert_eq!(options.status(), 204);
        assert_eq!(header(&options, "upload-limit"), "max-size=6442450944, max-age=86400");
        assert!(header(&options, "accept-patch").contains("application/partial-upload"));
    }
    let shown = sent(draft.request(Method::GET, &path)).await;
    assert_eq!(
        ["upload-offset", "upload-complete", "upload-length"].map(|name| header(&shown, name)),
        ["0", "?0", "10"]
    );
    assert_eq!(header(&shown, "cache-control"), "no-store");
    // An upload that receives nothing expires after a day; a complete file expires only at its own time.
    assert_eq!(max_age(&shown), 86_400);
    let short = sent(draft.request(Method::POST, "/v1/files?expires_in=60").header("upload-complete", "?0"));
    assert_eq!(max_age(&short.await), 60);
    let whole = sent(draft.append(&path, 0, "?1", bytes(10))).await;
    assert_eq!((whole.status().as_u16(), max_age(&whole)), (200, 13 * 86_400));
    // A client whose bytes cannot be appended gets the expected offset.
    let other =
        sent(draft.request(Method::PATCH, &path).header("content-type", "text/plain").body("x")).await;
    assert_eq!(other.status(), 415);
    assert!(header(&other, "accept-patch").contains("application/partial-upload"));
}

/// Remaining seconds of an upload by `Upload-Limit`, rounded to the minute because time passes during the test.
fn max_age(answer: &Response) -> u64 {
    let limits = header(answer, "upload-limit");
    let age = limits.split(", ").find_map(|limit| limit.strip_prefix("max-age=")).expect(limits);
    age.parse::<u64>().unwrap().div_ceil(60) * 60
}

#[tokio::test]
async fn lengths_that_do_not_agree_are_refused() {
    let draft = Draft::new(&[("SALEBELL_FILES__MAX_BYTES", "1000")]).await;
    let all = draft.post("?1").header("upload-length", 100).body("12345");
    assert_refused(sent(all).await, 400, "#inconsistent-upload-length").await;
    // The length of the body is not announced.
    let (feed, body) = fed();
    feed.send(Ok(bytes(5))).unwrap();
    drop(feed);
    let all = draft.post("?1").header("upload-length", 100).body(body);
    assert_refused(sent(all).await, 400, "#inconsistent-upload-length").await;
    let beyond = draft.post("?0").header("upload-length", 3).body("12345");
    assert_refused(sent(beyond).await, 400, "#inconsistent-upload-length").await;
    assert_refused(sent(draft.post("?1").header("upload-length", 1001).body("x")).await, 413, "too-large")
        .await;
    assert_refused(sent(draft.post("?0").header("upload-length", 1001)).await, 413, "too-large").await;
    assert_refused(sent(draft.post("?1").body(bytes(1001))).await, 413, "too-large").await;
    assert_eq!(draft.app.see(&draft.anna, "/v1/files").await["items"], json!([]), "nothing is left of them");

    let path = draft.create(50).await;
    let other = draft.append(&path, 0, "?0", "x").header("upload-length", 40);
    assert_refused(sent(other).await, 400, "#inconsistent-upload-length").await;
    let short = draft.append(&path, 0, "?1", bytes(20));
    assert_refused(sent(short).await, 400, "#inconsistent-upload-length").await;
    assert_eq!(draft.state(&path).await, (204, "0".into(), "?0".into()), "it can be gone on with");
}

#[tokio::test]
async fn bytes_beyond_the_length_end_the_upload() {
    let draft = Draft::new(&[]).await;
    let path = draft.create(50).await;
    assert_refused(sent(draft.append(&path, 0, "?0", bytes(100))).await, 400, "#inconsistent-upload-length")
        .await;
    assert_eq!(draft.state(&path).await.0, 404);

    // All bytes have arrived, but the client has not marked the upload as complete.
    let path = draft.create(50).await;
    let appended = sent(draft.append(&path, 0, "?0", bytes(50))).await;
    assert_eq!((appended.status().as_u16(), header(&appended, "upload-complete")), (204, "?0"));
    assert_eq!(draft.state(&path).await, (204, "50".into(), "?0".into()));
    let (feed, body) = fed();
    feed.send(Ok(bytes(1))).unwrap();
    drop(feed);
    assert_refused(sent(draft.append(&path, 50, "?0", body)).await, 400, "#inconsistent-upload-length").await;
    assert_eq!(draft.state(&path).await.0, 404);

    let path = draft.create(50).await;
    assert_eq!(sent(draft.append(&path, 0, "?0", bytes(50))).await.status(), 204);
    let ended = sent(draft.append(&path, 50, "?1", "")).await;
    assert_eq!((ended.status().as_u16(), header(&ended, "upload-complete")), (200, "?1"));
    assert_whole(&draft.app, &draft.anna, &path, &bytes(50)).await;
}

#[tokio::test]
async fn a_refused_append_reports_the_upload_as_incomplete() {
    let draft = Draft::new(&[]).await;
    let path = draft.create(50).await;
    assert_refused(sent(draft.append(&path, 7, "?0", "x")).await, 409, "#mismatching-upload-offset").await;
    let patch = || {
        let request = draft.request(Method::PATCH, &path);
        request.header("content-type", "application/partial-upload").body("x")
    };
    assert_refused(sent(patch().header("upload-complete", "?0")).await, 400, "malformed").await;
    assert_refused(sent(patch().header("upload-offset", 0)).await, 400, "malformed").await;
    let wrong = patch().header("upload-offset", "abc").header("upload-complete", "?0");
    assert_refused(sent(wrong).await, 400, "malformed").await;
    let wrong = patch().header("upload-offset", 0).header("upload-complete", "true");
    assert_refused(sent(wrong).await, 400, "malformed").await;
    let gone = path.replace(path.rsplit('/').next().unwrap(), "0192f0c1-2345-7000-8000-000000000000");
    assert_refused(sent(draft.append(&gone, 0, "?0", "x")).await, 404, "not-found").await;

    assert_eq!(sent(draft.append(&path, 0, "?1", bytes(50))).await.status(), 200);
    assert_refused(sent(draft.append(&path, 50, "?1", "")).await, 400, "#completed-upload").await;
    assert_refused(sent(draft.append(&path, 50, "?1", "x")).await, 400, "#inconsistent-upload-length").await;
    // A client that missed the last answer and repeats its request learns that the upload is complete.
    for body in ["x", ""] {
        let again = sent(draft.append(&path, 0, "?1", body)).await;
        assert_eq!(header(&again, "upload-offset"), "50");
        assert_refused(again, 409, "#mismatching-upload-offset").await;
    }
    assert_eq!(draft.state(&path).await, (204, "50".into(), "?1".into()));
}

#[tokio::test]
async fn an_upload_is_complete_when_its_client_says_so_and_not_before() {
    let draft = Draft::new(&[]).await;
    let path = draft.create(0).await;
    assert_eq!(draft.state(&path).await, (204, "0".into(), "?0".into()));
    let ended = sent(draft.append(&path, 0, "?1", "")).await;
    assert_eq!((ended.status().as_u16(), header(&ended, "upload-complete")), (200, "?1"));
    assert_whole(&draft.app, &draft.anna, &path, &[]).await;
    // A length of 0, but a byte follows.
    let path = draft.create(0).await;
    assert_refused(sent(draft.append(&path, 0, "?1", "x")).await, 400, "#inconsistent-upload-length").await;
    assert_eq!(draft.state(&path).await.0, 404);
    let one = draft.post("?0").header("upload-length", 0).body("x");
    assert_refused(sent(one).await, 400, "#inconsistent-upload-length").await;
    // Complete in one request; in an older version of the draft, complete with its last byte.
    for (complete, version) in [("?1", "8"), ("?0", "7")] {
        let empty = draft.post(complete).header("upload-draft-interop-version", version);
        let empty = sent(empty.header("upload-length", 0)).await;
        assert_eq!((empty.status().as_u16(), header(&empty, "upload-complete")), (201, "?1"));
        assert_whole(&draft.app, &draft.anna, header(&empty, "location"), &[]).await;
    }

    // An upload that begins with a PUT can continue in parts too.
    let whole = bytes(100);
    let put = draft.request(Method::PUT, "/v1/files/feed.csv").header("upload-length", whole.len());
    let begun = put.try_clone().unwrap().header("upload-complete", "?0").body(whole.slice(..40));
    let begun = sent(begun).await;
    assert_eq!((begun.status().as_u16(), header(&begun, "upload-complete")), (201, "?0"));
    let path = header(&begun, "location").to_owned();
    assert_eq!(draft.state(&path).await, (204, "40".into(), "?0".into()));
    assert_eq!(sent(draft.append(&path, 40, "?1", whole.slice(40..))).await.status(), 200);
    assert_whole(&draft.app, &draft.anna, &path, &whole).await;
    assert_eq!(draft.app.see(&draft.anna, &path).await["name"], "feed.csv");
    let at_once = sent(put.try_clone().unwrap().header("upload-complete", "?1").body(whole.clone())).await;
    assert_eq!((at_once.status().as_u16(), header(&at_once, "upload-complete")), (201, "?1"));
    let short = sent(put.header("upload-complete", "?1").body("x")).await;
    assert_refused(short, 400, "#inconsistent-upload-length").await;
}

#[tokio::test]
async fn invalid_structured_fields_are_treated_as_absent() {
    let draft = Draft::new(&[]).await;
    // This makes it a plain upload.
    let plain = sent(draft.post("true").header("upload-length", "10").body("Hello")).await;
    assert_eq!((plain.status().as_u16(), header(&plain, "upload-complete")), (201, ""));
    let plain: Value = plain.json().await.unwrap();
    assert_eq!((&plain["state"], &plain["length"]), (&json!("complete"), &json!(5)));
    let unknown = sent(draft.post("?0").header("upload-length", "ten")).await;
    assert_eq!((unknown.status().as_u16(), header(&unknown, "upload-length")), (201, ""));
    let parameters = sent(draft.post("?0;x=1").header("upload-length", "10; y")).await;
    assert_eq!((parameters.status().as_u16(), header(&parameters, "upload-length")), (201, "10"));
    let blank = sent(draft.post("?0").header("upload-length", "10 ; y")).await;
    assert_eq!((blank.status().as_u16(), header(&blank, "upload-length")), (201, ""));

    // Sent twice, the header becomes a list.
    let twice = sent(draft.post("?0").header("upload-length", 10).header("upload-length", 10)).await;
    assert_eq!((twice.status().as_u16(), header(&twice, "upload-length")), (201, ""));
    let path = draft.create(10).await;
    let append = |complete: &str| draft.append(&path, 0, complete, bytes(2));
    assert_refused(sent(append("?0").header("upload-offset", 2)).await, 400, "malformed").await;
    assert_refused(sent(append("?0").header("upload-complete", "?1")).await, 400, "malformed").await;
    assert_eq!(draft.state(&path).await, (204, "0".into(), "?0".into()));
    let plain = sent(draft.post("?0").header("upload-complete", "?0").body("Hello")).await;
    assert_eq!((plain.status().as_u16(), header(&plain, "upload-complete")), (201, ""));
}

fn sum(name: &str, body: &[u8]) -> String {
    let algorithm = if name == "sha-256" { &SHA256 } else { &SHA512 };
    format!("{name}=:{}:", STANDARD.encode(digest(algorithm, body)))
}

async fn a_body_that_does_not_match_its_digest_is_not_kept(store: Store) {
    let draft = Draft::on(store, &[]).await;
    let whole = bytes(200_000);
    let (one, other) = (whole.slice(..100_000), whole.slice(100_000..));
    let path = draft.create(whole.len()).await;
    for wrong in [
        sum("sha-256", &other),
        sum("sha-512", &other),
        format!("{}, {}", sum("sha-256", &one), sum("sha-512", &other)),
        format!("md5=:AAAA:, {}", sum("sha-256", &other)),
        "sha-256=:AAAA:".to_owned(),
    ] {
        let append = draft.append(&path, 0, "?0", one.clone()).header("content-digest", &wrong);
        assert_refused(sent(append).await, 400, "digest-mismatch").await;
        assert_eq!(draft.state(&path).await, (204, "0".into(), "?0".into()), "{wrong}");
    }
    for wrong in ["sha-256", "sha-256=abc", "sha-256=:*:", "=:AAAA:"] {
        let append = draft.append(&path, 0, "?0", one.clone()).header("content-digest", wrong);
        assert_refused(sent(append).await, 400, "malformed").await;
    }
    // A digest of an unknown algorithm is ignored.
    let unknown = format!("crc32c=:AAAAAA==:, {};a=1", sum("sha-512", &one));
    let append = draft.append(&path, 0, "?0", one.clone()).header("content-digest", unknown);
    assert_eq!(sent(append).await.status(), 204);
    let last =
        draft.append(&path, 100_000, "?1", other.clone()).header("content-digest", sum("sha-256", &other));
    assert_eq!(sent(last).await.status(), 200);
    assert_whole(&draft.app, &draft.anna, &path, &whole).await;

    // If the body is the whole file, its Repr-Digest applies as well.
    for name in ["content-digest", "repr-digest"] {
        for (request, complete) in [
            (draft.post("?1"), "?0"),
            (draft.request(Method::POST, "/v1/files"), ""),
            (draft.request(Method::PUT, "/v1/files/a.bin"), ""),
        ] {
            let again = request.try_clone().unwrap();
            let refused = sent(request.body(one.clone()).header(name, sum("sha-256", &other))).await;
            assert_eq!((refused.status().as_u16(), header(&refused, "upload-complete")), (400, complete));
            assert_eq!(refused.json::<Value>().await.unwrap()["type"], "/problems/digest-mismatch");
            let taken = sent(again.body(one.clone()).header(name, sum("sha-256", &one))).await;
            assert_eq!(taken.status(), 201);
            assert_eq!(taken.json::<Value>().await.unwrap()["sha256"], hex(&one));
        }
    }
    let files = draft.app.see(&draft.anna, "/v1/files").await;
    assert_eq!(files["items"].as_array().unwrap().len(), 7, "what was refused has left nothing");

    // tus has its own header, and accepts this one too.
    let path = create(&draft.app, &draft.anna, whole.len()).await;
    let wrong = patch(&draft.app, &draft.anna, &path, 0, one.clone())
        .header("content-digest", sum("sha-256", &other));
    assert_eq!(sent(wrong).await.status(), 400);
    assert_eq!(offset(&draft.app, &draft.anna, &path).await, 0);
    let right = patch(&draft.app, &draft.anna, &path, 0, one.clone());
    let right = right.header("content-digest", sum("sha-512", &one));
    assert_eq!(sent(right).await.status(), 204);
    // In a trailer, from a client that computes the digest while it sends.
    for (body, status) in [(&one, "400"), (&other, "204")] {
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\n\
             Connection: close\r\nContent-Type: application/offset+octet-stream\r\nUpload-Offset: 100000\r\n\
             Transfer-Encoding: chunked\r\nTrailer: Content-Digest\r\n\r\n{:x}\r\n",
            draft.anna.token,
            other.len(),
        );
        let tail = format!("\r\n0\r\nContent-Digest: {}\r\n\r\n", sum("sha-256", body));
        let answer = raw::exchange(&draft.app.url, [head.as_bytes(), &other, tail.as_bytes()].concat()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert_whole(&draft.app, &draft.anna, &path, &whole).await;
}

#[tokio::test]
async fn the_media_type_of_a_transfer_is_never_that_of_the_file() {
    let draft = Draft::new(&[]).await;
    for (header_value, expected) in [
        ("application/partial-upload", "application/octet-stream"),
        ("Application/Partial-Upload; v=1", "application/octet-stream"),
        ("application/offset+octet-stream", "application/octet-stream"),
        ("text/csv", "text/csv"),
    ] {
        for request in [
            draft.post("?1"),
            draft.post("?0"),
            draft.request(Method::PUT, "/v1/files/a"),
            draft.request(Method::POST, "/v1/files"),
        ] {
            let made = sent(request.header("content-type", header_value).body("x")).await;
            // A tus route, which requires a version header.
            if made.status() == 412 {
                continue;
            }
            assert_eq!(made.status(), 201);
            let file = draft.app.see(&draft.anna, header(&made, "location")).await;
            assert_eq!(file["media_type"], expected, "{header_value}");
        }
    }
    // Metadata as tus sends it takes precedence over the headers that describe the content.
    let metadata = format!("filename {},filetype {}", STANDARD.encode("Ä.csv"), STANDARD.encode("text/csv"));
    let request = draft.post("?1").header("content-type", "application/partial-upload");
    let made = sent(request.header("upload-metadata", &metadata).body("x")).await;
    let file: Value = made.json().await.unwrap();
    assert_eq!((&file["name"], &file["media_type"]), (&json!("Ä.csv"), &json!("text/csv")));
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    let head = sent(tus(&draft.app, &draft.anna, Method::HEAD, &path)).await;
    assert_eq!(header(&head, "upload-metadata"), metadata);
    let wrong = sent(draft.post("?0").header("upload-metadata", "filename *")).await;
    assert_refused(wrong, 400, "malformed").await;
}

#[tokio::test]
async fn a_file_above_the_limit_is_too_large_however_much_space_is_free() {
    let settings =
        [("SALEBELL_FILES__RESERVE_BYTES", "9000000000000000"), ("SALEBELL_FILES__MAX_BYTES", "1000")];
    let draft = Draft::new(&settings).await;
    let announce = |length: usize| {
        let request = tus(&draft.app, &draft.anna, Method::POST, "/v1/files");
        sent(request.header("upload-length", length))
    };
    assert_eq!(
        (announce(1001).await.status(), announce(1000).await.status().as_u16()),
        (413.try_into().unwrap(), 507)
    );
    assert_refused(sent(draft.post("?0").header("upload-length", 1001)).await, 413, "too-large").await;
    let plain = draft.request(Method::PUT, "/v1/files/a").body(bytes(1001));
    assert_eq!(sent(plain).await.status(), 413);

    // Length announced later.
    let draft = Draft::new(&[("SALEBELL_FILES__MAX_BYTES", "1000")]).await;
    let deferred = tus(&draft.app, &draft.anna, Method::POST, "/v1/files").header("upload-defer-length", "1");
    let path = header(&sent(deferred).await, "location").to_owned();
    let full = TestApp::builder().beside(&draft.app).settings(&settings).spawn().await;
    let announcing =
        |length: usize| patch(&full, &draft.anna, &path, 0, Bytes::new()).header("upload-length", length);
    assert_eq!(sent(announcing(1001)).await.status(), 413);
    assert_eq!(sent(announcing(1000)).await.status(), 507);
}
