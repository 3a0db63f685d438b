//! What a statement says that does something only for the one who holds the row, and for the one who asks to.

use sqlx::postgres::PgQueryResult;

/// Whether what a process had taken for a while was still its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It was, and what was to be done is done.
    Held,
    /// It is another's by now, or over, or gone. Nothing was done.
    Lost,
}

impl Lease {
    pub(super) fn of(result: &PgQueryResult) -> Lease {
        if result.rows_affected() > 0 { Lease::Held } else { Lease::Lost }
    }
}

/// Whether a process may have what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It has it.
    Granted,
    /// Another has it, or its time has not come.
    Refused,
}

impl Claim {
    pub(super) fn of(result: &PgQueryResult) -> Claim {
        if result.rows_affected() > 0 { Claim::Granted } else { Claim::Refused }
    }
}
