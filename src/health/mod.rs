//! Health of this process, as others query it: systemd (`watchdog`, `systemd`), load balancers (`readiness`, `disk`),
//! the replacement of the instance (`dead_man`), and reads of the database (`reader`).

pub mod dead_man;
pub mod disk;
pub mod reader;
pub mod readiness;
pub mod systemd;
pub mod watchdog;

use self::dead_man::DeadMan;
use self::disk::Disk;
use self::reader::ReaderWatch;
use self::readiness::Readiness;
use self::watchdog::Watchdog;

/// State of the process's health.
pub struct Health {
    /// Whether the database answers, for `/readyz`.
    pub readiness: Readiness,
    /// Whether the database's reader serves, if there is one.
    pub reader: Option<ReaderWatch>,
    /// Heartbeats of the process's loops, for systemd.
    pub watchdog: Watchdog,
    /// Health checks that the load balancer has made.
    pub dead_man: DeadMan,
    /// Whether the instance's own disk can be written to, for `/readyz`.
    pub disk: Disk,
}
