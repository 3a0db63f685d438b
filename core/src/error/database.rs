//! Errors of PostgreSQL as refusals: by SQLSTATE, and by the names of the schema's constraints.

use super::Error;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_transient(&error) {
            return Error::unavailable(error);
        }
        match &error {
            _ if is_bad_data(&error) => {
                let detail =
                    "A value in the request is out of range, or contains characters that cannot be stored.";
                Error { source: Some(error.into()), ..Error::malformed(detail) }
            }
            // The login was refused: the password is being rotated, or is incorrect.
            sqlx::Error::Database(database)
                if matches!(database.code().as_deref(), Some("28P01" | "28000")) =>
            {
                Error::unavailable(error)
            }
            sqlx::Error::RowNotFound => Error::not_found("thing"),
            sqlx::Error::Database(database) => match database.constraint().and_then(on_constraint) {
                Some(refusal) => refusal,
                None => Error::internal(error),
            },
            _ => Error::internal(error),
        }
    }
}

/// Refusal for a write that violates a constraint of the schema.
fn on_constraint(name: &str) -> Option<Error> {
    Some(match name {
        "stores_slug_key" => Error::conflict("A store with this slug already exists."),
        "offers_store_sku_region_key" => {
            Error::conflict("This store already has an offer with this sku and region.")
        }
        "offers_store_id_fkey" => Error::invalid("/store", "is unknown"),
        "offers_game_id_fkey" | "watches_game_id_fkey" => Error::invalid("/game_id", "is unknown"),
        _ => return None,
    })
}

/// Whether PostgreSQL, or the driver before it, rejects a value. Values are checked before they get here, so this
/// covers those that no check does, such as the values of a forged cursor; they are logged.
///
/// Covered are SQLSTATE class 22 without the errors of our own statements (such as 22012, division by zero): text that
/// is too long, contains a NUL or cannot be transcoded, and numbers and times that are out of range or malformed;
/// 23514, a check constraint; and class 54, a value that is too large for an index or has too many parts.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_bad_data(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            code.starts_with("54")
                || matches!(
                    code.as_ref(),
                    "22001" | "22003" | "22007" | "22008" | "22009" | "22015" | "22021" | "22023" | "22026"
                )
                || matches!(code.as_ref(), "22030" | "22032" | "22P02" | "22P03" | "22P05" | "23514")
        }),
        _ => false,
    }
}

/// Whether the database is unavailable, failing over or overloaded, in which case a retry may succeed.
///
/// SQLSTATE classes: 08 connection, 53 resources, 57P0x shutdown and crash, 25006 a replica that was the writer,
/// 40001/40P01 serialization and deadlock, 55P03/57014 timeouts.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            code.starts_with("08")
                || code.starts_with("53")
                || matches!(
                    code.as_ref(),
                    "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "40001" | "40P01" | "55P03" | "57014"
                )
        }),
        _ => false,
    }
}
