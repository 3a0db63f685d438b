//! Outcomes of statements that have an effect only for the holder of a row, or only for one process that claims it.

use sqlx::postgres::PgQueryResult;

/// Whether a process still held its lease when it executed a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It did, and the statement has taken effect.
    Held,
    /// Another process holds it by now, or it was ended, or the row is gone. The statement had no effect.
    Lost,
}

impl Lease {
    pub(super) fn of(result: &PgQueryResult) -> Lease {
        if result.rows_affected() > 0 { Lease::Held } else { Lease::Lost }
    }
}

/// Outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The process has it now.
    Granted,
    /// Another process has it, or it is not due yet.
    Refused,
}

impl Claim {
    pub(super) fn of(result: &PgQueryResult) -> Claim {
        if result.rows_affected() > 0 { Claim::Granted } else { Claim::Refused }
    }
}
