//! Setup and teardown of everything that a rehearsal needs, and the order of the scenarios.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::balancer::Balancer;
use super::cloud::Cloud;
use super::database::Database;
use super::fleet::{self, Fleet, wait_for};
use super::interrupted;
use super::ledger::Ledger;
use super::load::{Caller, Load};
use super::machine::Image;
use super::network::resolve_nothing;
use super::report::{self, Outcome};
use super::scenarios::{Fault, Scenario, Seen};
use super::scratch::Scratch;
use super::sink::Sink;
use super::timeline::{Attempt, Timeline, now};

const SALEBELL: &str = env!("CARGO_BIN_EXE_salebell");
/// Number of instances at the beginning of each scenario, and its upper bound: all of them may exist twice.
const FLEET: usize = 3;
const LARGEST_FLEET: usize = 6;
/// Least requests a second: with fewer, a scenario has proven nothing.
const LEAST_LOAD: f64 = 5.0;
/// Number of requests that establish a steady state before anything happens.
const FIRST_REQUESTS: usize = 50;
/// Timeout for a fleet to return to order.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(240);

/// State of a rehearsal. The fields are dropped in this order.
pub struct Stage {
    pub load: Load,
    pub fleet: fleet::Shared,
    working: JoinHandle<()>,
    pub size: usize,
    pub database: Database,
    pub cloud: Cloud,
    pub sink: Sink,
    pub timeline: Timeline,
    pub look: PgPool,
    /// Images that scenarios roll out in turns; always the one that is not in service.
    pub images: [Image; 2],
    /// Number of rollouts so far.
    pub rollouts: usize,
    pub password: String,
    /// The fault of this scenario.
    pub fault: Option<Fault>,
    /// Numbers of notices, and of repeated ones, before this scenario.
    notices: usize,
    repeated: usize,
    ledger: Ledger,
}

/// Performs the scenarios and reports. Returns whether all have passed; `false` also if interrupted.
pub async fn perform(scenarios: &[Scenario]) -> bool {
    let timeline = Timeline::default();
    let folder = Scratch::new();
    let mut outcomes = Vec::new();
    let fleet = Arc::new(Mutex::new(None));
    let finished = tokio::select! {
        () = play(scenarios, &timeline, &folder, &mut outcomes, &fleet) => true,
        signal = interrupted() => {
            crate::say!("{signal}: taking everything down");
            false
        }
    };
    take_down(fleet).await;
    drop(folder);
    let file = report::write(&timeline, &outcomes, scenarios.len());
    print!("{}", report::table(&outcomes));
    println!("report: {}", file.display());
    finished && outcomes.len() == scenarios.len() && outcomes.iter().all(Outcome::passed)
}

async fn play(
    scenarios: &[Scenario],
    timeline: &Timeline,
    folder: &Scratch,
    outcomes: &mut Vec<Outcome>,
    handle: &Mutex<Option<fleet::Shared>>,
) {
    let mut stage = match Stage::build(timeline.clone(), folder, handle).await {
        Ok(stage) => stage,
        Err(problem) => {
            crate::say!("the fleet does not come up: {problem}");
            return;
        }
    };
    while timeline.attempts(0.0).len() < FIRST_REQUESTS {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (number, scenario) in scenarios.iter().enumerate() {
        let outcome = stage.play(*scenario, number as u64).await;
        crate::say!("{}: {}", scenario.name(), outcome.verdict());
        for problem in &outcome.problems {
            crate::say!("  {problem}");
        }
        if !outcome.passed() {
            for line in stage.cloud.complaints() {
                crate::say!("  the emulator of AWS: {line}");
            }
        }
        let goes_on = outcome.settled;
        outcomes.push(outcome);
        if !goes_on {
            crate::say!("the fleet has not recovered: no further scenario");
            return;
        }
    }
}

/// Stops the machines first: their last messages to the other services no longer matter.
pub async fn take_down(fleet: Arc<Mutex<Option<fleet::Shared>>>) {
    let Some(fleet) = fleet.lock().await.take() else { return };
    let mut fleet = fleet.lock().await;
    crate::say!("taking {} instances down", fleet.members.len());
    fleet.stopped = true;
    let mut members = std::mem::take(&mut fleet.members);
    members.iter_mut().for_each(|member| member.machine.cut_power());
    drop(tokio::task::spawn_blocking(move || drop(members)).await);
}

/// The services around instances.
pub struct Surroundings {
    pub cloud: Cloud,
    pub database: Database,
    pub balancer: Balancer,
    /// Token of a client who may report.
    pub token: String,
    pub password: String,
}

impl Surroundings {
    /// Builds all of it, with the settings of an environment, and a migrated database.
    pub async fn build(folder: &Scratch) -> Result<Surroundings, String> {
        crate::say!("AWS (an emulator), PostgreSQL with a standby, haproxy");
        resolve_nothing().await;
        let password = "first-password".to_owned();
        let (cloud, database, balancer) = tokio::join!(
            Cloud::start(folder.path()),
            Database::start(folder.path(), &password),
            Balancer::start(folder.path())
        );
        let key = salebell::secrets::generate_key().map_err(|error| error.to_string())?;
        let key = secrecy::ExposeSecret::expose_secret(&key).to_owned();
        cloud.put_secret("rehearsal/database", &serde_json::json!({"password": password}).to_string()).await;
        for (name, value) in [
            ("database/url", "postgres://salebell@10.77.0.1:5432/salebell"),
            ("database/reader_url", "postgres://salebell@10.77.0.1:5433/salebell"),
            ("database/password", "secret:rehearsal/database#password"),
            ("webhook/encryption_keys", &key),
            ("webhook/allow_http", "true"),
            ("webhook/allow_networks", "10.77.0.0/24"),
            ("server/trusted_proxies", "10.77.0.1/32"),
            // As many requests as the load has.
            ("server/rate_limits/read", "0"),
            ("server/rate_limits/write", "0"),
            ("server/rate_limits/heavy", "0"),
            // In proportion to the health checks: one a second instead of one in ten seconds.
            ("server/linger_s", "6"),
            ("instance/dead_man_s", "20"),
            // Reserved bytes, in proportion to an instance's small disk.
            ("files/reserve_bytes", "67108864"),
            ("instance/disk_full_s", "10"),
            // Time after which a message comes again that SQS handed to a worker that was stopping.
            ("worker/lease_s", "15"),
        ] {
            cloud.put(name, value).await;
        }
        // For example `server/linger_s=0`, to see the rehearsal fail.
        for setting in std::env::var("SALEBELL_REHEARSE_SETTINGS").unwrap_or_default().split_whitespace() {
            let (name, value) =
                setting.split_once('=').ok_or_else(|| format!("{setting} is not NAME=VALUE"))?;
            cloud.put(name, value).await;
        }
        crate::say!("salebell migrate");
        let settings = [
            ("SALEBELL_DATABASE__URL", Database::url(&password)),
            ("SALEBELL_DATABASE__READER_URL", Database::reader_url(&password)),
            ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", key.clone()),
        ];
        salebell(&["migrate"], &settings).await?;
        let scopes = ["--scope", "prices:write", "--scope", "catalogue:write"];
        let token =
            salebell(&[&["key", "create", "--subject", "load"][..], &scopes].concat(), &settings).await?;
        Ok(Surroundings { cloud, database, balancer, token: token.trim().to_owned(), password })
    }
}

impl Stage {
    async fn build(
        timeline: Timeline,
        folder: &Scratch,
        handle: &Mutex<Option<fleet::Shared>>,
    ) -> Result<Stage, String> {
        let (images, size) = (images()?, fleet_size()?);
        let Surroundings { cloud, database, balancer, token, password } = Surroundings::build(folder).await?;
        let sink = Sink::start(timeline.clone()).await;
        let fleet = Fleet::new(folder.path().to_owned(), balancer, images[0].clone(), timeline.clone()).await;
        let fleet = Arc::new(Mutex::new(fleet));
        *handle.lock().await = Some(fleet.clone());
        let working = fleet::work(fleet.clone());
        fleet.lock().await.live.desired = size;
        wait_for(&fleet, "the fleet serves", SETTLE_LIMIT, |fleet| {
            fleet.is_settled() || fleet.live.launches_failed > 0
        })
        .await?;
        if fleet.lock().await.live.launches_failed > 0 {
            return Err("an instance does not boot".to_owned());
        }
        let caller = Caller::new(token, timeline.clone()).await;
        let look = database.look().await;
        timeline.event("the load begins");
        Ok(Stage {
            load: Load::start(caller),
            fleet,
            working,
            size,
            database,
            cloud,
            sink,
            timeline,
            look,
            images,
            rollouts: 0,
            password,
            fault: None,
            notices: 0,
            repeated: 0,
            ledger: Ledger::default(),
        })
    }

    /// Performs one scenario under load, and checks that everything is in order afterwards.
    async fn play(&mut self, scenario: Scenario, number: u64) -> Outcome {
        self.timeline.event(&format!("— {}: {}", scenario.name(), scenario.about()));
        let begun = now();
        self.fault = None;
        let before = self.ids().await;
        let mut upload = self.load.upload(number + 1);
        upload.begun().await;
        let performed = scenario.perform(self).await;
        let mut problems: Vec<String> = performed.err().into_iter().collect();
        let settled = match self.settle().await {
            Ok(()) => true,
            Err(problem) => {
                problems.push(problem);
                false
            }
        };
        // Late effects of it count too.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let ended = now();
        let uploaded = upload.finish().await;
        problems.extend(uploaded.problem);
        self.load.pause().await;
        let balance = self.ledger.balance(&self.load.caller, &self.sink, &self.look).await;
        problems.extend(balance.problems.iter().cloned());
        problems.extend(self.load.caller.take_given_up());
        self.load.resume();
        let attempts = self.timeline.attempts(begun);
        let requests: Vec<_> = attempts.iter().filter(|attempt| attempt.kind != "notice").collect();
        let failed: Vec<&Attempt> =
            requests.iter().copied().filter(|attempt| attempt.error.is_some()).collect();
        let targets = self.fleet.lock().await.balancer.targets();
        let (allowed, wrong): (Vec<&Attempt>, Vec<&Attempt>) = failed.iter().partition(|attempt| {
            let target = targets.get(&attempt.number).copied();
            self.fault.as_ref().is_some_and(|fault| scenario.allows(attempt, fault, target))
        });
        let replaced = before.difference(&self.ids().await).count();
        let repeated = balance.repeated - std::mem::replace(&mut self.repeated, balance.repeated);
        let (fleet, failed_attempts, resumed) = (self.size, failed.len(), uploaded.resumed);
        let seen = Seen { fleet, failed: failed_attempts, replaced, resumed, repeated };
        problems.extend(scenario.expects(&seen).map(str::to_owned));
        if (requests.len() as f64) < (ended - begun) * LEAST_LOAD {
            problems.push(format!("{} requests are no load", requests.len()));
        }
        let failures = self.timeline.failures(begun);
        problems.extend(wrong.iter().take(20).map(|attempt| {
            let error = attempt.error.as_deref().unwrap_or_default();
            let since = attempt.at - self.fault.as_ref().map_or(begun, |fault| fault.at);
            let target = targets
                .get(&attempt.number)
                .map_or_else(|| "no instance".to_owned(), |t| format!("10.77.0.{t}"));
            format!(
                "{} at {target} failed for no reason that is allowed, {since:.1} s after it began: {error}",
                attempt.kind
            )
        }));
        Outcome {
            scenario: scenario.name(),
            about: scenario.about(),
            begun,
            ended,
            requests: requests.len(),
            failed: failed.len(),
            allowed: allowed.len(),
            replaced,
            pause: longest_pause(&requests, begun, ended),
            resumed: uploaded.resumed,
            notices: balance.notices - std::mem::replace(&mut self.notices, balance.notices),
            repeated,
            failures,
            problems,
            settled,
        }
    }

    /// Waits for a fleet of the usual size that is in order.
    async fn settle(&self) -> Result<(), String> {
        self.fleet.lock().await.live.desired = self.size;
        wait_for(&self.fleet, "the fleet is in order", SETTLE_LIMIT, |fleet| fleet.is_settled()).await
    }

    /// Runs the migration step of the next version.
    pub async fn migrate(&mut self) {
        self.rollouts += 1;
        self.timeline.mark("the migration step of the next version");
        self.database.migrate_further(self.rollouts).await;
    }

    /// The image that is not in service.
    pub async fn other_image(&self) -> Image {
        let current = self.fleet.lock().await.live.image.clone();
        self.images.iter().find(|image| **image != current).expect("there are two").clone()
    }

    /// Notes a cause for which requests may fail from now on and for a while: those of the lost instances.
    pub fn fault(&mut self, what: &str, lost: BTreeSet<u8>) {
        self.timeline.mark(what);
        self.fault = Some(Fault { at: now(), lost });
    }

    /// Simulates that ten minutes have passed: an instance may request its replacement again.
    ///
    /// # Errors
    /// The database refuses the statement.
    pub async fn forget_replacements(&self) -> Result<(), String> {
        let forgotten = sqlx::query("delete from self_terminations").execute(&self.look).await;
        forgotten.map(drop).map_err(|error| error.to_string())
    }

    pub async fn ids(&self) -> BTreeSet<String> {
        self.fleet.lock().await.members.iter().map(|member| member.id.clone()).collect()
    }
}

/// Longest time, in seconds, in which no client got a good answer.
fn longest_pause(requests: &[&Attempt], begun: f64, ended: f64) -> f64 {
    let answers = requests.iter().filter(|attempt| attempt.error.is_none());
    let mut times: Vec<f64> = answers.map(|attempt| attempt.at + attempt.millis / 1000.0).collect();
    times.extend([begun, ended]);
    times.retain(|at| *at <= ended);
    times.sort_by(f64::total_cmp);
    times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.working.abort();
    }
}

/// Number of instances: `SALEBELL_REHEARSE_FLEET`, or three.
fn fleet_size() -> Result<usize, String> {
    let Ok(named) = std::env::var("SALEBELL_REHEARSE_FLEET") else { return Ok(FLEET) };
    match named.parse() {
        Ok(size) if (FLEET..=LARGEST_FLEET).contains(&size) => Ok(size),
        _ => Err(format!("SALEBELL_REHEARSE_FLEET is {named:?}, and not from {FLEET} to {LARGEST_FLEET}")),
    }
}

/// Two images: `SALEBELL_REHEARSE_IMAGES` names folders of `make bake-local`, separated by a space. A single one is
/// rolled out over itself.
fn images() -> Result<[Image; 2], String> {
    let named = std::env::var("SALEBELL_REHEARSE_IMAGES").unwrap_or_default();
    let named: Vec<PathBuf> = named.split_whitespace().map(PathBuf::from).collect();
    let sources = match &named[..] {
        [one] => [one.clone(), one.clone()],
        [old, new] => [old.clone(), new.clone()],
        _ => {
            return Err("SALEBELL_REHEARSE_IMAGES names one or two folders of `make bake-local`; \
                        run `make rehearse`, which makes one"
                .to_owned());
        }
    };
    if let Some(wrong) = sources.iter().find(|source| !source.join("root").is_dir()) {
        return Err(format!(
            "SALEBELL_REHEARSE_IMAGES: {} is no folder of `make bake-local`",
            wrong.display()
        ));
    }
    let mut number = 0;
    Ok(sources.map(|source| {
        number += 1;
        Image { version: format!("image-{number}"), source, files: Vec::new() }
    }))
}

/// Runs a subcommand as the deploy step does; returns its output.
async fn salebell(arguments: &[&str], settings: &[(&str, String)]) -> Result<String, String> {
    let mut command = Command::new(SALEBELL);
    command
        .args(arguments)
        .env_clear()
        .envs(settings.iter().map(|(key, value)| (key, value)))
        .kill_on_drop(true);
    let output = command.current_dir("/").output().await.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("salebell {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
