//! The token in `.salebell/dev-token`: an API key with every scope, for an account of its own.

use std::path::Path;

use anyhow::Context as _;
use secrecy::{ExposeSecret, SecretString};

use super::home::{read_secret, write_secret};
use crate::app::App;
use crate::domain::api_key;
use crate::secrets;
use crate::store::accounts;
use crate::store::keys::{self, NewKey};

/// Returns the key in the file if the database still accepts it with every scope. Otherwise creates a new one and
/// writes it to the file.
///
/// # Errors
/// Fails if the database cannot be queried or the file cannot be written.
pub async fn find_or_create(app: &App, file: &Path) -> anyhow::Result<SecretString> {
    let now = app.clock.now();
    if let Some(token) = read_secret(file)?.filter(|token| api_key::is_well_formed(token)) {
        let digest = api_key::digest_of(&token);
        let known = keys::find_valid_key(&app.writer, &digest, now).await;
        let known = known.context("cannot look the token up")?;
        if known.is_some_and(|key| api_key::SCOPES.iter().all(|scope| key.scopes.iter().any(|s| s == scope)))
        {
            return Ok(SecretString::from(token));
        }
    }
    let account = accounts::find_or_create_account(&app.writer, "salebell:dev", "dev", now)
        .await
        .context("cannot make an account")?;
    let key = secrets::generate_api_key().context("cannot make a token")?;
    let new = NewKey {
        name: "salebell dev",
        hint: &api_key::hint(&key),
        digest: &api_key::digest_of(key.expose_secret()),
        scopes: &api_key::SCOPES.map(str::to_owned),
        expires_at: None,
    };
    keys::create_key(&app.writer, account, &new, now).await.context("cannot make a token")?;
    write_secret(file, key.expose_secret())?;
    Ok(key)
}
