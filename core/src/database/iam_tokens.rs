//! Database log-ins with IAM tokens in place of a password (`database.iam`).
//!
//! A token is a URL signed with our AWS credentials. It contains host, port and user, so each host has its own. It is
//! valid for 15 minutes or until the credentials expire, for any number of log-ins; RDS requests it as a clear-text
//! password. A connection outlives the token that it was opened with.
//! <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.Connecting.html>

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use chrono::{DateTime, TimeDelta, Utc};
use metrics::counter;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::aws::{self, Chain};
use crate::clock::Clock;
use crate::database::pool::{Password, PgPool};
use crate::error::{Error, Result, chain};

/// How long RDS accepts a token.
const LIFE: Duration = Duration::from_secs(900);
/// Interval at which tokens are checked for their age. It is short so that a clock that is put forward, or a machine
/// that slept, does not make a renewal late.
const TICK: Duration = Duration::from_secs(1);
/// Age below which a refusal is not due to the age of the token.
const NEW: TimeDelta = TimeDelta::seconds(60);
/// First pause after a failure, and before another attempt when a new token was refused; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause while there are no credentials. It is short because a process that waits for its first ones has
/// waited for a long time already.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause while the database refuses new tokens.
const LONGEST_PAUSE_OF_THE_REFUSED: Duration = Duration::from_secs(60);
/// How long a command waits for its first token before it reports the reason.
const FIRST_LIMIT: Duration = Duration::from_secs(60);

/// Keeps the tokens of all pools valid. Clones share one state.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    chain: Chain,
    region: String,
    clock: Clock,
    password: Password,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// The pools, and their connection options without the token.
    pools: Vec<(PgPool, PgConnectOptions)>,
    newest: Option<Newest>,
    /// Why there are no tokens, or no newer ones.
    reason: String,
}

/// Credentials that sign the newest tokens, and the tokens' period of validity.
struct Newest {
    credentials: Credentials,
    made: DateTime<Utc>,
    /// Time until which RDS accepts the tokens.
    end: DateTime<Utc>,
}

impl Tokens {
    /// Tokens for databases in `region`, for pools that share `password`. There are none before `keep` runs.
    pub fn new(chain: Chain, region: &str, clock: Clock, password: Password) -> Tokens {
        password.expect_first();
        let region = region.to_owned();
        Tokens(Arc::new(Inner { chain, region, clock, password, held: Mutex::default() }))
    }

    /// Replaces the pools: from now on, their connections are opened with these options and a token each.
    ///
    /// # Errors
    /// `Internal`: a token cannot be created for one of them. Nothing has changed then.
    pub fn log_in(&self, pools: Vec<(PgPool, PgConnectOptions)>) -> Result<()> {
        let mut held = self.0.held.lock();
        if let Some(newest) = &held.newest {
            self.set(&pools, &newest.credentials, newest.made)?;
        }
        held.pools = pools;
        Ok(())
    }

    /// Renews tokens until the future is dropped.
    pub async fn keep(self) {
        let (mut failures, mut refusals) = (0, 0);
        loop {
            if let Err(reason) = self.renew().await {
                failures += 1;
                counter!("salebell_database_tokens_total", "outcome" => "failed").increment(1);
                self.report_failure(reason);
                tokio::time::sleep(aws::pause_after(failures, FIRST_PAUSE, LONGEST_PAUSE)).await;
                continue;
            }
            failures = 0;
            tokio::select! {
                () = self.until_due() => refusals = 0,
                () = self.until_others_can_be_signed() => {}
                () = self.0.password.refused() => {
                    let is_new = self.age().is_some_and(|age| age < NEW);
                    refusals = if is_new { refusals + 1 } else { 0 };
                    if refusals > 0 {
                        counter!("salebell_database_tokens_total", "outcome" => "refused").increment(1);
                    }
                    if refusals > 1 {
                        self.report_refusal();
                        let longest = LONGEST_PAUSE_OF_THE_REFUSED;
                        tokio::time::sleep(aws::pause_after(refusals - 1, FIRST_PAUSE, longest)).await;
                    }
                    // The credentials may have been revoked.
                    self.0.chain.renew();
                }
            }
        }
    }

    /// Waits for the first token. Commands do so, since they end if they cannot log in.
    ///
    /// # Errors
    /// `Unavailable`: there was none within a minute. The error states the reason.
    pub async fn first(&self) -> Result<()> {
        let first = tokio::time::timeout(FIRST_LIMIT, self.0.password.first()).await;
        first.map_err(|_| Error::unavailable(self.0.held.lock().reason.clone()))
    }

    /// Age of the newest tokens.
    pub fn age(&self) -> Option<TimeDelta> {
        let made = self.0.held.lock().newest.as_ref().map(|newest| newest.made)?;
        Some(self.0.clock.now() - made)
    }

    /// Supplies all pools with new tokens.
    ///
    /// # Errors
    /// The reason in one line.
    async fn renew(&self) -> Result<(), String> {
        let credentials =
            self.0.chain.credentials(aws::CREDENTIALS_TIMEOUT).await.map_err(|error| error.to_string())?;
        let mut held = self.0.held.lock();
        let made = self.0.clock.now();
        self.set(&held.pools, &credentials, made).map_err(|error| chain(&error))?;
        let end = credentials.expiry().map_or(made + LIFE, |end| DateTime::from(end).min(made + LIFE));
        held.newest = Some(Newest { credentials, made, end });
        counter!("salebell_database_tokens_total", "outcome" => "made").increment(1);
        Ok(())
    }

    fn set(
        &self,
        pools: &[(PgPool, PgConnectOptions)],
        credentials: &Credentials,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let with_token = |(pool, options): &(PgPool, PgConnectOptions)| {
            let place = (options.get_host(), options.get_port());
            let token = make_token(place, options.get_username(), &self.0.region, credentials, now)?;
            Ok((pool.clone(), options.clone().password(token.expose_secret())))
        };
        let ready = pools.iter().map(with_token).collect::<Result<Vec<_>>>()?;
        ready.into_iter().for_each(|(pool, options)| pool.set_connect_options(options));
        self.0.password.renewed();
        Ok(())
    }

    /// Waits until two thirds of a token's validity are over: 10 minutes, or less if the credentials expire earlier.
    async fn until_due(&self) {
        let due =
            self.0.held.lock().newest.as_ref().map(|newest| newest.made + (newest.end - newest.made) * 2 / 3);
        while due.is_some_and(|due| self.0.clock.now() < due) {
            tokio::time::sleep(TICK).await;
        }
    }

    /// Waits until there are newer credentials than those that signed the newest tokens.
    async fn until_others_can_be_signed(&self) {
        let credentials = self.0.held.lock().newest.as_ref().map(|newest| newest.credentials.clone());
        match credentials {
            Some(credentials) => self.0.chain.newer_than(&credentials).await,
            None => std::future::pending().await,
        }
    }

    fn report_failure(&self, reason: String) {
        let now = self.0.clock.now();
        let mut held = self.0.held.lock();
        match held.newest.as_ref().map(|newest| (newest.end - now).num_seconds()) {
            Some(left @ 1..) => log::error!(target: "salebell::iam",
                "the token for the database is not renewed, and good for {left} s more: {reason}"),
            _ => log::error!(target: "salebell::iam", "there is no token for the database: {reason}"),
        }
        held.reason = reason;
    }

    fn report_refusal(&self) {
        for (_, options) in &self.0.held.lock().pools {
            let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
            log::error!(target: "salebell::iam",
                "the database refuses a new token, perhaps that of {user} at {host}:{port}: the user needs rds_iam \
                 there, our role rds-db:connect as {user}, and both the same name of the host");
        }
    }
}

/// Creates the token with which `user` logs in to one database, valid for 15 minutes from `now`.
///
/// # Errors
/// `Internal`: the host is not valid in a URL.
pub fn make_token(
    (host, port): (&str, u16),
    user: &str,
    region: &str,
    credentials: &Credentials,
    now: DateTime<Utc>,
) -> Result<SecretString> {
    const SCHEME: &str = "https://";
    let mut url = Url::parse(&format!("{SCHEME}{host}:{port}/")).map_err(Error::internal)?;
    url.query_pairs_mut().append_pair("Action", "connect").append_pair("DBUser", user);
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFE);
    let identity = credentials.clone().into();
    let parameters = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(SystemTime::from(now))
        .settings(settings)
        .build()
        .map_err(Error::internal)?;
    let request = SignableRequest::new("GET", url.as_str(), std::iter::empty(), SignableBody::empty());
    let signed = sign(request.map_err(Error::internal)?, &parameters.into()).map_err(Error::internal)?;
    let (instructions, _) = signed.into_parts();
    for (name, value) in instructions.params() {
        url.query_pairs_mut().append_pair(name, value);
    }
    // Forms encode spaces as +, URLs do not.
    Ok(String::from(url).split_off(SCHEME.len()).replace('+', "%20").into())
}
