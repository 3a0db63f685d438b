//! What only the appliance needs: the process knows that it runs on an instance of EC2, in a group.

pub mod boot;
pub mod metadata;
pub mod parameters;
pub mod renewal;
mod run_directory;

/// A random factor from one half up to one, which keeps apart what failed together.
fn jitter() -> f64 {
    let mut random = [0_u8; 2];
    // Without random numbers the pauses are at their shortest, and no more.
    let _ = aws_lc_rs::rand::fill(&mut random);
    0.5 + f64::from(u16::from_ne_bytes(random)) / f64::from(u16::MAX) / 2.0
}
