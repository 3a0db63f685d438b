//! Rules of watches: what a watch wants, and why an offer does or does not match it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::money::{Currency, Money};
use super::object::object;
use super::price::Price;

use crate::domain::ids::StoreId;
use crate::domain::text_enum::text_enum;

text_enum! {
    /// Schedule on which a watch's deliveries are due.
    #[derive(Default)]
    pub enum Cadence {
        #[default]
        Immediate = "immediate",
        /// Once a day, at `worker.daily_hour` in UTC.
        Daily = "daily",
    }
}

text_enum! {
    /// Priority of a watch's deliveries when a channel has more of them than it accepts at once.
    #[derive(Default)]
    pub enum Priority {
        Low = "low",
        #[default]
        Normal = "normal",
        High = "high",
    }
}

/// Condition under which a watch rings.
///
/// Externally tagged in JSON: `{"price_at_most": {"amount": "12.00", "currency": "EUR"}}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Any price below the regular one.
    AnySale {},
    /// A sale at or below an amount. Prices in other currencies are never compared with it.
    PriceAtMost(Money),
    /// A sale at least `percent` percent (1 to 100) below the regular price.
    CutAtLeast {
        /// Whole percent.
        percent: i16,
    },
    /// A sale at the lowest price ever paid for the offer, and its first giveaway.
    NewLow {},
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match object(deserializer)? {
            RuleOnTheWire::AnySale(Nothing {}) => Rule::AnySale {},
            RuleOnTheWire::PriceAtMost(most) => Rule::PriceAtMost(most),
            RuleOnTheWire::CutAtLeast(CutOnTheWire { percent }) => Rule::CutAtLeast { percent },
            RuleOnTheWire::NewLow(Nothing {}) => Rule::NewLow {},
        })
    }
}

impl PartialSchema for Rule {
    fn schema() -> RefOr<Schema> {
        let kinds = Rule::kinds().into_iter();
        kinds
            .fold(OneOfBuilder::new(), |either, (name, _)| either.item(Ref::from_schema_name(name)))
            .description(Some("Condition under which a watch rings."))
            .examples([json!({"cut_at_least": {"percent": 50}})])
            .into()
    }
}

impl ToSchema for Rule {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Money::name().into_owned(), Money::schema()));
        Money::schemas(schemas);
        schemas.extend(Rule::kinds().map(|(name, schema)| (name.to_owned(), schema.into())));
    }
}

impl Rule {
    /// The schema of each kind of rule under a name of its own: generators of clients name their types after them.
    fn kinds() -> [(&'static str, Schema); 4] {
        let closed =
            || ObjectBuilder::new().additional_properties(Some(AdditionalProperties::FreeForm(false)));
        let rule = |field: &str, description: &str, schema: RefOr<Schema>| -> Schema {
            closed().property(field, schema).required(field).description(Some(description)).into()
        };
        let percent = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(100));
        let cut = closed().property("percent", percent).required("percent");
        let most = Ref::from_schema_name(Money::name());
        let low = "A sale at the lowest price ever paid for the offer.";
        [
            ("AnySale", rule("any_sale", "Any price below the regular one.", closed().into())),
            (
                "PriceAtMost",
                rule("price_at_most", "A sale at or below an amount, in its currency.", most.into()),
            ),
            ("CutAtLeast", rule("cut_at_least", "A sale by at least this many per cent.", cut.into())),
            ("NewLow", rule("new_low", low, closed().into())),
        ]
    }
}

/// A rule as JSON has it; its parts must be objects as well.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RuleOnTheWire {
    AnySale(#[serde(deserialize_with = "object")] Nothing),
    PriceAtMost(Money),
    CutAtLeast(#[serde(deserialize_with = "object")] CutOnTheWire),
    NewLow(#[serde(deserialize_with = "object")] Nothing),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CutOnTheWire {
    percent: i16,
}

impl Rule {
    /// Name of the rule in the database and in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::AnySale {} => "any_sale",
            Rule::PriceAtMost(_) => "price_at_most",
            Rule::CutAtLeast { .. } => "cut_at_least",
            Rule::NewLow {} => "new_low",
        }
    }
}

/// Offers that a watch covers. `None` means no restriction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    pub stores: Option<Vec<StoreId>>,
    /// ISO 3166-1 codes. An offer of region `ZZ` is valid everywhere and matches any list.
    pub regions: Option<Vec<String>>,
    pub currency: Option<Currency>,
    /// An offer without a platform matches no list of platforms.
    pub platforms: Option<Vec<String>>,
}

/// An offer as the rules of watches see it.
#[derive(Clone, Debug)]
pub struct WatchedOffer {
    pub store_id: StoreId,
    pub region: String,
    pub platform: Option<String>,
    /// Current price; `None`: no price was ever observed.
    pub price: Option<Price>,
    /// Whether the open sale has reached a new low.
    pub new_low: bool,
}

/// Reason why a watch does not ring for an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Miss {
    Paused,
    OtherStore,
    OtherRegion,
    OtherCurrency,
    OtherPlatform,
    NotOnSale,
    /// Added to `NotOnSale` when the offer cannot be bought, which by itself rules out a sale.
    Unavailable,
    /// Added to `NotOnSale` when the offer was on sale and the end that the store announced has passed.
    SaleIsOver,
    PriceTooHigh,
    CutTooSmall,
    NotANewLow,
}

impl Miss {
    /// Sentence for people.
    pub fn detail(self) -> &'static str {
        match self {
            Miss::Paused => "The watch is paused.",
            Miss::OtherStore => "The watch does not cover the offer's store.",
            Miss::OtherRegion => "The watch does not cover the offer's region.",
            Miss::OtherCurrency => "The watch has another currency than the offer.",
            Miss::OtherPlatform => "The watch does not cover the offer's platform.",
            Miss::NotOnSale => "The offer is not on sale.",
            Miss::Unavailable => "The offer is not available.",
            Miss::SaleIsOver => {
                "The store said that the sale would be over by now, and the price has not been seen since."
            }
            Miss::PriceTooHigh => "The price is above the target.",
            Miss::CutTooSmall => "The cut is below the target.",
            Miss::NotANewLow => "The price is not a new low.",
        }
    }
}

/// All reasons for which a watch does not ring for an offer. If there are none, it rings, once for each sale.
///
/// `store::dispatch` has the same rules in SQL, for a million watches at once.
pub fn misses(
    rule: &Rule,
    scope: &Scope,
    paused: bool,
    offer: &WatchedOffer,
    now: DateTime<Utc>,
) -> Vec<Miss> {
    let mut misses = Vec::new();
    let mut check = |holds: bool, miss: Miss| {
        if !holds {
            misses.push(miss);
        }
    };
    let one_of = |list: &Option<Vec<String>>, value: &str| match list {
        Some(list) => list.iter().any(|one| one == value),
        None => true,
    };
    check(!paused, Miss::Paused);
    check(scope.stores.as_ref().is_none_or(|stores| stores.contains(&offer.store_id)), Miss::OtherStore);
    check(offer.region == "ZZ" || one_of(&scope.regions, &offer.region), Miss::OtherRegion);
    let platform_fits = match &offer.platform {
        Some(platform) => one_of(&scope.platforms, platform),
        None => scope.platforms.is_none(),
    };
    check(platform_fits, Miss::OtherPlatform);
    let Some(price) = offer.price else {
        check(false, Miss::NotOnSale);
        return misses;
    };
    check(scope.currency.is_none_or(|currency| currency == price.currency), Miss::OtherCurrency);
    let on_sale = price.is_on_sale(now);
    check(on_sale, Miss::NotOnSale);
    check(on_sale || price.available, Miss::Unavailable);
    check(price.unknown_since(now).is_none(), Miss::SaleIsOver);
    match rule {
        Rule::AnySale {} => {}
        Rule::PriceAtMost(target) if target.currency != price.currency => check(false, Miss::OtherCurrency),
        Rule::PriceAtMost(target) => check(price.amount <= target.minor, Miss::PriceTooHigh),
        Rule::CutAtLeast { percent } => check(price.cut() >= *percent, Miss::CutTooSmall),
        Rule::NewLow {} => check(offer.new_low, Miss::NotANewLow),
    }
    misses.dedup();
    misses
}
