//! What others ask about this process: systemd (`watchdog`, `systemd`), load balancers (`readiness`, `disk`), and the
//! instance's own replacement (`dead_man`).

pub mod dead_man;
pub mod disk;
pub mod readiness;
pub mod systemd;
pub mod watchdog;
