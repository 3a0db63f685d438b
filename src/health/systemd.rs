//! Notifications to systemd (sd_notify(3)).

use sd_notify::NotifyState;

/// Sends a notification to systemd. Does nothing if the process does not run under systemd.
pub fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!(target: "salebell::process", "systemd does not hear us: {error}");
    }
}
