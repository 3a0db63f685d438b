//! Settings that change while a service runs: its database log-in, the keys that encrypt webhook secrets, and the token
//! issuers. All of them are read again every five minutes; secrets also as soon as the database refuses a password.
//!
//! During a password rotation, the database may have the new password before Secrets Manager labels it current. The new
//! version is still `AWSPENDING` then, so that version is tried too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aws_config::SdkConfig;
use secrecy::{ExposeSecret, SecretString};

use super::parameters::{Parameters, Stage};
use crate::app::App;
use crate::aws;
use crate::config::{Config, DatabaseConfig, SecretSetting};
use crate::error::Error;
use crate::secrets::Keyring;

/// Interval between complete reads.
const PERIOD: Duration = Duration::from_secs(300);
/// Interval between reads of the secrets while the database refuses the password.
const PAUSE: Duration = Duration::from_millis(250);
/// Settings that can change without a restart. All others stay as they were when the process started.
const LIVE: &[&str] = &[
    "auth.issuers",
    "database.password",
    "database.reader_url",
    "database.url",
    "database.user",
    "webhook.encryption_keys",
];

/// Sources that the settings of a process were loaded from.
pub struct Origin {
    /// The settings file, if there is one.
    pub file: Option<PathBuf>,
    /// Environment variables, which override the file.
    pub environment: Vec<(String, String)>,
}

/// Keeps the live settings of a running process up to date.
pub struct Renewal {
    app: App,
    origin: Origin,
    parameters: Parameters,
    /// The live settings whose values are secrets.
    secrets: Vec<SecretSetting>,
    /// Values read since the start, by setting; they override those of the file.
    changed: BTreeMap<String, SecretString>,
    /// The configuration in force.
    current: Config,
}

impl Renewal {
    /// Renewal with the process's own AWS credentials; `None` if the settings name no parameters and no live secrets,
    /// in which case nothing can change.
    pub async fn new(app: &App, origin: Origin) -> Option<Renewal> {
        let region = app.config.aws.region.as_deref()?;
        Renewal::with(app, origin, &app.aws.load(Some(region), None, aws::WHILE_BOOTING).await)
    }

    /// Same as `new`, with this configuration of the AWS clients.
    pub fn with(app: &App, origin: Origin, config: &SdkConfig) -> Option<Renewal> {
        let settings = &app.config.aws;
        let path = settings.parameters.as_deref().unwrap_or_default();
        let live = settings.secrets.iter().filter(|secret| is_live(&secret.setting));
        let secrets: Vec<_> = live.cloned().collect();
        if path.is_empty() && secrets.is_empty() {
            return None;
        }
        if secrets.iter().any(|secret| secret.setting.starts_with("database.")) {
            app.log_in.password.expect_renewals();
        }
        Some(Renewal {
            parameters: Parameters::new(config, path),
            secrets,
            changed: BTreeMap::new(),
            current: app.config.clone(),
            origin,
            app: app.clone(),
        })
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut next = tokio::time::Instant::now() + PERIOD;
        loop {
            let app = self.app.clone();
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    self.read_all().await;
                    next = tokio::time::Instant::now() + PERIOD.mul_f64(super::jitter());
                }
                // IAM tokens are renewed elsewhere.
                () = app.log_in.password.refused(), if app.log_in.tokens.is_none() => {
                    self.find_password().await;
                    // Many connections are refused at once, and each of them signals.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads all parameters and secrets again, and applies the live ones.
    pub async fn read_all(&mut self) {
        let (fresh, problems) = match self.parameters.path() {
            "" => self.parameters.read_secrets(&self.secrets, Stage::Current).await,
            _ => {
                let (settings, problems) = self.parameters.read().await;
                self.secrets =
                    settings.secrets.iter().filter(|secret| is_live(&secret.setting)).cloned().collect();
                (settings.values, problems)
            }
        };
        for problem in problems {
            log::warn!(target: "salebell::renewal", "what stood before stands on: {problem}");
        }
        self.take_over(fresh);
    }

    /// Searches for a password other than the one that was refused.
    pub async fn find_password(&mut self) {
        for stage in [Stage::Current, Stage::Pending] {
            let of_database = |secret: &&SecretSetting| secret.setting.starts_with("database.");
            let secrets: Vec<_> = self.secrets.iter().filter(of_database).cloned().collect();
            let (fresh, problems) = self.parameters.read_secrets(&secrets, stage).await;
            // Unless a rotation is under way, there is no pending version.
            for problem in problems.iter().filter(|_| stage == Stage::Current) {
                log::warn!(target: "salebell::renewal", "the database refuses our password, and {problem}");
            }
            if self.take_over(fresh) {
                return;
            }
        }
    }

    /// Applies new values; returns whether the database log-in has changed.
    fn take_over(&mut self, fresh: BTreeMap<String, SecretString>) -> bool {
        let mut changed = self.changed.clone();
        changed.extend(fresh.into_iter().filter(|(setting, _)| is_live(setting)));
        let environment = self.origin.environment.iter().cloned();
        let config = match Config::load_again(self.origin.file.as_deref(), &changed, environment) {
            Ok(config) => config,
            Err(problems) => {
                log::error!(target: "salebell::renewal", "what stood before stands on: {problems}");
                return false;
            }
        };
        self.changed = changed;
        match self.apply(config) {
            Ok(logged_in) => logged_in,
            Err(error) => {
                let reason = crate::error::chain(&error);
                log::error!(target: "salebell::renewal", "what stood before stands on: {reason}");
                false
            }
        }
    }

    fn apply(&mut self, new: Config) -> Result<bool, Error> {
        if exposed(&new.webhook.encryption_keys) != exposed(&self.current.webhook.encryption_keys) {
            let keys = Keyring::new(&new.webhook.encryption_keys).map_err(Error::internal)?;
            self.app.keyring.replace(keys);
            self.current.webhook = new.webhook;
            log::info!(target: "salebell::renewal", "other webhook.encryption_keys are in force");
        }
        if new.auth.issuers != self.current.auth.issuers {
            self.app.authenticator.trust(&new.auth);
            self.current.auth = new.auth;
            log::info!(target: "salebell::renewal", "other auth.issuers are in force");
        }
        if log_in(&new.database) == log_in(&self.current.database) {
            return Ok(false);
        }
        self.app.log_in_as(&new.database)?;
        self.current.database = new.database;
        log::info!(target: "salebell::renewal", "new connections to the database log in with another secret");
        Ok(true)
    }
}

fn is_live(setting: &str) -> bool {
    LIVE.contains(&setting)
}

fn exposed(secrets: &[SecretString]) -> Vec<&str> {
    secrets.iter().map(ExposeSecret::expose_secret).collect()
}

/// Everything that a connection logs in with.
fn log_in(database: &DatabaseConfig) -> (Option<&str>, Vec<&str>) {
    let optional = [database.reader_url.as_ref(), database.password.as_ref()];
    let secrets = optional.map(|secret| secret.map_or("", ExposeSecret::expose_secret));
    (database.user.as_deref(), [&[database.url.expose_secret()], &secrets[..]].concat())
}
