//! `[database]`: connections to PostgreSQL.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::aws::AwsConfig;
use super::reader::Reader;

/// `[database]`: addresses, log-in and limits of the connections.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `database.url`: URL of the writer.
    pub url: SecretString,
    /// `database.reader_url`: URL for reads that may be a second old; without it they go to the writer.
    pub reader_url: Option<SecretString>,
    /// `database.reader_max_lag_ms`: longest lag of the reader before reads use the writer.
    pub reader_max_lag: Duration,
    /// `database.user`: user, if it is not in the URLs.
    pub user: Option<String>,
    /// `database.password`: password, if it is not in the URLs.
    pub password: Option<SecretString>,
    /// `database.iam`: whether IAM tokens are used in place of a password.
    pub iam: bool,
    /// `database.max_connections`: most connections of each pool.
    pub max_connections: u32,
    /// `database.acquire_timeout_ms`: time that a request waits for a connection before it fails with 503.
    pub acquire_timeout: Duration,
    /// `database.statement_timeout_ms`: timeout of a statement, and of a pause within a transaction.
    pub statement_timeout: Duration,
}

impl DatabaseConfig {
    pub(super) fn read(r: &mut Reader, aws: &AwsConfig) -> Option<DatabaseConfig> {
        let database = DatabaseConfig {
            url: r.required("database.url").unwrap_or_default().into(),
            reader_url: r.optional("database.reader_url").map(SecretString::from),
            reader_max_lag: r.millis("database.reader_max_lag_ms")?,
            user: r.optional("database.user").filter(|user| !user.is_empty()),
            password: r.optional("database.password").filter(|it| !it.is_empty()).map(SecretString::from),
            iam: r.get("database.iam")?,
            max_connections: r.get("database.max_connections")?,
            acquire_timeout: r.millis("database.acquire_timeout_ms")?,
            statement_timeout: r.millis("database.statement_timeout_ms")?,
        };
        let urls =
            [("database.url", Some(&database.url)), ("database.reader_url", database.reader_url.as_ref())];
        for (key, url) in urls {
            // An unreadable URL is reported when it is used.
            let Some(url) = url.and_then(|url| Url::parse(url.expose_secret()).ok()) else { continue };
            let has_password = url.password().is_some() || of_query(&url, &["password"]).is_some();
            if database.password.is_some() && has_password {
                r.problem("database.password", format!("is in {key} too"));
            }
            if !database.iam {
                continue;
            }
            if has_password {
                r.problem(key, "must have no password with database.iam");
            }
            if database.user.is_none() && url.username().is_empty() && of_query(&url, &["user"]).is_none() {
                r.problem(key, "needs a user with database.iam, or database.user");
            }
            let host = of_query(&url, &["host"]).or(url.host_str().map(str::to_owned)).unwrap_or_default();
            if host.is_empty() || host.starts_with('/') || host.to_ascii_lowercase().starts_with("%2f") {
                r.problem(key, "needs a host with database.iam");
            }
            let mode = of_query(&url, &["sslmode", "ssl-mode"]).unwrap_or_default();
            // A token is sent over the wire in the clear, so the connection must be encrypted.
            if !["require", "verify-ca", "verify-full"].contains(&mode.to_ascii_lowercase().as_str()) {
                r.problem(key, "needs sslmode=verify-full, verify-ca or require with database.iam");
            }
        }
        if database.iam && database.password.is_some() {
            r.problem("database.password", "must not be set with database.iam");
        }
        if database.iam && aws.region.is_none() {
            r.problem("aws.region", "is required with database.iam");
        }
        Some(database)
    }
}

/// Effective value of a URL parameter, which is the last one.
fn of_query(url: &Url, names: &[&str]) -> Option<String> {
    let found = url.query_pairs().filter(|(key, _)| names.contains(&key.as_ref())).last();
    found.map(|(_, value)| value.into_owned())
}
