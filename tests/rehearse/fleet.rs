//! A small, strict Auto Scaling group on top of the tests' stand-in (`ec2`): it launches instances, waits for the
//! launch hook, registers with the load balancer, checks both healths, replaces and refreshes by the group's rules
//! (minimum healthy 100 %, maximum 200 %), and terminates none before the termination hook and the deregistration
//! delay. A second group, the canary's, follows the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

use super::balancer::{Balancer, Health, Pool, TARGETS};
use super::cloud::ENVIRONMENT;
use super::machine::{Hardware, Image, Machine};
use super::network::{METADATA, listen};
use super::timeline::{Count, Timeline, now};
use super::volume;
use test_support::ec2::{Ec2, Group, Hook, Outcome, State};

/// Name of the canary's group.
const CANARY_GROUP: &str = "salebell-rehearsal-canary";
/// Port at which instances find Auto Scaling.
pub const AUTO_SCALING: u16 = 4567;
pub const ZONES: [&str; 3] = ["eu-central-1a", "eu-central-1b", "eu-central-1c"];
/// Timeout of a boot, on a machine with much other work.
const LAUNCH_LIMIT: Duration = Duration::from_secs(180);
/// Timeout of the termination hook without a heartbeat. An hour by default at AWS.
const TERMINATION_LIMIT: Duration = Duration::from_secs(40);
/// Delay between the notification of an instance about its termination and its deregistration: the two happen one after
/// the other, in no order that AWS guarantees.
const DEREGISTERED_AFTER: Duration = Duration::from_secs(1);
/// Time for requests in flight after deregistration.
const DEREGISTRATION_DELAY: Duration = Duration::from_secs(30);
/// Time for which the balancer must see a target unhealthy before the group acts.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(2);
/// Number of failed launches after which a rollout is abandoned.
const LAUNCHES_IN_VAIN: usize = 2;

/// Order of a rollout's replacements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Like an instance refresh with 100 % and 200 %: all missing instances are launched at once, and an old one is
    /// terminated as soon as there is one more than required.
    SideBySide,
    /// Like a rolling update with a batch of one: the next instance is launched once the previous one serves.
    OneByOne,
}

/// Desired state of a group, and the progress of its rollout.
pub struct Wanted {
    /// Image of new instances: the launch template.
    pub image: Image,
    /// Image before the current rollout, for a rollback.
    before: Option<Image>,
    /// Number of failed launches of the current image.
    pub launches_failed: usize,
    /// Whether the last rollout was abandoned.
    pub gave_up: bool,
    pub desired: usize,
    pub pace: Pace,
}

impl Wanted {
    fn nothing(image: Image) -> Wanted {
        let pace = Pace::SideBySide;
        Wanted { image, before: None, launches_failed: 0, gave_up: false, desired: 0, pace }
    }
}

/// One instance of a group.
pub struct Member {
    pub id: String,
    pub pool: Pool,
    pub number: u8,
    pub zone: &'static str,
    pub image: Image,
    pub machine: Machine,
    launched: Instant,
    registered: bool,
    /// It has become healthy and still is: the balancer sends requests.
    pub serving: bool,
    unhealthy_since: Option<Instant>,
    leaving_since: Option<Instant>,
    deregistered: bool,
    going_off: bool,
    /// Time from its launch until the balancer saw it healthy.
    pub ready_after: Option<Duration>,
}

pub struct Fleet {
    pub ec2: Ec2,
    pub balancer: Balancer,
    pub members: Vec<Member>,
    /// Kind of machine on which new instances are booted.
    pub hardware: Hardware,
    pub live: Wanted,
    pub canary: Wanted,
    /// Whether the fleet is being taken down and does no more work.
    pub stopped: bool,
    /// Zones in which no instance can be launched.
    pub lost_zones: BTreeSet<&'static str>,
    timeline: Timeline,
    folder: PathBuf,
    /// Number of instances launched so far.
    pub launched: usize,
    next: u8,
    last: Option<Count>,
}

/// The fleet, shared with the scenarios that observe it while it works.
pub type Shared = Arc<Mutex<Fleet>>;

impl Fleet {
    pub async fn new(folder: PathBuf, balancer: Balancer, image: Image, timeline: Timeline) -> Fleet {
        let group = Group {
            launch_hook: Some(Hook::new("salebell-launch", LAUNCH_LIMIT, Outcome::Abandon)),
            termination_hook: Some(Hook::new("salebell-termination", TERMINATION_LIMIT, Outcome::Continue)),
            replaces_first: true,
            ..Group::new("salebell-rehearsal")
        };
        let ec2 = Ec2::start(group).await;
        ec2.world().user_data = Some(include_str!("../../userdata/first-boot.sh").to_owned());
        let metadata = tokio::net::TcpListener::bind((METADATA, 80)).await.expect("port 80 of the namespace");
        ec2.serve_metadata(metadata);
        let target = ec2.autoscaling();
        let listener = listen(AUTO_SCALING).await;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut server) = tokio::net::TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Fleet {
            ec2,
            balancer,
            members: Vec::new(),
            hardware: Hardware::Container,
            live: Wanted::nothing(image.clone()),
            canary: Wanted::nothing(image),
            stopped: false,
            lost_zones: BTreeSet::new(),
            timeline,
            folder,
            launched: 0,
            next: *TARGETS.start(),
            last: None,
        }
    }

    /// Begins a rollout: every instance of another image is replaced.
    pub fn refresh(&mut self, image: Image, pace: Pace) {
        let how = match pace {
            Pace::SideBySide => "instance refresh",
            Pace::OneByOne => "rolling update, one by one,",
        };
        let live = &mut self.live;
        self.timeline.mark(&format!("{how} from {} to {}", live.image.version, image.version));
        live.before = Some(std::mem::replace(&mut live.image, image));
        (live.launches_failed, live.gave_up, live.pace) = (0, false, pace);
    }

    /// Sets image and desired number of instances of the canary's group, which is empty.
    pub fn want_canary(&mut self, image: Image, desired: usize) {
        let pace = Pace::SideBySide;
        self.canary = Wanted { image, before: None, launches_failed: 0, gave_up: false, desired, pace };
    }

    pub fn wanted(&self, pool: Pool) -> &Wanted {
        match pool {
            Pool::Fleet => &self.live,
            Pool::Canary => &self.canary,
        }
    }

    fn wanted_mut(&mut self, pool: Pool) -> &mut Wanted {
        match pool {
            Pool::Fleet => &mut self.live,
            Pool::Canary => &mut self.canary,
        }
    }

    /// Instances of a group.
    pub fn of(&self, pool: Pool) -> impl DoubleEndedIterator<Item = &Member> {
        self.members.iter().filter(move |member| member.pool == pool)
    }

    fn state(&self, id: &str) -> (State, bool) {
        let world = self.ec2.world();
        let instance = world.group.instance(id);
        (instance.state, instance.healthy)
    }

    /// Whether an instance is in service, of the launch template's image, and gets requests from the balancer.
    fn is_good(&self, member: &Member) -> bool {
        let (state, healthy) = self.state(&member.id);
        let image = &self.wanted(member.pool).image;
        state == State::InService && healthy && member.serving && member.image == *image
    }

    /// Whether the desired number of instances of each group serves, all of its image, and there is no other instance.
    pub fn is_settled(&self) -> bool {
        let of_the_size = |pool| self.of(pool).count() == self.wanted(pool).desired;
        Pool::ALL.into_iter().all(of_the_size) && self.members.iter().all(|member| self.is_good(member))
    }

    pub fn member(&mut self, id: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    /// One round of the group's work.
    async fn work(&mut self) {
        let health = self.balancer.health().await;
        for at in 0..self.members.len() {
            self.attend(at, &health).await;
        }
        let gone: Vec<_> =
            self.members.extract_if(.., |member| member.going_off && member.machine.is_off()).collect();
        for member in gone {
            self.timeline.event(&format!("{} is off", member.id));
            self.balancer.forget(member.pool, member.number).await;
            // Dropping it waits for the cleanup of boot-instance.sh.
            drop(tokio::task::spawn_blocking(move || drop(member)));
        }
        Pool::ALL.into_iter().for_each(|pool| self.launch_and_terminate(pool));
        self.count();
    }

    /// Performs the next step for one instance.
    async fn attend(&mut self, at: usize, health: &BTreeMap<(Pool, u8), Health>) {
        let (state, believed) = self.state(&self.members[at].id);
        let (pool, number) = (self.members[at].pool, self.members[at].number);
        let seen = health.get(&(pool, number)).copied().unwrap_or(Health::Unknown);
        let is_off = self.members[at].machine.is_off();
        let member = &mut self.members[at];
        let id = member.id.clone();
        if is_off && !member.going_off && state != State::Terminated {
            // EC2 notices that the machine is off, without any hook.
            self.timeline.event(&format!("{id} is off by itself"));
            self.lose(at).await;
            return;
        }
        match state {
            State::PendingWait | State::PendingProceed => {}
            State::InService if !member.registered => {
                member.registered = true;
                let age = member.launched.elapsed().as_secs_f64();
                self.timeline.event(&format!("{id} has completed its launch hook after {age:.1} s"));
                self.balancer.register(pool, number).await;
            }
            State::InService if seen == Health::Healthy => {
                member.unhealthy_since = None;
                if !member.serving {
                    member.serving = true;
                    member.ready_after.get_or_insert(member.launched.elapsed());
                    self.timeline.event(&format!("{id} gets requests"));
                }
            }
            // The group ignores an instance that was deregistered by hand.
            State::InService if member.serving && seen == Health::Unhealthy => {
                let since = *member.unhealthy_since.get_or_insert_with(Instant::now);
                if believed && since.elapsed() > UNHEALTHY_AFTER {
                    member.serving = false;
                    self.timeline.event(&format!("{id} is unhealthy for the balancer"));
                    self.ec2.world().group.set_health(&id, false, Instant::now());
                }
            }
            State::InService => {}
            State::TerminatingWait | State::TerminatingProceed | State::Terminated => {
                self.see_off(at, state, seen).await
            }
        }
    }

    /// Terminates an instance: deregisters it, waits for its hook and for requests in flight, and switches it off.
    async fn see_off(&mut self, at: usize, state: State, seen: Health) {
        let member = &mut self.members[at];
        member.serving = false;
        let leaving = *member.leaving_since.get_or_insert_with(Instant::now);
        if member.registered && !member.deregistered {
            if leaving.elapsed() >= DEREGISTERED_AFTER {
                member.deregistered = true;
                self.balancer.deregister(member.pool, member.number).await;
            }
            return;
        }
        let drained = !member.registered
            || !matches!(seen, Health::Leaving(1..))
            || leaving.elapsed() > DEREGISTERED_AFTER + DEREGISTRATION_DELAY;
        if state != State::Terminated || !drained {
            return;
        }
        if !member.going_off {
            member.going_off = true;
            let ended = self.ec2.world().group.instance(&member.id).results.last().cloned();
            let hook = match ended {
                Some(ended) if ended.by_default => "its hook's time is over",
                Some(ended) if ended.outcome == Outcome::Abandon => "it has abandoned its launch",
                _ => "it has completed its hook",
            };
            self.timeline.event(&format!("{}: {hook}, power off", member.id));
            if !member.registered {
                for line in member.machine.complaints() {
                    self.timeline.event(&format!("{}: {line}", member.id));
                }
                self.note_failed_launch(at);
            }
        }
        self.members[at].machine.switch_off();
    }

    /// Counts a failed launch if an instance goes that the balancer never saw healthy, and its image is the desired
    /// one.
    fn note_failed_launch(&mut self, at: usize) {
        let (pool, image) = (self.members[at].pool, self.members[at].image.clone());
        let wanted = self.wanted_mut(pool);
        wanted.launches_failed += usize::from(wanted.image == image);
    }

    /// Removes an instance that no longer exists.
    async fn lose(&mut self, at: usize) {
        if !self.members[at].registered {
            self.note_failed_launch(at);
        }
        let member = &mut self.members[at];
        (member.going_off, member.serving) = (true, false);
        let (id, pool, number) = (member.id.clone(), member.pool, member.number);
        self.balancer.forget(pool, number).await;
        let mut world = self.ec2.world();
        let state = world.group.instance(&id).state;
        if matches!(state, State::InService | State::PendingWait) {
            world.group.terminate(&id, Instant::now());
        }
        // There is no process left to wait for.
        let _ = world.group.complete(&id, "salebell-termination", Outcome::Continue, Instant::now());
    }

    fn launch_and_terminate(&mut self, pool: Pool) {
        let wanted = self.wanted_mut(pool);
        if wanted.launches_failed >= LAUNCHES_IN_VAIN
            && let Some(before) = wanted.before.take()
        {
            let given_up = std::mem::replace(&mut wanted.image, before);
            (wanted.gave_up, wanted.launches_failed) = (true, 0);
            self.timeline.event(&format!("{} does not launch: the refresh is given up", given_up.version));
        }
        let (desired, pace) = (self.wanted(pool).desired, self.wanted(pool).pace);
        let (mut good, mut coming, mut serving) = (Vec::new(), 0, 0);
        let (mut unhealthy, mut outdated) = (Vec::new(), Vec::new());
        for member in self.of(pool) {
            let (state, healthy) = self.state(&member.id);
            let is_leaving = !matches!(state, State::PendingWait | State::PendingProceed | State::InService);
            serving += usize::from(state == State::InService && healthy && member.serving);
            match () {
                () if is_leaving || member.going_off => {}
                () if !healthy => unhealthy.push(member.id.clone()),
                () if member.image != self.wanted(pool).image => {
                    outdated.push((member.id.clone(), state, member.serving));
                }
                () if state == State::InService && member.serving => good.push(member.id.clone()),
                () => coming += 1,
            }
        }
        // Replacements are launched all at once, and so is a rollout unless it goes one by one; never more than 200 %.
        let missing = desired.saturating_sub(good.len() + coming);
        let launches = match pace {
            Pace::SideBySide => missing,
            Pace::OneByOne => {
                let lost = missing.saturating_sub(outdated.len());
                lost.max(usize::from(coming == 0 && missing > 0 && !outdated.is_empty()))
            }
        };
        let room = (2 * desired).saturating_sub(self.of(pool).count());
        for _ in 0..launches.min(room) {
            self.launch(pool);
        }
        let terminate = |id: &str, why: &str| {
            self.timeline.event(&format!("{id} is terminated: {why}"));
            self.ec2.world().group.terminate(id, Instant::now());
        };
        // Minimum healthy 100 %: terminate only while there is one more than required.
        let mut spare = serving.saturating_sub(desired);
        if let Some(id) = unhealthy.first().filter(|_| serving >= desired) {
            terminate(id, "unhealthy, and replaced");
        } else if !outdated.is_empty() {
            for (id, state, is_serving) in &outdated {
                if !is_serving && *state == State::PendingWait {
                    terminate(id, "of another image");
                } else if *is_serving && spare > 0 {
                    spare -= 1;
                    terminate(id, "of another image");
                }
            }
        } else if good.len() > desired && coming == 0 {
            terminate(&self.surplus(&good), "scale-in");
        }
    }

    /// The oldest instance of the fullest zone.
    fn surplus(&self, good: &[String]) -> String {
        let of_zone = |zone: &str| {
            self.members.iter().filter(|member| good.contains(&member.id) && member.zone == zone).count()
        };
        let candidates = self.members.iter().filter(|member| good.contains(&member.id));
        let chosen = candidates.rev().max_by_key(|member| of_zone(member.zone)).expect("there are some");
        chosen.id.clone()
    }

    fn launch(&mut self, pool: Pool) {
        let image = self.wanted(pool).image.clone();
        let stays = |member: &&Member| {
            let (state, healthy) = self.state(&member.id);
            let is_leaving = !matches!(state, State::PendingWait | State::PendingProceed | State::InService);
            healthy && !is_leaving && member.image == image
        };
        let in_zone = |zone: &&&str| self.of(pool).filter(stays).filter(|it| it.zone == **zone).count();
        let zones = ZONES.iter().filter(|zone| !self.lost_zones.contains(**zone));
        let zone = *zones.min_by_key(in_zone).expect("a zone is left");
        self.launched += 1;
        let (id, number) = (format!("i-{:08x}", self.launched), self.next_address());
        let address = Ipv4Addr::new(10, 77, 0, number);
        self.ec2.launch_at(&id, IpAddr::V4(address));
        {
            let mut world = self.ec2.world();
            let instance = world.group.instance_mut(&id);
            instance.zone = zone.to_owned();
            if pool == Pool::Canary {
                // It has the same hooks, and the same stack.
                instance.group = CANARY_GROUP.to_owned();
                instance.tags.insert("aws:autoscaling:groupName".to_owned(), CANARY_GROUP.to_owned());
            }
            for (name, value) in [
                ("Environment", ENVIRONMENT),
                ("aws:cloudformation:stack-name", "salebell-rehearsal"),
                ("Version", &image.version),
            ] {
                instance.tags.insert(name.to_owned(), value.to_owned());
            }
        }
        let folder = self.folder.join(&id);
        std::fs::create_dir(&folder).expect("a folder");
        volume::attach(&folder);
        let role = if pool == Pool::Canary { ", the canary," } else { "" };
        self.timeline.event(&format!("{id}{role} is launched in {zone} from {}", image.version));
        self.members.push(Member {
            machine: Machine::boot(&image, self.hardware, &folder, address),
            id,
            pool,
            number,
            zone,
            image,
            launched: Instant::now(),
            registered: false,
            serving: false,
            unhealthy_since: None,
            leaving_since: None,
            deregistered: false,
            going_off: false,
            ready_after: None,
        });
    }

    fn next_address(&mut self) -> u8 {
        loop {
            let number = self.next;
            self.next = if number == *TARGETS.end() { *TARGETS.start() } else { number + 1 };
            if self.members.iter().all(|member| member.number != number) {
                return number;
            }
        }
    }

    fn count(&mut self) {
        let mut count = Count { at: now(), serving: 0, coming: 0, leaving: 0 };
        for member in &self.members {
            match self.state(&member.id).0 {
                State::InService if member.serving => count.serving += 1,
                State::PendingWait | State::PendingProceed | State::InService => count.coming += 1,
                _ => count.leaving += 1,
            }
        }
        let changed = self.last.is_none_or(|last| Count { at: count.at, ..last } != count);
        if changed {
            self.last = Some(count);
            self.timeline.count(count);
        }
    }
}

/// Runs the group until the task is aborted.
pub fn work(fleet: Shared) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            {
                let mut fleet = fleet.lock().await;
                if fleet.stopped {
                    return;
                }
                fleet.work().await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

/// Waits until `condition` holds for the fleet.
///
/// # Errors
/// It does not hold within `limit`; contains the actual state.
pub async fn wait_for(
    fleet: &Shared,
    what: &str,
    limit: Duration,
    mut condition: impl FnMut(&mut MutexGuard<'_, Fleet>) -> bool,
) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        {
            let mut fleet = fleet.lock().await;
            if condition(&mut fleet) {
                return Ok(());
            }
            if begun.elapsed() > limit {
                let states: Vec<_> = fleet
                    .members
                    .iter()
                    .map(|member| format!("{} {:?}", member.id, fleet.state(&member.id)))
                    .collect();
                let console = fleet.members.iter().rev().find(|member| !member.serving);
                let console = console.map_or_else(String::new, |member| member.machine.console());
                let end: Vec<&str> = console.lines().rev().take(12).collect();
                let end: Vec<&str> = end.into_iter().rev().collect();
                return Err(format!(
                    "not within {} s: {what}; there are {}\n{}",
                    limit.as_secs(),
                    states.join(", "),
                    end.join("\n")
                ));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
