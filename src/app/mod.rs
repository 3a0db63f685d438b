//! State shared by every part of the process: pools, configuration, clock, bus.

pub mod cpu_time;

use std::sync::Arc;

use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::app::cpu_time::CpuTime;
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
use crate::error::{Error, Result};
use crate::files::Files;
use crate::files::active_uploads::Uploads;
use crate::files::blobs::Blobs;
use crate::health::Health;
use crate::health::dead_man::DeadMan;
use crate::health::disk::Disk;
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
    /// Pool for reads that may be a second old: catalogue, deals, history.
    pub reader: PgPool,
    /// Credentials with which every pool logs in.
    pub log_in: LogIn,
    /// Credentials of the process for AWS.
    pub aws: Chain,
    /// Loader of single games, through `reader`.
    pub games: GameLoader,
    pub clock: Clock,
    /// Processor time, which requests share.
    pub cpu: CpuTime,
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
        let aws = Chain::new(config.region(), clock.clone());
        let tokens = config.aws.region.as_deref().filter(|_| config.database.iam);
        let tokens = tokens.map(|region| Tokens::new(aws.clone(), region, clock.clone(), password.clone()));
        if let Some(tokens) = &tokens {
            let pools = [&reader, readiness.pool(), &writer].map(PgPool::clone);
            tokens.log_in(pools.map(|pool| (pool.clone(), (*pool.connect_options()).clone())).into())?;
            // Started here, so that no command can omit it.
            tokio::spawn(tokens.clone().keep());
        }
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
                watchdog: Watchdog::default(),
                dead_man: DeadMan::default(),
                disk: Disk::new(&config.instance),
            },
            kept_answers: KeptAnswers::default(),
            games: GameLoader::new(reader.clone()),
            config,
            writer,
            reader,
            log_in: LogIn { password, tokens },
            aws,
            clock,
            cpu: CpuTime::default(),
            keyring,
            notifications: Notifications::default(),
            deadline,
            stopping: CancellationToken::new(),
        }))
    }
}

impl AppState {
    /// Uses these settings for new connections to the database in all pools. Existing connections stay open.
    ///
    /// # Errors
    /// A URL is invalid; the settings are then unchanged.
    pub fn log_in_as(&self, settings: &DatabaseConfig) -> Result<()> {
        let writer = connect_options(settings, settings.url.expose_secret())?;
        let reader = settings.reader_url.as_ref().map(|url| connect_options(settings, url.expose_secret()));
        // Without a reader URL, `reader` is the writer's pool.
        let reader = reader.transpose()?.unwrap_or_else(|| writer.clone());
        let pools =
            [(&self.reader, reader), (self.health.readiness.pool(), writer.clone()), (&self.writer, writer)];
        if let Some(tokens) = &self.log_in.tokens {
            return tokens.log_in(pools.map(|(pool, options)| (pool.clone(), options)).into());
        }
        pools.into_iter().for_each(|(pool, options)| pool.set_connect_options(options));
        self.log_in.password.renewed();
        Ok(())
    }
}
