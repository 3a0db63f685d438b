//! All settings, one struct per area. Precedence: defaults < file < environment. All errors are reported at once.
//!
//! A setting has one name in four forms: `config.database.url` in code, `[database] url` in the TOML file that
//! `SALEBELL_CONFIG` or `--config` names, `SALEBELL_DATABASE__URL` in the environment, and
//! `/salebell/<environment>/database/url` in Parameter Store, from which `salebell boot` writes such a file.

mod auth;
mod aws;
mod bus;
mod database;
mod email;
mod files;
mod instance;
mod load_balancer;
mod origin;
mod reader;
mod server;
pub mod settings;
mod telemetry;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use ipnet::IpNet;
use lettre::Address;
use secrecy::{ExposeSecret, SecretString};

pub use self::auth::{AuthConfig, Issuer};
pub use self::aws::{AwsConfig, SECRET_PREFIX, SecretName, SecretSetting};
pub use self::bus::{Arn, BusConfig, BusKind};
pub use self::database::DatabaseConfig;
pub use self::email::{EmailConfig, MailServer, MailTls};
pub use self::files::{FileStore, FilesConfig, MAX_BYTES_IN_S3};
pub use self::instance::InstanceConfig;
pub use self::load_balancer::LoadBalancerConfig;
pub use self::origin::WebOrigin;
pub use self::reader::Problems;
use self::reader::Reader;
pub use self::server::{ConnectionLimit, CorsOrigins, RateLimits, ServerConfig};
pub use self::telemetry::{EmfTarget, TelemetryConfig};
pub use self::tls::TlsConfig;
use crate::domain::price::{GlitchRules, Rules};
use crate::error::Error;

/// Lower bound of `database.max_connections`: a worker keeps one connection for notifications, and dispatch keeps some
/// transactions open while it needs further connections.
const MIN_CONNECTIONS: u64 = 5;

/// Name of the settings file among the credentials that systemd passes to a service (`LoadCredential=`).
pub const CREDENTIAL: &str = "config.toml";

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub aws: AwsConfig,
    pub server: ServerConfig,
    pub database: DatabaseConfig,
    pub auth: AuthConfig,
    pub worker: WorkerConfig,
    pub webhook: WebhookConfig,
    pub prices: Rules,
    pub bus: BusConfig,
    pub files: FilesConfig,
    pub email: EmailConfig,
    pub instance: InstanceConfig,
    pub stats: StatsConfig,
    pub telemetry: TelemetryConfig,
    pub log: LogConfig,
}

/// `[worker]`: the loops of `salebell worker`.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// `worker.metrics_listen`: address of the Prometheus metrics of `salebell worker`; loopback only.
    pub metrics_listen: SocketAddr,
    /// `worker.record_concurrency`: most messages of prices recorded concurrently.
    pub record_concurrency: usize,
    /// `worker.deliver_concurrency`: most deliveries in flight in this process.
    pub deliver_concurrency: usize,
    /// `worker.poll_ms`: interval at which the queues are polled when no notification comes.
    pub poll: Duration,
    /// `worker.lease_s`: time without a sign of life after which another worker takes over.
    pub lease: Duration,
    /// `worker.fanout_slice`: most watches that one dispatch transaction handles.
    pub fanout_slice: i64,
    /// `worker.scratch`: folder in which an import sorts what does not fit into memory; its files need not last.
    pub scratch: PathBuf,
    /// `worker.daily_hour`: hour of the day, in UTC, at which watches of cadence `daily` deliver.
    pub daily_hour: u32,
}

/// `[webhook]`: deliveries to receivers, and the encryption of their secrets.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// `webhook.allow_http`: whether plain http is allowed too.
    pub allow_http: bool,
    /// `webhook.allow_networks`: private networks that may be called nevertheless, such as `127.0.0.0/8`.
    pub allow_networks: Vec<IpNet>,
    /// `webhook.connect_timeout_ms`: timeout of the connection.
    pub connect_timeout: Duration,
    /// `webhook.timeout_ms`: timeout of one whole attempt.
    pub timeout: Duration,
    /// `webhook.in_flight_per_channel`: most concurrent deliveries to one channel.
    pub in_flight_per_channel: usize,
    /// `webhook.channels_per_account`: most channels of an account.
    pub channels_per_account: i64,
    /// `webhook.encryption_keys`: 32 bytes each, as base64 or as 64 hex digits. The first key seals channel secrets,
    /// and every key opens them.
    pub encryption_keys: Vec<SecretString>,
}

/// `[stats]`: the weekly statistics.
#[derive(Clone, Debug)]
pub struct StatsConfig {
    /// `stats.mail_to`: recipients of the weekly report.
    pub mail_to: Vec<Address>,
    /// `stats.compute_every_s`: interval at which the current week is computed.
    pub compute_every: Duration,
}

/// `[log]`: level and destination of the log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `log.level`: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: log::LevelFilter,
    /// `log.to`: `journal`, `stderr`, or `auto`: the journal if systemd has connected the process to it.
    pub to: LogTarget,
    /// `log.access`: whether each request is logged, on one line.
    pub access: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Auto,
    Journal,
    Stderr,
}

impl FromStr for LogTarget {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(LogTarget::Auto),
            "journal" => Ok(LogTarget::Journal),
            "stderr" => Ok(LogTarget::Stderr),
            _ => Err("must be auto, journal or stderr"),
        }
    }
}

impl Config {
    /// Loads the file (if one is named) and the variables `SALEBELL_<AREA>__<KEY>` of `environment`.
    ///
    /// # Errors
    /// Lists every unreadable, missing, invalid or unknown key at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Problems> {
        Config::load_again(file, &BTreeMap::new(), environment)
    }

    /// Loads the same as [`load`](Config::load), with values that override those of the file because they have changed
    /// since: setting name → value.
    ///
    /// # Errors
    /// Same as [`load`](Config::load).
    pub fn load_again(
        file: Option<&Path>,
        changed: &BTreeMap<String, SecretString>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Problems> {
        let (reader, config) = Config::read_all(file, changed, environment)?;
        let (mut problems, unknown) = reader.finish();
        problems.extend(unknown.into_values());
        without(problems, config)
    }

    /// Loads the configuration of a command that runs beside the services, has none of their secrets, and must work
    /// even when they cannot start: everything missing or invalid gets its default. Also returns the problems of the
    /// settings that matter to such a command.
    ///
    /// # Errors
    /// Fails if nothing can be read at all.
    pub fn load_beside(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Config, Problems), Problems> {
        let unchanged = BTreeMap::new();
        let environment: Vec<_> = environment.into_iter().collect();
        let (mut problems, read) = match Config::read_all(file, &unchanged, environment.clone()) {
            Err(Problems(of_file)) if file.is_some() => {
                (of_file, Config::read_all(None, &unchanged, environment))
            }
            read => (Vec::new(), read),
        };
        let (reader, config) = read?;
        let areas = ["instance.", "server.", "worker.metrics_listen", "telemetry.", "log."];
        let matters = |problem: &String| areas.iter().any(|area| problem.starts_with(area));
        problems.extend(reader.problems.into_iter().filter(matters));
        match config {
            Some(config) => Ok((config, Problems(problems))),
            None => Err(Problems(problems)),
        }
    }

    fn read_all(
        file: Option<&Path>,
        changed: &BTreeMap<String, SecretString>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Reader, Option<Config>), Problems> {
        // SALEBELL_URL and the like belong to the command line; settings have an area.
        let settings =
            environment.into_iter().filter(|(key, _)| key.starts_with("SALEBELL_") && key.contains("__"));
        let source = config::Environment::with_prefix("SALEBELL")
            .prefix_separator("_")
            .separator("__")
            .source(Some(settings.collect()));
        let mut builder = config::Config::builder();
        if let Some(path) = file {
            builder = builder.add_source(config::File::from(path).format(config::FileFormat::Toml));
        }
        let mut fresh = config::Config::builder();
        for (key, value) in changed {
            fresh = fresh.set_override(key, value.expose_secret()).map_err(|error| first_line(&error))?;
        }
        let fresh = fresh.build().map_err(|error| first_line(&error))?;
        let mut reader = Reader::new(merge(builder.add_source(fresh).add_source(source))?);
        let config = Config::read(&mut reader);
        Ok((reader, config))
    }

    /// Loads the text of a file whose settings are parameters below `path`. Unknown keys are not an error: they are
    /// returned beside the result, each with a message. `Err` lists every missing or invalid key at once.
    pub fn load_parameters(toml: &str, path: &str) -> (Result<Config, Problems>, BTreeMap<String, String>) {
        let file = config::File::from_str(toml, config::FileFormat::Toml);
        let table = match merge(config::Config::builder().add_source(file)) {
            Ok(table) => table,
            Err(problems) => return (Err(problems), BTreeMap::new()),
        };
        let mut reader = Reader::new(table);
        reader.parameters = Some(path.to_owned());
        let config = Config::read(&mut reader);
        let (problems, unknown) = reader.finish();
        (without(problems, config), unknown)
    }

    /// Path of the settings file: the named one, or else `config.toml` among the credentials that systemd passes to a
    /// service.
    pub fn locate(named: Option<PathBuf>, credentials: Option<PathBuf>) -> Option<PathBuf> {
        named.or_else(|| credentials.map(|folder| folder.join(CREDENTIAL)).filter(|file| file.exists()))
    }

    /// AWS region, as far as the settings name one.
    pub fn region(&self) -> Option<&str> {
        self.aws.region.as_deref().or(self.files.s3_region.as_deref().filter(|region| !region.is_empty()))
    }

    /// What links in mails begin with.
    ///
    /// # Errors
    /// `Internal` without `server.public_url`, which a configuration with e-mail always has.
    pub fn origin_of_mails(&self) -> Result<&WebOrigin, Error> {
        let origin = self.server.public_url.as_ref();
        origin.ok_or_else(|| Error::internal("server.public_url is not set"))
    }

    /// Reads every setting, one line each; `settings::AREAS` has their defaults.
    fn read(r: &mut Reader) -> Option<Config> {
        let aws = AwsConfig::read(r)?;
        let server = ServerConfig::read(r)?;
        let database = DatabaseConfig::read(r, &aws)?;
        let auth = AuthConfig::read(r, &server)?;
        let worker = WorkerConfig {
            metrics_listen: r.get("worker.metrics_listen")?,
            record_concurrency: r.get("worker.record_concurrency")?,
            deliver_concurrency: r.get("worker.deliver_concurrency")?,
            poll: r.millis("worker.poll_ms")?,
            lease: r.seconds("worker.lease_s")?,
            fanout_slice: r.get("worker.fanout_slice")?,
            scratch: r.get("worker.scratch")?,
            daily_hour: r.get("worker.daily_hour")?,
        };
        let webhook = WebhookConfig {
            allow_http: r.get("webhook.allow_http")?,
            allow_networks: r.words("webhook.allow_networks")?,
            connect_timeout: r.millis("webhook.connect_timeout_ms")?,
            timeout: r.millis("webhook.timeout_ms")?,
            in_flight_per_channel: r.get("webhook.in_flight_per_channel")?,
            channels_per_account: r.get("webhook.channels_per_account")?,
            encryption_keys: r
                .words::<String>("webhook.encryption_keys")?
                .into_iter()
                .map(Into::into)
                .collect(),
        };
        let confirm_after_s: u32 = r.get("quarantine.confirm_after_s")?;
        let glitches = GlitchRules {
            min_percent: r.get("quarantine.min_percent")?,
            max_jump: r.get("quarantine.max_jump")?,
            confirm_after: TimeDelta::seconds(i64::from(confirm_after_s)),
        };
        let same_sale_within_s: u32 = r.get("prices.same_sale_within_s")?;
        let rings_within_s: u32 = r.get("prices.rings_within_s")?;
        let prices = Rules {
            glitches,
            same_sale_within: TimeDelta::seconds(i64::from(same_sale_within_s)),
            rings_within: TimeDelta::seconds(i64::from(rings_within_s)),
        };
        let bus = BusConfig::read(r)?;
        let files = FilesConfig::read(r)?;
        let email = EmailConfig::read(r)?;
        let instance = InstanceConfig::read(r)?;
        let stats = StatsConfig {
            mail_to: r.words("stats.mail_to")?,
            compute_every: r.seconds("stats.compute_every_s")?,
        };
        let telemetry = TelemetryConfig::read(r, &aws)?;
        let log =
            LogConfig { level: r.get("log.level")?, to: r.get("log.to")?, access: r.get("log.access")? };

        for (at, issuer) in auth.issuers.iter().enumerate() {
            issuer.check().unwrap_or_else(|problem| r.problem(&format!("auth.issuers[{at}]"), problem));
        }
        for (key, address) in [
            ("server.metrics_listen", server.metrics_listen),
            ("worker.metrics_listen", worker.metrics_listen),
        ] {
            if !address.ip().is_loopback() {
                r.problem(key, "must be a loopback address");
            }
        }
        if worker.daily_hour > 23 {
            r.problem("worker.daily_hour", "must be 0 to 23");
        }
        for (key, value, least) in [
            ("server.header_timeout_s", server.header_timeout.as_secs(), 1),
            ("server.idle_timeout_s", server.idle_timeout.as_secs(), 1),
            ("server.body_idle_timeout_s", server.body_idle_timeout.as_secs(), 1),
            ("database.reader_max_lag_ms", database.reader_max_lag.as_millis() as u64, 1000),
            ("database.max_connections", u64::from(database.max_connections), MIN_CONNECTIONS),
            ("worker.record_concurrency", worker.record_concurrency as u64, 1),
            ("worker.deliver_concurrency", worker.deliver_concurrency as u64, 1),
            ("worker.fanout_slice", worker.fanout_slice.max(0) as u64, 1),
            ("stats.compute_every_s", stats.compute_every.as_secs(), 1),
            ("webhook.in_flight_per_channel", webhook.in_flight_per_channel as u64, 1),
            ("webhook.channels_per_account", webhook.channels_per_account.max(0) as u64, 1),
        ] {
            if value < least {
                r.problem(key, format!("must be at least {least}"));
            }
        }
        if let Err(problem) = crate::secrets::Keyring::new(&webhook.encryption_keys) {
            r.problem("webhook.encryption_keys", problem);
        }
        if email.server.is_some() && server.public_url.is_none() && !r.has_problem("server.public_url") {
            r.problem("server.public_url", "is required with email.smtp_url: links in mails begin with it");
        }
        if !stats.mail_to.is_empty() && email.server.is_none() {
            r.problem("stats.mail_to", "needs email.smtp_url and email.from");
        }
        Some(Config {
            aws,
            server,
            database,
            auth,
            worker,
            webhook,
            prices,
            bus,
            files,
            email,
            instance,
            stats,
            telemetry,
            log,
        })
    }
}

/// The configuration, if there are no problems.
fn without(problems: Vec<String>, config: Option<Config>) -> Result<Config, Problems> {
    config.filter(|_| problems.is_empty()).ok_or(Problems(problems))
}

fn merge(
    sources: config::ConfigBuilder<config::builder::DefaultState>,
) -> Result<serde_json::Value, Problems> {
    sources.build().and_then(|merged| merged.try_deserialize()).map_err(|error| first_line(&error))
}

/// Keeps the first line only: the others quote the file, which may hold secrets.
fn first_line(error: &config::ConfigError) -> Problems {
    Problems(vec![error.to_string().lines().next().unwrap_or_default().to_owned()])
}

#[cfg(test)]
mod tests;
