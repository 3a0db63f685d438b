//! Ids: a type for each kind of row, so that none can be passed where another is meant.
//!
//! All are UUIDs, in JSON and in the database too. `query_as!` fills fields of these types by `From<Uuid>`; a query's
//! parameters take the UUID inside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, which sorts behind all that were made before it.
            pub fn now_v7() -> $name {
                $name(Uuid::now_v7())
            }

            /// Sorts before all others.
            pub const fn nil() -> $name {
                $name(Uuid::nil())
            }

            /// Sorts behind all others.
            pub const fn max() -> $name {
                $name(Uuid::max())
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> $name {
                $name(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<$name, uuid::Error> {
                text.parse().map($name)
            }
        }
    )*};
}

ids! {
    /// Of an account: what everything that belongs to somebody is found by.
    AccountId;
    /// Of an API key.
    ApiKeyId;
    StoreId;
    GameId;
    OfferId;
    SaleId;
    /// Of an observation that was held back.
    QuarantinedPriceId;
    /// Of a transition of a price, in the outbox.
    EventId;
    /// Of one report of prices.
    BatchId;
    WatchId;
    NoticeId;
    ChannelId;
    /// Of a notice on its way to a channel. A webhook carries it as `webhook-id`.
    DeliveryId;
    FileId;
    /// Of an address under which anybody may fetch a file.
    LinkId;
    ImportId;
    ExportId;
}

impl ImportId {
    /// The batch of an import, which has its id.
    pub fn batch(self) -> BatchId {
        BatchId(self.0)
    }
}
