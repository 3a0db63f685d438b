//! State shared by every part of the process: pools, configuration, clock, bus.

pub mod cpu_time;
pub mod request_limit;

use std::sync::Arc;

use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::app::cpu_time::CpuTime;
use crate::app::request_limit::RequestLimit;
use crate::auth::Authenticator;
use crate::aws::Chain;
use crate::clock::Clock;
use crate::config::{Config, DatabaseConfig};
use crate::database::connect::{connect_options, make_pool};
use crate::database::deadline::Deadline;
use crate::database::iam_tokens::Tokens;
use crate::database::log_in::LogIn;
use crate::database::notifications::Notifications;
use crate::database::pool::{Password, PgPool};
use crate::database::reads::{Reads, Server};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::files::active_uploads::Uploads;
use crate::files::blobs::Blobs;
use crate::health::Health;
use crate::health::dead_man::DeadMan;
use crate::health::disk::Disk;
use crate::health::reader::{self, Deadlines, ReaderWatch};
use crate::health::readiness::Readiness;
use crate::health::watchdog::Watchdog;
use crate::outbound::bus::topic::Topic;
use crate::outbound::bus::{self, Bus};
use crate::outbound::email::Mailer;
use crate::outbound::ssrf_guard::system_look_up;
use crate::outbound::webhook::Webhooks;
use crate::secrets::Keyring;
use crate::store::activity_counter::Activity;
use crate::store::game_loader::GameLoader;
use crate::store::idempotency::KeptAnswers;

/// State shared by every task of the process; cheap to clone.
pub type App = Arc<AppState>;

pub struct AppState {
    pub config: Config,
    /// Pool for a caller's own data, and for all writes.
    pub writer: PgPool,
    /// Pools for reads that may be a second old: catalogue, deals, history.
    pub reads: Reads,
    /// Credentials with which every pool logs in.
    pub log_in: LogIn,
    /// Credentials of the process for AWS.
    pub aws: Chain,
    /// Loader of single games, through `reads`.
    pub games: GameLoader,
    pub clock: Clock,
    /// Processor time, which requests share.
    pub cpu: CpuTime,
    /// Limits of requests, if `server.rate_limits` sets one.
    pub request_limit: Option<RequestLimit>,
    pub bus: Bus,
    /// SNS topic on which events are published for other systems.
    pub events_topic: Option<Topic>,
    pub keyring: Keyring,
    pub webhooks: Webhooks,
    pub mailer: Mailer,
    pub authenticator: Authenticator,
    /// Counter of downloads and log-ins.
    pub activity: Activity,
    pub files: Files,
    /// Number and size of the responses that are kept for idempotency keys, by account.
    pub kept_answers: KeptAnswers,
    /// Notifications that another process has added something to a queue of the database.
    pub notifications: Notifications,
    /// Deadlines of work with the database.
    pub deadline: Deadline,
    pub health: Health,
    /// Cancelled when the process must stop: readiness then fails, and no new work begins.
    pub stopping: CancellationToken,
}

impl AppState {
    /// Makes the state, with pools that are not connected yet: a database that is unavailable at start may become
    /// available later. With `database.iam`, begins to make tokens for the pools.
    ///
    /// # Errors
    /// A database URL, an encryption key or an S3 endpoint is invalid, or `files.directory` must be mounted and is not.
    pub fn new(config: Config, clock: Clock) -> Result<App> {
        let url = config.database.url.expose_secret();
        let deadline = Deadline::default();
        let password = Password::default();
        let make = |name, settings: &DatabaseConfig, url: &str, writer: Option<&Clock>| {
            make_pool(name, settings, url, writer, &deadline, &password)
        };
        let writer = make("writer", &config.database, url, Some(&clock))?;
        let probe = DatabaseConfig { max_connections: 1, ..config.database.clone() };
        let readiness = Readiness::new(make("probe", &probe, url, Some(&clock))?, deadline.clone());
        let reader = match &config.database.reader_url {
            Some(url) => make("reader", &config.database, url.expose_secret(), None)?,
            None => writer.clone(),
        };
        let reads = Reads::new(reader.clone(), writer.clone());
        let watch = make_reader_watch(&config.database, &reads, &clock, &deadline, &password)?;
        let aws = Chain::new(config.region(), clock.clone());
        let tokens = config.aws.region.as_deref().filter(|_| config.database.iam);
        let tokens = tokens.map(|region| Tokens::new(aws.clone(), region, clock.clone(), password.clone()));
        if let Some(tokens) = &tokens {
            let mut pools = vec![reader, readiness.pool().clone(), writer.clone()];
            pools.extend(watch.iter().flat_map(ReaderWatch::pools).cloned());
            let with_options = |pool: PgPool| (pool.clone(), (*pool.connect_options()).clone());
            tokens.log_in(pools.into_iter().map(with_options).collect())?;
            // Started here, so that no command can omit it.
            tokio::spawn(tokens.clone().keep());
        }
        let request_limit = RequestLimit::new(clock.clone(), config.server.rate_limits);
        let keyring = Keyring::new(&config.webhook.encryption_keys).map_err(Error::internal)?;
        let (bus, events_topic) = bus::connect(&config.bus, writer.clone(), clock.clone(), &aws);
        let activity = Activity::new(writer.clone(), deadline.clone());
        Ok(Arc::new(AppState {
            bus,
            events_topic,
            webhooks: Webhooks::new(&config.webhook, system_look_up()),
            mailer: Mailer::new(&config.email),
            authenticator: Authenticator::new(
                &config.auth,
                writer.clone(),
                clock.clone(),
                deadline.clone(),
                activity.clone(),
            ),
            activity,
            files: Files {
                blobs: Blobs::new(&config.files, &aws).map_err(Error::internal)?,
                uploads: Uploads::default(),
            },
            health: Health {
                readiness,
                reader: watch,
                watchdog: Watchdog::default(),
                dead_man: DeadMan::default(),
                disk: Disk::new(&config.instance),
            },
            kept_answers: KeptAnswers::default(),
            games: GameLoader::new(reads.clone(), deadline.clone()),
            config,
            writer,
            reads,
            log_in: LogIn { password, tokens },
            aws,
            clock,
            cpu: CpuTime::default(),
            request_limit,
            keyring,
            notifications: Notifications::default(),
            deadline,
            stopping: CancellationToken::new(),
        }))
    }
}

/// Watch over the reader, if there is one.
fn make_reader_watch(
    settings: &DatabaseConfig,
    reads: &Reads,
    clock: &Clock,
    deadline: &Deadline,
    password: &Password,
) -> Result<Option<ReaderWatch>> {
    let Some(url) = &settings.reader_url else { return Ok(None) };
    let own = Deadline::default();
    let single =
        DatabaseConfig { max_connections: 1, acquire_timeout: reader::ACQUIRE_TIMEOUT, ..settings.clone() };
    let writer = single.url.expose_secret();
    let heartbeats = make_pool("probe", &single, writer, Some(clock), &own, password)?;
    heartbeats.set_connect_options(reader::heartbeat_options(connect_options(&single, writer)?));
    let probes = make_pool("probe", &single, url.expose_secret(), None, &own, password)?;
    let deadlines = Deadlines { own, shared: deadline.clone() };
    Ok(Some(ReaderWatch::new(reads.clone(), heartbeats, probes, deadlines, settings.reader_max_lag)))
}

impl AppState {
    /// Pool for reads that may be a second old: the reader's, or the writer's while the reader does not serve. It is
    /// called for each query.
    pub fn reader(&self) -> &PgPool {
        self.reads.pool()
    }

    /// Uses these settings for new connections to the database in all pools. Existing connections stay open.
    ///
    /// # Errors
    /// A URL is invalid; the settings are then unchanged.
    pub fn log_in_as(&self, settings: &DatabaseConfig) -> Result<()> {
        let writer = connect_options(settings, settings.url.expose_secret())?;
        let reader = settings.reader_url.as_ref().map(|url| connect_options(settings, url.expose_secret()));
        // Without a reader URL, `reader` is the writer's pool.
        let reader = reader.transpose()?.unwrap_or_else(|| writer.clone());
        let mut pools: Vec<(PgPool, PgConnectOptions)> = Vec::new();
        if let Some(watch) = &self.health.reader {
            pools.extend(watch.log_ins(writer.clone(), reader.clone()));
        }
        // The writer's pool last: without a reader it is that of the reader too.
        pools.extend([
            (self.reads.pool_of(Server::Reader).clone(), reader),
            (self.health.readiness.pool().clone(), writer.clone()),
            (self.writer.clone(), writer),
        ]);
        if let Some(tokens) = &self.log_in.tokens {
            return tokens.log_in(pools);
        }
        pools.into_iter().for_each(|(pool, options)| pool.set_connect_options(options));
        self.log_in.password.renewed();
        Ok(())
    }
}
