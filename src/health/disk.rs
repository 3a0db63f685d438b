//! What `/readyz` knows of the instance's own disk. `instance::disk` watches it.

use parking_lot::Mutex;

use crate::config;

/// What `/readyz` knows of the disk.
pub struct Disk {
    reason: Mutex<Option<&'static str>>,
}

impl Disk {
    /// Not good before it has been looked at, if it is to be.
    pub fn new(settings: &config::InstanceConfig) -> Disk {
        let reason = settings.disk_full.map(|_| "has not been looked at yet");
        Disk { reason: Mutex::new(reason) }
    }

    /// What is wrong with it for so long that it counts. In few words: everybody may ask.
    pub fn reason(&self) -> Option<&'static str> {
        *self.reason.lock()
    }

    /// `None`: the disk is good.
    pub fn report(&self, reason: Option<&'static str>) {
        *self.reason.lock() = reason;
    }
}
