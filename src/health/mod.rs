//! What others ask about this process: systemd (`watchdog`) and load balancers (`readiness`).

pub mod readiness;
pub mod watchdog;
