//! `salebell boot`: gathers what the services of an instance need to know, before they start.
//!
//! ```text
//! instance metadata → region, instance, zone, environment (a tag)
//!   → every parameter below /salebell/<environment>, and the secrets that those name
//!   → validated as the services will, all problems at once
//!   → /run/salebell/instance.env, /run/salebell/instance.toml, /run/salebell/config.toml; with files.efs, efs.conf
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use toml::{Table, Value};

use super::metadata::Metadata;
use super::parameters::{Parameters, StoredSettings};
use super::run_directory::RunDirectory;
use crate::aws::{self, Chain};
use crate::clock::Clock;
use crate::config::{CREDENTIAL, Config};

/// Key of the tag that holds the environment.
const ENVIRONMENT_TAG: &str = "Environment";
/// Timeout of the whole command; the unit's start timeout must be longer.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// Timeout for the credentials of the instance's role, which become available a moment after the instance.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for the credentials of `--check`, which can run anywhere: they exist already, or never will.
const CREDENTIALS_TIMEOUT_ELSEWHERE: Duration = Duration::from_secs(15);
/// Mode of the settings files. Only the owner reads them, and systemd on behalf of the services (`LoadCredential=`).
const SECRET_MODE: u32 = 0o400;
const OPEN_MODE: u32 = 0o444;

/// Fetch the settings and secrets of this instance's environment from AWS, and write them into files for the services.
#[derive(Args)]
pub struct BootArguments {
    /// The environment, whose parameters are below /salebell/<environment> [default: the instance's tag Environment].
    #[arg(long)]
    environment: Option<String>,
    /// The region of the parameters [default: the instance's].
    #[arg(long)]
    region: Option<String>,
    /// The folder for the files.
    #[arg(long, default_value = "/run/salebell")]
    directory: PathBuf,
    /// Write nothing, and refuse unknown parameters. With --environment and --region it runs anywhere.
    #[arg(long)]
    check: bool,
}

/// Name of the settings file of the commands that run beside the services: `salebell ready` and `salebell terminating`.
const BESIDE: &str = "instance.toml";
/// Areas of settings that those commands read.
const OF_BESIDE: [&str; 4] = ["instance", "log", "server", "worker"];

/// Name of the settings file of the TLS tunnel to EFS. If it exists, the units mount EFS (salebell-efs.service).
const TUNNEL: &str = "efs.conf";

/// Configuration of the tunnel, in the format of stunnel(8). EFS expects TLS from the first byte, and its certificate
/// proves that it is the intended file system.
fn tunnel(name: &str) -> String {
    format!(
        "; The way to EFS with TLS, for the NFS client of this machine. Made by salebell boot.
foreground = yes
pid =
syslog = no
debug = notice

[efs]
client = yes
; systemd listens there, and hands it over.
accept = 127.0.0.1:20049
connect = {name}:2049
; Looked up for each connection.
delay = yes
CAfile = /etc/salebell/efs.pem
verifyChain = yes
checkHost = {name}
OCSPaia = no
sslVersionMin = TLSv1.2
renegotiation = no
libwrap = no
TIMEOUTconnect = 10
; For the handshake.
TIMEOUTbusy = 20
TIMEOUTclose = 0
; Each service asks every 5 s, so where nothing is said for so long the other side hangs, or is gone without a word. The NFS
; client connects again, to where the name leads then.
TIMEOUTidle = 35
"
    )
}

/// Region and environment of the settings, and the instance itself.
struct Place {
    region: String,
    environment: String,
    /// Instance id and availability zone. `None` with `--check`, which writes no files.
    instance: Option<(String, String)>,
}

/// Gathers the settings, writes the files, and returns a summary. `defaults` apply where there is no such parameter.
///
/// # Errors
/// Fails if the metadata, the credentials or AWS are unavailable, or if it takes longer than three minutes. Missing and
/// invalid settings are listed one per line, without their values; no file has been changed in that case.
pub async fn run(arguments: BootArguments, defaults: Option<&Path>) -> anyhow::Result<String> {
    let late = |_| anyhow!("the boot is not done within {} s", BOOT_TIMEOUT.as_secs());
    tokio::time::timeout(BOOT_TIMEOUT, boot(arguments, defaults)).await.map_err(late)?
}

async fn boot(arguments: BootArguments, defaults: Option<&Path>) -> anyhow::Result<String> {
    let defaults = match defaults {
        Some(path) => read_defaults(path)?,
        None => Table::new(),
    };
    let place = locate(&arguments).await?;
    let path = format!("/salebell/{}", place.environment);
    let chain = Chain::new(Some(&place.region), Clock::system());
    // Requested first, so missing credentials are reported as such.
    let limit = if place.instance.is_some() { CREDENTIALS_TIMEOUT } else { CREDENTIALS_TIMEOUT_ELSEWHERE };
    let credentials = chain.credentials(limit).await;
    credentials.map_err(|error| anyhow!("{error}"))?;
    let config = chain.load(Some(&place.region), None, aws::WHILE_BOOTING).await;
    let parameters = Parameters::new(&config, &path);
    let (settings, mut problems) = parameters.read().await;
    if settings.names().next().is_none() {
        return Err(describe(&path, problems));
    }
    let mut table = match compose(defaults, &settings, &place.region, &path) {
        Ok(table) => table,
        Err(problem) => {
            problems.push(problem);
            return Err(describe(&path, problems));
        }
    };
    let (config, unknown) = Config::load_parameters(as_file(&table).expose_secret(), &path);
    let efs = config.map(|config| config.files.efs).unwrap_or_else(|further| {
        // A setting that was just reported as unreadable must not be reported as missing too.
        let unread: Vec<String> = settings.unread().map(|setting| format!("{setting} (")).collect();
        let is_reported = |problem: &String| unread.iter().any(|setting| problem.starts_with(setting));
        problems.extend(further.0.into_iter().filter(|problem| !is_reported(problem)));
        None
    });
    if !problems.is_empty() || (arguments.check && !unknown.is_empty()) {
        problems.extend(unknown.into_values());
        return Err(describe(&path, problems));
    }
    let counts = (settings.values.len(), settings.secrets.len());
    let mut summary =
        format!("{} parameters below {path}/, {} of them in Secrets Manager", counts.0, counts.1);
    // This version must be able to start when there are parameters that only the next one knows: during a rollout, and
    // after it is rolled back.
    unknown.keys().for_each(|key| remove(&mut table, key));
    match &place.instance {
        Some((id, zone)) => {
            let directory = RunDirectory::open(&arguments.directory)?;
            let instance = format!(
                "AWS_REGION={}\nSALEBELL_ENVIRONMENT={}\nSALEBELL_INSTANCE_ID={id}\nSALEBELL_ZONE={zone}\n",
                place.region, place.environment
            );
            directory.write("instance.env", OPEN_MODE, instance.as_bytes())?;
            let beside = as_file(&beside_services(&table, &settings));
            directory.write(BESIDE, SECRET_MODE, beside.expose_secret().as_bytes())?;
            match &efs {
                Some(name) => drop(directory.write(TUNNEL, OPEN_MODE, tunnel(name).as_bytes())?),
                None => directory.remove(TUNNEL)?,
            }
            // Written last: once this file exists, all of them do.
            let file = as_file(&table);
            let written = directory.write(CREDENTIAL, SECRET_MODE, file.expose_secret().as_bytes())?;
            summary.push_str(&format!(" → {}", written.display()));
        }
        None => summary.push_str(": the configuration is complete"),
    }
    unknown.values().for_each(|unknown| summary.push_str(&format!("\nleft out: {unknown} to this version")));
    Ok(summary)
}

/// Fills in what the arguments leave out from the instance metadata.
async fn locate(arguments: &BootArguments) -> anyhow::Result<Place> {
    let (region, environment) = (arguments.region.clone(), arguments.environment.clone());
    let place = match (arguments.check, region, environment) {
        (true, Some(region), Some(environment)) => Place { region, environment, instance: None },
        (check, region, environment) => {
            let metadata = Metadata::from_environment()?;
            let identity = metadata.identity().await?;
            let environment = match environment {
                Some(environment) => environment,
                None => metadata.required_tag(ENVIRONMENT_TAG).await?,
            };
            let instance = (!check).then_some((identity.instance_id, identity.availability_zone));
            Place { region: region.unwrap_or(identity.region), environment, instance }
        }
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    for (what, text) in [("environment", &place.environment), ("region", &place.region)] {
        if text.is_empty() || !text.chars().all(plain) {
            bail!("the {what} must be of letters, digits, - and _, not {text:?}");
        }
    }
    Ok(place)
}

fn read_defaults(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    // Only the message: further lines of the error quote the file.
    text.parse()
        .map_err(|error: toml::de::Error| anyhow!("{} is no TOML: {}", path.display(), error.message()))
}

/// Content of the settings file: the defaults, the parameters that override them, and the sources of the values.
fn compose(
    mut defaults: Table,
    settings: &StoredSettings,
    region: &str,
    path: &str,
) -> Result<Table, String> {
    for (name, value) in &settings.values {
        insert(&mut defaults, name, value.expose_secret().into()).map_err(|()| {
            format!("{path}/{} is within a setting, or has others within it", name.replace('.', "/"))
        })?;
    }
    let secrets = Value::try_from(&settings.secrets).map_err(|error| error.to_string())?;
    for (name, value) in
        [("aws.region", region.into()), ("aws.parameters", path.into()), ("aws.secrets", secrets)]
    {
        insert(&mut defaults, name, value).map_err(|()| "aws must be an area of settings".to_owned())?;
    }
    Ok(defaults)
}

/// The part of the settings that the commands beside the services need, without anything from Secrets Manager.
fn beside_services(table: &Table, settings: &StoredSettings) -> Table {
    let mut beside = table.clone();
    beside.retain(|area, _| OF_BESIDE.contains(&area));
    settings.secrets.iter().for_each(|secret| remove(&mut beside, &secret.setting));
    beside
}

fn as_file(table: &Table) -> SecretString {
    table.to_string().into()
}

/// Inserts a value at a dotted name: `database.url` becomes `[database] url`.
fn insert(table: &mut Table, name: &str, value: Value) -> Result<(), ()> {
    let Some((area, rest)) = name.split_once('.') else {
        return match table.insert(name.to_owned(), value) {
            Some(Value::Table(_)) => Err(()),
            _ => Ok(()),
        };
    };
    match table.entry(area).or_insert_with(|| Table::new().into()) {
        Value::Table(inner) => insert(inner, rest, value),
        _ => Err(()),
    }
}

/// Removes a setting, and its area if that is empty afterwards.
fn remove(table: &mut Table, name: &str) {
    let Some((area, rest)) = name.split_once('.') else { return drop(table.remove(name)) };
    let Some(inner) = table.get_mut(area).and_then(Value::as_table_mut) else { return };
    remove(inner, rest);
    if inner.is_empty() {
        table.remove(area);
    }
}

fn describe(path: &str, problems: Vec<String>) -> anyhow::Error {
    let lines: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    anyhow!("the parameters below {path}/ have {} problem(s){lines}", problems.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_kind_come_back_from_the_file() {
        let mut settings = StoredSettings::default();
        let odd = "a \"b\" \\ 'c' \n\t \u{7f} ü ]]> '''\"\"\"";
        for (name, value) in [("database.url", odd), ("auth.alb.arn", "x"), ("log.level", "warn")] {
            settings.values.insert(name.to_owned(), value.into());
        }
        let defaults = "[log]\nlevel = \"info\"\naccess = false\n".parse().unwrap();
        let table = compose(defaults, &settings, "eu-central-1", "/salebell/prod").unwrap();
        let mut table: Table = as_file(&table).expose_secret().parse().unwrap();
        assert_eq!(table["database"]["url"].as_str(), Some(odd));
        assert_eq!(table["auth"]["alb"]["arn"].as_str(), Some("x"));
        assert_eq!(
            (table["log"]["level"].as_str(), table["log"]["access"].as_bool()),
            (Some("warn"), Some(false))
        );
        assert_eq!(table["aws"]["parameters"].as_str(), Some("/salebell/prod"));
        ["log.level", "auth.alb.arn", "nothing.at.all"].iter().for_each(|name| remove(&mut table, name));
        assert_eq!((table["log"].get("level"), table.get("auth")), (None, None));
        assert!(table["log"]["access"].is_bool());
    }

    #[test]
    fn a_setting_is_not_also_a_section() {
        for names in [["log", "log.level"], ["log.level", "log.level.deep"]] {
            let mut settings = StoredSettings::default();
            names.iter().for_each(|name| drop(settings.values.insert((*name).to_owned(), "x".into())));
            let problem = compose(Table::new(), &settings, "r", "/p").unwrap_err();
            assert!(problem.contains("/p/log"), "{problem}");
        }
    }
}
