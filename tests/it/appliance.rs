//! An instance of the appliance, booted: units, user data, hooks. Needs root.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::appliance::{LAUNCH_HOOK, Surroundings, TERMINATION_HOOK};
use crate::support::ec2::group::Ended;
use crate::support::ec2::{Fault, Outcome, State};
use crate::support::eventually;
use crate::support::sink::Sink;
use crate::support::smtp::MailServer;

const CHECK: &str = "SALEBELL_CHECK_OWN_MS=3000 /usr/lib/salebell/check-instance.sh";

fn said(hook: &str, outcome: Outcome) -> Ended {
    Ended { hook: hook.to_owned(), outcome, by_default: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_boots_serves_and_goes() {
    let around = Surroundings::new().await;
    let (sink, mails) = (Sink::start().await, MailServer::start(json!({})).await);
    around.offer(8000, sink.address);
    let mail_address = around.offer(2525, ([127, 0, 0, 1], mails.port).into());
    for (name, value) in [
        ("webhook/allow_http", "true"),
        ("webhook/allow_networks", "10.77.0.0/24"),
        ("email/smtp_url", &format!("smtp://{mail_address}")),
        ("email/from", "bell@salebell.test"),
        ("email/starttls", "off"),
    ] {
        around.environment.put(name, value).await;
    }
    let mut instance = around.launch(11);
    instance.in_service(&around).await;
    eprintln!("in service after {:?}", instance.age());

    let checked = instance.run(CHECK).await;
    let table = String::from_utf8_lossy(&checked.stdout);
    eprintln!("{table}");
    assert!(checked.status.success(), "{table}\n{}", instance.journal().await);

    // Each feature that a sandbox could break.
    let user = around.app.user("anna", &[]).await;
    let url = format!("https://{}", instance.reach(8443).await);
    let post = |path: &str| around.app.client.post(format!("{url}{path}")).bearer_auth(&user.token);
    let file = post("/v1/files").body(vec![7; 3_000_000]).send().await.unwrap();
    assert_eq!(file.status(), 201, "{}", file.text().await.unwrap());
    let path = file.headers()["location"].to_str().unwrap().to_owned();
    let content = format!("{url}{path}/content");
    let content = around.app.client.get(content).bearer_auth(&user.token).send().await.unwrap();
    assert_eq!(content.bytes().await.unwrap(), vec![7; 3_000_000]);
    assert!(!instance.ask("find /var/lib/salebell/files -type f -size +1M").await.is_empty());

    let channel = json!({"kind": "webhook", "name": "mine", "url": "http://10.77.0.1:8000/bell"});
    let channel: Value = post("/v1/channels").json(&channel).send().await.unwrap().json().await.unwrap();
    let test = post(&format!("/v1/channels/{}/test", channel["id"].as_str().unwrap())).send().await.unwrap();
    assert!(test.status().is_success(), "{}", test.text().await.unwrap());
    eventually("the worker's webhook has come", async || !sink.received("/bell").is_empty()).await;
    drop(mails);

    // The end, as the group wants it.
    let begun = Instant::now();
    around.ec2.world().group.terminate(&instance.id, begun);
    eventually("the termination hook is completed", async || {
        around.ec2.world().group.instance(&instance.id).state == State::Terminated
    })
    .await;
    eprintln!("drained within {:?}", begun.elapsed());
    let results = around.ec2.world().group.instance(&instance.id).results.clone();
    assert_eq!(results, [said(LAUNCH_HOOK, Outcome::Continue), said(TERMINATION_HOOK, Outcome::Continue)]);
    for service in ["salebell-api", "salebell-worker", "salebell-terminating"] {
        instance.shows(service, "ActiveState", "inactive").await;
        instance.shows(service, "Result", "success").await;
    }
}
