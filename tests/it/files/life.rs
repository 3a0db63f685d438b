//! Removal of files: by expiry, by their owner, and after a crash.

use chrono::TimeDelta;
use reqwest::Method;
use salebell::domain::ids::FileId;
use salebell::files::blobs::Blobs;
use salebell::worker::{files, schedule};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::support::s3::Store;
use crate::support::{TestApp, User};

crate::on_both_stores!(
    a_file_is_removed_before_fourteen_days_are_over,
    an_interrupted_removal_is_finished,
    blobs_without_a_row_and_rows_without_a_blob_are_removed,
);

async fn upload(app: &TestApp, user: &User, query: &str, body: &str) -> (String, Value) {
    let request = app.post(&format!("/v1/files{query}")).bearer_auth(&user.token).body(body.to_owned());
    let file: Value = request.send().await.unwrap().json().await.unwrap();
    (format!("/v1/files/{}", file["id"].as_str().unwrap()), file)
}

async fn status(app: &TestApp, user: &User, path: &str) -> u16 {
    app.get(path).bearer_auth(&user.token).send().await.unwrap().status().as_u16()
}

async fn rows(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from files").fetch_one(&app.state.writer).await.unwrap()
}

async fn a_file_is_removed_before_fourteen_days_are_over(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let (short, _) = upload(&app, &anna, "?expires_in=3600", "short").await;
    let (usual, file) = upload(&app, &anna, "", "usual").await;
    let (long, _) = upload(&app, &anna, "", "long").await;
    let made = app.clock.now();
    let patch = async |path: &str, days: TimeDelta| {
        let body = json!({"expires_at": made + days});
        app.request(Method::PATCH, path).bearer_auth(&anna.token).json(&body).send().await.unwrap().status()
    };
    assert_eq!(patch(&long, TimeDelta::days(14)).await, 422);
    assert_eq!(patch(&long, TimeDelta::hours(13 * 24 + 11)).await, 200);
    let unfinished = app.post("/v1/files").bearer_auth(&anna.token).header("tus-resumable", "1.0.0");
    let unfinished = unfinished.header("upload-length", 10).send().await.unwrap();
    let unfinished = unfinished.headers()["location"].to_str().unwrap().to_owned();
    let life = file["expires_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap() - made;
    assert!(life > TimeDelta::hours(13 * 24 - 1) && life < TimeDelta::days(13), "{life}");

    let mut seen = Vec::new();
    for (later, expected) in [
        (TimeDelta::minutes(59), [200, 200, 200, 200]),
        (TimeDelta::minutes(2), [404, 200, 200, 200]),
        (TimeDelta::hours(24), [404, 404, 200, 200]),
        (TimeDelta::days(12), [404, 404, 404, 200]),
        (TimeDelta::hours(12), [404, 404, 404, 404]),
    ] {
        app.clock.advance(later);
        // It is invisible, whether or not the worker has removed it yet.
        let mut is = [0; 4];
        for (at, path) in [&short, &unfinished, &usual, &long].into_iter().enumerate() {
            is[at] = status(&app, &anna, path).await;
        }
        assert_eq!(is, expected, "after {later}");
        schedule::step(&app.state).await.unwrap();
        seen.push((rows(&app).await, app.blobs().await.len()));
    }
    assert!(app.clock.now() - made < TimeDelta::days(14));
    assert_eq!(seen, [(4, 3), (3, 2), (2, 2), (1, 1), (0, 0)]);
}

async fn an_interrupted_removal_is_finished(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    for cut in ["after the row was hidden", "after the bytes were removed"] {
        let (path, _) = upload(&app, &anna, "", "bytes").await;
        sqlx::query("update files set state = 'removing'").execute(&app.state.writer).await.unwrap();
        if cut == "after the bytes were removed" {
            app.state.files.blobs.remove(&app.blobs().await[0], None).await.unwrap();
        }
        assert_eq!(status(&app, &anna, &path).await, 404, "{cut}");
        files::remove_expired(&app.state).await.unwrap();
        assert_eq!((rows(&app).await, app.blobs().await.len()), (0, 0), "{cut}");
    }
}

async fn blobs_without_a_row_and_rows_without_a_blob_are_removed(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    let (kept, _) = upload(&app, &anna, "", "kept").await;
    let kept_blob = app.blobs().await;
    let (lost, _) = upload(&app, &anna, "", "lost").await;
    let lost_blob = app.blobs().await.into_iter().find(|blob| !kept_blob.contains(blob)).unwrap();
    app.state.files.blobs.remove(&lost_blob, None).await.unwrap();
    // Bytes that belong to no file.
    let orphan = Blobs::new_place(FileId::now_v7(), 0, Uuid::now_v7());
    let piece = app.state.files.blobs.open(&orphan, 0, None).await.unwrap();
    piece.write(vec!["orphan".into()], Sha256::new()).await.unwrap().unwrap();
    piece.seal().await.unwrap();
    files::sweep_orphans(&app.state).await.unwrap();
    files::remove_expired(&app.state).await.unwrap();
    assert_eq!((status(&app, &anna, &kept).await, status(&app, &anna, &lost).await), (200, 404));
    assert_eq!(rows(&app).await, 1);
    assert_eq!(app.blobs().await.len(), 2, "the row of the orphan may be on its way");
    app.clock.advance(TimeDelta::hours(26));
    files::sweep_orphans(&app.state).await.unwrap();
    assert_eq!(app.blobs().await, kept_blob);
    assert_eq!(status(&app, &anna, &kept).await, 200);
}

#[tokio::test]
async fn an_unavailable_store_loses_no_file() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let mut paths = Vec::new();
    for _ in 0..12 {
        paths.push(upload(&app, &anna, "", "kept").await.0);
    }
    let (there, elsewhere) = (app.files.path(), app.files.path().with_extension("away"));
    std::fs::rename(there, &elsewhere).unwrap();
    assert!(files::sweep_orphans(&app.state).await.is_err());
    std::fs::rename(&elsewhere, there).unwrap();
    files::sweep_orphans(&app.state).await.unwrap();
    // Nor does a worker remove anything if its database knows none of the files.
    let other =
        TestApp::builder().settings(&[("SALEBELL_FILES__DIRECTORY", there.to_str().unwrap())]).spawn().await;
    other.clock.advance(TimeDelta::days(2));
    assert!(files::sweep_orphans(&other.state).await.is_err());
    for path in paths {
        assert_eq!(status(&app, &anna, &format!("{path}/content")).await, 200);
    }
}
