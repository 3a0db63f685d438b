//! The dead man's switch of real API processes, each on its own instance.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use nix::sys::signal::Signal;
use salebell::store::lease::Claim;
use salebell::store::self_terminations;

use crate::support::binary::Binary;
use crate::support::grpc::Client;
use crate::support::instance::launch;
use crate::support::proxy::Proxy;
use crate::support::{TestApp, eventually};
use test_support::ec2::{Ec2, Fault, Group, State};

const GROUP: &str = "salebell-test";

/// An API on an instance that is in service.
struct Member {
    id: &'static str,
    api: Binary,
    url: String,
    metrics: String,
}

impl Member {
    async fn start(app: &TestApp, ec2: &Ec2, id: &'static str, more: &[(&str, &str)]) -> Member {
        let settings = [&[("SALEBELL_INSTANCE__DEAD_MAN_S", "2")], more].concat();
        let (api, url, metrics) = launch(&[], app, ec2, id, &settings).await;
        Member { id, api, url, metrics }
    }

    /// Sends a health check of the load balancer.
    async fn check(&self, app: &TestApp) {
        let request =
            app.client.get(format!("{}/readyz", self.url)).header("user-agent", "ELB-HealthChecker/2.0");
        request.send().await.unwrap();
    }

    async fn metric(&self, app: &TestApp, name: &str) -> Option<f64> {
        let text = app.client.get(&self.metrics).send().await.ok()?.text().await.ok()?;
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn state(&self, ec2: &Ec2) -> State {
        ec2.world().group.instance(self.id).state
    }
}

async fn group() -> (TestApp, Ec2) {
    (TestApp::spawn().await, Ec2::start(Group::new(GROUP)).await)
}

#[tokio::test]
async fn of_two_instances_that_fall_silent_at_once_one_is_replaced() {
    let (app, ec2) = group().await;
    let mut members =
        [Member::start(&app, &ec2, "i-1", &[]).await, Member::start(&app, &ec2, "i-2", &[]).await];
    for member in &members {
        member.check(&app).await;
    }
    eventually("both have decided", async || {
        let gone = ec2.calls("SetInstanceHealth");
        let held = members.iter().filter(|member| member.api.log().contains("held back")).count();
        gone == 1 && held == 1
    })
    .await;
    let [one, two] = &mut members;
    let (gone, stays) = if one.api.log().contains("held back") { (two, one) } else { (one, two) };
    assert_eq!(gone.api.exit_code().await, Some(90), "{}", gone.api.log());
    assert!(gone.api.log().contains("has itself replaced and stops serving"), "{}", gone.api.log());
    assert_eq!((gone.state(&ec2), stays.state(&ec2)), (State::Terminated, State::InService));
    // The other instance continues to serve, and the load balancer finds it.
    assert!(stays.api.is_running());
    stays.check(&app).await;
    eventually("the silence is over", async || {
        stays.metric(&app, "salebell_dead_man_silence_seconds").await == Some(0.0)
    })
    .await;
    let call = "SetInstanceHealth HealthStatus=Unhealthy InstanceId=";
    assert_eq!(ec2.calls(call), 1);
    assert!(ec2.calls(&format!("{call}{} ShouldRespectGracePeriod=false", gone.id)) == 1);
}

#[tokio::test]
async fn the_next_instance_may_be_replaced_after_ten_minutes() {
    let app = TestApp::spawn().await;
    let claim = async |instance: &str| {
        let now = app.clock.now();
        let until = now + TimeDelta::minutes(10);
        self_terminations::claim(&app.state.writer, GROUP, instance, now, until).await.unwrap()
            == Claim::Granted
    };
    assert!(claim("i-1").await && !claim("i-2").await);
    app.clock.advance(TimeDelta::minutes(9));
    assert!(!claim("i-2").await);
    // An instance may renew its own claim; other groups are independent.
    let now = app.clock.now();
    let other =
        self_terminations::claim(&app.state.writer, "other", "i-9", now, now + TimeDelta::minutes(10));
    assert_eq!(other.await.unwrap(), Claim::Granted);
    app.clock.advance(TimeDelta::minutes(1));
    assert!(claim("i-2").await && !claim("i-1").await);
    // A claim of another instance is not released.
    self_terminations::release(&app.state.writer, GROUP, "i-1").await.unwrap();
    assert!(!claim("i-1").await);
    self_terminations::release(&app.state.writer, GROUP, "i-2").await.unwrap();
    assert!(claim("i-1").await);
}

#[tokio::test]
async fn only_the_load_balancer_arms_it() {
    let (app, ec2) = group().await;
    // In separate groups, so neither holds back the other.
    let mut unarmed = Member::start(&app, &ec2, "i-1", &[("SALEBELL_INSTANCE__GROUP", "one")]).await;
    let mut off = Member::start(&app, &ec2, "i-2", &[("SALEBELL_INSTANCE__DEAD_MAN_S", "0")]).await;
    let mut armed = Member::start(&app, &ec2, "i-3", &[("SALEBELL_INSTANCE__GROUP", "three")]).await;
    for path in ["/healthz", "/readyz"] {
        app.client.get(format!("{}{path}", unarmed.url)).send().await.unwrap();
        let forged =
            app.client.get(format!("{}{path}", unarmed.url)).header("user-agent", "ELB-HealthChecker/2.0");
        forged.header("x-forwarded-for", "192.0.2.1").send().await.unwrap();
    }
    off.check(&app).await;
    eventually("it checks", async || unarmed.metric(&app, "salebell_dead_man_armed").await == Some(0.0))
        .await;
    armed.check(&app).await;
    eventually("it is armed", async || armed.metric(&app, "salebell_dead_man_armed").await == Some(1.0))
        .await;
    assert_eq!(armed.api.exit_code().await, Some(90), "{}", armed.api.log());
    assert!(unarmed.api.is_running() && off.api.is_running());
    assert_eq!(unarmed.metric(&app, "salebell_dead_man_armed").await, Some(0.0));
    assert_eq!(off.metric(&app, "salebell_dead_man_armed").await, None);
    assert_eq!(ec2.calls("SetInstanceHealth"), 1);
}

#[tokio::test]
async fn an_instance_that_is_not_meant_to_serve_is_disarmed() {
    let (app, ec2) = group().await;
    let mut member = Member::start(&app, &ec2, "i-1", &[]).await;
    for target in ["Standby", "Detached", "Terminated"] {
        ec2.world().group.instance_mut("i-1").target = Some(target.to_owned());
        member.check(&app).await;
        member.api.logged(&format!("the group wants this instance {target}")).await;
    }
    assert!(member.api.is_running());
    assert_eq!((ec2.calls("SetInstanceHealth"), member.state(&ec2)), (0, State::InService));
    // Back in service, and reset.
    ec2.world().group.instance_mut("i-1").target = None;
    member.check(&app).await;
    assert_eq!(member.api.exit_code().await, Some(90), "{}", member.api.log());
}

#[tokio::test]
async fn while_it_drains_it_is_disarmed() {
    let (app, ec2) = group().await;
    let linger = [("SALEBELL_SERVER__LINGER_S", "4")];
    let mut member = Member::start(&app, &ec2, "i-1", &linger).await;
    member.check(&app).await;
    member.api.signal(Signal::SIGTERM);
    // Longer than the silence that it tolerates.
    assert_eq!(member.api.exit_code().await, Some(0), "{}", member.api.log());
    assert_eq!(ec2.calls("SetInstanceHealth"), 0);
}

#[tokio::test]
async fn an_instance_stays_while_the_database_the_metadata_or_aws_is_unavailable() {
    let (app, ec2) = group().await;
    let (proxy, url) = Proxy::before(&app.database).await;
    let mut member = Member::start(&app, &ec2, "i-1", &[("SALEBELL_DATABASE__URL", &url)]).await;
    let assert_stays = async |member: &Member, times: usize| {
        eventually("it stays and reports why", async || {
            member.api.log().matches("and this instance goes on: ").count() >= times
        })
        .await;
    };
    ec2.world().metadata_outage = Some(Fault::Status(500));
    member.check(&app).await;
    assert_stays(&member, 1).await;
    ec2.world().metadata_outage = None;
    proxy.cut();
    assert_stays(&member, 2).await;
    proxy.open();
    ec2.world().autoscaling_outage = Some(Fault::Status(400));
    assert_stays(&member, 3).await;
    assert!(member.api.is_running());
    assert_eq!(member.state(&ec2), State::InService);
    // A refused termination does not hold back other instances.
    let held: i64 = sqlx::query_scalar("select count(*) from self_terminations")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(held, 0);
    ec2.world().autoscaling_outage = None;
    assert_eq!(member.api.exit_code().await, Some(90), "{}", member.api.log());
}

#[tokio::test]
async fn a_process_that_was_stopped_for_a_while_continues() {
    let (app, ec2) = group().await;
    let mut member = Member::start(&app, &ec2, "i-1", &[("SALEBELL_INSTANCE__DEAD_MAN_S", "6")]).await;
    member.check(&app).await;
    member.api.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    eventually("longer than it would bear", async || stopped.elapsed() > Duration::from_secs(9)).await;
    member.api.signal(Signal::SIGCONT);
    // It has checked since, and counted all that time as two seconds.
    eventually("it has checked since", async || {
        member.metric(&app, "salebell_dead_man_silence_seconds").await.is_some_and(|silence| silence >= 1.5)
    })
    .await;
    member.check(&app).await;
    eventually("the silence is over", async || {
        member.metric(&app, "salebell_dead_man_silence_seconds").await == Some(0.0)
    })
    .await;
    assert!(member.api.is_running(), "{}", member.api.log());
    assert_eq!(ec2.calls("SetInstanceHealth"), 0);
}

#[tokio::test]
async fn health_checks_over_grpc_arm_it_and_keep_it_quiet() {
    let (app, ec2) = group().await;
    let mut member = Member::start(&app, &ec2, "i-1", &[("SALEBELL_INSTANCE__DEAD_MAN_S", "4")]).await;
    let grpc = member.api.logged("gRPC on ").await;
    let mut other = Client::start(&grpc);
    assert_eq!(other.check("").await, "SERVING");
    let silence = async |member: &Member| member.metric(&app, "salebell_dead_man_silence_seconds").await;
    eventually("it checks", async || member.metric(&app, "salebell_dead_man_armed").await == Some(0.0)).await;
    // grpcio appends its own name.
    let mut load_balancer = Client::start_as(&grpc, Some("ELB-HealthChecker/2.0"));
    assert_eq!(load_balancer.check("").await, "SERVING");
    eventually("it is armed", async || member.metric(&app, "salebell_dead_man_armed").await == Some(1.0))
        .await;
    eventually("it is silent", async || silence(&member).await.is_some_and(|silence| silence >= 1.0)).await;
    assert_eq!(load_balancer.check("").await, "SERVING");
    eventually("the silence is over", async || silence(&member).await == Some(0.0)).await;
    assert_eq!(member.api.exit_code().await, Some(90), "{}", member.api.log());
    assert_eq!(ec2.calls("SetInstanceHealth"), 1);
}
