//! `make rehearse-vm`: one instance as a full virtual machine, with the kernel, the initrd, the fstab and the network
//! settings of its image, in the same surroundings as a fleet. It is launched, serves, loses its power, serves again
//! and is terminated; another instance, which cannot boot, is abandoned and stays off.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use salebell::clock::Clock;
use serde_json::json;
use tokio::sync::Mutex;

use super::efs::{Efs, NAME, Who};
use super::fleet::{self, Fleet, wait_for};
use super::interrupted;
use super::load::url;
use super::machine::{Hardware, Image, Machine};
use super::network::HOST;
use super::scratch::Scratch;
use super::stage::{Surroundings, take_down};
use super::timeline::{Timeline, now};
use super::vpc;
use test_support::ec2::{Hook, Outcome};

/// Timeout from power-on to requests, on a machine with much other work.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// Timeout of its self-examination.
const LOOK_LIMIT: Duration = Duration::from_secs(300);
/// Timeout of drain, hook, and shutdown.
const END_LIMIT: Duration = Duration::from_secs(240);
/// Timeout for an instance to notice that EFS is unavailable, or available again.
const AWAY_LIMIT: Duration = Duration::from_secs(180);
/// Timeout of requests that must not wait for EFS.
const QUICK: Duration = Duration::from_secs(3);
/// Size of a file in bytes.
const FILE: usize = 3_000_000;
/// Number of requests in each phase of serving.
const REQUESTS: usize = 100;
/// Texts on its console during the boot, and their names in the report.
const MILESTONES: [(&str, &str); 4] = [
    ("Run /init as init process", "initrd"),
    ("systemd[1]: Detected architecture", "systemd"),
    ("Reached target multi-user.target", "multi-user"),
    ("the hook salebell-launch is completed", "ready"),
];
/// Text on the console at the end of an orderly shutdown.
const POWER_DOWN: &str = "reboot: Power down";

/// A line of the final table: a proven fact and its time.
struct Proof {
    what: String,
    at: f64,
    outcome: Result<String, String>,
}

#[derive(Default)]
struct Proofs(Vec<Proof>);

impl Proofs {
    /// Notes the outcome of a step.
    ///
    /// # Errors
    /// The step has failed, and with it the whole rehearsal.
    fn note(&mut self, what: &str, outcome: Result<String, String>) -> Result<(), String> {
        let failed = outcome.as_ref().err().cloned();
        let (verdict, text) = match &outcome {
            Ok(text) => ("ok", text),
            Err(text) => ("FAILED", text),
        };
        crate::say!("{what}: {verdict} {text}");
        self.0.push(Proof { what: what.to_owned(), at: now(), outcome });
        failed.map_or(Ok(()), Err)
    }

    fn table(&self) -> String {
        let mut text = String::new();
        for proof in &self.0 {
            let (verdict, about) = match &proof.outcome {
                Ok(about) => ("ok", about.as_str()),
                Err(about) => ("FAILED", about.lines().next().unwrap_or_default()),
            };
            let _ = writeln!(text, "{:5.0} s  {:<6}  {:<34}  {about}", proof.at, verdict, proof.what);
        }
        text
    }
}

/// Performs it; returns whether everything was in order. `false` also if interrupted.
pub async fn perform() -> bool {
    let folder = Scratch::new();
    let fleet = Arc::new(Mutex::new(None));
    let mut proofs = Proofs::default();
    let ended = tokio::select! {
        ended = play(&folder, &fleet, &mut proofs) => ended,
        signal = interrupted() => Err(format!("{signal}: taking everything down")),
    };
    take_down(fleet).await;
    drop(folder);
    print!("{}", proofs.table());
    match &ended {
        Ok(()) => println!("passed after {:.0} s", now()),
        Err(problem) => {
            let first = problem.lines().next().unwrap_or_default();
            println!("FAILED after {:.0} s: {first}", now());
        }
    }
    ended.is_ok()
}

async fn play(
    folder: &Scratch,
    handle: &Mutex<Option<fleet::Shared>>,
    proofs: &mut Proofs,
) -> Result<(), String> {
    let mut image = image()?;

    let around = Surroundings::build(folder).await?;
    let _vpc = vpc::start(folder.path()).await;
    let mut efs = Efs::start(folder.path()).await?;
    image.files.extend(efs.files());
    for (name, value) in [("files/efs", NAME), ("files/mounted", "true")] {
        around.cloud.put(name, value).await;
    }
    let timeline = Timeline::default();
    let mut fleet = Fleet::new(folder.path().to_owned(), around.balancer, image.clone(), timeline).await;
    fleet.hardware = Hardware::Virtual;
    fleet.ec2.world().group.launch_hook = Some(Hook::new("salebell-launch", BOOT_LIMIT, Outcome::Abandon));
    fleet.ec2.world().group.termination_hook =
        Some(Hook::new("salebell-termination", END_LIMIT, Outcome::Continue));
    fleet.live.desired = 1;
    let fleet = Arc::new(Mutex::new(fleet));
    *handle.lock().await = Some(fleet.clone());
    let _working = Working(fleet::work(fleet.clone()));
    let client = Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
    let client = client.timeout(Duration::from_secs(30)).build().map_err(|error| error.to_string())?;
    let caller = Caller { client, token: around.token };

    // The first boot, as the group performs it.
    let begun = Instant::now();
    let booted = follow(&fleet, begun).await;
    proofs.note("a launch, to the first request", booted)?;
    let size = fleet.lock().await.members[0].machine.volume_megabytes();
    proofs.note("requests through the balancer", caller.ask(REQUESTS).await)?;
    let first = look(&fleet, proofs, "the first boot").await?;
    proofs.note("the root file system has grown", grown(&first, size))?;

    // The power fails during operation, and returns. The group pauses, so the instance is not replaced meanwhile.
    {
        let mut fleet = fleet.lock().await;
        crate::say!("its power is cut; it is switched on again");
        fleet.members[0].machine.cut_power();
        off(&mut fleet.members[0].machine, Duration::from_secs(30)).await?;
        fleet.members[0].machine.boot_again();
        let begun = Instant::now();
        let again = "waits for nothing: the instance is InService";
        let booted = console_says(&mut fleet.members[0].machine, again, BOOT_LIMIT).await;
        let booted = booted.map(|()| format!("{:.1} s", begun.elapsed().as_secs_f64()));
        proofs.note("the same disk boots again", booted)?;
    }
    wait_for(&fleet, "it gets requests again", BOOT_LIMIT, |fleet| fleet.is_settled()).await?;
    caller.until_served().await?;
    proofs.note("requests through the balancer", caller.ask(REQUESTS).await)?;
    let second = look(&fleet, proofs, "the second boot").await?;
    proofs.note("it is the same machine", same(&first, &second))?;
    files_on_efs(&fleet, &mut efs, &caller, proofs).await?;
    // From here on EFS does not answer, and the shutdown must not wait for it.
    efs.hangs(true);

    // Termination as the group performs it.
    let (id, console) = {
        let mut fleet = fleet.lock().await;
        let member = &fleet.members[0];
        let console = folder.path().join("console-of-the-end");
        std::fs::hard_link(member.machine.folder.join("console"), &console)
            .map_err(|error| error.to_string())?;
        let id = member.id.clone();
        fleet.live.desired = 0;
        (id, console)
    };
    let begun = Instant::now();
    let gone = wait_for(&fleet, "it is off", END_LIMIT, |fleet| fleet.members.is_empty()).await;
    let results = fleet.lock().await.ec2.world().group.instance(&id).results.clone();
    let console = std::fs::read(console).map_err(|error| error.to_string())?;
    let in_order = results.len() == 2 && results.iter().all(|it| !it.by_default);
    let ended = gone.and_then(|()| match String::from_utf8_lossy(&console).contains(POWER_DOWN) {
        true if in_order => {
            let seconds = begun.elapsed().as_secs_f64();
            Ok(format!("{seconds:.1} s: drained, both hooks completed, off by ACPI, while EFS hangs"))
        }
        true => Err(format!("it has completed {results:?}")),
        false => Err("its power had to be cut".to_owned()),
    });
    proofs.note("a termination in order", ended)?;

    refuse(folder, &fleet, &image, proofs).await
}

/// Checks that files are on EFS, over TLS and only there; while it is unavailable, requests for files are refused, and
/// no others.
async fn files_on_efs(
    fleet: &fleet::Shared,
    efs: &mut Efs,
    caller: &Caller,
    proofs: &mut Proofs,
) -> Result<(), String> {
    let instance = format!("https://10.77.0.{}:8443", fleet.lock().await.members[0].number);
    let kept = async {
        caller.keep_a_file(1).await?;
        // Owned by the user salebell, by its number.
        match efs.kept().iter().filter(|(length, owner)| *length == FILE as u64 && *owner == 650).count() {
            1 => Ok(format!("{FILE} bytes by way of the balancer, on EFS under user 650, and back")),
            _ => Err(format!("on EFS there are (length, owner) {:?}", efs.kept())),
        }
    };
    proofs.note("a file on EFS", kept.await)?;

    efs.hangs(true);
    let away = caller.is_away(&instance, "does not answer").await;
    efs.hangs(false);
    let away = match away {
        Ok(seconds) => caller.is_back(&instance, 2).await.map(|back| format!("{seconds}; {back}")),
        problem => problem,
    };
    proofs.note("EFS hangs", away)?;

    for (who, what) in
        [(Who::OtherName, "EFS under another name"), (Who::OtherAuthority, "EFS of another authority")]
    {
        efs.becomes(who).await?;
        let away = caller.is_away(&instance, "").await;
        let away =
            if efs.was_refused(who) { away } else { Err("nobody has refused its certificate".to_owned()) };
        proofs.note(what, away)?;
    }
    efs.becomes(Who::Itself).await?;
    proofs.note("EFS is itself again", caller.is_back(&instance, 3).await)
}

/// Checks a failing boot: the machine shuts down by itself, and refuses a second boot even if everything is in order by
/// then.
async fn refuse(
    folder: &Scratch,
    fleet: &fleet::Shared,
    image: &Image,
    proofs: &mut Proofs,
) -> Result<(), String> {
    let (id, address) = ("i-without-a-tag", Ipv4Addr::new(10, 77, 0, 100));
    let fleet = fleet.lock().await;
    fleet.ec2.launch_at(id, address.into());
    let place = folder.path().join(id);
    std::fs::create_dir(&place).map_err(|error| error.to_string())?;
    crate::say!("another one is launched, without its tags");
    let mut machine = Machine::boot(image, Hardware::Virtual, &place, address);
    let begun = Instant::now();
    let state = || fleet.ec2.world().group.instance(id).state;
    let given_up = async {
        off(&mut machine, BOOT_LIMIT).await?;
        tells(&machine, "first-boot: the tag Environment is missing, or is no name")?;
        tells(&machine, POWER_DOWN)?;
        let results = fleet.ec2.world().group.instance(id).results.clone();
        match results.first() {
            Some(ended) if ended.outcome == Outcome::Abandon && !ended.by_default => Ok(()),
            _ => Err(format!("the launch hook has ended with {results:?}, the instance is {:?}", state())),
        }
    };
    let given_up = given_up.await.map(|()| format!("{:.1} s, by itself", begun.elapsed().as_secs_f64()));
    proofs.note("a failed boot is given up", given_up)?;

    let tags = [("Environment", super::cloud::ENVIRONMENT), ("aws:cloudformation:stack-name", "salebell")];
    for (name, value) in tags {
        fleet.ec2.world().group.instance_mut(id).tags.insert(name.to_owned(), value.to_owned());
    }
    machine.boot_again();
    let begun = Instant::now();
    let refused = async {
        off(&mut machine, BOOT_LIMIT).await?;
        tells(&machine, "Assertion failed for")?;
        tells(&machine, POWER_DOWN)
    };
    let refused = refused.await.map(|()| format!("{:.1} s, by itself", begun.elapsed().as_secs_f64()));
    proofs.note("it refuses a second boot", refused)
}

/// The image that `SALEBELL_REHEARSE_IMAGES` names.
fn image() -> Result<Image, String> {
    let named = std::env::var("SALEBELL_REHEARSE_IMAGES").unwrap_or_default();
    let source = named.split_whitespace().next().map(PathBuf::from).unwrap_or_default();
    if !source.join("root/boot").is_dir() {
        return Err(
            "SALEBELL_REHEARSE_IMAGES names no folder of `make bake-local`; run `make rehearse-vm`, \
                    which bakes one"
                .to_owned(),
        );
    }
    Ok(Image { version: "image-1".to_owned(), source, files: Vec::new() })
}

/// Follows the first boot on the console until the balancer sends requests. Returns the time of each milestone.
async fn follow(fleet: &fleet::Shared, begun: Instant) -> Result<String, String> {
    let mut passed: Vec<String> = Vec::new();
    let mut console = String::new();
    wait_for(fleet, "the machine serves", BOOT_LIMIT, |fleet| {
        if fleet.live.launches_failed > 0 {
            return true;
        }
        let Some(member) = fleet.members.first() else { return false };
        console = plain(&member.machine.console());
        while let Some((_, name)) = MILESTONES.get(passed.len()).filter(|(text, _)| console.contains(text)) {
            let line = format!("{name} {:.1} s", begun.elapsed().as_secs_f64());
            crate::say!("{line}");
            passed.push(line);
        }
        fleet.is_settled()
    })
    .await?;
    if fleet.lock().await.live.launches_failed > 0 {
        return Err(format!("the machine has gone off:\n{}", end_of(&console)));
    }
    // A kernel with built-in disk drivers boots without an initrd as well.
    if let Some((text, name)) = MILESTONES.get(passed.len()) {
        return Err(format!("it serves, and its console has not said {text:?} ({name})"));
    }
    Ok(format!("{}, requests {:.1} s", passed.join(", "), begun.elapsed().as_secs_f64()))
}

/// Waits for the machine's report about itself, notes it, and returns it.
async fn look(fleet: &fleet::Shared, proofs: &mut Proofs, when: &str) -> Result<String, String> {
    let waited = wait_for(fleet, "it has looked at itself", LOOK_LIMIT, |fleet| {
        fleet.members.first().is_some_and(|member| member.machine.report().lines().any(|line| line == "end"))
    });
    let waited = waited.await;
    let report = fleet.lock().await.members.first().map(|member| member.machine.report()).unwrap_or_default();
    for line in report.lines().filter(|line| *line != "end") {
        crate::say!("  {line}");
    }
    waited?;
    let count = report.lines().find(|line| line.starts_with("check ") && line.contains(" checks, "));
    let checked = match count {
        Some(line) if line.ends_with(" 0 failed") => Ok(line.trim_start_matches("check ").to_owned()),
        other => Err(other.unwrap_or("check-instance.sh does not end").to_owned()),
    };
    proofs.note(&format!("the checks, {when}"), checked)?;
    let errors: Vec<_> = report.lines().filter_map(|line| line.strip_prefix("error ")).collect();
    if !errors.is_empty() {
        return proofs.note(&format!("the journal, {when}"), Err(errors.join("; "))).map(|()| report);
    }
    let times = format!(
        "systemd {} ms, multi-user {} ms, ready {} ms",
        fact(&report, "systemd-ms"),
        fact(&report, "multi-user-ms"),
        fact(&report, "ready-ms")
    );
    proofs.note(&format!("from the kernel on, {when}"), Ok(times))?;
    let wrong_by =
        fact(&report, "clock").parse::<i64>().unwrap_or_default() - Clock::system().now().timestamp();
    let clock = match wrong_by.abs() {
        // The report is older than the time at which it is read.
        0..10 => Ok(format!("right, and was two minutes slow; cloud-init sees {}", fact(&report, "cloud"))),
        _ => Err(format!("wrong by {wrong_by} s")),
    };
    proofs.note(&format!("time and place, {when}"), clock)?;
    Ok(report)
}

fn fact<'a>(report: &'a str, name: &str) -> &'a str {
    let of_name = |line: &'a str| line.strip_prefix("fact ")?.strip_prefix(name)?.strip_prefix(' ');
    report.lines().find_map(of_name).unwrap_or_default()
}

fn grown(report: &str, (volume, written): (u64, u64)) -> Result<String, String> {
    let megabytes: u64 = fact(report, "root-megabytes").parse().unwrap_or_default();
    let root = fact(report, "root");
    let text = format!("{megabytes} MB of a volume of {volume}, {written} written; {root}");
    // The file system itself needs the rest.
    if megabytes * 100 > volume * 90 && root.contains(" rw,") { Ok(text) } else { Err(text) }
}

fn same(first: &str, second: &str) -> Result<String, String> {
    let of = |name| (fact(first, name), fact(second, name));
    let ((id, later), (boot, boot_later)) = (of("machine-id"), of("boot-id"));
    if id.len() == 32 && id == later && boot != boot_later && fact(second, "boots") == "2" {
        Ok(format!("machine-id {id}, its journal has both boots"))
    } else {
        let boots = fact(second, "boots");
        Err(format!("machine-id {id:?} and {later:?}, {boots} boots in its journal"))
    }
}

/// Removes colours.
fn plain(console: &str) -> String {
    let mut pieces = console.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + piece.split_once('m').map_or("", |(_, rest)| rest))
}

fn tells(machine: &Machine, text: &str) -> Result<(), String> {
    if machine.console().contains(text) {
        Ok(())
    } else {
        Err(format!("{text:?} is not on the console:\n{}", end_of(&machine.console())))
    }
}

fn end_of(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

async fn console_says(machine: &mut Machine, text: &str, limit: Duration) -> Result<(), String> {
    let begun = Instant::now();
    while !machine.console().contains(text) {
        if machine.is_off() || begun.elapsed() > limit {
            return Err(format!("{text:?} is not on the console:\n{}", end_of(&machine.console())));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn off(machine: &mut Machine, limit: Duration) -> Result<(), String> {
    let begun = Instant::now();
    while !machine.is_off() {
        if begun.elapsed() > limit {
            return Err(format!("not off after {} s:\n{}", limit.as_secs(), end_of(&machine.console())));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Runs the group for the lifetime of this value.
struct Working(tokio::task::JoinHandle<()>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A client of the service, through the balancer.
struct Caller {
    client: Client,
    token: String,
}

impl Caller {
    async fn get(&self) -> Result<StatusCode, String> {
        let asked = self.client.get(url("/v1/games")).bearer_auth(&self.token).send().await;
        asked.map(|answer| answer.status()).map_err(|error| error.to_string())
    }

    /// Waits until the balancer sends it requests again.
    async fn until_served(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.get().await {
                Ok(StatusCode::OK) => return Ok(()),
                last if begun.elapsed() > BOOT_LIMIT => return Err(format!("no request succeeds: {last:?}")),
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Sends a request directly to an instance; the timeout is two seconds, whatever hangs.
    async fn ask_one(&self, url: &str) -> Result<(StatusCode, String), String> {
        let asked =
            self.client.get(url).timeout(QUICK).send().await.map_err(|error| format!("{url}: {error}"))?;
        let status = asked.status();
        Ok((status, asked.text().await.map_err(|error| error.to_string())?))
    }

    /// Uploads a file and reads it back.
    async fn keep_a_file(&self, number: u8) -> Result<(), String> {
        let content = vec![number; FILE];
        let put = self.client.put(url(&format!("/v1/files/{number}"))).bearer_auth(&self.token);
        let put = put.body(content.clone()).send().await.map_err(|error| error.to_string())?;
        let (status, text) = (put.status(), put.text().await.map_err(|error| error.to_string())?);
        let file: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let Some(id) = file["id"].as_str().filter(|_| status == StatusCode::CREATED) else {
            return Err(format!("an upload came to {status}: {text}"));
        };
        let read = self.client.get(url(&format!("/v1/files/{id}/content"))).bearer_auth(&self.token);
        let read = read.send().await.map_err(|error| error.to_string())?;
        let bytes = read.bytes().await.map_err(|error| error.to_string())?;
        if bytes == content { Ok(()) } else { Err(format!("{} bytes came back, not as sent", bytes.len())) }
    }

    /// Waits until an instance reports that its files are unavailable, and checks that it refuses uploads for that
    /// reason and answers all other requests.
    async fn is_away(&self, instance: &str, why: &str) -> Result<String, String> {
        let begun = Instant::now();
        loop {
            self.is_alive(instance).await?;
            let (status, text) = self.ask_one(&format!("{instance}/readyz")).await?;
            if status == StatusCode::SERVICE_UNAVAILABLE && text.contains("\"files\"") && text.contains(why) {
                break;
            }
            if begun.elapsed() > AWAY_LIMIT {
                return Err(format!("/readyz does not say that it is away: {status} {text}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let put = self.client.put(url("/v1/files/refused")).bearer_auth(&self.token).timeout(QUICK);
        let put = put.body(vec![0; FILE]).send().await.map_err(|error| format!("an upload: {error}"))?;
        let (status, text) = (put.status(), put.text().await.map_err(|error| error.to_string())?);
        if status != StatusCode::SERVICE_UNAVAILABLE
            || !text.contains("file storage is temporarily unavailable")
        {
            return Err(format!("an upload came to {status}: {text}"));
        }
        self.is_alive(instance).await?;
        Ok(format!("not ready after {seconds:.1} s, uploads 503, all else answers"))
    }

    async fn is_alive(&self, instance: &str) -> Result<(), String> {
        match (self.ask_one(&format!("{instance}/healthz")).await?.0, self.get().await?) {
            (StatusCode::OK, StatusCode::OK) => Ok(()),
            other => Err(format!("/healthz and /v1/games come to {other:?}")),
        }
    }

    /// Waits until an instance is ready again, and stores a file.
    async fn is_back(&self, instance: &str, number: u8) -> Result<String, String> {
        let begun = Instant::now();
        loop {
            let (status, text) = self.ask_one(&format!("{instance}/readyz")).await?;
            if status == StatusCode::OK {
                break;
            }
            if begun.elapsed() > AWAY_LIMIT {
                return Err(format!("it is not ready again: {status} {text}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.keep_a_file(number).await?;
        Ok(format!("ready again after {seconds:.1} s, without a restart"))
    }

    /// Sends `times` reads, one in ten of them of a game; none may fail.
    async fn ask(&self, times: usize) -> Result<String, String> {
        let mut slowest = Duration::ZERO;
        for number in 0..times {
            let begun = Instant::now();
            let (found, wanted) = if number % 10 == 0 {
                let title = format!("A game of {}", uuid::Uuid::now_v7().simple());
                let made = self.client.post(url("/v1/games")).bearer_auth(&self.token);
                let made = made.json(&json!({"title": title})).send().await;
                (made.map(|made| made.status()).map_err(|error| error.to_string()), StatusCode::CREATED)
            } else {
                (self.get().await, StatusCode::OK)
            };
            if found != Ok(wanted) {
                return Err(format!("the {number}th came to {found:?}, not {wanted}"));
            }
            slowest = slowest.max(begun.elapsed());
        }
        Ok(format!("{times} at {HOST}:443, none failed, the slowest {} ms", slowest.as_millis()))
    }
}
