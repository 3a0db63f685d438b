//! An instance of the appliance, booted: units, user data, hooks. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use salebell::domain::week::Week;
use serde_json::{Value, json};

use crate::support::appliance::{Instance, LAUNCH_HOOK, Surroundings, TERMINATION_HOOK};
use crate::support::eventually;
use crate::support::sink::Sink;
use crate::support::smtp::MailServer;
use test_support::ec2::group::Ended;
use test_support::ec2::{Fault, Outcome, State};

const CHECK: &str = "SALEBELL_CHECK_OWN_MS=3000 /usr/lib/salebell/check-instance.sh";

fn said(hook: &str, outcome: Outcome) -> Ended {
    Ended { hook: hook.to_owned(), outcome, by_default: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_boots_serves_and_terminates() {
    let around = Surroundings::new().await;
    let (sink, mails) = (Sink::start().await, MailServer::start(json!({})).await);
    around.offer(8000, sink.address);
    let mail_address = around.offer(2525, ([127, 0, 0, 1], mails.port).into());
    for (name, value) in [
        ("webhook/allow_http", "true"),
        ("webhook/allow_networks", "10.77.0.0/24"),
        ("email/smtp_url", &format!("smtp://{mail_address}")),
        ("email/from", "bell@salebell.test"),
        ("server/public_url", "https://salebell.test"),
        ("email/starttls", "off"),
    ] {
        around.environment.put(name, value).await;
    }
    let mut instance = around.launch(11);
    instance.in_service(&around).await;
    eprintln!("in service after {:?}", instance.age());
    // Without an agent, nothing collects the logs.
    instance.shows("salebell-logs", "ConditionResult", "no").await;
    instance
        .ask(&format!(
            "install -D /dev/null {AGENT}/bin/amazon-cloudwatch-agent; systemctl start salebell-logs"
        ))
        .await;

    let checked = instance.run(CHECK).await;
    let table = String::from_utf8_lossy(&checked.stdout);
    eprintln!("{table}");
    assert!(checked.status.success(), "{table}");

    // Every feature that a sandbox could break.
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
    // In a sandbox like the worker's: the unit's name applies the drop-in.
    let week = Week::at(around.app.clock.now());
    for (unit, command) in [
        ("salebell-recompute", format!("stats recompute --week {week}")),
        ("salebell-mail", format!("stats mail --week {week} --to anna@example.com")),
    ] {
        instance
            .ask(&format!(
                "systemd-run --quiet --wait --pipe --unit={unit} --property=User=salebell \
                 --property=LoadCredential=config.toml:/run/salebell/config.toml /usr/bin/salebell {command} 2>&1"
            ))
            .await;
    }
    let mail = &mails.wait_for(1).await[0];
    assert!(mail.to_string().contains("anna@example.com"), "{mail}");

    // Termination as the group performs it.
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
    the_agent_finds_the_logs(&instance).await;
}

/// Folder of the CloudWatch agent on AWS.
const AGENT: &str = "/opt/aws/amazon-cloudwatch-agent";

/// Checks that everything the services have logged, to the last line, is in the files that the agent's configuration
/// names.
async fn the_agent_finds_the_logs(instance: &Instance) {
    let config = instance.ask(&format!("cat {AGENT}/etc/amazon-cloudwatch-agent.json")).await;
    let config: Value = serde_json::from_str(&config).unwrap();
    let mut logs = BTreeMap::new();
    for file in config["logs"]["logs_collected"]["files"]["collect_list"].as_array().unwrap() {
        assert_eq!(file["retention_in_days"], 90, "{file}");
        let name = file["log_group_name"].as_str().unwrap().strip_prefix("/salebell/").unwrap();
        logs.insert(name, file["file_path"].as_str().unwrap());
    }
    assert_eq!(logs.keys().copied().collect::<Vec<_>>(), ["access", "application", "metrics", "system"]);
    // After a crash it continues where it was.
    instance.signal("salebell-logs", "KILL").await;
    instance.shows("salebell-logs", "NRestarts", "1").await;
    let in_journal = "journalctl --quiet --output=cat TARGET=salebell::emf | grep '^{'";
    let in_journal = instance.ask(in_journal).await;
    let carried = async || instance.ask(&format!("cat {}", logs["metrics"])).await;
    eventually("all metrics are carried", async || carried().await == in_journal).await;
    let services: BTreeSet<String> = in_journal
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["service"].as_str().unwrap().to_owned())
        .collect();
    assert!(services.contains("api") && services.contains("worker"), "{services:?}");

    let read = async |log: &str| -> Vec<Value> {
        let text = instance.ask(&format!("cat {}", logs[log])).await;
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    };
    let is_time =
        |line: &&Value| chrono::DateTime::parse_from_rfc3339(line["time"].as_str().unwrap()).is_ok();
    let access = read("access").await;
    let is_upload = |line: &&Value| line["message"] == "POST /v1/files 201";
    let upload = access.iter().find(is_upload).unwrap();
    assert!(
        is_time(&upload) && upload["request_id"].is_string() && upload["unit"] == "salebell-api",
        "{upload}"
    );
    let application = read("application").await;
    let says = |line: &Value, text: &str| line["message"].as_str().unwrap().contains(text);
    assert!(application.iter().any(|line| line["unit"] == "salebell-worker" && says(line, "stopped")));
    assert!(application.iter().all(|line| line["target"] != "salebell::access"));
    let system = read("system").await;
    assert!(
        system.iter().any(|line| line["unit"] == "init.scope" && says(line, "Salebell API")),
        "{system:?}"
    );
    assert!(system.iter().all(|line| is_time(&line)));

    // However much there is to copy, the disk has room for it.
    instance
        .ask(
            "mkdir -p /run/systemd/system/salebell-logs.service.d; \
             printf '[Service]\\nEnvironment=SALEBELL_LOGS_MAX_BYTES=20000\\n' \
             >/run/systemd/system/salebell-logs.service.d/small.conf; \
             systemctl daemon-reload; systemctl stop salebell-logs; rm /var/log/salebell/*; systemctl start salebell-logs",
        )
        .await;
    let sizes = "cd /var/log/salebell && stat --format '%n %s' *.log *.log.1 2>/dev/null; true";
    eventually("a file is the second one", async || instance.ask(sizes).await.contains("system.log.1 "))
        .await;
    // A malformed entry does not stop it.
    instance.ask(r"printf 'MESSAGE=odd\nPRIORITY=odd\n' | logger --journald").await;
    instance.ask("logger --tag end 'the last line'").await;
    let last = "grep -q 'the last line' /var/log/salebell/system.log*";
    eventually("the last line is carried", async || instance.run(last).await.status.success()).await;
    for line in instance.ask(sizes).await.lines() {
        let (name, size) = line.split_once(' ').unwrap();
        assert!(size.parse::<u32>().unwrap() <= 20_000, "{name}: {size}");
    }
    let files = instance.ask("ls /var/log/salebell").await;
    assert!(files.lines().count() <= 9, "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_switched_on_again_serves_again() {
    let around = Surroundings::new().await;
    let mut instance = around.launch(11);
    instance.in_service(&around).await;
    // systemd has understood all settings, including those outside units.
    let journal = instance.ask("journalctl --no-pager --boot").await;
    let complains =
        |line: &&str| line.contains("ignoring") || line.contains("Unknown") || line.contains("firewall");
    let of_debian = |line: &&str| line.contains("/usr/lib/tmpfiles.d/legacy.conf");
    let complaints: Vec<&str> = journal.lines().filter(complains).filter(|line| !of_debian(line)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    instance.ask("systemctl --no-block poweroff").await;
    instance.off().await;
    let instance = around.boot(instance);
    eventually("it is ready again", async || {
        instance.console().contains("the hook salebell-launch waits for nothing: the instance is InService")
    })
    .await;
    instance.shows("salebell.target", "ActiveState", "active").await;
    assert_eq!(around.ec2.calls("SetInstanceHealth"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_the_load_balancer_no_longer_checks_terminates_in_order() {
    let around = Surroundings::new().await;
    around.environment.put("instance/dead_man_s", "3").await;
    let mut instance = around.launch(11);
    instance.in_service(&around).await;
    let health = format!("https://{}/healthz", instance.reach(8443).await);
    let check = around.app.client.get(health).header("user-agent", "ELB-HealthChecker/2.0");
    assert_eq!(check.send().await.unwrap().status(), 200);
    eventually("the group ends it, and it has completed the hook", async || {
        around.ec2.world().group.instance(&instance.id).state == State::Terminated
    })
    .await;
    assert_eq!(around.ec2.calls("SetInstanceHealth"), 1);
    let results = around.ec2.world().group.instance(&instance.id).results.clone();
    assert_eq!(results[1], said(TERMINATION_HOOK, Outcome::Continue));
    // It has not failed: it was neither restarted, nor was the instance abandoned.
    instance.shows("salebell-api", "ExecMainStatus", "90").await;
    instance.shows("salebell-api", "Result", "success").await;
    instance.shows("salebell-api", "NRestarts", "0").await;
    instance.shows("salebell-boot-failed", "ActiveState", "inactive").await;
}

/// Instance of a failed boot: it has shut down and reported the reason, and the group has abandoned it.
struct Failed {
    around: Surroundings,
    instance: Instance,
    console: String,
}

impl Failed {
    /// Waits for the shutdown.
    async fn of(around: Surroundings, mut instance: Instance) -> Failed {
        let console = instance.off().await;
        assert!(!console.contains("postgres://"), "a secret is on the console: {console}");
        Failed { around, instance, console }
    }

    fn assert_logs(&self, text: &str) -> &Failed {
        assert!(self.console.contains(text), "{text:?} is not on the console:\n{}", self.console);
        self
    }

    fn assert_abandoned(&self) -> &Failed {
        let group = &self.around.ec2.world().group;
        let results = group.instance(&self.instance.id).results.clone();
        assert_eq!(results, [said(LAUNCH_HOOK, Outcome::Abandon)], "{}", self.console);
        self
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_the_tag_is_given_up_and_boots_no_more() {
    let around = Surroundings::new().await;
    let instance = around.launch(11);
    around.ec2.world().group.instance_mut(&instance.id).tags.remove("Environment");
    let failed = Failed::of(around, instance).await;
    failed.assert_logs("first-boot: the tag Environment is missing, or is no name").assert_abandoned();

    // The tag exists now, but too late.
    let Failed { around, instance, .. } = failed;
    let tag = ("Environment".to_owned(), around.environment.name.clone());
    around.ec2.world().group.instance_mut(&instance.id).tags.extend([tag]);
    let instance = around.boot(instance);
    let failed = Failed::of(around, instance).await;
    failed.assert_logs("Assertion failed for").assert_logs("this machine is given up");
}

/// Setting for tests without a reachable group: the search for it ends sooner than usual.
const SOON_OFF: (&str, &str) =
    ("systemd/system/salebell-boot-failed.service.d/quick.conf", "[Service]\nTimeoutStartSec=5\n");

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_metadata_become_unavailable_is_given_up() {
    // The metadata are available to cloud-init, which requests them without a token.
    let around = Surroundings::new().await;
    let instance = around.launch_with(11, &[SOON_OFF]);
    around.ec2.world().outage_below = "/latest/api";
    around.ec2.world().metadata_outage = Some(Fault::Status(503));
    let failed = Failed::of(around, instance).await;
    failed.assert_logs("first-boot: no metadata");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_nothing_boots_is_given_up() {
    // Without metadata there is no user data.
    let around = Surroundings::new().await;
    around.ec2.world().metadata_outage = Some(Fault::Status(404));
    let timer = ("systemd/system/salebell-overdue.timer.d/quick.conf", "[Timer]\nOnBootSec=\nOnBootSec=5\n");
    // Nothing else starts while cloud-init waits for metadata.
    let datasource = ("cloud/cloud.cfg.d/99_quick.cfg", "datasource: {Ec2: {max_wait: 5}}\n");
    let instance = around.launch_with(11, &[timer, datasource, SOON_OFF]);
    let failed = Failed::of(around, instance).await;
    failed.assert_logs("nothing has booted this machine within its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_parameter_fails_the_boot() {
    let around = Surroundings::new().await;
    around.environment.put("worker/daily_hour", "24").await;
    let instance = around.launch(11);
    let failed = Failed::of(around, instance).await;
    let path = failed.around.environment.path();
    failed.assert_logs(&format!("worker.daily_hour ({path}/worker/daily_hour) must be 0 to 23"));
    failed.assert_logs("the boot, or a unit of it, has failed").assert_abandoned();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_mounted_fail_the_boot() {
    let around = Surroundings::new().await;
    // The name does not resolve; and if this machine's kernel lacks NFS, mounting would fail anyway.
    let name = "fs-0123456789abcdef0.efs.eu-central-1.amazonaws.com";
    for (setting, value) in [("files/efs", name), ("files/mounted", "true")] {
        around.environment.put(setting, value).await;
    }
    let instance = around.launch(11);
    let failed = Failed::of(around, instance).await;
    failed.assert_logs("Failed to mount").assert_logs("files on EFS").assert_logs("Dependency failed for");
    failed.assert_logs("the boot, or a unit of it, has failed").assert_abandoned();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_reached_fails_the_boot() {
    let around = Surroundings::new().await;
    around.database.cut();
    around.environment.put("instance/ready_limit_s", "5").await;
    let instance = around.launch(11);
    let failed = Failed::of(around, instance).await;
    failed.assert_logs("the launch is abandoned: not ready within 5 s: ").assert_abandoned();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_worker_is_never_in_service() {
    let around = Surroundings::new().await;
    // The API is ready long before the worker has exited for the last time.
    let ends = "[Unit]\nStartLimitBurst=3\n[Service]\nExecStart=\nExecStart=/usr/bin/false\n";
    let instance = around.launch_with(11, &[("systemd/system/salebell-worker.service.d/ends.conf", ends)]);
    let failed = Failed::of(around, instance).await;
    failed.assert_logs("not ready yet: error sending request for url (http://127.0.0.1:9101/healthz)");
    failed.assert_logs("the boot, or a unit of it, has failed").assert_abandoned();
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_restarted_until_the_machine_is_given_up() {
    let around = Surroundings::new().await;
    let quick = "[Unit]\nStartLimitBurst=4\n[Service]\nWatchdogSec=3\n";
    let mut instance = around.launch_with(11, &[("systemd/system/salebell-api.service.d/quick.conf", quick)]);
    instance.in_service(&around).await;
    // A process that hangs, and one that dies.
    for (signal, restarts) in [("STOP", "1"), ("KILL", "2"), ("KILL", "3")] {
        instance.signal("salebell-api", signal).await;
        instance.shows("salebell-api", "NRestarts", restarts).await;
        instance.shows("salebell-api", "SubState", "running").await;
    }
    assert_eq!(around.ec2.world().group.instance(&instance.id).state, State::InService);
    assert_eq!(
        instance.ask("systemctl is-active salebell-worker salebell-terminating").await,
        "active\nactive\n"
    );
    instance.signal("salebell-api", "KILL").await;
    let failed = Failed::of(around, instance).await;
    failed.assert_logs("salebell-api").assert_logs("the boot, or a unit of it, has failed");
    assert_eq!(failed.around.ec2.calls("SetInstanceHealth"), 1);
    let world = failed.around.ec2.world();
    assert_ne!(world.group.instance(&failed.instance.id).state, State::InService);
}

/// Defects of an instance: the command that causes one, the check that detects it, and the command that repairs it.
const DEFECTS: &[(&str, &str, &str)] = &[
    ("units", "systemd-run --unit=broken false; sleep 0.5", "systemctl reset-failed broken"),
    ("units", "systemd-run --unit=stranger sleep 1000", "systemctl stop stranger"),
    (
        "enabled",
        "systemctl unmask apt-daily.timer; systemctl enable apt-daily.timer",
        "systemctl disable apt-daily.timer",
    ),
    (
        "listeners",
        "systemd-run --unit=listener python3 -m http.server 8999; until ss -Hltn | grep 8999; do sleep 0.1; done",
        "systemctl stop listener",
    ),
    ("ssh", "install -D /dev/null /root/.ssh/authorized_keys", "rm -r /root/.ssh"),
    ("ssh", "install -m 755 /dev/null /usr/sbin/sshd", "rm /usr/sbin/sshd"),
    ("logins", "usermod -p '$6$a$b' root", "usermod -L root"),
    ("logins", "usermod -s /bin/bash salebell", "usermod -s /usr/sbin/nologin salebell"),
    ("writable", "install -m 666 /dev/null /etc/everybody", "rm /etc/everybody"),
    ("writable", "install -d -m 777 /opt/everybody", "rmdir /opt/everybody"),
    ("lending", "install -m 4755 /usr/bin/true /usr/bin/lender", "rm /usr/bin/lender"),
    ("ours", "chmod o+w /usr/lib/salebell/appliance.toml", "chmod o-w /usr/lib/salebell/appliance.toml"),
    (
        "ours",
        "mkdir /etc/systemd/system/salebell-api.service.d",
        "rmdir /etc/systemd/system/salebell-api.service.d",
    ),
    ("files", "mount -t tmpfs tmpfs /var/lib/salebell/files", "umount /var/lib/salebell/files"),
    ("secrets", "chmod o+r /run/salebell/config.toml", "chmod o-r /run/salebell/config.toml"),
    (
        "clock",
        "mkdir -p /etc/systemd/timesyncd.conf.d; printf '[Time]\\nNTP=pool.ntp.org\\n' >/etc/systemd/timesyncd.conf.d/99.conf",
        "rm -r /etc/systemd/timesyncd.conf.d",
    ),
    (
        "journal",
        "mkdir -p /etc/systemd/journald.conf.d; printf '[Journal]\\nSystemMaxUse=\\n' >/etc/systemd/journald.conf.d/99.conf",
        "rm -r /etc/systemd/journald.conf.d",
    ),
    // The last entries stop the processes under test.
    (
        "sandbox",
        "mkdir -p /run/systemd/system/salebell-worker.service.d; \
         printf '[Service]\\nReadWritePaths=/etc\\n' >/run/systemd/system/salebell-worker.service.d/open.conf; \
         systemctl daemon-reload; systemctl restart salebell-worker",
        "true",
    ),
    (
        "exposure",
        "printf '[Service]\\nCapabilityBoundingSet=CAP_SYS_ADMIN\\nPrivateDevices=no\\nSystemCallFilter=\\n' \
         >/run/systemd/system/salebell-worker.service.d/open.conf; systemctl daemon-reload",
        "true",
    ),
    ("units", "systemctl stop salebell-terminating", "true"),
    ("ready", "systemctl stop salebell-api", "true"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_check_of_an_instance_fails_where_it_should() {
    let around = Surroundings::new().await;
    let mut instance = around.launch(11);
    instance.in_service(&around).await;
    let list = instance.ask("/usr/lib/salebell/check-instance.sh --list").await;
    let unbroken: Vec<&str> =
        list.lines().filter(|name| DEFECTS.iter().all(|defect| defect.0 != *name)).collect();
    assert_eq!(unbroken, ["time"], "a check without a defect");
    for (check, defect, undo) in DEFECTS {
        let check_one = format!("SALEBELL_CHECK_OWN_MS=60000 /usr/lib/salebell/check-instance.sh {check}");
        if *undo != "true" {
            instance.ask(&check_one).await;
        }
        instance.ask(&format!("{{ {defect}; }} >/dev/null")).await;
        let found = instance.run(&check_one).await;
        let table = String::from_utf8_lossy(&found.stdout);
        assert_eq!(found.status.code(), Some(1), "{defect}: {table}");
        assert!(table.contains("FAILED"), "{defect}: {table}");
        instance.ask(&format!("{{ {undo}; }} >/dev/null")).await;
    }
    let late = instance.run("SALEBELL_CHECK_OWN_MS=1 /usr/lib/salebell/check-instance.sh time").await;
    assert_eq!(late.status.code(), Some(1));
    let unknown = instance.run("/usr/lib/salebell/check-instance.sh nothing").await;
    assert_eq!(unknown.status.code(), Some(2));
}
