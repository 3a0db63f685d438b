//! Every setting, one struct an area. Defaults < file < environment; all errors are told at once.
//!
//! A setting has one name four ways: `config.database.url` in code, `[database] url` in the TOML file that
//! `SALEBELL_CONFIG` or `--config` names, `SALEBELL_DATABASE__URL` in the environment, and
//! `/salebell/<environment>/database/url` in Parameter Store, from where `salebell boot` writes such a file.

mod aws;
mod bus;
mod database;
mod email;
mod files;
mod instance;
mod load_balancer;
mod reader;
pub mod settings;
mod telemetry;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use ipnet::IpNet;
use lettre::Address;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub use self::aws::{AwsConfig, SECRET_PREFIX, SecretName, SecretSetting};
pub use self::bus::{Arn, BusConfig, BusKind};
pub use self::database::DatabaseConfig;
pub use self::email::{EmailConfig, MailServer, MailTls};
pub use self::files::{FileStore, FilesConfig, MAX_BYTES_IN_S3};
pub use self::instance::InstanceConfig;
pub use self::load_balancer::LoadBalancerConfig;
use self::reader::Reader;
pub use self::telemetry::{EmfTarget, TelemetryConfig};
pub use self::tls::TlsConfig;
use crate::domain::api_key;
use crate::domain::price::{GlitchRules, Rules};
use crate::domain::public_keys::read_keys;

/// A worker keeps one connection to listen on, and some transactions of the dispatch open while it asks for more.
const MIN_CONNECTIONS: u64 = 5;

/// What the file of settings is called among the credentials that systemd gives a service (`LoadCredential=`).
pub const CREDENTIAL: &str = "config.toml";

/// Everything that can be set.
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

/// `[server]`: listeners and limits of HTTP.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `server.listen`: where the API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `server.grpc_listen`: where gRPC is; port 0 takes a free one. `None` (`off`, or empty): nowhere.
    pub grpc_listen: Option<SocketAddr>,
    /// `server.tls`, `server.certificate`, `server.key`
    pub tls: TlsConfig,
    /// `server.metrics_listen`: Prometheus metrics; loopback only.
    pub metrics_listen: SocketAddr,
    /// `server.request_timeout_s`: how long a request with a bounded body may take.
    pub request_timeout: Duration,
    /// `server.header_timeout_s`: how long the headers of a request may take from their first byte on, and a TLS
    /// handshake.
    pub header_timeout: Duration,
    /// `server.idle_timeout_s`: how long a connection may idle: longer than the load balancer lets it, 60 s, so that
    /// it never sends a request into a connection that closes.
    pub idle_timeout: Duration,
    /// `server.body_idle_timeout_s`: how long a streamed body may pause, and how long a client may take nothing of an
    /// answer.
    pub body_idle_timeout: Duration,
    /// `server.linger_s`: how long new connections are still taken after SIGTERM, while readiness fails already:
    /// longer than the load balancer needs to notice.
    pub linger: Duration,
    /// `server.drain_s`: how long requests in flight may finish after that. The unit's stop time must be longer
    /// than both together.
    pub drain: Duration,
    /// `server.max_connections`: connections of a listener at once. Beyond them only health checks are answered.
    pub max_connections: ConnectionLimit,
    /// `server.max_json_bytes`: the largest JSON body.
    pub max_json_bytes: usize,
    /// `server.rate_limit_per_minute`: requests of one account, or of one address without a token. 0: no limit.
    pub rate_limit_per_minute: u64,
    /// `server.trusted_proxies`: networks of load balancers, whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// `server.max_connections`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// `auto`: what the process may open, less a reserve for everything else.
    Automatic,
    /// `0`
    Unlimited,
    Count(usize),
}

impl FromStr for ConnectionLimit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ConnectionLimit, Self::Err> {
        match text {
            "auto" => Ok(ConnectionLimit::Automatic),
            number => match number.parse() {
                Ok(0) => Ok(ConnectionLimit::Unlimited),
                Ok(count) => Ok(ConnectionLimit::Count(count)),
                Err(_) => Err("must be auto or a number"),
            },
        }
    }
}

/// Of a listener that can be off; Parameter Store keeps no empty value.
struct Listen(Option<SocketAddr>);

impl FromStr for Listen {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Listen, Self::Err> {
        match text {
            "" | "off" => Ok(Listen(None)),
            address => Ok(Listen(Some(address.parse()?))),
        }
    }
}

impl ServerConfig {
    /// How long a process may take to end once it is told to: `server.linger_s`, `server.drain_s` and 5 s.
    pub fn stop_limit(&self) -> Duration {
        self.linger + self.drain + Duration::from_secs(5)
    }
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// `auth.issuers`: whose tokens are believed. A list of tables in the file, a JSON list in the environment.
    pub issuers: Vec<Issuer>,
    /// `[auth.alb]`: `None` without `auth.alb.arn`.
    pub alb: Option<LoadBalancerConfig>,
}

/// One token issuer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What `iss` must be, to the letter.
    pub issuer: String,
    /// What `aud` must be one of (or `client_id`, where a token has no `aud`).
    #[serde(default)]
    pub audiences: Vec<String>,
    /// What `client_id` must be one of, as in the access tokens of Cognito; this or `audiences`, or both.
    #[serde(default)]
    pub client_ids: Vec<String>,
    /// Of `RS256`, `ES256`, `EdDSA`.
    pub algorithms: Vec<String>,
    /// Where its keys are; this or `jwks`.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// Its keys themselves, a JSON Web Key Set.
    #[serde(default)]
    pub jwks: Option<serde_json::Value>,
    /// The claim that holds the scopes, a list or a text with spaces.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
    /// What stands before each of our scopes in the claim, such as Cognito's `<resource server>/`.
    #[serde(default)]
    pub scope_prefix: String,
    /// The claim that holds the groups of a user, a list.
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// What the users of a group may do besides: group → scopes.
    #[serde(default)]
    pub group_scopes: BTreeMap<String, Vec<String>>,
}

fn scope_claim() -> String {
    "scope".to_owned()
}

fn groups_claim() -> String {
    "cognito:groups".to_owned()
}

/// `[worker]`
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// `worker.metrics_listen`: Prometheus metrics of `salebell worker`; loopback only.
    pub metrics_listen: SocketAddr,
    /// `worker.record_concurrency`: messages of prices that are recorded at once.
    pub record_concurrency: usize,
    /// `worker.deliver_concurrency`: deliveries in flight in this process.
    pub deliver_concurrency: usize,
    /// `worker.poll_ms`: how often the queues are looked at when no notification comes.
    pub poll: Duration,
    /// `worker.lease_s`: after how long without a sign of life work is taken over by another worker.
    pub lease: Duration,
    /// `worker.fanout_slice`: how many watches one transaction of the dispatch takes.
    pub fanout_slice: i64,
    /// `worker.scratch`: where an import sorts what does not fit into memory; nothing of it lasts.
    pub scratch: PathBuf,
    /// `worker.daily_hour`: the hour of the day in UTC at which watches of cadence `daily` deliver.
    pub daily_hour: u32,
}

/// `[webhook]`
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// `webhook.allow_http`: plain http too.
    pub allow_http: bool,
    /// `webhook.allow_networks`: private networks that may be called all the same, such as `127.0.0.0/8`.
    pub allow_networks: Vec<IpNet>,
    /// `webhook.connect_timeout_ms`
    pub connect_timeout: Duration,
    /// `webhook.timeout_ms`: for the whole of one attempt.
    pub timeout: Duration,
    /// `webhook.in_flight_per_channel`
    pub in_flight_per_channel: usize,
    /// `webhook.channels_per_account`: an account has no more channels than this.
    pub channels_per_account: i64,
    /// `webhook.encryption_keys`: 32 bytes each, as base64 or as 64 hex digits. The first seals channel secrets, all open them.
    pub encryption_keys: Vec<SecretString>,
}

/// `[stats]`
#[derive(Clone, Debug)]
pub struct StatsConfig {
    /// `stats.mail_to`: who gets the report on every week.
    pub mail_to: Vec<Address>,
    /// `stats.compute_every_s`: how often the running week is computed.
    pub compute_every: Duration,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `log.level`: `error`, `warn`, `info`, `debug`, `trace`.
    pub level: log::LevelFilter,
    /// `log.to`: `journal`, `stderr`, or `auto`: the journal when systemd has connected us to it.
    pub to: LogTarget,
    /// `log.access`: one line for each request.
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

/// Everything that is wrong with a configuration. No value is repeated in it: it may be a secret.
#[derive(Debug)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} problem(s)", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads the file (if one is named) and `SALEBELL_<AREA>__<KEY>` of `environment`.
    ///
    /// # Errors
    /// Every unreadable, missing, wrong or unknown key at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Problems> {
        Config::load_again(file, &BTreeMap::new(), environment)
    }

    /// Reads what `load` reads, with values over those of the file that have changed since: a setting's name → its value.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_again(
        file: Option<&Path>,
        changed: &BTreeMap<String, SecretString>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Problems> {
        let (reader, config) = Config::read_all(file, changed, environment)?;
        let (config, unknown) = reader.finish(config);
        match (config, unknown) {
            (Ok(config), unknown) if unknown.is_empty() => Ok(config),
            (config, unknown) => {
                let told = config.err().into_iter().flat_map(|problems| problems.0);
                Err(Problems(told.chain(unknown.into_values()).collect()))
            }
        }
    }

    /// For what stands beside the services, without their secrets, and has to work when they cannot start: whatever is
    /// missing or wrong counts as its default. Returned is also what was wrong with the settings that matter there.
    ///
    /// # Errors
    /// Nothing can be read at all.
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
        // SALEBELL_URL and the like are for the command line; settings have an area.
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

    /// Reads the text of a file whose settings are parameters below `path`. Unknown keys are no problem of it: they
    /// stand beside the result, with what is to be told of them. `Err` holds every missing or wrong key at once.
    pub fn load_parameters(toml: &str, path: &str) -> (Result<Config, Problems>, BTreeMap<String, String>) {
        let file = config::File::from_str(toml, config::FileFormat::Toml);
        let table = match merge(config::Config::builder().add_source(file)) {
            Ok(table) => table,
            Err(problems) => return (Err(problems), BTreeMap::new()),
        };
        let mut reader = Reader::new(table);
        reader.parameters = Some(path.to_owned());
        let config = Config::read(&mut reader);
        reader.finish(config)
    }

    /// The file of settings: what is named, or `config.toml` among the credentials that systemd gives a service.
    pub fn locate(named: Option<PathBuf>, credentials: Option<PathBuf>) -> Option<PathBuf> {
        named.or_else(|| credentials.map(|folder| folder.join(CREDENTIAL)).filter(|file| file.exists()))
    }

    /// Where we are at AWS, as far as the settings tell.
    pub fn region(&self) -> Option<&str> {
        self.aws.region.as_deref().or(self.files.s3_region.as_deref().filter(|region| !region.is_empty()))
    }

    /// One line a setting: this is the list of what exists, with its defaults.
    fn read(r: &mut Reader) -> Option<Config> {
        let aws = AwsConfig::read(r)?;
        let Listen(grpc_listen) = r.get("server.grpc_listen")?;
        let server = ServerConfig {
            listen: r.get("server.listen")?,
            grpc_listen,
            tls: TlsConfig::read(r)?,
            metrics_listen: r.get("server.metrics_listen")?,
            request_timeout: r.seconds("server.request_timeout_s")?,
            header_timeout: r.seconds("server.header_timeout_s")?,
            idle_timeout: r.seconds("server.idle_timeout_s")?,
            body_idle_timeout: r.seconds("server.body_idle_timeout_s")?,
            linger: r.seconds("server.linger_s")?,
            drain: r.seconds("server.drain_s")?,
            max_connections: r.get("server.max_connections")?,
            max_json_bytes: r.get("server.max_json_bytes")?,
            rate_limit_per_minute: r.get("server.rate_limit_per_minute")?,
            trusted_proxies: r.words("server.trusted_proxies")?,
        };
        let database = DatabaseConfig::read(r, &aws)?;
        let auth =
            AuthConfig { issuers: r.list_of("auth.issuers")?, alb: LoadBalancerConfig::read(r, &server)? };
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

fn merge(
    sources: config::ConfigBuilder<config::builder::DefaultState>,
) -> Result<serde_json::Value, Problems> {
    sources.build().and_then(|merged| merged.try_deserialize()).map_err(|error| first_line(&error))
}

/// The further ones show those of the file, and they may hold secrets.
fn first_line(error: &config::ConfigError) -> Problems {
    Problems(vec![error.to_string().lines().next().unwrap_or_default().to_owned()])
}

impl Issuer {
    fn check(&self) -> Result<(), String> {
        let pinned = !self.audiences.is_empty() || !self.client_ids.is_empty();
        if self.issuer.is_empty() || !pinned || self.algorithms.is_empty() {
            return Err("needs issuer, audiences or client_ids, and algorithms".to_owned());
        }
        let mut of_groups = self.group_scopes.values().flatten();
        if of_groups.any(|scope| !api_key::SCOPES.contains(&scope.as_str())) {
            return Err(format!("has group_scopes with others than {}", api_key::SCOPES.join(", ")));
        }
        if let Some(other) =
            self.algorithms.iter().find(|a| !matches!(a.as_str(), "RS256" | "ES256" | "EdDSA"))
        {
            return Err(format!("knows RS256, ES256 and EdDSA, not {other}"));
        }
        if self.jwks_url.is_some() == self.jwks.is_some() {
            return Err("needs one of jwks_url and jwks".to_owned());
        }
        // Whoever can change the answer can make tokens.
        let url = self.jwks_url.as_deref().map(url::Url::parse);
        match url {
            Some(Ok(url)) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => {}
            None => {}
            Some(_) => return Err("needs a jwks_url of https, or of http on loopback".to_owned()),
        }
        if self.jwks.as_ref().is_some_and(|set| read_keys(set).is_empty()) {
            return Err("has no key in jwks that verifies RS256, ES256 or EdDSA".to_owned());
        }
        Ok(())
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests;
