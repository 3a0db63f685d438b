//! `salebell key`: manages API keys directly in the database, for the first operator, and for machines without a
//! browser to log in with.

use chrono::TimeDelta;
use clap::Subcommand;
use secrecy::ExposeSecret;

use crate::app::App;
use crate::domain::api_key;
use crate::domain::ids::{AccountId, ApiKeyId};
use crate::error::{Error, Result};
use crate::secrets;
use crate::store::{accounts, keys};

/// Create, list and revoke API keys.
#[derive(Debug, Subcommand)]
pub enum KeysAction {
    /// Create a key and print it, alone, on standard output: it is shown only once.
    Create {
        #[command(flatten)]
        account: Account,
        /// The purpose of the key.
        #[arg(long, default_value = "made by salebell key")]
        name: String,
        /// A scope of the key, beyond the rights of every account over its own things. Repeat it for several.
        #[arg(long, value_parser = api_key::SCOPES)]
        scope: Vec<String>,
        /// Days after which the key expires.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
        expires_in_days: Option<u16>,
    },
    /// List an account's keys, the newest first: id, prefix, name, scopes, times.
    List {
        #[command(flatten)]
        account: Account,
    },
    /// Revoke a key; running processes refuse it within five seconds.
    Revoke {
        #[command(flatten)]
        account: Account,
        /// The key's id, as `list` shows it.
        id: ApiKeyId,
    },
}

/// The account that owns the keys.
#[derive(Debug, clap::Args)]
pub struct Account {
    /// Subject of the account: `sub` of its tokens, or any name for an account without tokens.
    #[arg(long)]
    subject: String,
    /// The issuer that names the subject: `iss` of its tokens, or `local`.
    #[arg(long, default_value = "local")]
    issuer: String,
}

/// Performs the action, and returns the text to print.
///
/// # Errors
/// Fails if there is no such account or key, or if the database is unavailable.
pub async fn run(app: &App, action: KeysAction) -> Result<String> {
    let now = app.clock.now();
    match action {
        KeysAction::Create { account: Account { subject, issuer }, name, scope, expires_in_days } => {
            let account = accounts::find_or_create_account(&app.writer, &issuer, &subject, now).await?;
            let key = secrets::generate_api_key()?;
            let new = keys::NewKey {
                name: &name,
                hint: &api_key::hint(&key),
                digest: &api_key::digest_of(key.expose_secret()),
                scopes: &scope,
                expires_at: expires_in_days.map(|days| now + TimeDelta::days(days.into())),
            };
            keys::create_key(&app.writer, account, &new, now).await?;
            Ok(key.expose_secret().to_owned())
        }
        KeysAction::List { account } => {
            let account = find(app, &account).await?;
            let found = keys::list_keys(&app.writer, account, None, i64::MAX).await?;
            Ok(found.iter().map(describe).collect::<Vec<_>>().join("\n"))
        }
        KeysAction::Revoke { account, id } => {
            let account = find(app, &account).await?;
            keys::delete_key(&app.writer, account, id, |_| Ok(())).await?;
            Ok(format!("revoked {id}"))
        }
    }
}

async fn find(app: &App, account: &Account) -> Result<AccountId> {
    let found = accounts::find_account(&app.writer, &account.issuer, &account.subject).await?;
    found.ok_or_else(|| Error::not_found("account"))
}

fn describe(key: &keys::Key) -> String {
    let time = |time: Option<chrono::DateTime<chrono::Utc>>| {
        time.map_or_else(|| "-".to_owned(), |time| time.format("%Y-%m-%dT%H:%MZ").to_string())
    };
    format!(
        "{}  {}…  {:?}  scopes {}  created {}  expires {}  last used {}",
        key.id,
        key.hint,
        key.name,
        if key.scopes.is_empty() { "-".to_owned() } else { key.scopes.join(",") },
        time(Some(key.created_at)),
        time(key.expires_at),
        time(key.last_used_at),
    )
}
