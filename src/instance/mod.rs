//! What only the appliance needs: the process knows that it runs on an instance of EC2, in an Auto Scaling group.
//!
//! ```text
//! launch       ready.rs        /readyz is good → the launch hook is completed; never → it is abandoned
//! service      dead_man.rs     the load balancer does not ask any more → have this instance replaced
//! termination  terminating.rs  the group or EC2 wants it gone → drain the services → complete the hook
//! ```
//!
//! They stand on `metadata.rs`, what the instance may know of itself, and `autoscaling.rs`, its group; launch and
//! termination share `lifecycle.rs`.

pub mod autoscaling;
pub mod boot;
pub mod dead_man;
mod lifecycle;
pub mod metadata;
pub mod parameters;
pub mod ready;
pub mod renewal;
mod run_directory;
pub mod terminating;

use crate::aws::jitter;
