//! Failures around uploads: a disk that fills up, clients that are slow or too numerous.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::files::uploads::{bytes, create, fed, header, hex, offset, patch, sent, tus};
use crate::support::instance::{self, Api};
use crate::support::s3::Store;
use crate::support::{TestApp, User, eventually, raw};

crate::on_both_stores!(a_disk_that_fills_up_loses_no_acknowledged_bytes,);

const MIB: usize = 1 << 20;

async fn assert_full(answer: Response) {
    assert_eq!(answer.status(), 507);
    assert_eq!(header(&answer, "retry-after"), "60");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["type"], "/problems/insufficient-storage");
}

/// Script that mounts a small file system over the directory, visible only to the command that follows it. Without the
/// privilege the process does not start, and its test fails.
const ON_A_SMALL_DISK: &str = "unshare -m true && how=-m || how=-rm; exec unshare $how sh -c \
    'mount -t tmpfs -o size=16m salebell \"$SALEBELL_FILES__DIRECTORY\" && exec \"$@\"' sh \"$@\"";

async fn a_disk_that_fills_up_loses_no_acknowledged_bytes(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let wrapper = ["sh", "-c", ON_A_SMALL_DISK, "sh"];
    let api = Api::of(instance::start_under(&wrapper, &app, "api", &[]), &app, &anna).await;
    let get = async |path: &str| {
        let request = app.client.get(api.url_for(path)).bearer_auth(&anna.token);
        let answer = request.send().await.unwrap_or_else(|error| panic!("{error:?}: {}", api.binary.log()));
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap()
    };
    let put =
        |body: Bytes| sent(app.client.put(api.url_for("/v1/files/a")).bearer_auth(&anna.token).body(body));
    let kept = bytes(2 * MIB);
    let file: Value = put(kept.clone()).await.json().await.unwrap();
    let kept_at = format!("/v1/files/{}/content", file["id"].as_str().unwrap());

    let whole = bytes(9 * MIB);
    let path = api.create(whole.len()).await;
    let (feed, body) = fed();
    let sending = tokio::spawn(api.patch(&path, 0, body).send());
    feed.send(Ok(whole.slice(..3 * MIB))).unwrap();
    eventually("stored", async || api.stored(&path).await >= 3 * MIB).await;
    // Something else fills the disk.
    let disk = format!("/proc/{}/root{}", api.binary.id(), app.files.path().display());
    let filler = format!("{disk}/filler");
    let mut file = File::create(&filler).unwrap();
    let fill = |file: &mut File| while file.write_all(&[1; 64 << 10]).is_ok() {};
    fill(&mut file);
    // A little more fits, but is never acknowledged.
    let room = file.metadata().unwrap().len() - MIB as u64;
    file.set_len(room).unwrap();
    for slice in whole[3 * MIB..8 * MIB].chunks(64 << 10) {
        let _ = feed.send(Ok(Bytes::copy_from_slice(slice)));
    }
    assert_full(sending.await.unwrap().expect("an answer")).await;
    drop(feed);
    let acknowledged = api.offset(&path).await.unwrap();
    assert!((3 * MIB..8 * MIB).contains(&acknowledged), "{acknowledged}");
    if store == Store::Directory {
        // Bytes that cannot be acknowledged occupy no space.
        let place: String = sqlx::query_scalar("select place from file_pieces order by file_id desc limit 1")
            .fetch_one(&app.state.writer)
            .await
            .unwrap();
        assert_eq!(std::fs::metadata(format!("{disk}/{place}")).unwrap().len(), acknowledged as u64);
    }

    // No new upload starts, and existing files are served. The bytes buffered for S3 have released their space.
    file.seek(SeekFrom::End(0)).unwrap();
    fill(&mut file);
    assert_full(put(bytes(100_000)).await).await;
    assert_full(sent(api.tus(Method::POST, "/v1/files").header("upload-length", 100_000)).await).await;
    assert_full(sent(api.patch(&path, acknowledged, whole.slice(acknowledged..))).await).await;
    let (feed, body) = fed();
    let chunked = app.client.put(api.url_for("/v1/files/b")).bearer_auth(&anna.token).body(body);
    feed.send(Ok(bytes(MIB))).unwrap();
    let answer = sent(chunked).await;
    assert_eq!(header(&answer, "connection"), "close", "what it still sends is not read");
    assert_full(answer).await;
    drop(feed);
    assert_eq!(get(&kept_at).await, kept);
    assert_eq!(api.offset(&path).await, Some(acknowledged));

    std::fs::remove_file(&filler).unwrap();
    drop(file);
    assert_eq!(sent(api.patch(&path, acknowledged, whole.slice(acknowledged..))).await.status(), 204);
    assert_eq!(app.see(&anna, &path).await["sha256"], hex(&whole));
    assert!(get(&format!("{path}/content")).await == whole, "the bytes are others");
    assert_eq!(app.see(&anna, "/v1/files").await["items"].as_array().unwrap().len(), 2);
}

/// Sends a few bytes after each pause, until the connection is closed; returns the answer and the number of bytes sent.
async fn trickle(mut stream: TcpStream, slice: usize, pause: Duration, limit: usize) -> (String, usize) {
    let whole = bytes(limit);
    let mut sent = 0;
    for slice in whole.chunks(slice) {
        if stream.write_all(slice).await.is_err() {
            break;
        }
        sent += slice.len();
        let mut peeked = [0; 1];
        if tokio::time::timeout(pause, stream.peek(&mut peeked)).await.is_ok() {
            break;
        }
    }
    (raw::read_answer(&mut stream).await, sent)
}

#[tokio::test]
async fn a_slow_client_is_spared_and_one_that_hardly_sends_is_cut_off() {
    let app = TestApp::builder()
        .settings(&[("SALEBELL_FILES__MIN_BYTES_PER_MINUTE", "600"), ("SALEBELL_FILES__SLOW_AFTER_S", "3")])
        .spawn()
        .await;
    let anna = app.user("anna", &[]).await;
    let began = Instant::now();
    let pause = Duration::from_millis(250);
    let begin = async || {
        let path = create(&app, &anna, 800).await;
        (path.clone(), begin_patch(&app, &anna, &path, 800).await)
    };
    let ((slow, slow_stream), (hardly, hardly_stream)) = (begin().await, begin().await);
    // 80 bytes a second, and 8.
    let (honest, cut) =
        tokio::join!(trickle(slow_stream, 20, pause, 800), trickle(hardly_stream, 2, pause, 800));
    assert!(honest.0.starts_with("HTTP/1.1 204 "), "{honest:?}");
    assert!(began.elapsed() > Duration::from_secs(9), "it was checked three times");
    assert_eq!(app.see(&anna, &slow).await["sha256"], hex(&bytes(800)));
    assert!(cut.0.starts_with("HTTP/1.1 408 ") && cut.0.contains("too slowly"), "{cut:?}");
    assert!((24..100).contains(&cut.1), "{cut:?}");
    let kept = offset(&app, &anna, &hardly).await;
    assert!((cut.1 - 2..=cut.1).contains(&kept), "{kept} of {}", cut.1);
    assert_eq!(sent(patch(&app, &anna, &hardly, kept, bytes(800).slice(kept..))).await.status(), 204);
}

async fn begin_patch(app: &TestApp, user: &User, path: &str, length: usize) -> TcpStream {
    let mut stream = raw::connect(&app.url).await;
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\n\
         Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\nContent-Length: {length}\r\n\r\n",
        user.token,
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn many_slow_clients_keep_no_other_from_uploading() {
    let app = TestApp::builder()
        .settings(&[
            ("SALEBELL_FILES__MIN_BYTES_PER_MINUTE", "600"),
            ("SALEBELL_FILES__SLOW_AFTER_S", "3"),
            ("SALEBELL_FILES__UPLOADS_IN_FLIGHT_PER_ACCOUNT", "20"),
            ("SALEBELL_FILES__UPLOADS_IN_FLIGHT", "50"),
        ])
        .spawn()
        .await;
    let (ben, clara) = (app.user("ben", &[]).await, app.user("clara", &[]).await);
    let upload = async |user: &User| {
        let path = create(&app, user, 1000).await;
        sent(patch(&app, user, &path, 0, bytes(1000))).await.status().as_u16()
    };
    let mut slow = Vec::new();
    for (name, begun) in [("anna", 30), ("mallory", 30)] {
        let user = app.user(name, &[]).await;
        for _ in 0..begun {
            let path = create(&app, &user, 1000).await;
            let stream = begin_patch(&app, &user, &path, 1000).await;
            slow.push(tokio::spawn(trickle(stream, 1, Duration::from_secs(1), 1000)));
        }
        let own = create(&app, &user, 1000).await;
        let refused = async || {
            let path = &own;
            sent(patch(&app, &user, path, 0, bytes(1))).await
        };
        // Other requests are not delayed, and the client gets the reason.
        let refusal = async { while refused().await.status() != 429 {} };
        tokio::time::timeout(Duration::from_secs(2), refusal).await.expect("its limit is reached");
        let began = Instant::now();
        assert_eq!((upload(&ben).await, upload(&clara).await), (204, 204));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    let (mut cut, mut refused) = (0, 0);
    for answer in slow {
        let (answer, _) = answer.await.unwrap();
        match answer.get(..13) {
            Some("HTTP/1.1 408 ") => cut += 1,
            Some("HTTP/1.1 429 ") => refused += 1,
            _ => panic!("{answer}"),
        }
    }
    assert_eq!((cut, refused), (40, 20));
}

/// Peak memory of a process, in MiB.
fn peak_mib(api: &Api) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", api.binary.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_creations_use_up_the_quota_of_one_account_only() {
    const CREATIONS: usize = 10_000;
    let app = TestApp::spawn().await;
    let (mallory, ben) = (app.user("mallory", &[]).await, app.user("ben", &[]).await);
    let api = Api::start(&app, &mallory, &[]).await;
    api.create(5).await;
    let (before, began) = (peak_mib(&api), Instant::now());
    let create = |user: &User| {
        let request = app.client.post(api.url_for("/v1/files")).bearer_auth(&user.token);
        request.header("tus-resumable", "1.0.0").header("upload-length", 5).send()
    };
    let flood = async {
        let mut tasks = tokio::task::JoinSet::new();
        let (mut made, mut refused) = (1, 0);
        let mut count = async |tasks: &mut tokio::task::JoinSet<reqwest::Result<Response>>| {
            let answer = tasks.join_next().await.unwrap().unwrap().unwrap();
            match answer.status().as_u16() {
                201 => made += 1,
                413 => {
                    let problem: Value = answer.json().await.unwrap();
                    assert_eq!(problem["type"], "/problems/quota-exceeded");
                    refused += 1;
                }
                other => panic!("{other}: {}", answer.text().await.unwrap()),
            }
        };
        for _ in 1..CREATIONS {
            tasks.spawn(create(&mallory));
            if tasks.len() == 100 {
                count(&mut tasks).await;
            }
        }
        while !tasks.is_empty() {
            count(&mut tasks).await;
        }
        (made, refused)
    };
    let mut slowest = Duration::ZERO;
    let another = async {
        loop {
            let began = Instant::now();
            let created = create(&ben).await.unwrap();
            assert_eq!(created.status(), 201, "another account");
            let path = header(&created, "location").to_owned();
            let removed = app.client.delete(api.url_for(&path)).bearer_auth(&ben.token);
            assert_eq!(sent(removed.header("tus-resumable", "1.0.0")).await.status(), 204);
            slowest = slowest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let counted = tokio::select! {
        counted = flood => counted,
        () = another => unreachable!(),
    };
    println!(
        "{:?}; {} MiB before, {} at most; the other's slowest: {slowest:?}",
        began.elapsed(),
        before,
        peak_mib(&api)
    );
    assert_eq!(counted, (1000, CREATIONS - 1000));
    assert!(peak_mib(&api) < before + 100, "{} MiB before, {} at most", before, peak_mib(&api));
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    let rows: i64 = sqlx::query_scalar("select count(*) from files where account_id = $1")
        .bind(mallory.account)
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(rows, 1000);
    assert_eq!(sent(tus(&app, &mallory, Method::GET, "/v1/files")).await.status(), 200);
}
