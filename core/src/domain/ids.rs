//! Ids: a type for each kind of row, so that an id of one kind cannot be passed where another is expected.
//!
//! All are UUIDs, in JSON and in the database as well. `query_as!` fills fields of these types through `From<Uuid>`;
//! query parameters are passed as the UUID inside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
            ToSchema,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, which sorts after all ids that this process has made before.
            pub fn now_v7() -> $name {
                $name(Uuid::now_v7())
            }

            /// The smallest id, which sorts before all others.
            pub const fn nil() -> $name {
                $name(Uuid::nil())
            }

            /// The largest id, which sorts after all others.
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
    /// Id of an account. Queries for anything that an account owns also filter by it.
    AccountId;
    /// Id of an API key.
    ApiKeyId;
    StoreId;
    GameId;
    OfferId;
    SaleId;
    /// Id of an observation in quarantine.
    QuarantinedPriceId;
    /// Id of a price transition in the outbox.
    EventId;
    /// Id of one report of prices.
    BatchId;
    WatchId;
    NoticeId;
    ChannelId;
    /// Id of a delivery, which a webhook carries as `webhook-id`.
    DeliveryId;
    FileId;
    /// Id of a share link, under which anyone may fetch a file.
    LinkId;
    ImportId;
    ExportId;
}

impl ImportId {
    /// Id of the import's batch, which is the same UUID.
    pub fn batch(self) -> BatchId {
        BatchId(self.0)
    }
}
