//! `salebell boot`, with the credentials of the instance's role, against Parameter Store and Secrets Manager.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_sdk_ssm::types::ParameterType;
use reqwest::StatusCode;
use salebell::secrets;
use secrecy::ExposeSecret;

use crate::support::aws::{Environment, Fault, READ_PARAMETERS, READ_SECRET};
use crate::support::binary::{Binary, command};
use crate::support::database::TestDatabase;
use crate::support::eventually;
use crate::support::scratch::Scratch;
use test_support::ec2::{Ec2, Group};

/// An instance of an environment, before its boot.
struct Machine {
    environment: Environment,
    ec2: Ec2,
    metadata: String,
    /// Contains the folder of the files.
    folder: Scratch,
}

struct Boot {
    success: bool,
    output: String,
    errors: String,
}

impl Machine {
    async fn new() -> Machine {
        let environment = Environment::create().await;
        let ec2 = Ec2::start(Group::new("salebell-test")).await;
        let metadata = ec2.launch("i-1").await;
        let tag = ("Environment".to_owned(), environment.name.clone());
        ec2.world().group.instance_mut("i-1").tags.extend([tag]);
        Machine { environment, ec2, metadata, folder: Scratch::new() }
    }

    /// With every parameter that the services require.
    async fn complete() -> Machine {
        let machine = Machine::new().await;
        machine.environment.put("database/url", "postgres://db.example/salebell").await;
        machine
    }

    fn run(&self) -> std::path::PathBuf {
        self.folder.path().join("run")
    }

    async fn boot(&self) -> Boot {
        self.boot_with(&[], &[]).await
    }

    async fn boot_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Boot {
        let run = self.run();
        let all = [&["boot", "--directory", run.to_str().unwrap()], arguments].concat();
        let own = [
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.metadata.as_str()),
            ("AWS_ENDPOINT_URL", &self.environment.endpoint),
        ];
        let output = command(&all, &[&own, settings].concat()).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (output, errors) = ((output.status.success(), text(&output.stdout)), text(&output.stderr));
        Boot { success: output.0, output: output.1, errors }
    }

    async fn check_config(&self) -> (bool, String) {
        let run = self.run();
        let settings = [("CREDENTIALS_DIRECTORY", run.to_str().unwrap())];
        let output = command(&["check-config"], &settings).output().await.unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.run().join(name)).unwrap()
    }
}

#[tokio::test]
async fn the_name_of_an_efs_becomes_the_settings_of_its_tunnel_until_it_is_removed() {
    let machine = Machine::complete().await;
    let environment = &machine.environment;
    assert!(machine.boot().await.success);
    assert!(!machine.run().join("efs.conf").exists());
    let name = "fs-0123456789abcdef0.efs.eu-central-1.amazonaws.com";
    environment.put("files/efs", name).await;
    let boot = machine.boot().await;
    assert!(!boot.success && boot.errors.contains("files.mounted = true"), "{}", boot.errors);
    assert!(!machine.run().join("efs.conf").exists());
    environment.put("files/mounted", "true").await;
    let boot = machine.boot().await;
    assert!(boot.success, "{}", boot.errors);
    let file = machine.file("efs.conf");
    for line in [
        &format!("connect = {name}:2049"),
        &format!("checkHost = {name}"),
        "verifyChain = yes",
        "CAfile = /etc/salebell/efs.pem",
        "accept = 127.0.0.1:20049",
    ] {
        assert_eq!(file.lines().filter(|one| one == &line).count(), 1, "{line} in {file}");
    }
    assert_eq!(mode_of(&machine.run().join("efs.conf")), 0o444);
    // A boot that fails leaves the file unchanged.
    environment.put("files/efs", "fs-1.example\nexec = /bin/sh").await;
    let boot = machine.boot().await;
    assert!(!boot.success && boot.errors.contains("must be a DNS name"), "{}", boot.errors);
    assert_eq!(machine.file("efs.conf"), file);
    // An environment without a file system, and the next boot of the same machine.
    let other = Environment::create().await;
    other.put("database/url", "postgres://db.example/salebell").await;
    let boot = machine.boot_with(&["--environment", &other.name], &[]).await;
    assert!(boot.success, "{}", boot.errors);
    assert!(!machine.run().join("efs.conf").exists());
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn two_hundred_parameters_and_secrets_become_the_files_of_the_services() {
    let machine = Machine::new().await;
    let environment = &machine.environment;
    let keys = secrets::generate_key().unwrap();
    let database =
        environment.create_secret("database", r#"{"username": "salebell", "password": "hunter2\"ü"}"#).await;
    let webhook = environment.create_secret("webhook", keys.expose_secret()).await;
    for (name, value) in [
        ("database/url", "postgres://db.example/salebell"),
        ("database/user", &format!("secret:{database}#username")),
        ("database/password", &format!("secret:{database}#password")),
        ("webhook/encryption_keys", &format!("secret:{webhook}")),
        ("email/password", "swordfish"),
        ("instance/launch_hook", "launch"),
        ("instance/group", &format!("secret:{database}#username")),
        ("server/linger_s", "35"),
        ("log/level", "warn"),
        ("email/user", "bell"),
        ("email/from", "Salebell <bell@example.com>"),
        ("server/public_url", "https://salebell.example.com"),
        ("email/smtp_url", "smtps://mail.example.com"),
        (
            "auth/issuers",
            r#"[{"issuer":"https://i.example","audiences":["a"],"algorithms":["RS256"],"jwks_url":"https://i.example/k"}]"#,
        ),
    ] {
        environment.put(name, value).await;
    }
    environment.put_as("worker/daily_hour", "7", ParameterType::String).await;
    environment.put_as("stats/mail_to", "a@example.com,b@example.com", ParameterType::StringList).await;
    // A parameter of another environment whose name has the same prefix.
    environment.put(&format!("{}-2/log/level", environment.path()), "debug").await;
    for number in 0..184 {
        environment.put(&format!("later/setting_{number}"), "of the next version").await;
    }
    let boot = machine.boot().await;
    assert!(boot.success, "{}", boot.errors);
    assert!(boot.output.contains("200 parameters below"), "{}", boot.output);
    assert!(boot.output.contains("4 of them in Secrets Manager"), "{}", boot.output);
    assert_eq!(boot.output.matches("left out: later.setting_").count(), 184);
    // Ten parameters a page; the last full page may be followed by an empty one.
    assert!((20..=21).contains(&environment.requests(READ_PARAMETERS)));
    assert_eq!(environment.requests(READ_SECRET), 2, "a secret with two keys is read once");

    let file = machine.file("config.toml");
    for part in
        ["hunter2", keys.expose_secret(), "swordfish", "daily_hour = \"7\"", "secret:arn:aws:secretsmanager:"]
    {
        assert!(file.contains(part), "{part} is not in {file}");
    }
    assert!(!file.contains("later") && !file.contains("debug"), "{file}");
    for secret in ["hunter2", keys.expose_secret(), "swordfish"] {
        assert!(!boot.output.contains(secret) && !boot.errors.contains(secret));
    }
    assert_eq!(mode_of(&machine.run().join("config.toml")), 0o400);
    assert_eq!(mode_of(&machine.run()), 0o755);
    let instance = format!(
        "AWS_REGION=eu-central-1\nSALEBELL_ENVIRONMENT={}\nSALEBELL_INSTANCE_ID=i-1\nSALEBELL_ZONE=eu-central-1a\n",
        environment.name
    );
    assert_eq!(machine.file("instance.env"), instance);
    let (success, errors) = machine.check_config().await;
    assert!(success, "{errors}");
    // The settings of the hooks, without a secret.
    let beside: toml::Table = machine.file("instance.toml").parse().unwrap();
    assert_eq!(beside.keys().collect::<Vec<_>>(), ["instance", "log", "server", "worker"]);
    assert_eq!(beside["instance"]["launch_hook"].as_str(), Some("launch"));
    assert!(beside["instance"].get("group").is_none(), "it is in a secret: {beside}");
    assert_eq!(mode_of(&machine.run().join("instance.toml")), 0o400);

    // Once more, after a change.
    environment.put("worker/daily_hour", "8").await;
    let boot = machine.boot().await;
    assert!(boot.success, "{}", boot.errors);
    assert!(machine.file("config.toml").contains("daily_hour = \"8\""));
    assert_eq!(std::fs::read_dir(machine.run()).unwrap().count(), 3);
}

#[tokio::test]
async fn all_problems_are_reported_at_once_and_no_file_is_written() {
    let machine = Machine::new().await;
    let environment = &machine.environment;
    let secret = environment.create_secret("webhook", r#"{"hunter2": "hunter3"}"#).await;
    for (name, value) in [
        ("databse/url", "postgres://hunter2"),
        ("server/listen", "hunter2"),
        ("worker/daily_hour", "24"),
        ("webhook/encryption_keys", &format!("secret:{secret}#key")),
        ("email/smtp_url", "secret:nothing-there"),
        ("log/level", "secret:"),
    ] {
        environment.put(name, value).await;
    }
    let boot = machine.boot().await;
    assert!(!boot.success);
    let path = environment.path();
    for problem in [
        "have 7 problem(s)".to_owned(),
        format!("databse.url ({path}/databse/url) is unknown"),
        format!("database.url ({path}/database/url) is required"),
        format!("server.listen ({path}/server/listen) cannot be read"),
        format!("worker.daily_hour ({path}/worker/daily_hour) must be 0 to 23"),
        format!("{path}/webhook/encryption_keys is secret:{secret}#key, and the secret has no such key"),
        format!("{path}/email/smtp_url is secret:nothing-there, and there is no such secret"),
        format!("{path}/log/level must be secret:<name or ARN>"),
    ] {
        assert!(boot.errors.contains(&problem), "{problem} is not in {}", boot.errors);
    }
    assert!(!boot.errors.contains("hunter"), "{}", boot.errors);
    assert!(!machine.run().exists());
}

#[tokio::test]
async fn an_unknown_parameter_stops_only_the_check() {
    let machine = Machine::complete().await;
    machine.environment.put("log/colour", "red").await;
    let elsewhere = ["--check", "--environment", &machine.environment.name, "--region", "eu-central-1"];
    let check = machine.boot_with(&elsewhere, &machine.environment.settings()).await;
    assert!(!check.success && check.errors.contains("log/colour) is unknown"), "{}", check.errors);
    assert!(machine.boot().await.success);
    assert!(machine.check_config().await.0);
    // As on a laptop: no metadata are requested.
    machine.environment.put("log/colour", "secret:").await;
    let before = machine.ec2.world().requests.len();
    let check = machine.boot_with(&elsewhere, &machine.environment.settings()).await;
    assert!(!check.success);
    assert_eq!(machine.ec2.world().requests.len(), before);
}

#[tokio::test]
async fn throttling_and_slowness_are_waited_out_in_both_retry_modes() {
    for mode in ["standard", "adaptive"] {
        let machine = Machine::complete().await;
        for number in 0..15 {
            machine.environment.put(&format!("later/setting_{number}"), "x").await;
        }
        let secret = machine.environment.create_secret("user", "salebell").await;
        machine.environment.put("database/user", &format!("secret:{secret}")).await;
        let slow = Fault::Slow(Duration::from_secs(2));
        machine.environment.fail(READ_PARAMETERS, [Fault::Throttle, Fault::Throttle, slow, Fault::Throttle]);
        machine.environment.fail(READ_SECRET, [Fault::Throttle, Fault::Throttle]);
        let boot = machine.boot_with(&[], &[("AWS_RETRY_MODE", mode)]).await;
        assert!(boot.success, "{mode}: {}", boot.errors);
        assert_eq!(machine.environment.requests(READ_PARAMETERS), 3 + 2, "{mode}");
        assert_eq!(machine.environment.requests(READ_SECRET), 3, "{mode}");
    }
}

#[tokio::test]
async fn a_secret_is_read_while_later_pages_of_parameters_are_read() {
    let machine = Machine::complete().await;
    let environment = &machine.environment;
    let secret = format!("secret:{}", environment.create_secret("late", "x").await);
    // Three pages in any order; the first one has some of these.
    for number in 0..24 {
        environment.put(&format!("later/setting_{number}"), &secret).await;
    }
    let second = Fault::Slow(Duration::from_secs(5));
    environment.fail(READ_PARAMETERS, [Fault::Slow(Duration::ZERO), second]);
    let beside = eventually("the secret is read while the second page is on its way", async || {
        environment.requests(READ_SECRET) == 1 && environment.requests(READ_PARAMETERS) == 2
    });
    let (boot, ()) = tokio::join!(machine.boot(), beside);
    assert!(boot.success, "{}", boot.errors);
    assert!(boot.output.contains("25 parameters below"), "{}", boot.output);
    assert_eq!((environment.requests(READ_PARAMETERS), environment.requests(READ_SECRET)), (3, 1));
}

#[tokio::test]
async fn an_unusable_response_is_requested_again() {
    for fault in [
        Fault::Foreign(StatusCode::SERVICE_UNAVAILABLE, "<html>Service Unavailable</html>"),
        Fault::Foreign(StatusCode::INTERNAL_SERVER_ERROR, "{\"__type\": \"Internal"),
        Fault::Foreign(StatusCode::BAD_GATEWAY, ""),
        Fault::CutOff,
    ] {
        let machine = Machine::complete().await;
        machine.environment.fail(READ_PARAMETERS, [fault.clone(), fault.clone()]);
        let boot = machine.boot().await;
        assert!(boot.success, "{fault:?}: {}", boot.errors);
        assert_eq!(machine.environment.requests(READ_PARAMETERS), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn a_missing_response_is_requested_again() {
    let machine = Machine::complete().await;
    machine.environment.fail(READ_PARAMETERS, [Fault::Slow(Duration::from_secs(60))]);
    let begun = Instant::now();
    let boot = machine.boot().await;
    assert!(boot.success, "{}", boot.errors);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn endless_throttling_is_given_up_with_its_name() {
    let machine = Machine::complete().await;
    machine.environment.fail_always(READ_PARAMETERS, Some(Fault::Throttle));
    let boot = machine.boot_with(&[], &[("AWS_MAX_ATTEMPTS", "3")]).await;
    assert!(!boot.success && boot.errors.contains("ThrottlingException: Rate exceeded"), "{}", boot.errors);
    assert_eq!(machine.environment.requests(READ_PARAMETERS), 3);
}

#[tokio::test]
async fn a_missing_permission_is_one_line() {
    let machine = Machine::complete().await;
    let environment = &machine.environment;
    let secret = environment.create_secret("user", "salebell").await;
    environment.put("database/user", &format!("secret:{secret}")).await;
    let role = "arn:aws:sts::123456789012:assumed-role/salebell-prod/i-1";
    let arn = format!("arn:aws:ssm:eu-central-1:123456789012:parameter{}", environment.path());
    let key = "arn:aws:kms:eu-central-1:123456789012:key/1";
    let refusals = [
        (READ_PARAMETERS, "ssm:GetParametersByPath", arn.as_str()),
        (READ_PARAMETERS, "kms:Decrypt", key),
        (READ_SECRET, "secretsmanager:GetSecretValue", &secret),
    ];
    for (operation, action, resource) in refusals {
        let message = format!(
            "User: {role} is not authorized to perform: {action} on resource: {resource} because no identity-based \
             policy allows the {action} action"
        );
        environment.fail_always(operation, Some(Fault::Refuse("AccessDeniedException", message)));
        let boot = machine.boot().await;
        environment.fail_always(operation, None);
        let expected = format!("a permission is missing: {role} needs {action} on {resource} (because");
        assert!(!boot.success && boot.errors.contains(&expected), "{}", boot.errors);
        assert_eq!(boot.errors.trim_end().lines().count(), 2, "{}", boot.errors);
    }
    let message = "Access to KMS is not allowed".to_owned();
    environment.fail_always(READ_SECRET, Some(Fault::Refuse("AccessDeniedException", message)));
    let boot = machine.boot().await;
    assert!(boot.errors.contains("a permission is missing: kms:Decrypt on the key"), "{}", boot.errors);
}

#[tokio::test]
async fn a_late_role_is_waited_for_and_a_missing_one_is_reported() {
    let machine = Machine::complete().await;
    machine.ec2.world().role_is_late = true;
    let (boot, ()) = tokio::join!(machine.boot(), async {
        eventually("it requests the role again and again", async || {
            machine.ec2.calls("GET /latest/meta-data/iam") > 2
        })
        .await;
        machine.ec2.world().role_is_late = false;
    });
    assert!(boot.success, "{}", boot.errors);

    machine.ec2.world().role_is_late = true;
    let begun = Instant::now();
    let elsewhere = ["--check", "--environment", &machine.environment.name, "--region", "eu-central-1"];
    let check = machine.boot_with(&elsewhere, &[]).await;
    assert!(
        !check.success && check.errors.contains("there are no credentials of AWS within"),
        "{}",
        check.errors
    );
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_missing_tag_or_parameter_is_named() {
    let machine = Machine::complete().await;
    machine.ec2.world().group.instance_mut("i-1").tags.remove("Environment");
    let boot = machine.boot().await;
    assert!(!boot.success && boot.errors.contains("Environment is not there"), "{}", boot.errors);
    let boot = machine.boot_with(&["--environment", "nowhere"], &[]).await;
    assert!(boot.errors.contains("there is no parameter below /salebell/nowhere/"), "{}", boot.errors);
    let boot = machine.boot_with(&["--environment", "../prod"], &[]).await;
    assert!(boot.errors.contains("the environment must be of letters"), "{}", boot.errors);
}

#[tokio::test]
async fn the_image_brings_defaults_and_a_laptop_a_file_like_that_of_boot() {
    let machine = Machine::complete().await;
    machine.environment.put("log/level", "warn").await;
    let defaults = machine.folder.path().join("defaults.toml");
    std::fs::write(&defaults, "[log]\nlevel = \"debug\"\naccess = false\n").unwrap();
    let boot = machine.boot_with(&["--config", defaults.to_str().unwrap()], &[]).await;
    assert!(boot.success, "{}", boot.errors);
    let file = machine.file("config.toml");
    assert!(file.contains("level = \"warn\"") && file.contains("access = false"), "{file}");
    // The same file, given by name.
    let path = machine.run().join("config.toml");
    let output = command(&["check-config", "--config", path.to_str().unwrap()], &[]).output().await.unwrap();
    assert!(output.status.success());
    // Credentials for other purposes are ignored.
    let nothing = [("CREDENTIALS_DIRECTORY", machine.folder.path().to_str().unwrap())];
    let output = command(&["check-config"], &nothing).output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("database.url"), "{output:?}");
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::complete().await;
    std::fs::create_dir(machine.run()).unwrap();
    std::fs::set_permissions(machine.run(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let boot = machine.boot().await;
    assert!(!boot.success && boot.errors.contains("others can write to it"), "{}", boot.errors);
    assert_eq!(std::fs::read_dir(machine.run()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_services_of_a_booted_instance_have_their_secrets_from_the_file_only() {
    let (machine, database) = (Machine::new().await, TestDatabase::create().await);
    let environment = &machine.environment;
    let keys = secrets::generate_key().unwrap();
    let webhook = environment.create_secret("webhook", keys.expose_secret()).await;
    // The password is only in its secret: the server's URL loses any password and any part that is not needed.
    let mut url = url::Url::parse(&database.url).unwrap();
    let password = url.password().unwrap_or("hunter2").to_owned();
    url.set_password(None).unwrap();
    let login = environment.create_secret("database", &password).await;
    for (name, value) in [
        ("database/url", url.as_str()),
        ("database/password", &format!("secret:{login}")),
        ("webhook/encryption_keys", &format!("secret:{webhook}")),
        ("email/password", "hunter3"),
        ("email/user", "bell"),
        ("email/from", "Salebell <bell@example.com>"),
        ("server/public_url", "https://salebell.example.com"),
        ("email/smtp_url", "smtps://mail.example.com"),
        ("server/listen", "127.0.0.1:0"),
        ("server/grpc_listen", "127.0.0.1:0"),
        ("server/metrics_listen", "127.0.0.1:0"),
        ("worker/metrics_listen", "127.0.0.1:0"),
        ("files/directory", machine.folder.path().to_str().unwrap()),
    ] {
        environment.put(name, value).await;
    }
    let boot = machine.boot().await;
    assert!(boot.success, "{}", boot.errors);
    // As the units set it up: the file as a credential, and non-secret settings in the environment.
    let run = machine.run();
    let file = machine.file("instance.env");
    let settings: Vec<(&str, &str)> = file.lines().filter_map(|line| line.split_once('=')).collect();
    let settings = [&settings[..], &[("CREDENTIALS_DIRECTORY", run.to_str().unwrap())]].concat();
    let settings = [&settings[..], &environment.settings()].concat();
    for command in ["api", "worker"] {
        let service = Binary::start(&[command], &settings);
        service.logged("metrics on ").await;
        let seen = ["environ", "cmdline"].map(|name| {
            let bytes = std::fs::read(format!("/proc/{}/{name}", service.id())).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        assert!(seen[0].contains("SALEBELL_INSTANCE_ID=i-1") && seen[1].contains(command), "{seen:?}");
        for text in [seen.concat(), service.log()] {
            for secret in [&password, "hunter3", keys.expose_secret(), "postgres://"] {
                assert!(!text.contains(secret), "{command}: {secret} is in {text}");
            }
        }
    }
}
