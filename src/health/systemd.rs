//! Notifications to systemd (sd_notify(3)).

use sd_notify::NotifyState;

/// Tells systemd. Nothing happens where it does not listen.
pub fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!(target: "salebell::process", "systemd does not hear us: {error}");
    }
}
