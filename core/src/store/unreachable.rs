//! Explains to the user of a command why it cannot reach its database.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::error::connection::{UnknownName, explain};

/// Timeout of the attempt to connect.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries to connect, and returns why that fails. A pool cannot do so: it retries, and in the end reports only a
/// timeout. Returns `None` if a connection can be made.
pub async fn explain_unreachable(options: &PgConnectOptions) -> Option<String> {
    let peer = match options.get_socket() {
        Some(folder) => format!("the socket in {} (port {})", folder.display(), options.get_port()),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let is_name = options.get_socket().is_none() && !options.get_host().starts_with('/');
    if is_name && tokio::net::lookup_host((options.get_host(), 0)).await.is_err() {
        return Some(UnknownName(options.get_host().to_owned()).to_string());
    }
    let error = match tokio::time::timeout(PROBE_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(Ok(connection)) => {
            let _ = connection.close().await;
            return None;
        }
        Ok(Err(error)) => error,
        Err(_) => return Some(format!("{peer} does not answer")),
    };
    let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
    Some(match (code.as_deref(), &error) {
        (Some("28P01" | "28000"), _) => {
            format!("PostgreSQL at {peer} does not let {} in: {error}", options.get_username())
        }
        (Some("3D000"), _) => {
            let name = options.get_database().unwrap_or(options.get_username());
            format!("PostgreSQL at {peer} has no database {name}")
        }
        (Some("57P03"), _) => format!("PostgreSQL at {peer} is starting or stopping"),
        (Some("53300"), _) => format!("PostgreSQL at {peer} has no connection left"),
        (_, sqlx::Error::Protocol(_)) => format!("what listens at {peer} does not answer as PostgreSQL does"),
        _ => explain(&error, &peer).unwrap_or_else(|| format!("no connection to {peer}: {error}")),
    })
}
