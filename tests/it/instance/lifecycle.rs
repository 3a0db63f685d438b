//! Launch and termination of an instance of an Auto Scaling group: `salebell ready` and `salebell terminating` as
//! separate processes, next to a real API and a real worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use salebell::database::pool::{PgPool, PoolSettings};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};

use crate::support::binary::Binary;
use crate::support::database::TestDatabase;
use crate::support::instance::{Api, start};
use crate::support::scratch::Scratch;
use crate::support::sink::{Behaviour, Sink};
use crate::support::{TestApp, eventually, raw};
use test_support::ec2::group::Ended;
use test_support::ec2::{Ec2, Fault, Group, Hook, Outcome, State};

const ID: &str = "i-0abc";

/// Makes a group with both hooks, which wait `timeout` without a heartbeat, and launches one instance.
async fn launch(timeout: Duration) -> (Ec2, Vec<(&'static str, String)>) {
    let group = Group {
        launch_hook: Some(Hook::new("launch", timeout, Outcome::Abandon)),
        termination_hook: Some(Hook::new("end", timeout, Outcome::Continue)),
        ..Group::new("salebell-test")
    };
    let ec2 = Ec2::start(group).await;
    let metadata = ec2.launch(ID).await;
    let mut settings = ec2.environment(&metadata);
    settings.extend(
        [
            ("SALEBELL_INSTANCE__LAUNCH_HOOK", "launch"),
            ("SALEBELL_INSTANCE__TERMINATION_HOOK", "end"),
            ("SALEBELL_INSTANCE__HEARTBEAT_S", "1"),
            ("SALEBELL_INSTANCE__POLL_S", "1"),
            ("SALEBELL_LOG__TO", "stderr"),
        ]
        .map(|(key, value)| (key, value.to_owned())),
    );
    (ec2, settings)
}

/// Makes the same group, with an instance in service.
async fn in_service(timeout: Duration) -> (Ec2, Vec<(&'static str, String)>) {
    let (ec2, settings) = launch(timeout).await;
    ec2.world().group.complete(ID, "launch", Outcome::Continue, Instant::now()).unwrap();
    (ec2, settings)
}

fn run(arguments: &[&str], settings: &[(&'static str, String)], more: &[(&str, &str)]) -> Binary {
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(key, value)| (*key, value.as_str())).chain(more.iter().copied()).collect();
    Binary::start(arguments, &settings)
}

fn ended(ec2: &Ec2) -> Vec<Ended> {
    ec2.world().group.instance(ID).results.clone()
}

fn beats(ec2: &Ec2, hook: &str) -> usize {
    ec2.world().group.instance(ID).heartbeats.get(hook).copied().unwrap_or_default()
}

fn said(hook: &str, outcome: Outcome) -> Ended {
    Ended { hook: hook.to_owned(), outcome, by_default: false }
}

/// Starts an API whose database has no schema yet.
async fn unready(app: &TestApp, bare: &TestDatabase) -> (Binary, String) {
    let api = start(app, "api", &[("SALEBELL_DATABASE__URL", &bare.url)]);
    let url = format!("{}/readyz", api.url().await);
    (api, url)
}

#[tokio::test]
async fn a_launch_is_completed_once_the_api_is_ready() {
    let hook = Duration::from_secs(8);
    let (ec2, settings) = launch(hook).await;
    let (app, bare) = (TestApp::spawn().await, TestDatabase::create_bare().await);
    let (_api, url) = unready(&app, &bare).await;
    // It needs neither a secret of the services nor an AWS key: the role of the instance provides one.
    let begun = Instant::now();
    let mut ready = run(&["ready"], &settings, &[("SALEBELL_INSTANCE__READY_URL", &url)]);
    ready.logged("not ready yet: migrations").await;
    // Heartbeats extend the launch beyond the hook's timeout.
    eventually("the hook's own time is over", async || {
        beats(&ec2, "launch") >= 3 && begun.elapsed() > hook + Duration::from_secs(1)
    })
    .await;
    assert_eq!(ec2.world().group.instance(ID).state, State::PendingWait);
    let pool = PgPool::new(PoolSettings::new("writer", bare.url.parse().unwrap()));
    salebell::store::migrate(&pool).await.unwrap();
    assert_eq!(ready.exit_code().await, Some(0), "{}", ready.log());
    assert_eq!(ec2.world().group.instance(ID).state, State::InService);
    assert_eq!(ended(&ec2), [said("launch", Outcome::Continue)]);

    // Once more, as after a restart of the unit.
    let mut again = run(&["ready"], &settings, &[("SALEBELL_INSTANCE__READY_URL", &url)]);
    assert_eq!(again.exit_code().await, Some(0), "{}", again.log());
    assert!(again.log().contains("waits for nothing: the instance is InService"), "{}", again.log());
}

#[tokio::test]
async fn a_launch_waits_for_the_worker_where_that_is_configured() {
    let (ec2, settings) = launch(Duration::from_secs(60)).await;
    let app = TestApp::spawn().await;
    let api = start(&app, "api", &[]);
    let url = format!("{}/readyz", api.url().await);
    // Nothing listens there yet.
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let listen = ("SALEBELL_WORKER__METRICS_LISTEN", listen.as_str());
    let mut ready =
        run(&["ready", "--with-worker"], &settings, &[("SALEBELL_INSTANCE__READY_URL", &url), listen]);
    ready
        .logged(&format!("not ready yet: error sending request for url (http://{}/healthz)", listen.1))
        .await;
    eventually("the group has received heartbeats", async || beats(&ec2, "launch") >= 2).await;
    assert_eq!(ec2.world().group.instance(ID).state, State::PendingWait);
    let _worker = start(&app, "worker", &[listen]);
    assert_eq!(ready.exit_code().await, Some(0), "{}", ready.log());
    assert_eq!(ended(&ec2), [said("launch", Outcome::Continue)]);
}

#[tokio::test]
async fn a_launch_that_never_becomes_ready_is_abandoned_with_the_reason() {
    let (ec2, settings) = launch(Duration::from_secs(60)).await;
    let (app, bare) = (TestApp::spawn().await, TestDatabase::create_bare().await);
    let (_api, url) = unready(&app, &bare).await;
    let limit = [("SALEBELL_INSTANCE__READY_URL", url.as_str()), ("SALEBELL_INSTANCE__READY_LIMIT_S", "2")];
    let begun = Instant::now();
    let mut ready = run(&["ready"], &settings, &limit);
    assert_eq!(ready.exit_code().await, Some(1), "{}", ready.log());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let log = ready.log();
    assert!(log.contains("the launch is abandoned: not ready within 2 s: migrations"), "{log}");
    assert_eq!(ended(&ec2), [said("launch", Outcome::Abandon)]);
    assert_eq!(ec2.world().group.instance(ID).state, State::Terminated);
}

#[tokio::test]
async fn a_boot_that_failed_is_abandoned_whatever_is_configured() {
    let (ec2, settings) = launch(Duration::from_secs(60)).await;
    let scratch = Scratch::new();
    let file = scratch.path().join("salebell.toml");
    std::fs::write(&file, "this is [no TOML").unwrap();
    // AWS is unavailable at first.
    ec2.world().autoscaling_faults =
        [Fault::Status(500), Fault::Hang, Fault::Status(503)].into_iter().collect();
    ec2.world().metadata_faults = [Fault::Status(503), Fault::Hang].into_iter().collect();
    let more = [("SALEBELL_CONFIG", file.to_str().unwrap()), ("SALEBELL_SERVER__DRAIN_S", "soon")];
    let mut abandon = run(&["ready", "--abandon", "--reason", "no parameters"], &settings, &more);
    assert_eq!(abandon.exit_code().await, Some(0), "{}", abandon.log());
    let log = abandon.log();
    assert!(log.contains("the launch is abandoned: no parameters"), "{log}");
    assert!(log.contains("server.drain_s"), "the problem is logged: {log}");
    assert_eq!(ended(&ec2), [said("launch", Outcome::Abandon)]);
}

#[tokio::test]
async fn an_instance_abandoned_in_service_is_replaced() {
    let (ec2, settings) = in_service(Duration::from_secs(60)).await;
    let mut abandon = run(&["ready", "--abandon", "--reason", "the API fails"], &settings, &[]);
    assert_eq!(abandon.exit_code().await, Some(0), "{}", abandon.log());
    assert!(abandon.log().contains("the instance is InService"), "{}", abandon.log());
    assert_eq!(ec2.calls("SetInstanceHealth"), 1);
    assert_eq!(ec2.world().group.instance(ID).state, State::TerminatingWait);
}

#[tokio::test]
async fn a_hook_of_another_name_is_reported() {
    let (ec2, settings) = launch(Duration::from_secs(60)).await;
    let mut abandon = run(&["ready", "--abandon"], &settings, &[("SALEBELL_INSTANCE__LAUNCH_HOOK", "lunch")]);
    abandon.logged("the instance is Pending:Wait, but not because of the hook lunch").await;
    // The group may just be slow, so it continues.
    assert!(abandon.is_running());
    assert_eq!(ended(&ec2), []);
}

/// The API and the worker of the instance, and the process that watches them.
struct Services<'a> {
    api: Api<'a>,
    worker: Binary,
    terminating: Binary,
}

impl<'a> Services<'a> {
    async fn start(
        app: &'a TestApp,
        user: &'a crate::support::User,
        settings: &[(&'static str, String)],
        more: &[(&str, &str)],
    ) -> Services<'a> {
        let api = Api::start(app, user, more).await;
        let worker = start(app, "worker", more);
        let metrics = async |service: &Binary| {
            let rest = service.logged("metrics on http://").await;
            rest.strip_suffix("/metrics").unwrap().to_owned()
        };
        let (of_api, of_worker) = (metrics(&api.binary).await, metrics(&worker).await);
        let mut watching = more.to_vec();
        watching.extend([
            ("SALEBELL_SERVER__METRICS_LISTEN", of_api.as_str()),
            ("SALEBELL_WORKER__METRICS_LISTEN", of_worker.as_str()),
        ]);
        let terminating = run(&["terminating"], settings, &watching);
        Services { api, worker, terminating }
    }

    /// Waits until all of them exit successfully.
    async fn end(&mut self) {
        assert_eq!(self.api.binary.exit_code().await, Some(0), "{}", self.api.binary.log());
        assert_eq!(self.worker.exit_code().await, Some(0), "{}", self.worker.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_termination_under_load_fails_no_request_and_releases_all_work() {
    // The drain takes longer than the hook waits without a heartbeat.
    let (ec2, settings) = in_service(Duration::from_secs(4)).await;
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let sink = Sink::start().await;
    let channel = app.hook(&anna, &sink.url("/hook")).await;
    let may_answer = Arc::new(Semaphore::new(0));
    sink.on("/hook", Behaviour::Gate(may_answer.clone()));

    let key = secrecy::ExposeSecret::expose_secret(&app.state.config.webhook.encryption_keys[0]).to_owned();
    let more = [
        ("SALEBELL_SERVER__LINGER_S", "2"),
        ("SALEBELL_SERVER__DRAIN_S", "25"),
        ("SALEBELL_WEBHOOK__ALLOW_HTTP", "true"),
        ("SALEBELL_WEBHOOK__ALLOW_NETWORKS", "127.0.0.0/8"),
        ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", key.as_str()),
        ("SALEBELL_WORKER__POLL_MS", "100"),
    ];
    let mut services = Services::start(&app, &anna, &settings, &more).await;

    let ready = format!("{}/readyz", services.api.url);
    eventually("the API is ready", async || {
        app.client.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;

    // A delivery that the worker has in flight.
    let rung = app.ring(&anna, &[channel.id]).await;
    sink.wait_for("/hook", 1).await;
    // An upload in flight, and a request whose body arrives slowly.
    let file = services.api.create(1000).await;
    let mut upload = services.api.begin_requested_patch(&file, 0, 1000).await;
    let body = r#"{"name": "made while draining"}"#;
    let head = format!(
        "POST /v1/keys HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n",
        anna.token,
        body.len()
    );
    let mut slow = raw::begin(&services.api.url, &head).await;

    // A load balancer that checks twice a second, and its clients. It sends them only to an instance that is ready,
    // and after the termination never again to one that was not ready once.
    let (rotate, rotation) = watch::channel(false);
    let terminated = Arc::new(AtomicBool::new(false));
    let (served, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let balancer = tokio::spawn({
        let (client, url, terminated) = (app.client.clone(), services.api.url.clone(), terminated.clone());
        async move {
            loop {
                let leaves = terminated.load(Ordering::SeqCst);
                let health = client.get(format!("{url}/readyz")).send().await;
                let ready = health.is_ok_and(|answer| answer.status() == 200);
                rotate.send_replace(ready);
                if leaves && !ready {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    });
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, url) = (app.client.clone(), services.api.url.clone());
            let (mut rotation, terminated) = (rotation.clone(), terminated.clone());
            let (served, failed) = (served.clone(), failed.clone());
            tokio::spawn(async move {
                while rotation.wait_for(|ready| *ready).await.is_ok() {
                    // Before that, a refusal may come from a process that is still starting.
                    let counts = terminated.load(Ordering::SeqCst);
                    match client.get(format!("{url}/v1/deals")).send().await {
                        Ok(answer) if answer.status() == 200 => served.fetch_add(1, Ordering::SeqCst),
                        other => {
                            eprintln!("{other:?}");
                            failed.fetch_add(usize::from(counts), Ordering::SeqCst)
                        }
                    };
                }
            })
        })
        .collect();
    eventually("requests are served", async || served.load(Ordering::SeqCst) > 100).await;

    terminated.store(true, Ordering::SeqCst);
    upload.write_all(&[7; 400]).await.unwrap();
    ec2.world().group.terminate(ID, Instant::now());
    services.terminating.logged("draining: the group terminates the instance").await;
    services.api.binary.logged("told to drain: the group terminates the instance").await;
    services.worker.logged("told to drain").await;
    // As when the machine shuts down meanwhile: the drain continues nevertheless.
    services.terminating.signal(Signal::SIGTERM);
    // The upload stops at the durable offset, and continues at another instance.
    let answer = raw::read_answer(&mut upload).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    let elsewhere = |method: reqwest::Method| {
        app.request(method, &file).bearer_auth(&anna.token).header("tus-resumable", "1.0.0")
    };
    let offset = elsewhere(reqwest::Method::HEAD).send().await.unwrap();
    assert_eq!(offset.headers()["upload-offset"], "400");
    let rest = elsewhere(reqwest::Method::PATCH).header("upload-offset", 400).body(vec![7; 600]);
    let rest = rest.header("content-type", "application/offset+octet-stream").send().await.unwrap();
    assert_eq!(rest.status(), 204);

    // The work in flight takes longer than the hook's timeout.
    let draining = Instant::now();
    eventually("the hook's own time is over", async || {
        beats(&ec2, "end") >= 4 && draining.elapsed() > Duration::from_secs(5)
    })
    .await;
    assert_eq!(ec2.world().group.instance(ID).state, State::TerminatingWait);
    slow.write_all(body.as_bytes()).await.unwrap();
    let answer = raw::read_answer(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    may_answer.add_permits(1);
    balancer.await.unwrap();
    for client in clients {
        client.await.unwrap();
    }
    services.end().await;
    assert_eq!(services.terminating.exit_code().await, Some(0), "{}", services.terminating.log());

    assert_eq!(failed.load(Ordering::SeqCst), 0, "of {}", served.load(Ordering::SeqCst));
    // The work in flight is done exactly once, and no lease is left: another instance may continue at once.
    assert_eq!(sink.received("/hook").len(), 1);
    assert_eq!(app.delivery(&anna, rung.deliveries[0]).await["state"], "delivered");
    app.until("select not exists (select from channels where leased_until > now())").await;
    assert_eq!(ended(&ec2)[1..], [said("end", Outcome::Continue)]);
    let log = services.terminating.log();
    assert!(log.contains("drained duration_ms="), "{log}");
}

#[tokio::test]
async fn metadata_that_fail_in_any_way_only_delay_a_termination() {
    let (ec2, settings) = in_service(Duration::from_secs(60)).await;
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    ec2.world().metadata_outage = Some(Fault::Status(500));
    let mut services = Services::start(&app, &anna, &settings, &[]).await;
    services.terminating.logged("looking again after").await;
    ec2.world().metadata_outage = None;
    services.terminating.logged("the instance metadata answer again").await;
    // The metadata service rejects tokens, then does not answer at all, during the drain.
    ec2.forget_tokens();
    ec2.world().metadata_faults =
        [Fault::Hang, Fault::Status(401), Fault::Status(404), Fault::Status(429)].into();
    eventually("they are over", async || ec2.world().metadata_faults.is_empty()).await;
    ec2.world().group.terminate(ID, Instant::now());
    services.terminating.logged("draining").await;
    // From here on, the values found earlier must suffice.
    ec2.world().metadata_outage = Some(Fault::Hang);
    services.end().await;
    eventually("the credentials are renewed, or were kept", async || {
        ec2.world().metadata_outage = None;
        ec2.world().group.instance(ID).state == State::Terminated
    })
    .await;
    assert_eq!(services.terminating.exit_code().await, Some(0), "{}", services.terminating.log());
    assert_eq!(ended(&ec2)[1..], [said("end", Outcome::Continue)]);
}

#[tokio::test]
async fn a_hook_that_another_process_has_completed_is_not_an_error() {
    let (ec2, settings) = in_service(Duration::from_secs(60)).await;
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let mut services = Services::start(&app, &anna, &settings, &[]).await;
    ec2.world().group.terminate(ID, Instant::now());
    services.terminating.logged("draining").await;
    ec2.world().group.complete(ID, "end", Outcome::Continue, Instant::now()).unwrap();
    services.end().await;
    assert_eq!(services.terminating.exit_code().await, Some(0), "{}", services.terminating.log());
    assert!(services.terminating.log().contains("waits for nothing: the instance is Terminated"));
}

#[tokio::test]
async fn a_spot_instance_that_is_taken_away_drains_within_two_minutes() {
    let (ec2, settings) = in_service(Duration::from_secs(60)).await;
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let mut services = Services::start(&app, &anna, &settings, &[]).await;
    let begun = Instant::now();
    // A rebalance recommendation is no reason to leave as long as no replacement arrives.
    ec2.world().group.instance_mut(ID).rebalance =
        Some(r#"{"noticeTime": "2026-11-20T08:20:00Z"}"#.to_owned());
    services.terminating.logged("is at risk; it serves until").await;
    assert!(services.api.binary.is_running());
    ec2.world().group.instance_mut(ID).spot_action =
        Some(r#"{"action": "terminate", "time": "2026-11-20T08:22:00Z"}"#.to_owned());
    services.terminating.logged("draining: EC2 takes the spot instance away: terminate at").await;
    services.end().await;
    services.terminating.logged("drained duration_ms=").await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // The group notices a little later, and its hook is completed then.
    assert!(services.terminating.is_running());
    assert_eq!(ended(&ec2).len(), 1);
    ec2.world().group.terminate(ID, Instant::now());
    assert_eq!(services.terminating.exit_code().await, Some(0), "{}", services.terminating.log());
    assert_eq!(ended(&ec2)[1..], [said("end", Outcome::Continue)]);
}

#[tokio::test]
async fn an_instance_at_risk_drains_where_that_is_configured() {
    let (ec2, settings) = in_service(Duration::from_secs(60)).await;
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let more = [("SALEBELL_INSTANCE__DRAIN_ON_REBALANCE", "true")];
    let mut services = Services::start(&app, &anna, &settings, &more).await;
    ec2.world().group.instance_mut(ID).rebalance =
        Some(r#"{"noticeTime": "2026-11-20T08:20:00Z"}"#.to_owned());
    services.end().await;
    services.terminating.logged("drained duration_ms=").await;
    // The machine shuts down without the group.
    services.terminating.signal(Signal::SIGTERM);
    assert_eq!(services.terminating.exit_code().await, Some(0));
}

#[tokio::test]
async fn the_watch_ends_on_request_and_changes_nothing() {
    let (ec2, settings) = in_service(Duration::from_secs(60)).await;
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let mut services = Services::start(&app, &anna, &settings, &[]).await;
    eventually("it polls", async || {
        ec2.world().requests.iter().any(|request| request.ends_with("target-lifecycle-state"))
    })
    .await;
    services.terminating.signal(Signal::SIGTERM);
    assert_eq!(services.terminating.exit_code().await, Some(0));
    assert!(services.api.binary.is_running() && services.worker.is_running());
    assert_eq!(ended(&ec2).len(), 1);
}

#[tokio::test]
async fn a_drain_requires_a_reason() {
    let app = TestApp::spawn().await;
    let api = start(&app, "api", &[]);
    let metrics = api.logged("metrics on http://").await;
    let url = format!("http://{}/drain", metrics.strip_suffix("/metrics").unwrap());
    let status = |request: reqwest::RequestBuilder| async { request.send().await.unwrap().status().as_u16() };
    assert_eq!(status(app.client.get(&url)).await, 405);
    assert_eq!(status(app.client.post(&url)).await, 400);
    assert_eq!(status(app.client.post(format!("{}/drain", api.url().await))).await, 404);
    assert!(!api.log().contains("told to drain"));
    assert_eq!(status(app.client.post(&url).header("salebell-drain-reason", "a test")).await, 202);
    api.logged("told to drain: a test").await;
}
