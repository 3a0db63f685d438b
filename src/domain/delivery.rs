//! Limits and final states of deliveries.

/// Five times the schedule: who redelivers for ever sees the newest.
pub const MAX_TRIES_KEPT: i32 = 50;

/// Why a delivery is dead.
pub const DEAD: [&str; 2] = ["gone", "no_tries_left"];
