//! Events as other teams see them: the body and the attributes of a message on `bus.events_topic`. docs/reference/events.md holds
//! the contract: fields may be added to a version, not changed.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::domain::ids::{EventId, OfferId, SaleId};
use crate::domain::money::{Currency, Money};
use crate::domain::price::EndReason;
use crate::error::{Error, Result};
use crate::outbound::bus::topic::{Attribute, TopicMessage};
use crate::outbound::webhook::{GameData, StoreData};
use crate::store::publications::UnpublishedEvent;

#[derive(Serialize)]
struct Event<'a> {
    /// The same however often it is published.
    id: EventId,
    /// Such as `sale.started.v1`.
    #[serde(rename = "type")]
    kind: String,
    /// When it was recorded.
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: EventData<'a>,
}

#[derive(Serialize)]
struct EventData<'a> {
    sale_id: Option<SaleId>,
    game: Option<GameData<'a>>,
    offer: OfferData<'a>,
    price: Money,
    regular_price: Money,
    /// Whole percent below the regular price.
    cut: i16,
    new_low: bool,
    /// Why a sale has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<EndReason>,
    /// When the price was seen, or when a sale was over as its store had said.
    observed_at: String,
    /// Historical: it rings no bells.
    backfill: bool,
}

/// All but the id is absent when the offer has been removed since.
#[derive(Serialize)]
struct OfferData<'a> {
    id: OfferId,
    store: Option<StoreData<'a>>,
    sku: Option<&'a str>,
    region: Option<&'a str>,
    platform: Option<&'a str>,
    url: Option<&'a str>,
}

/// The message of an event; with a group where the topic keeps order.
///
/// # Errors
/// A currency that we do not know.
pub fn message(event: &UnpublishedEvent, fifo: bool) -> Result<TopicMessage> {
    let currency: Currency = event.currency.parse().map_err(Error::internal)?;
    let store = event.store_slug.as_deref().zip(event.store_name.as_deref());
    let body = Event {
        id: event.event_id,
        kind: format!("{}.v1", event.kind.name()),
        timestamp: rfc3339(event.recorded_at),
        traceparent: event.traceparent.as_deref(),
        data: EventData {
            sale_id: event.sale_id,
            game: event.title.as_deref().map(|title| GameData { id: event.game_id, title }),
            offer: OfferData {
                id: event.offer_id,
                store: store.map(|(slug, name)| StoreData { slug, name }),
                sku: event.sku.as_deref(),
                region: event.region.as_deref(),
                platform: event.platform.as_deref(),
                url: event.url.as_deref(),
            },
            price: Money { minor: event.amount, currency },
            regular_price: Money { minor: event.regular, currency },
            cut: event.cut,
            new_low: event.new_low,
            reason: event.reason,
            observed_at: rfc3339(event.observed_at),
            backfill: event.backfill,
        },
    };
    // No more than ten: SQS takes no message with more whose subscription asks for raw delivery.
    let text = |text: &str| Some(Attribute::Text(text.to_owned()));
    let attributes = [
        ("kind", text(event.kind.name())),
        ("game_id", text(&event.game_id.to_string())),
        ("store", event.store_slug.as_deref().and_then(text)),
        ("region", event.region.as_deref().and_then(text)),
        ("platform", event.platform.as_deref().and_then(text)),
        ("currency", text(&event.currency)),
        ("cut", Some(Attribute::Number(event.cut.into()))),
        ("new_low", text(&event.new_low.to_string())),
        ("backfill", text(&event.backfill.to_string())),
    ];
    Ok(TopicMessage {
        body: serde_json::to_string(&body).map_err(Error::internal)?,
        attributes: attributes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        group: fifo.then(|| (event.offer_id.to_string(), event.event_id.to_string())),
    })
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
