//! A client that queries the offset of an upload gets one at which it can resume, whatever the previous request is
//! still doing.

use bytes::Bytes;
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::files::uploads::{assert_whole, bytes, fed, header, patch, sent, stored, tus};
use crate::support::s3::Store;
use crate::support::{TestApp, User, eventually, raw};

crate::on_both_stores!(
    the_reported_offset_is_where_the_next_request_can_continue,
    another_instance_reports_an_offset_that_stays_valid,
);

const WHOLE: usize = 16 << 20;
/// Offset in bytes at which the connection breaks.
const CUT: usize = 10 << 20;

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Tus,
    Draft,
}

impl Protocol {
    async fn create(self, app: &TestApp, user: &User) -> String {
        let request = match self {
            Protocol::Tus => tus(app, user, Method::POST, "/v1/files"),
            Protocol::Draft => app.post("/v1/files").bearer_auth(&user.token).header("upload-complete", "?0"),
        };
        let created = sent(request.header("upload-length", WHOLE)).await;
        assert_eq!(created.status(), 201);
        header(&created, "location").to_owned()
    }

    /// Opens a connection and sends the head of a PATCH that announces the whole file.
    async fn begin(self, app: &TestApp, user: &User, path: &str) -> TcpStream {
        let mut stream = raw::connect(&app.url).await;
        let own = match self {
            Protocol::Tus => "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream",
            Protocol::Draft => "Upload-Complete: ?1\r\nContent-Type: application/partial-upload",
        };
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{own}\r\nUpload-Offset: 0\r\n\
             Content-Length: {WHOLE}\r\n\r\n",
            user.token,
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn offset(self, app: &TestApp, user: &User, path: &str) -> usize {
        let head = match self {
            Protocol::Tus => sent(tus(app, user, Method::HEAD, path)).await,
            Protocol::Draft => sent(app.request(Method::HEAD, path).bearer_auth(&user.token)).await,
        };
        assert!(head.status().is_success(), "{}", head.status());
        header(&head, "upload-offset").parse().unwrap()
    }

    fn rest(self, app: &TestApp, user: &User, path: &str, at: usize, body: Bytes) -> RequestBuilder {
        match self {
            Protocol::Tus => patch(app, user, path, at, body),
            Protocol::Draft => app
                .request(Method::PATCH, path)
                .bearer_auth(&user.token)
                .header("upload-offset", at)
                .header("upload-complete", "?1")
                .header("content-type", "application/partial-upload")
                .body(body),
        }
    }
}

async fn the_reported_offset_is_where_the_next_request_can_continue(store: Store) {
    let rounds = if store == Store::Directory { 12 } else { 4 };
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(WHOLE);
    for round in 0..rounds {
        let protocol = [Protocol::Tus, Protocol::Draft][round % 2];
        let path = protocol.create(&app, &anna).await;
        let mut stream = protocol.begin(&app, &anna, &path).await;
        stream.write_all(&whole[..CUT]).await.unwrap();
        // In half of the rounds the connection is cut, in the others it hangs.
        let hanging = (round % 4 < 2).then_some(stream);
        let at = protocol.offset(&app, &anna, &path).await;
        assert!(at <= CUT, "{at}");
        let rest = sent(protocol.rest(&app, &anna, &path, at, whole.slice(at..))).await;
        assert!(rest.status().is_success(), "{protocol:?}, round {round}: {} at {at}", rest.status());
        assert_whole(&app, &anna, &path, &whole).await;
        drop(hanging);
    }
}

async fn another_instance_reports_an_offset_that_stays_valid(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let other = TestApp::builder().beside(&app).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(WHOLE);
    for round in 0..4 {
        let protocol = [Protocol::Tus, Protocol::Draft][round % 2];
        let path = protocol.create(&app, &anna).await;
        let mut stream = protocol.begin(&app, &anna, &path).await;
        stream.write_all(&whole[..CUT]).await.unwrap();
        let hanging = (round % 4 < 2).then_some(stream);
        let was_cut = hanging.is_none();
        let at = protocol.offset(&other, &anna, &path).await;
        // The bytes of a connection that was cut become durable first.
        assert!(if was_cut { at == CUT } else { at <= CUT }, "{at} in round {round}");
        let rest = sent(protocol.rest(&other, &anna, &path, at, whole.slice(at..))).await;
        assert!(rest.status().is_success(), "{protocol:?}, round {round}: {} at {at}", rest.status());
        assert_whole(&app, &anna, &path, &whole).await;
        drop(hanging);
    }
}

#[tokio::test]
async fn reading_a_file_ends_no_upload_of_it() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let path = crate::files::uploads::create(&app, &anna, 100).await;
    let (feed, body) = fed();
    let first = tokio::spawn(sent(patch(&app, &anna, &path, 0, body)));
    feed.send(Ok(bytes(60))).unwrap();
    eventually("the received bytes are reported", async || stored(&app, &anna, &path).await == 60).await;
    for listed in [path.as_str(), "/v1/files"] {
        app.see(&anna, listed).await;
    }
    feed.send(Ok(bytes(100).slice(60..))).unwrap();
    drop(feed);
    assert_eq!(first.await.unwrap().status(), 204);
    assert_eq!(app.see(&anna, &path).await["state"], json!("complete"));
}

#[tokio::test]
async fn the_offset_of_an_upload_of_a_dead_instance_is_reported_soon() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let path = crate::files::uploads::create(&app, &anna, 100).await;
    assert_eq!(sent(patch(&app, &anna, &path, 0, bytes(60))).await.status(), 204);
    // Its id is still in the row, and it has not reported progress for a minute.
    let left = "update files set writer = gen_random_uuid(), updated_at = updated_at - interval '1 minute'";
    sqlx::query(left).execute(&app.state.writer).await.unwrap();
    let began = std::time::Instant::now();
    assert_eq!(crate::files::uploads::offset(&app, &anna, &path).await, 60);
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(sent(patch(&app, &anna, &path, 60, bytes(100).slice(60..))).await.status(), 204);
    assert_whole(&app, &anna, &path, &bytes(100)).await;
}
