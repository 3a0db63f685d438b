//! Transitions of prices: what an observation changes in an offer's price.

use chrono::{DateTime, TimeDelta, Utc};

use super::money::{Currency, cut_percent};

use crate::domain::ids::SaleId;
use crate::domain::text_enum::text_enum;

/// Current price of an offer, with the parts of its past that the rules need. Amounts are minor units of `currency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub currency: Currency,
    pub amount: i64,
    pub regular: i64,
    /// Time of the last observation.
    pub observed_at: DateTime<Utc>,
    /// Whether the store took orders at that time.
    pub available: bool,
    /// Lowest amount that was ever paid. `None`: nothing has been paid yet, as the offer was always free or
    /// unavailable.
    pub low: Option<Low>,
    /// Start of the latest giveaway.
    pub was_free_at: Option<DateTime<Utc>>,
    /// The open sale. Its announced end may have passed: see `is_on_sale`.
    pub sale: Option<Sale>,
    /// The last sale, if none is open.
    pub ended: Option<EndedSale>,
}

/// Lowest amount that was ever paid for an offer, and when it was first observed. A giveaway does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Low {
    pub amount: i64,
    pub at: DateTime<Utc>,
}

/// The open sale of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sale {
    pub id: SaleId,
    /// Lowest amount that was paid in the sale so far. `None`: it has only been free.
    pub best: Option<i64>,
    /// Whether the offer was free during the sale.
    pub was_free: bool,
    /// End of the sale as announced by the store.
    pub ends_at: Option<DateTime<Utc>>,
    /// Time at which the sale last ended, if it has begun again and has not been below its best since.
    pub interrupted_at: Option<DateTime<Utc>>,
}

/// A sale that is over. It continues if the offer is soon on sale again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSale {
    pub id: SaleId,
    /// Lowest amount that was paid in the sale.
    pub best: Option<i64>,
    pub was_free: bool,
    pub at: DateTime<Utc>,
}

impl Sale {
    /// Whether this amount is better than all earlier ones of the sale. Giveaways and paid prices are compared only
    /// among themselves: otherwise nothing could be below the best of a sale that was free once.
    fn is_bettered_by(&self, amount: i64) -> bool {
        match amount {
            0 => !self.was_free,
            paid => self.best.is_none_or(|best| paid < best),
        }
    }

    fn end(&self, at: DateTime<Utc>) -> EndedSale {
        EndedSale { id: self.id, best: self.best, was_free: self.was_free, at }
    }
}

impl EndedSale {
    fn resume(&self, ends_at: Option<DateTime<Utc>>) -> Sale {
        Sale { id: self.id, best: self.best, was_free: self.was_free, ends_at, interrupted_at: Some(self.at) }
    }
}

impl Price {
    /// Whether the offer is on sale at this instant, as far as is known: a sale whose announced end has passed is over.
    /// Free to play (0 of 0) is not a sale, nor is an offer that cannot be bought.
    pub fn is_on_sale(&self, now: DateTime<Utc>) -> bool {
        self.sale.is_some_and(|sale| sale.ends_at.is_none_or(|end| now < end))
    }

    /// Instant since which the price is unknown: its sale has ended as announced, and it was not observed since.
    pub fn unknown_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let announced = self.sale.and_then(|sale| sale.ends_at);
        let ended = self.ended.map(|ended| ended.at);
        announced.or(ended).filter(|end| *end <= now && *end > self.observed_at)
    }

    /// Cut in whole percent below the regular price.
    pub fn cut(&self) -> i16 {
        cut_percent(self.amount, self.regular)
    }

    /// The price after the announced end of its sale. `None`: no such end has passed by this instant.
    pub fn lapse(&self, by: DateTime<Utc>) -> Option<Price> {
        let sale = self.sale?;
        let end = sale.ends_at.filter(|end| *end <= by)?;
        if end <= self.observed_at {
            // A version that ignored ends observed it on sale after the announced end: the store's end was incorrect.
            return Some(Price { sale: Some(Sale { ends_at: None, ..sale }), ..*self });
        }
        Some(Price { sale: None, ended: Some(sale.end(end)), ..*self })
    }

    fn says_the_same(&self, other: &Price) -> bool {
        (self.currency, self.amount, self.regular) == (other.currency, other.amount, other.regular)
    }
}

/// An observed price of one offer: the part of an observation that the rules need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedPrice {
    pub currency: Currency,
    pub amount: i64,
    /// Regular price. `None`: the offer's last one stands.
    pub regular: Option<i64>,
    pub observed_at: DateTime<Utc>,
    /// Whether the store takes orders. An offer that cannot be bought is not on sale.
    pub available: bool,
    /// End of the sale as announced by the store. `None`: an earlier announcement stands.
    pub sale_ends_at: Option<DateTime<Utc>>,
}

text_enum! {
    /// Kinds of transition. Each change has exactly one.
    pub enum TransitionKind {
        /// First observation, not on sale.
        FirstSeen = "first.seen",
        /// On sale now and not before; also a first observation below the regular price.
        SaleStarted = "sale.started",
        /// On sale again soon after a sale ended, at a price no better than that sale's best: it is the same sale.
        SaleResumed = "sale.resumed",
        /// Still on sale, for less; or on sale again soon after a sale ended, below that sale's best (of the paid
        /// prices), or free for the first time in it.
        SaleDeepened = "sale.deepened",
        /// Still on sale, for more.
        SaleReduced = "sale.reduced",
        /// Only the regular price changed, and no sale began or ended.
        RegularChanged = "regular.changed",
        /// On sale before and not now.
        SaleEnded = "sale.ended",
        /// On sale neither before nor after, for less.
        PriceLowered = "price.lowered",
        /// On sale neither before nor after, for more.
        PriceRaised = "price.raised",
    }
}

impl TransitionKind {
    /// Whether a watch may want a notification: there is a sale, and its price or its cut has improved.
    pub fn rings(self, cut_before: i16, cut_after: i16) -> bool {
        match self {
            TransitionKind::SaleStarted | TransitionKind::SaleDeepened => true,
            // The regular price may have risen more than the price.
            TransitionKind::SaleReduced | TransitionKind::RegularChanged => cut_after > cut_before,
            TransitionKind::FirstSeen
            | TransitionKind::SaleResumed
            | TransitionKind::SaleEnded
            | TransitionKind::PriceLowered
            | TransitionKind::PriceRaised => false,
        }
    }
}

text_enum! {
    /// Reason why a sale ended.
    pub enum EndReason {
        /// The store had announced this end, or reports that the sale is over.
        ToldEnd = "told_end",
        /// The offer costs its regular price.
        Price = "price",
        /// The offer cannot be bought.
        Unavailable = "unavailable",
    }
}

text_enum! {
    /// Reason why an observation looks like a glitch.
    pub enum GlitchReason {
        PriceFarBelowRegular = "price_far_below_regular",
        CurrencyChanged = "currency_changed",
        RegularPriceJumped = "regular_price_jumped",
    }
}

/// A change of an offer's price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub after: Price,
    pub kind: TransitionKind,
    /// A paid price strictly below every earlier paid one in this currency, or the first giveaway; never on the first
    /// observation.
    pub new_low: bool,
    /// Whether the sale that was open before is over: by `sale.ended`, or by a change of currency.
    pub ends_sale: bool,
    /// Only for `sale.ended`.
    pub reason: Option<EndReason>,
    /// Whether an interrupted sale is better than its best for the first time since. Watches that it has already rung
    /// are then notified again, as they would be of a new sale.
    pub rings_again: bool,
    /// Instant at which the price stops holding, according to the store.
    pub holds_until: Option<DateTime<Utc>>,
}

/// Effect of an observation on an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Changed(Change),
    /// The same price again: at most the time of observation, the availability and the announced end have changed.
    Unchanged {
        after: Price,
    },
    /// Older than the known price: `past` goes into history and changes nothing else.
    Stale {
        past: Price,
    },
    /// Looks like a glitch, for this reason; `held` is the observed price.
    Quarantined {
        held: Price,
        reason: GlitchReason,
    },
}

/// Rules by which prices are judged. Configuration: `prices.*`, `quarantine.*`.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub glitches: GlitchRules,
    /// Longest time between the end of a sale and the start of the next that may count as the same sale.
    pub same_sale_within: TimeDelta,
    /// Longest age of an observation that rings, measured when it was reported.
    pub rings_within: TimeDelta,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            glitches: GlitchRules::default(),
            same_sale_within: TimeDelta::hours(6),
            rings_within: TimeDelta::days(7),
        }
    }
}

/// Thresholds beyond which an observation is taken for a glitch. Configuration: `quarantine.*`.
#[derive(Clone, Copy, Debug)]
pub struct GlitchRules {
    /// Lower bound of a plausible price above zero, in percent of the regular price.
    pub min_percent: i64,
    /// Largest plausible factor by which a regular price rises or falls.
    pub max_jump: i64,
    /// Time after which a second observation that agrees confirms the first, so that it takes effect.
    pub confirm_after: TimeDelta,
}

impl Default for GlitchRules {
    fn default() -> Self {
        GlitchRules { min_percent: 3, max_jump: 10, confirm_after: TimeDelta::minutes(10) }
    }
}

impl GlitchRules {
    fn judge(&self, before: Option<&Price>, after: &Price) -> Option<GlitchReason> {
        // A price that was accepted once is not doubted again.
        if before.is_some_and(|before| before.says_the_same(after)) {
            return None;
        }
        if after.amount > 0 && after.amount * 100 < after.regular * self.min_percent {
            return Some(GlitchReason::PriceFarBelowRegular);
        }
        let before = before?;
        if before.currency != after.currency {
            return Some(GlitchReason::CurrencyChanged);
        }
        let (low, high) = (before.regular.min(after.regular), before.regular.max(after.regular));
        // A regular price of zero has no multiple: games do become free to play, and stop being it.
        (low > 0 && high > low * self.max_jump).then_some(GlitchReason::RegularPriceJumped)
    }
}

/// Judges one observation of an offer whose price was `before` (`None`: never observed). An announced end that has
/// passed since must have been applied already (`Price::lapse`).
///
/// `trusted` skips the glitch rules: a second observation agreed, or an operator released it.
pub fn observe(before: Option<&Price>, seen: &ObservedPrice, rules: &Rules, trusted: bool) -> Outcome {
    // Without a reported regular price, the last one stands, but a price above it shows that it has risen.
    let last_regular = before.filter(|price| price.currency == seen.currency).map(|price| price.regular);
    let regular = seen.regular.unwrap_or_else(|| last_regular.unwrap_or(seen.amount).max(seen.amount));
    let is_paid = seen.available && seen.amount > 0;
    let is_giveaway = seen.available && seen.amount == 0 && regular > 0;
    let mut after = Price {
        currency: seen.currency,
        amount: seen.amount,
        regular,
        observed_at: seen.observed_at,
        available: seen.available,
        low: is_paid.then_some(Low { amount: seen.amount, at: seen.observed_at }),
        was_free_at: is_giveaway.then_some(seen.observed_at),
        sale: None,
        ended: None,
    };
    // An old observation is not compared with a newer one: prices, and even currencies, may have changed since.
    let measure = before.filter(|price| price.observed_at <= seen.observed_at);
    if !trusted && let Some(reason) = rules.glitches.judge(measure, &after) {
        return Outcome::Quarantined { held: after, reason };
    }
    let announced = seen.sale_ends_at.filter(|_| seen.amount < regular);
    let is_over = announced.is_some_and(|end| end <= seen.observed_at);
    let is_sale = seen.available && seen.amount < regular && !is_over;
    let paid = Some(seen.amount).filter(|_| is_paid);
    let begin = || Sale {
        id: SaleId::now_v7(),
        best: paid,
        was_free: is_giveaway,
        ends_at: announced,
        interrupted_at: None,
    };
    let Some(before) = before else {
        after.sale = is_sale.then(begin);
        let kind = if is_sale { TransitionKind::SaleStarted } else { TransitionKind::FirstSeen };
        return Outcome::Changed(Change::of(after, kind, announced));
    };
    if seen.observed_at < before.observed_at {
        return Outcome::Stale { past: after };
    }
    let same_currency = before.currency == after.currency;
    // An end that has passed in the meantime stands, unless the store announces a later one.
    let passed_end = before.ended.map(|ended| ended.at).filter(|at| same_currency && *at > seen.observed_at);
    let is_sale = is_sale && (passed_end.is_none() || announced > passed_end);
    // Of two prices at the same instant the lower one stands, and of two equal ones the one that can be bought.
    let rank = |price: &Price| (price.amount, !price.available);
    if same_currency && seen.observed_at == before.observed_at && rank(&after) >= rank(before) {
        // An unavailable offer says nothing about the sale of an available one.
        let agreed = before.sale.filter(|_| before.says_the_same(&after) && seen.available);
        // The later end stands, in whatever order the observations come.
        let sale =
            agreed.map(|sale| Sale { ends_at: sale.ends_at.max(announced.filter(|_| !is_over)), ..sale });
        return Outcome::Unchanged { after: Price { sale: sale.or(before.sale), ..*before } };
    }
    after.was_free_at = match before.was_free_at {
        Some(at) if !is_giveaway || before.amount == 0 => Some(at),
        _ => after.was_free_at,
    };
    if same_currency && let Some(low) = before.low.filter(|low| !is_paid || low.amount <= seen.amount) {
        after.low = Some(low);
    }
    let open = before.sale.filter(|_| same_currency);
    if before.says_the_same(&after) && open.is_some() == is_sale {
        after.sale = open.map(|sale| Sale { ends_at: announced.or(sale.ends_at), ..sale });
        after.ended = before.ended;
        return Outcome::Unchanged { after };
    }
    let recent = before
        .ended
        .filter(|ended| same_currency && is_sale && seen.observed_at - ended.at <= rules.same_sale_within);
    let kind = match (open, is_sale) {
        (None, true) => match recent {
            None => TransitionKind::SaleStarted,
            Some(ended) if ended.resume(announced).is_bettered_by(seen.amount) => {
                TransitionKind::SaleDeepened
            }
            Some(_) => TransitionKind::SaleResumed,
        },
        (Some(_), false) => TransitionKind::SaleEnded,
        (None, false) if !same_currency => TransitionKind::FirstSeen,
        (Some(_), true) if after.amount < before.amount => TransitionKind::SaleDeepened,
        (Some(_), true) if after.amount > before.amount => TransitionKind::SaleReduced,
        (None, false) if after.amount < before.amount => TransitionKind::PriceLowered,
        (None, false) if after.amount > before.amount => TransitionKind::PriceRaised,
        (_, _) => TransitionKind::RegularChanged,
    };
    let continued = open.or(recent.map(|ended| ended.resume(announced))).filter(|_| is_sale);
    let rings_again = kind == TransitionKind::SaleDeepened
        && continued.is_some_and(|sale| sale.interrupted_at.is_some() && sale.is_bettered_by(seen.amount));
    after.sale = match continued {
        Some(sale) => Some(Sale {
            id: sale.id,
            best: sale.best.into_iter().chain(paid).min(),
            was_free: sale.was_free || is_giveaway,
            ends_at: announced.or(sale.ends_at),
            interrupted_at: sale.interrupted_at.filter(|_| !rings_again),
        }),
        None => is_sale.then(begin),
    };
    after.ended = match open {
        _ if is_sale || !same_currency => None,
        Some(sale) => Some(sale.end(seen.observed_at)),
        None => before.ended,
    };
    let below_low = is_paid && before.low.is_some_and(|low| seen.amount < low.amount);
    let first_giveaway = is_giveaway && before.was_free_at.is_none();
    Outcome::Changed(Change {
        new_low: same_currency && (below_low || first_giveaway),
        ends_sale: before.sale.is_some() && (kind == TransitionKind::SaleEnded || !same_currency),
        reason: (kind == TransitionKind::SaleEnded).then_some(match (seen.available, is_over) {
            (false, _) => EndReason::Unavailable,
            (true, true) => EndReason::ToldEnd,
            (true, false) => EndReason::Price,
        }),
        rings_again,
        ..Change::of(after, kind, after.sale.map_or(announced.or(passed_end), |sale| sale.ends_at))
    })
}

impl Change {
    fn of(after: Price, kind: TransitionKind, holds_until: Option<DateTime<Utc>>) -> Change {
        Change {
            after,
            kind,
            new_low: false,
            ends_sale: false,
            reason: None,
            rings_again: false,
            holds_until,
        }
    }
}

#[cfg(test)]
mod tests;
