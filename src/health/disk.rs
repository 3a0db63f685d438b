//! State of the instance's own disk, for `/readyz`. `instance::disk` updates it.

use parking_lot::Mutex;

use crate::config;

/// State of the disk as `/readyz` reports it.
pub struct Disk {
    reason: Mutex<Option<&'static str>>,
}

impl Disk {
    /// State before the first check: not good if the disk is to be checked.
    pub fn new(settings: &config::InstanceConfig) -> Disk {
        let reason = settings.disk_full.map(|_| "has not been looked at yet");
        Disk { reason: Mutex::new(reason) }
    }

    /// Problem that has lasted long enough to be reported, in few words, because the endpoint is public.
    pub fn reason(&self) -> Option<&'static str> {
        *self.reason.lock()
    }

    /// Records the result of a check; `None` means that the disk is good.
    pub fn report(&self, reason: Option<&'static str>) {
        *self.reason.lock() = reason;
    }
}
