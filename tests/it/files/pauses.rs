//! Processes that are suspended and resume after others have taken over their work.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use reqwest::Method;
use tokio::io::AsyncWriteExt;

use crate::files::kills::{any, expire_many};
use crate::files::uploads::{assert_whole, bytes, content, create, sent};
use crate::support::instance::{self, Api};
use crate::support::s3::Store;
use crate::support::{TestApp, eventually, raw};

crate::on_both_stores!(
    a_process_that_was_paused_damages_nothing_when_it_wakes,
    a_process_that_was_paused_at_the_end_completes_nothing_twice,
    a_worker_that_was_paused_while_it_removes_a_file_removes_nothing_else,
);

const MIB: usize = 1 << 20;
/// Limit after which a process that is paused in a transaction has lost its locks.
const SHORT_TRANSACTIONS: [(&str, &str); 1] = [("SALEBELL_DATABASE__STATEMENT_TIMEOUT_MS", "2000")];

async fn a_process_that_was_paused_damages_nothing_when_it_wakes(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let (one, other) = (Api::start(&app, &anna, &[]).await, Api::start(&app, &anna, &[]).await);
    let whole = bytes(12 * MIB);
    // The paused request would either complete the file with its last byte, or break off.
    for ends in [true, false] {
        let path = one.create(whole.len()).await;
        let mut stream = one.begin_patch(&path, 0, whole.len()).await;
        stream.write_all(&whole[..7 * MIB]).await.unwrap();
        eventually("stored", async || one.stored(&path).await >= 7 * MIB).await;
        // The bytes that follow are in transit when the process is paused, and differ from those that the other process
        // receives.
        stream.write_all(&bytes(MIB)).await.unwrap();
        one.binary.signal(Signal::SIGSTOP);
        let at = other.offset(&path).await.unwrap();
        assert!((7 * MIB..=8 * MIB).contains(&at), "{at}");
        let middle = 10 * MIB;
        let rest = whole.slice(7 * MIB..middle);
        if at == 7 * MIB {
            assert_eq!(sent(other.patch(&path, at, rest)).await.status(), 204);
        }
        let feeding = tokio::spawn(async move {
            if ends {
                let _ = stream.write_all(&bytes(4 * MIB)).await;
            } else {
                let _ = stream.shutdown().await;
            }
            stream
        });
        one.binary.signal(Signal::SIGCONT);
        let mut stream = feeding.await.unwrap();
        let answer = raw::read_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 409 ") || !ends && answer.is_empty(), "{answer}");
        assert_eq!(one.offset(&path).await, Some(middle));
        assert_eq!(sent(other.patch(&path, middle, whole.slice(middle..))).await.status(), 204);
        assert_whole(&app, &anna, &path, &whole).await;
        assert_eq!(one.offset(&path).await, Some(whole.len()));
    }
}

#[tokio::test]
async fn a_process_that_is_paused_in_a_transaction_releases_its_locks() {
    let app =
        TestApp::builder().settings(&[("SALEBELL_DATABASE__STATEMENT_TIMEOUT_MS", "2000")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let other = TestApp::builder().beside(&app).spawn().await;
    let mut paused = app.state.writer.begin().await.unwrap();
    sqlx::query("select id from accounts for update").execute(&mut *paused).await.unwrap();
    create(&other, &anna, 10).await;
    assert!(sqlx::query("select 1").execute(&mut *paused).await.is_err(), "it still has the lock");
}

async fn a_process_that_was_paused_at_the_end_completes_nothing_twice(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let mut one = Api::start(&app, &anna, &SHORT_TRANSACTIONS).await;
    let mut other = Api::start(&app, &anna, &SHORT_TRANSACTIONS).await;
    let whole = bytes((6 << 20) + 5);
    const FILES: usize = 6;
    for _ in 0..FILES {
        let path = one.create(whole.len()).await;
        let mut stream = one.begin_patch(&path, 0, whole.len()).await;
        stream.write_all(&whole).await.unwrap();
        // All bytes are sent: the process is paused while it writes, seals, updates the row, or answers.
        tokio::time::sleep(Duration::from_micros(any("paused after us", 400_000))).await;
        one.binary.signal(Signal::SIGSTOP);
        go_on(&other, &path, &whole).await;
        assert_whole(&app, &anna, &path, &whole).await;
        one.binary.signal(Signal::SIGCONT);
        // Whatever the outcome for the paused process, it learns of it and damages nothing.
        let answer = raw::read_answer(&mut stream).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(matches!(status, "204" | "409" | "503"), "{answer}");
        assert_whole(&app, &anna, &path, &whole).await;
        assert_eq!(one.offset(&path).await, Some(whole.len()));
        std::mem::swap(&mut one, &mut other);
    }
    let counted = "select coalesce(sum(count), 0)::bigint from activity where kind = 'upload'";
    let counted: i64 = sqlx::query_scalar(counted).fetch_one(&app.state.writer).await.unwrap();
    assert_eq!(counted, FILES as i64);
}

/// Finishes the upload through another process, as a client does: it queries the offset, and retries.
async fn go_on(other: &Api<'_>, path: &str, whole: &Bytes) {
    let began = Instant::now();
    loop {
        let head = sent(other.tus(Method::HEAD, path)).await;
        if head.status() == 200 {
            let at: usize = head.headers()["upload-offset"].to_str().unwrap().parse().unwrap();
            let status = sent(other.patch(path, at, whole.slice(at..))).await.status();
            if status == 204 {
                return;
            }
            assert!(matches!(status.as_u16(), 409 | 503), "{status}");
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it cannot be gone on with");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn a_worker_that_was_paused_while_it_removes_a_file_removes_nothing_else(store: Store) {
    let gone: usize = match store {
        Store::Directory => 600,
        Store::S3 => 150,
    };
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let put = app.request(Method::PUT, "/v1/files/kept").bearer_auth(&anna.token).body("kept");
    let kept: serde_json::Value = sent(put).await.json().await.unwrap();
    let kept = format!("/v1/files/{}", kept["id"].as_str().unwrap());
    expire_many(&app, &anna, gone).await;
    let left = "select count(*) from files where expires_at <= now()";
    let left = async || sqlx::query_scalar::<_, i64>(left).fetch_one(&app.state.writer).await.unwrap();
    let until = async |most: i64, what: &str| {
        let began = Instant::now();
        while left().await > most {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}");
            tokio::task::yield_now().await;
        }
    };
    let paused = instance::start(&app, "worker", &SHORT_TRANSACTIONS);
    until(gone as i64 - 1 - any("removes", gone as u64 / 2) as i64, "the first removes some").await;
    paused.signal(Signal::SIGSTOP);
    let before = left().await;
    assert!(before > 0, "it had removed all");
    // As if the lease of the paused worker had expired.
    let lapse = "update jobs set leased_until = null, next_at = now()";
    sqlx::query(lapse).execute(&app.state.writer).await.unwrap();
    let other = instance::start(&app, "worker", &SHORT_TRANSACTIONS);
    until(before / 2, "the second continues").await;
    // Both workers now run the job.
    paused.signal(Signal::SIGCONT);
    until(0, "all are removed").await;
    assert_eq!(app.blobs().await.len(), 1);
    assert_eq!(content(&app, &anna, &kept).await, "kept");
    for mut worker in [paused, other] {
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.exit_code().await, Some(0), "{}", worker.log());
    }
}
