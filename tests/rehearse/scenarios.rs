//! Scenarios: what happens to the fleet, and which requests may fail because of it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::balancer::Pool;
use super::canary;
use super::fleet::{Pace, wait_for};
use super::machine::Image;
use super::stage::{SETTLE_LIMIT, Stage};
use super::timeline::{Attempt, now};
use super::verdict;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scenario {
    Roll,
    RollBack,
    RollClassic,
    Canary,
    BadCanary,
    BadImage,
    KillInit,
    Freeze,
    CutNetwork,
    LoseZone,
    FailOver,
    RotatePassword,
    StopQueue,
    StopMetadata,
    FillDisk,
    StopHealthChecks,
    Scale,
}

/// Cause for which requests may fail.
pub struct Fault {
    pub at: f64,
    /// Numbers of the instances that are lost or defective.
    pub lost: BTreeSet<u8>,
}

/// Observations during a scenario, for its verdict.
pub struct Seen {
    /// Number of instances.
    pub fleet: usize,
    pub failed: usize,
    pub replaced: usize,
    pub resumed: usize,
    pub repeated: usize,
}

/// Time for which an instance that died silently may still get requests: the balancer's two checks.
const UNNOTICED_S: f64 = 10.0;
const QUEUE_AWAY_S: f64 = 12.0;

impl Scenario {
    const ALL: [Scenario; 17] = [
        Scenario::Roll,
        Scenario::RollBack,
        Scenario::RollClassic,
        Scenario::Canary,
        Scenario::BadCanary,
        Scenario::BadImage,
        Scenario::KillInit,
        Scenario::Freeze,
        Scenario::CutNetwork,
        Scenario::LoseZone,
        Scenario::RotatePassword,
        Scenario::StopQueue,
        Scenario::StopMetadata,
        Scenario::FillDisk,
        Scenario::StopHealthChecks,
        Scenario::Scale,
        // Last, because there is no standby afterwards.
        Scenario::FailOver,
    ];

    /// Scenarios with these names; all of them without a name.
    ///
    /// # Errors
    /// A name is unknown.
    pub fn chosen(names: Vec<String>) -> Result<Vec<Scenario>, String> {
        if names.is_empty() {
            return Ok(Scenario::ALL.to_vec());
        }
        let find = |name: &String| {
            Scenario::ALL.into_iter().find(|scenario| scenario.name() == name).ok_or_else(|| {
                let known = Scenario::ALL.map(Scenario::name).join(", ");
                format!("there is no scenario {name:?}; there are {known}")
            })
        };
        names.iter().map(find).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Roll => "roll",
            Scenario::RollBack => "roll-back",
            Scenario::RollClassic => "roll-classic",
            Scenario::Canary => "canary",
            Scenario::BadCanary => "bad-canary",
            Scenario::BadImage => "bad-image",
            Scenario::KillInit => "kill-init",
            Scenario::Freeze => "freeze",
            Scenario::CutNetwork => "cut-network",
            Scenario::LoseZone => "lose-zone",
            Scenario::FailOver => "fail-over",
            Scenario::RotatePassword => "rotate-password",
            Scenario::StopQueue => "stop-queue",
            Scenario::StopMetadata => "stop-metadata",
            Scenario::FillDisk => "fill-disk",
            Scenario::StopHealthChecks => "stop-health-checks",
            Scenario::Scale => "scale",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Scenario::Roll => "a migration, then another image on every instance",
            Scenario::RollBack => "the image before, on the newer schema",
            Scenario::RollClassic => "another image, one instance after the other",
            Scenario::Canary => {
                "a tenth of the requests to one instance of another image, then that image on every instance"
            }
            Scenario::BadCanary => {
                "a canary that answers 500 to a third: its requests are taken away, the fleet stays"
            }
            Scenario::BadImage => "an image whose services do not start is given up, the fleet stays",
            Scenario::KillInit => "kill -9 of an instance's init",
            Scenario::Freeze => "all processes of an instance stand still",
            Scenario::CutNetwork => "an instance's network is cut",
            Scenario::LoseZone => "all instances of a zone are cut off, and none can be launched there",
            Scenario::FailOver => "the database's primary dies, the standby takes over",
            Scenario::RotatePassword => "the database's password changes",
            Scenario::StopQueue => "SNS and SQS are away for a while",
            Scenario::StopMetadata => "instance metadata are away for a while",
            Scenario::FillDisk => "an instance's disk is full: it has itself replaced",
            Scenario::StopHealthChecks => "the balancer forgets an instance: the dead man's switch",
            Scenario::Scale => "out to six, in to two",
        }
    }

    /// Whether a failed attempt is caused by the scenario: requests that an instance had, or was given, when it died.
    /// `target` is the instance to which the balancer has given it.
    pub fn allows(self, attempt: &Attempt, fault: &Fault, target: Option<u8>) -> bool {
        let since = attempt.at - fault.at;
        match self {
            Scenario::KillInit | Scenario::Freeze | Scenario::CutNetwork | Scenario::LoseZone => {
                let of_the_lost = target.is_some_and(|target| fault.lost.contains(&target));
                of_the_lost && !attempt.answered && (-30.0..UNNOTICED_S).contains(&since)
            }
            Scenario::BadCanary => {
                let of_the_canary = target.is_some_and(|target| fault.lost.contains(&target));
                verdict::is_the_defects(of_the_canary, attempt.answered, since)
            }
            // No report is acknowledged before it is on the bus.
            Scenario::StopQueue => attempt.kind == "report" && (-30.0..QUEUE_AWAY_S + 10.0).contains(&since),
            Scenario::FailOver => (-30.0..30.0).contains(&since),
            _ => false,
        }
    }

    /// Observation without which the scenario has proven nothing, if it is missing.
    pub fn expects(self, seen: &Seen) -> Option<&'static str> {
        match self {
            // The upload takes longer than the rollout, and its instance leaves.
            Scenario::Roll | Scenario::RollBack | Scenario::RollClassic if seen.resumed == 0 => {
                Some("the upload was never broken off")
            }
            Scenario::Roll | Scenario::RollBack | Scenario::RollClassic | Scenario::Canary
                if seen.replaced < seen.fleet =>
            {
                Some("not every instance was replaced")
            }
            Scenario::BadCanary if seen.replaced > 0 => Some("an instance of the fleet was replaced"),
            Scenario::StopQueue if seen.failed == 0 => Some("nobody noticed that SNS and SQS were away"),
            Scenario::BadImage if seen.replaced > 0 => Some("an instance was replaced by one of a bad image"),
            _ if seen.repeated > 0 && !self.breaks() => Some("a notice came twice, under one id"),
            _ => None,
        }
    }

    /// Whether the scenario causes a failure, and not only a change.
    fn breaks(self) -> bool {
        use Scenario::{CutNetwork, FailOver, FillDisk, Freeze, KillInit, LoseZone, StopQueue};
        matches!(self, KillInit | Freeze | CutNetwork | LoseZone | FillDisk | StopQueue | FailOver)
    }

    /// Performs the scenario, and waits until the fleet has recovered.
    pub async fn perform(self, stage: &mut Stage) -> Result<(), String> {
        match self {
            Scenario::Roll => {
                stage.migrate().await;
                let image = stage.other_image().await;
                roll(stage, image, Pace::SideBySide).await
            }
            Scenario::RollBack => {
                let image = stage.other_image().await;
                roll(stage, image, Pace::SideBySide).await
            }
            Scenario::RollClassic => {
                let image = stage.other_image().await;
                roll(stage, image, Pace::OneByOne).await
            }
            Scenario::Canary => {
                stage.migrate().await;
                let image = stage.other_image().await;
                canary::good(stage, image).await
            }
            Scenario::BadCanary => canary::bad(stage).await,
            Scenario::BadImage => bad_image(stage).await,
            Scenario::KillInit => {
                lose_one(stage, "kill -9 of the init of", |member| member.machine.kill_init()).await
            }
            Scenario::Freeze => lose_one(stage, "SIGSTOP for all of", |member| member.machine.freeze()).await,
            Scenario::CutNetwork => {
                lose_one(stage, "no network for", |member| member.machine.cut_network()).await
            }
            Scenario::LoseZone => lose_zone(stage).await,
            Scenario::FailOver => {
                let before = stage.database.written_to().await?;
                stage.fault("the primary dies", BTreeSet::new());
                stage.database.fail_over().await;
                stage.timeline.mark("the standby is the primary");
                tokio::time::sleep(Duration::from_secs(20)).await;
                match stage.database.written_to().await? {
                    after if after == before => Err("the primary is the one that it was".to_owned()),
                    _ => Ok(()),
                }
            }
            Scenario::RotatePassword => rotate_password(stage).await,
            Scenario::StopQueue => stop_queue(stage).await,
            Scenario::StopMetadata => stop_metadata(stage).await,
            Scenario::FillDisk => fill_disk(stage).await,
            Scenario::StopHealthChecks => stop_health_checks(stage).await,
            Scenario::Scale => {
                for desired in [6, 2, stage.size] {
                    stage.timeline.mark(&format!("{desired} instances are wanted"));
                    stage.fleet.lock().await.live.desired = desired;
                    wait_for(&stage.fleet, "the fleet has that size", SETTLE_LIMIT, |fleet| {
                        fleet.is_settled()
                    })
                    .await?;
                }
                Ok(())
            }
        }
    }
}

/// Rolls out another image to every instance of the fleet.
pub async fn roll(stage: &mut Stage, image: Image, pace: Pace) -> Result<(), String> {
    let begun = now();
    stage.fleet.lock().await.refresh(image.clone(), pace);
    wait_for(&stage.fleet, "the rollout has ended", SETTLE_LIMIT, |fleet| fleet.is_settled()).await?;
    if stage.fleet.lock().await.live.gave_up {
        return Err("the rollout was given up".to_owned());
    }
    stage.timeline.event(&format!("the rollout took {:.1} s", now() - begun));
    runs(stage, &image).await
}

/// Checks that the whole fleet runs this image, independently of the group's view.
pub async fn runs(stage: &Stage, image: &Image) -> Result<(), String> {
    let mut found = Vec::new();
    for member in stage.fleet.lock().await.of(Pool::Fleet) {
        let version = member.machine.run("cat /etc/salebell-image").await;
        found.push((member.id.clone(), String::from_utf8_lossy(&version.stdout).trim().to_owned()));
    }
    verdict::all_run(&image.version, &found)
}

async fn bad_image(stage: &mut Stage) -> Result<(), String> {
    let current = stage.fleet.lock().await.live.image.clone();
    let mut bad = current.clone();
    bad.version = "image-bad".to_owned();
    let broken = "[Service]\nExecStart=\nExecStart=/usr/bin/false\n[Unit]\nStartLimitBurst=2\n";
    bad.files.push(("systemd/system/salebell-api.service.d/broken.conf".to_owned(), broken.to_owned()));
    let before: Vec<String> =
        stage.fleet.lock().await.members.iter().map(|member| member.id.clone()).collect();
    stage.fleet.lock().await.refresh(bad, Pace::SideBySide);
    wait_for(&stage.fleet, "the refresh has ended", SETTLE_LIMIT, |fleet| fleet.is_settled()).await?;
    if !stage.fleet.lock().await.live.gave_up {
        return Err("the image was not given up".to_owned());
    }
    let after: Vec<String> =
        stage.fleet.lock().await.members.iter().map(|member| member.id.clone()).collect();
    if before != after {
        return Err(format!("the fleet was {before:?} and is {after:?}"));
    }
    Ok(())
}

/// Damages one instance, and waits for its replacement.
async fn lose_one(
    stage: &mut Stage,
    what: &str,
    happen: impl Fn(&mut super::fleet::Member),
) -> Result<(), String> {
    let (id, number) = {
        let fleet = stage.fleet.lock().await;
        (fleet.members[0].id.clone(), fleet.members[0].number)
    };
    stage.fault(&format!("{what} {id}"), BTreeSet::from([number]));
    if let Some(member) = stage.fleet.lock().await.member(&id) {
        happen(member);
    }
    wait_for(&stage.fleet, "it is replaced", SETTLE_LIMIT, |fleet| {
        fleet.member(&id).is_none() && fleet.is_settled()
    })
    .await
}

async fn lose_zone(stage: &mut Stage) -> Result<(), String> {
    let (zone, lost) = {
        let fleet = stage.fleet.lock().await;
        let zone = fleet.members[0].zone;
        (
            zone,
            fleet.members.iter().filter(|member| member.zone == zone).map(|member| member.number).collect(),
        )
    };
    stage.fault(&format!("{zone} is lost"), lost);
    {
        let mut fleet = stage.fleet.lock().await;
        fleet.lost_zones.insert(zone);
        fleet
            .members
            .iter()
            .filter(|member| member.zone == zone)
            .for_each(|member| member.machine.cut_network());
    }
    let replaced = wait_for(&stage.fleet, "the other zones have taken over", SETTLE_LIMIT, |fleet| {
        fleet.is_settled() && fleet.members.iter().all(|member| member.zone != zone)
    })
    .await;
    stage.fleet.lock().await.lost_zones.clear();
    replaced
}

async fn rotate_password(stage: &mut Stage) -> Result<(), String> {
    let password = format!("{}-rotated", stage.password);
    stage.timeline.mark("the password changes, then the secret");
    // In the order of Secrets Manager: the database first.
    stage.database.change_password(&password).await;
    let secret = serde_json::json!({"password": password}).to_string();
    stage.cloud.put_secret("rehearsal/database", &secret).await;
    stage.password = password;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.timeline.mark("every connection of the old password ends");
    stage.database.end_connections().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    Ok(())
}

async fn stop_queue(stage: &mut Stage) -> Result<(), String> {
    stage.fault("SNS and SQS are away", BTreeSet::new());
    stage.cloud.close_bus(true);
    tokio::time::sleep(Duration::from_secs_f64(QUEUE_AWAY_S)).await;
    stage.cloud.close_bus(false);
    stage.timeline.mark("SNS and SQS are there again");
    tokio::time::sleep(Duration::from_secs(10)).await;
    Ok(())
}

async fn stop_metadata(stage: &mut Stage) -> Result<(), String> {
    use test_support::ec2::Fault;
    stage.timeline.mark("metadata answer 503");
    stage.fleet.lock().await.ec2.world().metadata_outage = Some(Fault::Status(503));
    tokio::time::sleep(Duration::from_secs(20)).await;
    stage.fleet.lock().await.ec2.world().metadata_outage = None;
    stage.timeline.mark("metadata answer again");
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(())
}

/// Fills the disk of an instance, which then requests its own replacement.
async fn fill_disk(stage: &mut Stage) -> Result<(), String> {
    stage.forget_replacements().await?;
    let fleet = stage.fleet.lock().await;
    let member = &fleet.members[0];
    let id = member.id.clone();
    let told = fleet.ec2.calls("SetInstanceHealth");
    stage.timeline.mark(&format!("the disk of {id} is full"));
    let fill = "dd if=/dev/zero of=/var/tmp/filler bs=1M status=none; ! dd if=/dev/zero of=/var/lib/more count=8 status=none";
    let filled = member.machine.run(fill).await;
    drop(fleet);
    if !filled.status.success() {
        return Err(format!("the disk cannot be filled: {}", String::from_utf8_lossy(&filled.stderr)));
    }
    let replaced = wait_for(&stage.fleet, "it has itself replaced", SETTLE_LIMIT, |fleet| {
        fleet.member(&id).is_none() && fleet.is_settled()
    })
    .await;
    match stage.fleet.lock().await.ec2.calls("SetInstanceHealth") - told {
        1 => replaced,
        times => Err(format!("{times} instances have had themselves replaced, and not one")),
    }
}

async fn stop_health_checks(stage: &mut Stage) -> Result<(), String> {
    stage.forget_replacements().await?;
    let (id, number) = {
        let fleet = stage.fleet.lock().await;
        (fleet.members[0].id.clone(), fleet.members[0].number)
    };
    let told = stage.fleet.lock().await.ec2.calls("SetInstanceHealth");
    stage.timeline.mark(&format!("{id} is taken out of the balancer by hand, and nobody tells the group"));
    {
        let fleet = stage.fleet.lock().await;
        fleet.balancer.deregister(Pool::Fleet, number).await;
        fleet.balancer.check(number, false).await;
    }
    let replaced = wait_for(&stage.fleet, "the switch has had it replaced", SETTLE_LIMIT, |fleet| {
        fleet.member(&id).is_none() && fleet.is_settled()
    })
    .await;
    let fleet = stage.fleet.lock().await;
    fleet.balancer.check(number, true).await;
    match fleet.ec2.calls("SetInstanceHealth") - told {
        1 => replaced,
        times => Err(format!("{times} instances have had themselves replaced, and not one")),
    }
}
