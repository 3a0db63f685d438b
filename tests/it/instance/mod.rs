//! A machine of the appliance, from its boot to its replacement.

mod appliance;
mod boot;
mod dead_man;
mod disk;
mod efs;
mod lifecycle;
