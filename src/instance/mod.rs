//! What only the appliance needs: the process knows that it runs on an instance of EC2, in an Auto Scaling group.
//!
//! ```text
//! launch       ready.rs        /readyz is good → the launch hook is completed; never → it is abandoned
//! service      dead_man.rs     the load balancer does not ask any more → have this instance replaced, and stop
//!              disk.rs         its own disk stays full → have this instance replaced, and serve until then
//! termination  terminating.rs  the group or EC2 wants it gone → drain the services → complete the hook
//! ```
//!
//! They stand on `metadata.rs`, what the instance may know of itself, and `autoscaling.rs`, its group; launch and
//! termination share `lifecycle.rs`, and what has the instance replaced shares `replacement.rs`.

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
