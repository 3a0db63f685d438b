//! An instance whose own disk stays full requests its replacement, one of the group at a time, and serves until then.
//! The processes and the small disks are real; Auto Scaling is the stand-in of `tests/support`.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::binary::Binary;
use crate::support::instance::launch;
use crate::support::scratch::Scratch;
use crate::support::{TestApp, eventually};
use test_support::ec2::{Ec2, Fault, Group, State};

/// Script that mounts a small file system over a folder, visible only to the command that follows it.
const ON_A_SMALL_DISK: &str = "unshare -m true && how=-m || how=-rm; exec unshare $how sh -c \
    'mount -t tmpfs -o size=16m salebell \"$SMALL_DISK\" && exec \"$@\"' sh \"$@\"";

/// An API on an instance that is in service, and its disk.
struct Member {
    id: &'static str,
    api: Binary,
    url: String,
    metrics: String,
    scratch: Scratch,
}

impl Member {
    async fn start(app: &TestApp, ec2: &Ec2, id: &'static str, more: &[(&str, &str)]) -> Member {
        let scratch = Scratch::new();
        let folder = scratch.path().to_str().unwrap();
        let settings = [
            ("SMALL_DISK", folder),
            ("SALEBELL_WORKER__SCRATCH", folder),
            ("SALEBELL_INSTANCE__DISK_FULL_S", "3"),
            ("SALEBELL_INSTANCE__MIN_FREE_BYTES", "4194304"),
        ];
        let settings = [&settings, more].concat();
        let (api, url, metrics) = launch(&["sh", "-c", ON_A_SMALL_DISK, "sh"], app, ec2, id, &settings).await;
        Member { id, api, url, metrics, scratch }
    }

    /// Writes a file of `mib` of the 16 MiB.
    fn fill(&self, mib: usize) {
        let mut file = File::create(self.filler()).unwrap();
        for _ in 0..mib {
            // Bytes that no longer fit are not needed.
            let _ = file.write_all(&[1; 1 << 20]);
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> String {
        format!("/proc/{}/root{}/filler", self.api.id(), self.scratch.path().display())
    }

    /// Complaint of `/readyz` about the disk; `None`: the instance is ready.
    async fn complaint(&self, app: &TestApp) -> Option<String> {
        let answer = app.client.get(format!("{}/readyz", self.url)).send().await.unwrap();
        if answer.status() == 200 {
            return None;
        }
        assert_eq!(answer.status(), 503);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["errors"][0]["pointer"], "disk", "{problem}");
        Some(problem["errors"][0]["detail"].as_str().unwrap().to_owned())
    }

    async fn wait_until_ready(&self, app: &TestApp) {
        eventually("it is ready", async || self.complaint(app).await.is_none()).await;
    }

    /// Lines of its metrics that begin with `name`.
    async fn metrics(&self, app: &TestApp, name: &str) -> Vec<String> {
        let text = app.client.get(&self.metrics).send().await.unwrap().text().await.unwrap();
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }

    fn state(&self, ec2: &Ec2) -> State {
        ec2.world().group.instance(self.id).state
    }
}

async fn group() -> (TestApp, Ec2) {
    let ec2 = Ec2::start(Group { replaces_first: true, ..Group::new("salebell-test") }).await;
    (TestApp::spawn().await, ec2)
}

#[tokio::test]
async fn an_instance_whose_disk_stays_full_requests_its_replacement_and_serves_until_then() {
    let (app, ec2) = group().await;
    let mut member = Member::start(&app, &ec2, "i-1", &[]).await;
    member.wait_until_ready(&app).await;
    // 6 MiB are enough, and the metric reports the free space.
    member.fill(10);
    eventually("it checks", async || {
        member.metrics(&app, "salebell_disk_free_bytes").await == ["salebell_disk_free_bytes 6287360"]
    })
    .await;
    assert_eq!(member.complaint(&app).await, None);
    member.fill(16);
    let filled = Instant::now();
    eventually("it is not ready", async || member.complaint(&app).await.is_some()).await;
    // A check may have happened just before, and checks are two seconds apart.
    assert!(filled.elapsed() >= Duration::from_secs(3), "{:?}", filled.elapsed());
    assert_eq!(member.complaint(&app).await.as_deref(), Some("cannot be written to"));
    let call = "SetInstanceHealth HealthStatus=Unhealthy InstanceId=i-1 ShouldRespectGracePeriod=false";
    eventually("it has itself replaced", async || ec2.calls(call) == 1).await;
    member.api.logged("this instance has itself replaced").await;
    // Until the group replaces it, the instance does everything that needs no disk. The load balancer does not notice.
    for path in ["/healthz", "/v1/deals", "/v1/games"] {
        let answer = app.client.get(format!("{}{path}", member.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    // Logged only once.
    let began = Instant::now();
    eventually("some more checks", async || began.elapsed() > Duration::from_secs(5)).await;
    assert_eq!(ec2.calls("SetInstanceHealth"), 1);
    assert!(member.api.is_running());
    let expected = r#"salebell_disk_replacements_total{outcome="replaced"} 1"#;
    assert_eq!(member.metrics(&app, "salebell_disk_replacements_total").await, [expected]);
    member.empty();
    member.wait_until_ready(&app).await;
}

#[tokio::test]
async fn of_two_instances_whose_disks_are_full_one_is_replaced() {
    let (app, ec2) = group().await;
    let mut members =
        [Member::start(&app, &ec2, "i-1", &[]).await, Member::start(&app, &ec2, "i-2", &[]).await];
    for member in &members {
        member.wait_until_ready(&app).await;
        member.fill(16);
    }
    eventually("both have decided", async || {
        let held = members.iter().filter(|member| member.api.log().contains("held back")).count();
        ec2.calls("SetInstanceHealth") == 1 && held == 1
    })
    .await;
    for member in &mut members {
        assert!(member.api.is_running());
        // The group of this test has no other instance to launch, and terminates none before it has.
        assert_eq!(member.state(&ec2), State::InService);
    }
    let unhealthy = |member: &&Member| !ec2.world().group.instance(member.id).healthy;
    assert_eq!(members.iter().filter(unhealthy).count(), 1);
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_moment_does_not_count() {
    let (app, ec2) = group().await;
    let member = Member::start(&app, &ec2, "i-1", &[("SALEBELL_INSTANCE__DISK_FULL_S", "8")]).await;
    member.wait_until_ready(&app).await;
    for times in 1..=2 {
        member.fill(16);
        eventually("it has seen it", async || {
            member.api.log().matches("the disk cannot be").count() == times
        })
        .await;
        assert_eq!(member.complaint(&app).await, None);
        member.empty();
        eventually("it checks again", async || {
            member.metrics(&app, "salebell_disk_free_bytes").await == ["salebell_disk_free_bytes 16773120"]
        })
        .await;
    }
    assert_eq!(member.complaint(&app).await, None);
    assert_eq!(ec2.calls("SetInstanceHealth"), 0);
}

#[tokio::test]
async fn a_store_that_instances_share_may_be_full() {
    let (app, ec2) = group().await;
    // The folder for sorting is on the same file system.
    let shared = app.files.path().to_str().unwrap().to_owned();
    let inside = format!("{shared}/scratch");
    let more = [("SMALL_DISK", shared.as_str()), ("SALEBELL_WORKER__SCRATCH", inside.as_str())];
    let mut member = Member::start(&app, &ec2, "i-1", &more).await;
    member.wait_until_ready(&app).await;
    let mut file = File::create(format!("/proc/{}/root{shared}/filler", member.api.id())).unwrap();
    while file.write_all(&[1; 1 << 16]).is_ok() {}
    let full = Instant::now();
    eventually("longer than an own disk may be full", async || {
        assert_eq!(member.complaint(&app).await, None);
        full.elapsed() > Duration::from_secs(9)
    })
    .await;
    assert_eq!(member.metrics(&app, "salebell_disk_free_bytes").await, ["salebell_disk_free_bytes NaN"]);
    assert!(member.api.is_running());
    assert_eq!(ec2.calls("SetInstanceHealth"), 0);
}

#[tokio::test]
async fn an_instance_that_never_had_free_space_is_not_put_into_service() {
    let (app, ec2) = group().await;
    let more = [("SALEBELL_INSTANCE__MIN_FREE_BYTES", "17000000"), ("SALEBELL_INSTANCE__DISK_FULL_S", "600")];
    let member = Member::start(&app, &ec2, "i-1", &more).await;
    eventually("it has checked", async || {
        // Never ready, not even briefly.
        member.complaint(&app).await.expect("not ready") == "has no room"
    })
    .await;
    assert_eq!(ec2.calls("SetInstanceHealth"), 0);
}

#[tokio::test]
async fn an_instance_stays_and_retries_while_auto_scaling_fails() {
    let (app, ec2) = group().await;
    let mut member = Member::start(&app, &ec2, "i-1", &[]).await;
    member.wait_until_ready(&app).await;
    ec2.world().autoscaling_outage = Some(Fault::Status(400));
    member.fill(16);
    member.api.logged("and this instance goes on: ").await;
    assert!(member.api.is_running());
    // A refused termination does not hold back other instances.
    let held: i64 = sqlx::query_scalar("select count(*) from self_terminations")
        .fetch_one(&app.state.writer)
        .await
        .unwrap();
    assert_eq!(held, 0);
    ec2.world().autoscaling_outage = None;
    eventually("it has itself replaced", async || {
        member.api.log().contains("this instance has itself replaced")
    })
    .await;
    assert!(!ec2.world().group.instance("i-1").healthy);
}
