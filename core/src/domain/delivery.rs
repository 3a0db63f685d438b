//! Limits and final states of deliveries.

use super::text_enum::text_enum;

/// Maximum number of attempts kept for one delivery: five times the schedule. After further redeliveries, the newest
/// ones are kept.
pub const MAX_TRIES_KEPT: i32 = 50;

text_enum! {
    /// State of a delivery.
    pub enum DeliveryState {
        Pending = "pending",
        Delivered = "delivered",
        Dead = "dead",
        Cancelled = "cancelled",
    }
}

text_enum! {
    /// Why a channel is disabled.
    pub enum DisabledReason {
        /// The receiver answered 410.
        Gone = "gone",
        /// No delivery has succeeded in five days.
        Failing = "failing",
        /// It is being removed.
        Deleted = "deleted",
    }
}

text_enum! {
    /// Reason why a delivery is dead or cancelled.
    pub enum DeliveryReason {
        /// The receiver answered 410 (Gone).
        Gone = "gone",
        NoTriesLeft = "no_tries_left",
        ChannelDisabled = "channel_disabled",
        PriceNoLongerMatches = "price_no_longer_matches",
        SaleEnded = "sale_ended",
        WatchDeleted = "watch_deleted",
        WatchPaused = "watch_paused",
    }
}

/// Reasons for which a delivery is dead.
pub const DEAD: [DeliveryReason; 2] = [DeliveryReason::Gone, DeliveryReason::NoTriesLeft];

/// Reasons for which a delivery is cancelled.
pub const CANCELLED: [DeliveryReason; 5] = [
    DeliveryReason::ChannelDisabled,
    DeliveryReason::PriceNoLongerMatches,
    DeliveryReason::SaleEnded,
    DeliveryReason::WatchDeleted,
    DeliveryReason::WatchPaused,
];
