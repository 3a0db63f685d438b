//! The client of the instance metadata service, against a server that is as strict as EC2's.

use std::time::{Duration, Instant};

use salebell::instance::metadata::Metadata;

use crate::support::eventually;
use test_support::ec2::{Ec2, Fault, Group};

async fn launch() -> (Ec2, Metadata) {
    let ec2 = Ec2::start(Group::new("salebell-test")).await;
    let metadata = Metadata::at(&ec2.launch("i-1").await).unwrap();
    (ec2, metadata)
}

#[tokio::test]
async fn an_instance_knows_itself() {
    let (ec2, metadata) = launch().await;
    let identity = metadata.identity().await.unwrap();
    assert_eq!(
        (identity.instance_id.as_str(), identity.region.as_str(), identity.availability_zone.as_str()),
        ("i-1", "eu-central-1", "eu-central-1a")
    );
    assert_eq!(metadata.target_lifecycle_state().await.unwrap().as_deref(), Some("InService"));
    assert_eq!(metadata.required_tag("aws:autoscaling:groupName").await.unwrap(), "salebell-test");
    assert_eq!(metadata.tag("Environment").await.unwrap(), None);
    assert_eq!(metadata.spot_action().await.unwrap(), None);
    assert_eq!(metadata.rebalance().await.unwrap(), None);
    {
        let mut world = ec2.world();
        let instance = world.group.instance_mut("i-1");
        instance.tags.insert("Environment".to_owned(), "a/b c%d".to_owned());
        instance.spot_action = Some(r#"{"action": "terminate", "time": "2026-11-20T08:22:00Z"}"#.to_owned());
        instance.rebalance = Some(r#"{"noticeTime": "2026-11-20T08:20:00Z"}"#.to_owned());
    }
    let tags = metadata.tags().await.unwrap();
    assert_eq!((tags.len(), tags["Environment"].as_str()), (2, "a/b c%d"));
    assert_eq!(metadata.spot_action().await.unwrap().unwrap().action, "terminate");
    assert_eq!(
        metadata.rebalance().await.unwrap().unwrap().notice_time.to_rfc3339(),
        "2026-11-20T08:20:00+00:00"
    );
    assert_eq!(ec2.world().tokens_asked, 1, "the token is kept");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_when_it_is_refused() {
    let (ec2, metadata) = launch().await;
    metadata.identity().await.unwrap();
    ec2.forget_tokens();
    let begun = ec2.world().requests.len();
    metadata.identity().await.unwrap();
    assert_eq!(ec2.world().tokens_asked, 2);
    // The refused request, the request for a new token, and the repeated request, without a pause.
    assert_eq!(ec2.world().requests.len() - begun, 3);

    ec2.forget_tokens();
    ec2.world().longest_token = Some(Duration::from_secs(1));
    metadata.identity().await.unwrap();
    let (before, refused) = {
        let world = ec2.world();
        (world.tokens_asked, world.tokens_refused)
    };
    eventually("another token", async || {
        metadata.identity().await.unwrap();
        ec2.world().tokens_asked > before + 1
    })
    .await;
    assert_eq!(ec2.world().tokens_refused, refused, "each is replaced while it is good");
}

#[tokio::test]
async fn a_request_that_fails_for_a_while_is_retried() {
    let (ec2, metadata) = launch().await;
    ec2.world().metadata_faults =
        [Fault::Status(503), Fault::Status(500), Fault::Status(429)].into_iter().collect();
    assert_eq!(metadata.identity().await.unwrap().instance_id, "i-1");
    // A tag that becomes available late.
    let late = async {
        eventually("it is requested", async || {
            ec2.world().requests.iter().filter(|request| request.ends_with("/Late")).count() >= 2
        })
        .await;
        ec2.world().group.instance_mut("i-1").tags.insert("Late".to_owned(), "yes".to_owned());
    };
    let (tag, ()) = tokio::join!(metadata.required_tag("Late"), late);
    assert_eq!(tag.unwrap(), "yes");
}

#[tokio::test]
async fn a_request_that_never_succeeds_is_given_up_in_time() {
    let (ec2, metadata) = launch().await;
    let metadata = metadata.with_attempts(2);
    ec2.world().metadata_outage = Some(Fault::Status(500));
    let text = metadata.identity().await.unwrap_err().to_string();
    assert!(text.contains("500") && text.contains("2 times over"), "{text}");
    let text = metadata.required_tag("Never").await.unwrap_err().to_string();
    assert!(text.contains("500"), "{text}");
    ec2.world().metadata_outage = None;
    let text = metadata.required_tag("Never").await.unwrap_err().to_string();
    assert!(text.contains("Never is not there"), "{text}");

    ec2.world().metadata_outage = Some(Fault::Hang);
    let begun = Instant::now();
    metadata.identity().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    // Nothing listens on port 1.
    let silent = Metadata::at("http://127.0.0.1:1").unwrap().with_attempts(2);
    let text = silent.identity().await.unwrap_err().to_string();
    assert!(text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_request_that_cannot_succeed_is_not_retried() {
    let (ec2, metadata) = launch().await;
    ec2.world().metadata_outage = Some(Fault::Status(403));
    let text = metadata.identity().await.unwrap_err().to_string();
    assert!(text.contains("switched off"), "{text}");
    assert_eq!(ec2.world().requests.len(), 1);
    for wrong in ["169.254.169.254", "https://127.0.0.1", "http://", "nonsense"] {
        assert!(Metadata::at(wrong).is_err(), "{wrong}");
    }
}

/// The stand-in server refuses what EC2 refuses.
#[tokio::test]
async fn the_service_of_the_tests_is_strict() {
    let ec2 = Ec2::start(Group::new("g")).await;
    let (one, two) = (ec2.launch("i-1").await, ec2.launch("i-2").await);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ttl = "x-aws-ec2-metadata-token-ttl-seconds";
    let put = |url: &str| client.put(format!("{url}/latest/api/token"));
    assert_eq!(put(&one).send().await.unwrap().status(), 400);
    assert_eq!(put(&one).header(ttl, 21_601).send().await.unwrap().status(), 400);
    let proxied = put(&one).header(ttl, 60).header("x-forwarded-for", "10.0.0.1");
    assert_eq!(proxied.send().await.unwrap().status(), 403);
    let token = put(&one).header(ttl, 60).send().await.unwrap().text().await.unwrap();
    let get = |url: &str, path: &str, token: &str| {
        client.get(format!("{url}/latest/{path}")).header("x-aws-ec2-metadata-token", token).send()
    };
    assert_eq!(get(&one, "meta-data/instance-id", &token).await.unwrap().text().await.unwrap(), "i-1");
    assert_eq!(get(&one, "meta-data/instance-id", "").await.unwrap().status(), 401);
    assert_eq!(get(&two, "meta-data/instance-id", &token).await.unwrap().status(), 401);
    assert_eq!(get(&one, "meta-data/nothing", &token).await.unwrap().status(), 404);
    let bare = client.get(format!("{one}/latest/meta-data/instance-id")).send().await.unwrap();
    assert_eq!(bare.status(), 401);
}
