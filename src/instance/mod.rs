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

/// A random factor from one half up to one, which keeps apart what failed together.
fn jitter() -> f64 {
    let mut random = [0_u8; 2];
    // Without random numbers the pauses are at their shortest, and no more.
    let _ = aws_lc_rs::rand::fill(&mut random);
    0.5 + f64::from(u16::from_ne_bytes(random)) / f64::from(u16::MAX) / 2.0
}
