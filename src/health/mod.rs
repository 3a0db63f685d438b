//! Health of this process, as others query it: systemd (`watchdog`, `systemd`), load balancers (`readiness`, `disk`),
//! and the replacement of the instance (`dead_man`).

pub mod dead_man;
pub mod disk;
pub mod readiness;
pub mod systemd;
pub mod watchdog;
