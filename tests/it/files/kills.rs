//! Processes that are killed with `kill -9` at any point of an upload, a completion, a removal or a sweep.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use salebell::domain::ids::FileId;
use salebell::files::blobs::Blobs;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::files::uploads::{assert_whole, bytes, content, sent};
use crate::support::instance::{self, Api};
use crate::support::s3::Store;
use crate::support::{TestApp, User};

crate::on_both_stores!(
    an_api_killed_during_an_upload_keeps_the_acknowledged_bytes,
    an_api_killed_at_the_end_of_an_upload_completes_it_once,
    an_api_killed_during_a_concatenation_leaves_nothing_incomplete,
    a_worker_killed_while_it_removes_is_followed_by_another,
);

/// A random number below `end`, which the test prints.
pub fn any(what: &str, end: u64) -> u64 {
    let some = u64::from_be_bytes(Uuid::new_v4().as_bytes()[8..].try_into().unwrap()) % end;
    println!("{what}: {some}");
    some
}

async fn an_api_killed_during_an_upload_keeps_the_acknowledged_bytes(store: Store) {
    const SLICE: usize = 64 << 10;
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(24 << 20);
    let mut api = Api::start(&app, &anna, &[]).await;
    let path = api.create(whole.len()).await;
    let (mut acknowledged, mut sent) = (0, 0);
    for round in 0..5 {
        let at = api.offset(&path).await.unwrap();
        assert!(
            acknowledged <= at && at <= sent.max(acknowledged),
            "{acknowledged} were acknowledged, {sent} sent, and now it is {at}"
        );
        let mut stream = api.begin_patch(&path, at, whole.len() - at).await;
        // Time to live after the last progress; at the end there is no more progress to report.
        let dies_after = Duration::from_millis(any("dies after ms", 500));
        let dead = CancellationToken::new();
        (acknowledged, sent) = (at, at);
        let reads = async {
            // An observer polls all the time: every offset reported must exist afterwards.
            let began = Instant::now();
            while acknowledged == at && at < whole.len() && began.elapsed() < Duration::from_secs(30) {
                acknowledged = api.stored(&path).await;
            }
            let dies_at = Instant::now() + dies_after;
            while Instant::now() < dies_at {
                acknowledged = acknowledged.max(api.stored(&path).await);
            }
            dead.cancel();
        };
        let sends = async {
            for slice in whole[at..].chunks(SLICE) {
                if dead.is_cancelled() || stream.write_all(slice).await.is_err() {
                    break;
                }
                sent += slice.len();
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        };
        tokio::join!(reads, sends);
        assert!(acknowledged > at || at == whole.len(), "nothing was acknowledged in round {round}");
        api.kill().await;
        api = Api::start(&app, &anna, &[]).await;
    }
    let at = api.offset(&path).await.unwrap();
    assert!(
        acknowledged <= at && at <= sent,
        "{acknowledged} were acknowledged, {sent} sent, and now it is {at}"
    );
    assert_eq!(api.patch(&path, at, whole.slice(at..)).send().await.unwrap().status(), 204);
    assert_whole(&app, &anna, &path, &whole).await;
}

async fn an_api_killed_at_the_end_of_an_upload_completes_it_once(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes((6 << 20) + 5);
    let mut paths = Vec::new();
    for late in [false, false, false, true, true] {
        let mut api = Api::start(&app, &anna, &[]).await;
        let path = api.create(whole.len()).await;
        let first = whole.len() / 2;
        assert_eq!(api.patch(&path, 0, whole.slice(..first)).send().await.unwrap().status(), 204);
        let mut stream = api.begin_patch(&path, first, whole.len() - first).await;
        stream.write_all(&whole[first..]).await.unwrap();
        // All bytes are sent: the process dies while it writes, seals, updates the row, or answers.
        if late {
            // As soon as the row is complete, whether or not the client got the answer.
            app.until("select not exists (select from files where state <> 'complete')").await;
        } else {
            tokio::time::sleep(Duration::from_micros(any("dies after us", 500_000))).await;
        }
        api.kill().await;
        // This upload has to be completed: late rounds wait until every file is.
        let api = Api::start(&app, &anna, &[]).await;
        resumes_after_kill(&app, &api, &anna, &path, (first, late), &whole).await;
        paths.push(path);
    }
    let counted = "select coalesce(sum(count), 0)::bigint from activity where kind = 'upload'";
    let counted: i64 = sqlx::query_scalar(counted).fetch_one(&app.state.writer).await.unwrap();
    assert_eq!(counted, paths.len() as i64);
}

async fn resumes_after_kill(
    app: &TestApp,
    api: &Api<'_>,
    anna: &User,
    path: &str,
    (first, late): (usize, bool),
    whole: &Bytes,
) {
    let at = api.offset(path).await.unwrap();
    println!("{at} of {}", whole.len());
    assert!((first..=whole.len()).contains(&at) && (at == whole.len() || !late), "{at}");
    assert_eq!(app.see(anna, path).await["state"] == "complete", at == whole.len());
    // A client that missed the final answer sends an empty request, and learns that the upload is complete.
    assert_eq!(api.patch(path, at, whole.slice(at..)).send().await.unwrap().status(), 204);
    assert_whole(app, anna, path, whole).await;
}

async fn an_api_killed_during_a_concatenation_leaves_nothing_incomplete(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(32 << 20);
    let half = whole.len() / 2;
    let api = Api::start(&app, &anna, &[]).await;
    let mut parts = Vec::new();
    for part in [whole.slice(..half), whole.slice(half..)] {
        let length = part.len().to_string();
        let path = api.create_with(&[("upload-length", &length), ("upload-concat", "partial")]).await;
        assert_eq!(api.patch(&path, 0, part).send().await.unwrap().status(), 204);
        parts.push(path);
    }
    let concat = format!("final;{}", parts.join(" "));
    drop(api);
    for at_once in [true, false, true, false, true] {
        let mut api = Api::start(&app, &anna, &[]).await;
        let finals = "select count(*) from files where concat = 'final'";
        let finals =
            async || sqlx::query_scalar::<_, i64>(finals).fetch_one(&app.state.writer).await.unwrap();
        let before = finals().await;
        let request = api.tus(Method::POST, "/v1/files").header("upload-concat", &concat);
        let request = tokio::spawn(request.send());
        if at_once {
            // As soon as there is a row.
            while finals().await == before {}
        } else {
            tokio::time::sleep(Duration::from_micros(any("dies after us", 250_000))).await;
        }
        api.kill().await;
        let _ = request.await.unwrap();
    }
    // An unfinished concatenation is shown as such, and returns no byte.
    let begun = "select id from files where concat = 'final' and state = 'uploading'";
    let begun: Vec<Uuid> = sqlx::query_scalar(begun).fetch_all(&app.state.writer).await.unwrap();
    println!("{} were begun", begun.len());
    for id in &begun {
        let path = format!("/v1/files/{id}/content");
        assert_eq!(sent(app.get(&path).bearer_auth(&anna.token)).await.status(), 409);
    }
    // A worker finishes them, as if some time had passed.
    sqlx::query("update files set updated_at = now() - interval '3 minutes' where concat = 'final'")
        .execute(&app.state.writer)
        .await
        .unwrap();
    let _worker = instance::start(&app, "worker", &[]);
    app.until("select not exists (select from files where state = 'uploading')").await;
    let finals = "select id from files where concat = 'final'";
    let finals: Vec<Uuid> = sqlx::query_scalar(finals).fetch_all(&app.state.writer).await.unwrap();
    for id in finals {
        assert_whole(&app, &anna, &format!("/v1/files/{id}"), &whole).await;
    }
}

/// Makes bytes in the store that no row refers to.
async fn orphan(app: &TestApp) {
    let place = Blobs::new_place(FileId::now_v7(), 0, Uuid::now_v7());
    let piece = app.state.files.blobs.open(&place, 0, None).await.unwrap();
    piece.write(vec!["orphan".into()], Sha256::new()).await.unwrap().unwrap();
    piece.seal().await.unwrap();
}

async fn a_worker_killed_while_it_removes_is_followed_by_another(store: Store) {
    let (gone, kept) = match store {
        Store::Directory => (1_000, 20),
        Store::S3 => (200, 10),
    };
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let put = |at: usize| {
        let request = app.request(Method::PUT, &format!("/v1/files/{at}")).bearer_auth(&anna.token);
        request.body(format!("bytes of {at}"))
    };
    let mut paths = Vec::new();
    for at in 0..kept {
        let file: serde_json::Value = sent(put(at)).await.json().await.unwrap();
        paths.push(format!("/v1/files/{}", file["id"].as_str().unwrap()));
    }
    // More files than a test could upload: rows and places are made by hand.
    expire_many(&app, &anna, gone).await;
    let left = "select (select count(*) from files where expires_at <= now())";
    let left = async || sqlx::query_scalar::<_, i64>(left).fetch_one(&app.state.writer).await.unwrap();
    let (mut lives, mut before) = (0, gone as i64);
    while left().await > 0 {
        let mut worker = instance::start(&app, "worker", &[]);
        // The worker dies somewhere between the first and the last file; the fourth worker may survive.
        let until =
            if lives < 3 { before - 1 - any("removes", 1 + before.unsigned_abs() / 3) as i64 } else { 0 };
        let began = Instant::now();
        while left().await > until.max(0) {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", worker.log());
            tokio::task::yield_now().await;
        }
        app.kill(&mut worker).await;
        lives += 1;
        before = left().await;
        // As if the lease of the dead worker had expired.
        sqlx::query("update jobs set leased_until = null, next_at = now()")
            .execute(&app.state.writer)
            .await
            .unwrap();
    }
    assert!(lives > 1, "one worker did it all");
    assert_eq!(app.blobs().await.len(), kept);
    for (at, path) in paths.iter().enumerate() {
        assert_eq!(content(&app, &anna, path).await, format!("bytes of {at}"));
    }
}

/// Makes expired files, with their bytes.
pub async fn expire_many(app: &TestApp, user: &User, count: usize) {
    let files: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    let places: Vec<String> =
        files.iter().map(|file| Blobs::new_place(FileId(*file), 0, Uuid::now_v7())).collect();
    for place in &places {
        let piece = app.state.files.blobs.open(place, 0, None).await.unwrap();
        piece.write(vec!["gone".into()], Sha256::new()).await.unwrap().unwrap();
        piece.seal().await.unwrap();
    }
    sqlx::query(
        "with file as (
            insert into files (id, account_id, name, media_type, state, length, stored, sha256, created_at, updated_at,
                keep_until, expires_at)
            select id, $3, 'gone', 'a/b', 'complete', 4, 4, '', now() - interval '13 days', now(), now(), now()
            from unnest($1::uuid[]) id
         )
         insert into file_pieces (file_id, start_at, length, place)
         select id, 0, 4, place from unnest($1::uuid[], $2::text[]) named (id, place)",
    )
    .bind(&files)
    .bind(&places)
    .bind(user.account)
    .execute(&app.state.writer)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_sweep_that_is_killed_is_finished_by_another_worker() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(100_000);
    let mut paths = Vec::new();
    for _ in 0..800 {
        orphan(&app).await;
    }
    // Known files must outnumber the others, or the sweep would distrust its own view.
    let places = app.blobs().await;
    for _ in 0..3 {
        let put = app.request(Method::PUT, "/v1/files/a").bearer_auth(&anna.token).body(whole.clone());
        let file: serde_json::Value = sent(put).await.json().await.unwrap();
        paths.push(format!("/v1/files/{}", file["id"].as_str().unwrap()));
    }
    know_many(&app, &anna, places.len() + 10).await;
    age_all(&app);
    let count = async || app.blobs().await.len();
    let all = count().await;
    let mut lives = 0;
    while count().await > all - places.len() {
        let mut worker = instance::start(&app, "worker", &[]);
        let until = count().await - 1 - any("sweeps", 300) as usize;
        let began = Instant::now();
        while count().await > until.max(all - places.len()) {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", worker.log());
            tokio::task::yield_now().await;
        }
        app.kill(&mut worker).await;
        lives += 1;
        sqlx::query("update jobs set leased_until = null, next_at = now()")
            .execute(&app.state.writer)
            .await
            .unwrap();
    }
    assert!(lives > 1, "one worker did it all");
    assert!(places.iter().all(|place| !app.files.path().join(place).exists()));
    for path in paths {
        assert_whole(&app, &anna, &path, &whole).await;
    }
}

/// Makes `count` complete files.
async fn know_many(app: &TestApp, user: &User, count: usize) {
    expire_many(app, user, count).await;
    sqlx::query("update files set keep_until = now() + interval '1 hour', expires_at = now() + interval '1 hour' where name = 'gone'")
        .execute(&app.state.writer)
        .await
        .unwrap();
}

/// Backdates everything in the directory by two hours.
fn age_all(app: &TestApp) {
    let before = std::time::SystemTime::now() - Duration::from_secs(7200);
    for folder in std::fs::read_dir(app.files.path()).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
            file.set_modified(before).unwrap();
        }
    }
}
