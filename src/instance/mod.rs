//! Code that only the appliance runs: the process is on an EC2 instance in an Auto Scaling group and manages its own
//! lifecycle.
//!
//! ```text
//! launch       ready.rs        /readyz succeeds → complete the launch hook; it never does → abandon the launch
//! service      dead_man.rs     load balancer health checks cease → request replacement of this instance, and stop
//!              disk.rs         the local disk stays full → request replacement, and keep serving until then
//! termination  terminating.rs  the group or EC2 ends the instance → drain the services → complete the termination hook
//! ```
//!
//! All of them use `metadata.rs`, the instance metadata service, and `autoscaling.rs`, the instance's group. Launch and
//! termination share `lifecycle.rs`; the two replacement triggers share `replacement.rs`.

pub mod autoscaling;
pub mod boot;
pub mod dead_man;
pub mod disk;
mod lifecycle;
pub mod metadata;
pub mod parameters;
pub mod ready;
pub mod renewal;
mod replacement;
mod run_directory;
pub mod terminating;

use crate::aws::jitter;
