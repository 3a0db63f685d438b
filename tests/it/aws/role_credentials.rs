//! Credentials of the instance's role while a service calls AWS: keys that change, and keys that arrive late.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use reqwest::redirect::Policy;
use serde_json::json;
use url::Url;

use crate::files::uploads::{bytes, hex, sent};
use crate::support::bus::Carrier;
use crate::support::instance::{Api, start};
use crate::support::s3::{Bucket, strict};
use crate::support::{TestApp, eventually};
use test_support::ec2::{Ec2, Fault, Group};

const MIB: usize = 1 << 20;

/// Settings that make a process use the role: no key of its own.
fn on_instance<'a>(metadata: &'a str, s3: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata),
        ("SALEBELL_FILES__S3_ENDPOINT", s3),
    ]
}

/// An app on S3 and SNS, and the Auto Scaling group of its instance.
async fn setting() -> (TestApp, Arc<Ec2>, String) {
    let bucket = Bucket::create().await;
    let mut app = TestApp::builder().bus(Carrier::Aws).settings(&bucket.settings()).spawn().await;
    app.bucket = Some(bucket);
    let ec2 = Arc::new(Ec2::start(Group::new("salebell-test")).await);
    let metadata = ec2.launch("i-1").await;
    (app, ec2, metadata)
}

#[tokio::test]
async fn an_upload_continues_while_the_keys_of_the_role_change() {
    let (app, ec2, metadata) = setting().await;
    let anna = app.user("anna", &[]).await;
    let (s3, seen) = strict(&app.bucket.as_ref().unwrap().endpoint, ec2.clone()).await;
    let mut keys = vec![ec2.world().role_keys.change(TimeDelta::seconds(15))];
    let api = Api::start(&app, &anna, &on_instance(&metadata, &s3)).await;
    let used = |id: &str| seen.lock().unwrap().iter().any(|signed| signed.key == id);

    // For each new key, pieces are uploaded until a request is signed with it.
    let whole = bytes(40 * MIB);
    let path = api.create(whole.len()).await;
    let mut at = 0;
    for _ in 0..3 {
        let key = keys.last().unwrap().clone();
        while !used(&key.id) {
            let end = at + MIB;
            assert_eq!(sent(api.patch(&path, at, whole.slice(at..end))).await.status(), 204);
            at = end;
            assert!(at < 30 * MIB, "{} is not used", key.id);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        keys.push(ec2.world().role_keys.change(TimeDelta::seconds(15)));
    }
    assert_eq!(sent(api.patch(&path, at, whole.slice(at..))).await.status(), 204);

    // A presigned URL expires with the key that signed it.
    let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let get = client.get(api.url_for(&format!("{path}/content"))).bearer_auth(&anna.token);
    let redirect = sent(get).await;
    assert_eq!(redirect.status(), 302);
    let location = Url::parse(redirect.headers()["location"].to_str().unwrap()).unwrap();
    let query = |name: &str| location.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    let credential = query("X-Amz-Credential");
    let key = ec2.find_key(credential.split('/').next().unwrap()).unwrap();
    assert_eq!(query("X-Amz-Security-Token"), key.session);
    let expires = TimeDelta::seconds(query("X-Amz-Expires").parse().unwrap());
    let made = chrono::NaiveDateTime::parse_from_str(&query("X-Amz-Date"), "%Y%m%dT%H%M%SZ").unwrap();
    assert!(made.and_utc() + expires <= key.end, "{location} outlives {key:?}");
    let got = sent(client.get(location)).await.bytes().await.unwrap();
    assert_eq!(hex(&got), hex(&whole));

    let seen = seen.lock().unwrap();
    let refused: Vec<_> = seen.iter().filter(|signed| signed.refused.is_some()).collect();
    assert!(refused.is_empty(), "{refused:?}");
    for pair in keys.windows(2) {
        // The last key may not have been needed any more.
        let Some(first) = seen.iter().find(|signed| signed.key == pair[1].id) else { continue };
        assert!(first.at < pair[0].end, "{} was first used after {} had expired", pair[1].id, pair[0].id);
    }
    assert!(keys[..3].iter().all(|key| seen.iter().any(|signed| signed.key == key.id)));
}

#[tokio::test]
async fn requests_made_before_the_role_exists_wait_for_it() {
    for (what, outage) in [("it has no role", None), ("it answers 500", Some(Fault::Status(500)))] {
        let (app, ec2, metadata) = setting().await;
        let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
        let (s3, seen) = strict(&app.bucket.as_ref().unwrap().endpoint, ec2.clone()).await;
        {
            let mut world = ec2.world();
            world.role_is_late = true;
            world.metadata_outage = outage;
        }
        let api = Api::start(&app, &shop, &on_instance(&metadata, &s3)).await;
        let path = api.create(6 * MIB).await;
        let report = json!({"observations": [
            {"store": "Steam", "sku": "a", "price": "9.99", "currency": "EUR"}]});
        let report = app.client.post(api.url_for("/v1/prices")).bearer_auth(&shop.token).json(&report);
        let requested = async || {
            let requests = ec2.world().requests.clone();
            requests.iter().filter(|request| request.contains("/latest/")).count() > 4
        };
        let (uploaded, reported, ()) =
            tokio::join!(sent(api.patch(&path, 0, bytes(6 * MIB))), sent(report), async {
                eventually(what, requested).await;
                let mut world = ec2.world();
                world.role_is_late = false;
                world.metadata_outage = None;
            });
        assert_eq!(
            (uploaded.status().as_u16(), reported.status().as_u16()),
            (204, 202),
            "{what}: {}",
            api.binary.log()
        );
        assert!(seen.lock().unwrap().iter().all(|signed| signed.refused.is_none()), "{what}");
    }
}

#[tokio::test]
async fn a_role_that_never_appears_is_reported_in_time() {
    let (app, ec2, metadata) = setting().await;
    let anna = app.user("anna", &[]).await;
    ec2.world().role_is_late = true;
    let s3 = app.bucket.as_ref().unwrap().endpoint.clone();
    let api = Api::of(start(&app, "api", &on_instance(&metadata, &s3)), &app, &anna).await;
    let path = api.create(6 * MIB).await;
    let begun = std::time::Instant::now();
    let failed = sent(api.patch(&path, 0, bytes(6 * MIB))).await;
    assert_eq!(failed.status(), 503, "{}", api.binary.log());
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
    api.binary.logged("there are no credentials of AWS within 20 s").await;
}
