//! What every part of the process shares: pools, configuration, clock, bus.

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

/// Shared by every task of the process; cheap to clone.
pub type App = Arc<AppState>;

pub struct AppState {
    pub config: Config,
    /// A caller's own things, and all writes.
    pub writer: PgPool,
    /// What may be a second old: catalogue, deals, history.
    pub reader: PgPool,
    /// What every pool logs in with.
    pub log_in: LogIn,
    /// Who we are to AWS.
    pub aws: Chain,
    /// Reads single games through `reader`.
    pub games: GameLoader,
    pub clock: Clock,
    /// Whose turn it is to compute.
    pub cpu: CpuTime,
    pub bus: Bus,
    /// Where other teams hear of events.
    pub events_topic: Option<Topic>,
    pub keyring: Keyring,
    pub webhooks: Webhooks,
    pub mailer: Mailer,
    pub authenticator: Authenticator,
    /// Counts downloads and log-ins.
    pub activity: Activity,
    pub files: Files,
    /// How much is kept for idempotency keys.
    pub kept_answers: KeptAnswers,
    /// Rings when another process has put something into a queue of the database.
    pub notifications: Notifications,
    /// Limits work with the database.
    pub deadline: Deadline,
    pub health: Health,
    /// Cancelled when the process has been told to stop: readiness fails, new work is not begun.
    pub stopping: CancellationToken,
}

impl AppState {
    /// Makes the pools without connecting: a database that is away at start is one that comes back. With
    /// `database.iam`, begins to make tokens for them.
    ///
    /// # Errors
    /// A database URL, an encryption key or an address of S3 that cannot be read.
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
            // Here, so that no command can forget it.
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
    /// Connections to the database are made with these settings from now on, in all pools; those that there are stay.
    ///
    /// # Errors
    /// A URL that cannot be read; nothing has changed then.
    pub fn log_in_as(&self, settings: &DatabaseConfig) -> Result<()> {
        let writer = connect_options(settings, settings.url.expose_secret())?;
        let reader = settings.reader_url.as_ref().map(|url| connect_options(settings, url.expose_secret()));
        // Without a reader's URL the reader is the writer's pool.
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
