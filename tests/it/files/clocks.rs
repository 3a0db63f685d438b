//! Machines whose clocks are off or jump: the database's clock counts, and nothing is removed while they disagree.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use salebell::worker::schedule;
use serde_json::{Value, json};

use crate::files::uploads::{bytes, content, create, offset, patch, sent};
use crate::support::{TestApp, User};

async fn put(app: &TestApp, user: &User) -> (String, Value) {
    let put = app.request(Method::PUT, "/v1/files/a").bearer_auth(&user.token).body("bytes");
    let file: Value = sent(put).await.json().await.unwrap();
    (format!("/v1/files/{}", file["id"].as_str().unwrap()), file)
}

fn time(file: &Value, name: &str) -> DateTime<Utc> {
    file[name].as_str().unwrap().parse().unwrap()
}

async fn status(app: &TestApp, user: &User, path: &str) -> u16 {
    sent(app.get(path).bearer_auth(&user.token)).await.status().as_u16()
}

#[tokio::test]
async fn an_incorrect_machine_clock_loses_no_file() {
    let app = TestApp::builder().clock_ahead(TimeDelta::zero()).spawn().await;
    let anna = app.user("anna", &[]).await;
    let (path, _) = put(&app, &anna).await;
    let (over, _) = put(&app, &anna).await;
    let half = create(&app, &anna, 10).await;
    assert_eq!(sent(patch(&app, &anna, &half, 0, "bytes")).await.status(), 204);
    for wrong in [TimeDelta::hours(2), TimeDelta::days(365), -TimeDelta::hours(2), -TimeDelta::days(365)] {
        let other = TestApp::builder().beside(&app).clock_ahead(wrong).spawn().await;
        // It serves existing files and continues uploads.
        assert_eq!(status(&other, &anna, &path).await, 200, "{wrong}");
        assert_eq!(offset(&other, &anna, &half).await, 5, "{wrong}");
        let (made, file) = put(&other, &anna).await;
        let life = time(&file, "expires_at") - time(&file, "created_at");
        assert!(
            (time(&file, "created_at") - app.clock.now()).abs() < TimeDelta::minutes(1),
            "{wrong}: {file}"
        );
        assert!(life < TimeDelta::days(13), "{wrong}: {file}");
        let extend = async |until: DateTime<Utc>| {
            let request = other.request(Method::PATCH, &made).bearer_auth(&anna.token);
            sent(request.json(&json!({"expires_at": until}))).await.status().as_u16()
        };
        assert_eq!(extend(app.clock.now() + TimeDelta::days(14)).await, 422, "{wrong}");
        assert_eq!(extend(app.clock.now() + TimeDelta::days(13)).await, 200, "{wrong}");
        // It removes nothing, and takes no job from workers whose clocks are correct.
        let refused = schedule::round(&other.state).await.unwrap_err();
        assert!(format!("{refused:?}").contains("the clock of this machine"), "{refused:?}");
        assert_eq!(content(&app, &anna, &made).await, "bytes");
        assert_eq!(content(&app, &anna, &path).await, "bytes");
    }
    let jobs: i64 =
        sqlx::query_scalar("select count(*) from jobs").fetch_one(&app.state.writer).await.unwrap();
    assert_eq!(jobs, 0);

    // A worker with a correct clock removes expired files, and only those.
    sqlx::query("update files set keep_until = now(), expires_at = now() where id = $1::uuid")
        .bind(over.trim_start_matches("/v1/files/"))
        .execute(&app.state.writer)
        .await
        .unwrap();
    let behind = TestApp::builder().beside(&app).clock_ahead(-TimeDelta::days(365)).spawn().await;
    assert_eq!(status(&behind, &anna, &over).await, 404, "its time is over, whatever the machine believes");
    assert!(schedule::round(&app.state).await.unwrap() > 0);
    assert_eq!((app.blobs().await.len(), status(&app, &anna, &path).await), (6, 200));
}

#[tokio::test]
async fn a_clock_that_jumps_during_an_upload_changes_nothing() {
    let app = TestApp::builder().clock_ahead(TimeDelta::zero()).spawn().await;
    let anna = app.user("anna", &[]).await;
    let whole = bytes(500_000);
    let path = create(&app, &anna, whole.len()).await;
    let (mut at, expires_at) = (0, time(&app.see(&anna, &path).await, "expires_at"));
    for jump in [TimeDelta::hours(30), -TimeDelta::days(400), TimeDelta::days(800)] {
        assert_eq!(sent(patch(&app, &anna, &path, at, whole.slice(at..at + 100_000))).await.status(), 204);
        at += 100_000;
        app.clock.advance(jump);
        assert_eq!(offset(&app, &anna, &path).await, at, "{jump}");
        assert!(schedule::round(&app.state).await.is_err(), "{jump}");
        let moved = time(&app.see(&anna, &path).await, "expires_at") - expires_at;
        assert!((TimeDelta::zero()..TimeDelta::minutes(1)).contains(&moved), "{jump}: {moved}");
    }
    app.clock.advance(-TimeDelta::days(400) - TimeDelta::hours(30));
    assert!(schedule::round(&app.state).await.unwrap() > 0);
    assert_eq!(sent(patch(&app, &anna, &path, at, whole.slice(at..))).await.status(), 204);
    assert_eq!(content(&app, &anna, &path).await, whole);
}
