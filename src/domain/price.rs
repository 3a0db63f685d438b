//! What an observation changes: the transition from an offer's price before to its price after.

use chrono::{DateTime, TimeDelta, Utc};

use super::money::{Currency, cut_percent};

use crate::domain::ids::SaleId;
use crate::domain::text_enum::text_enum;

/// An offer's current price, and what of its past the rules need. Amounts are minor units of `currency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub currency: Currency,
    pub amount: i64,
    pub regular: i64,
    /// When it was last seen.
    pub observed_at: DateTime<Utc>,
    /// Whether the store took orders then.
    pub available: bool,
    /// `None`: nothing has been paid for it yet, as it was only ever free, or never to be had.
    pub low: Option<Low>,
    /// When its latest giveaway began.
    pub was_free_at: Option<DateTime<Utc>>,
    /// The sale that is open. The end that the store told may have passed: see `is_on_sale`.
    pub sale: Option<Sale>,
    /// The last sale, when none is open.
    pub ended: Option<EndedSale>,
}

/// The lowest amount that was ever paid for an offer, and when it was first seen. A giveaway does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Low {
    pub amount: i64,
    pub at: DateTime<Utc>,
}

/// The sale that an offer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sale {
    pub id: SaleId,
    /// The lowest amount so far that was paid in it. `None`: it has only been free.
    pub best: Option<i64>,
    /// It has been free.
    pub was_free: bool,
    /// When the store says that it ends.
    pub ends_at: Option<DateTime<Utc>>,
    /// When it last ended, if it has begun again since and not been below its best since then.
    pub interrupted_at: Option<DateTime<Utc>>,
}

/// A sale that is over. It goes on if the offer is soon on sale again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSale {
    pub id: SaleId,
    /// The lowest amount that was paid in it.
    pub best: Option<i64>,
    pub was_free: bool,
    pub at: DateTime<Utc>,
}

impl Sale {
    /// Whether this amount is a better one than all that the sale has had. Giveaways and paid prices are compared among
    /// themselves only: otherwise nothing could be below the best of a sale that was free once.
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
    /// Whether it is on sale at this instant, as far as is known: what the store said would be over is over. Free to
    /// play (0 of 0) is no sale, nor is what cannot be bought.
    pub fn is_on_sale(&self, now: DateTime<Utc>) -> bool {
        self.sale.is_some_and(|sale| sale.ends_at.is_none_or(|end| now < end))
    }

    /// Since when nobody knows the price: its sale has ended as the store had said, and it was not seen since.
    pub fn unknown_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let told = self.sale.and_then(|sale| sale.ends_at);
        let ended = self.ended.map(|ended| ended.at);
        told.or(ended).filter(|end| *end <= now && *end > self.observed_at)
    }

    /// Whole percent below the regular price.
    pub fn cut(&self) -> i16 {
        cut_percent(self.amount, self.regular)
    }

    /// The price once the end has come that the store told of its sale. `None`: no such end has come by this instant.
    pub fn lapse(&self, by: DateTime<Utc>) -> Option<Price> {
        let sale = self.sale?;
        let end = sale.ends_at.filter(|end| *end <= by)?;
        if end <= self.observed_at {
            // It was seen on sale after that, by a version that took no notice of ends: the store was wrong about it.
            return Some(Price { sale: Some(Sale { ends_at: None, ..sale }), ..*self });
        }
        Some(Price { sale: None, ended: Some(sale.end(end)), ..*self })
    }

    fn says_the_same(&self, other: &Price) -> bool {
        (self.currency, self.amount, self.regular) == (other.currency, other.amount, other.regular)
    }
}

/// What was seen of one offer: the part of an observation that the rules need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedPrice {
    pub currency: Currency,
    pub amount: i64,
    /// `None`: the offer's last regular price stands.
    pub regular: Option<i64>,
    pub observed_at: DateTime<Utc>,
    /// Whether the store takes orders. What cannot be bought is no sale.
    pub available: bool,
    /// When the store says that its sale ends. `None`: what it said before stands.
    pub sale_ends_at: Option<DateTime<Utc>>,
}

text_enum! {
    /// The kinds of transition; exactly one for each change.
    pub enum TransitionKind {
        /// First observation, not on sale.
        FirstSeen = "first.seen",
        /// On sale now and not before; also a first observation below the regular price.
        SaleStarted = "sale.started",
        /// On sale again soon after a sale ended, at a price no better than that sale's best: it is that sale.
        SaleResumed = "sale.resumed",
        /// Still on sale, for less; or on sale again soon after a sale ended, below that sale's best (of the paid prices), or
        /// free for the first time in it.
        SaleDeepened = "sale.deepened",
        /// Still on sale, for more.
        SaleReduced = "sale.reduced",
        /// Only the regular price moved, and a sale neither began nor ended.
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
    /// Whether a watch can want to know: there is a sale, and its price or its cut has become better.
    pub fn rings(self, cut_before: i16, cut_after: i16) -> bool {
        match self {
            TransitionKind::SaleStarted | TransitionKind::SaleDeepened => true,
            // The regular price may have grown more than the price.
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
    /// Why a sale ended.
    pub enum EndReason {
        /// The store had said that it would end then, or says that it is over.
        ToldEnd = "told_end",
        /// It costs its regular price.
        Price = "price",
        /// It cannot be bought.
        Unavailable = "unavailable",
    }
}

text_enum! {
    /// Why an observation looks like a glitch.
    pub enum GlitchReason {
        PriceFarBelowRegular = "price_far_below_regular",
        CurrencyChanged = "currency_changed",
        RegularPriceJumped = "regular_price_jumped",
    }
}

/// A price that is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub after: Price,
    pub kind: TransitionKind,
    /// A paid price strictly below every earlier paid one in this currency, or the first giveaway; never on the first
    /// observation.
    pub new_low: bool,
    /// The sale that was open before is over: `sale.ended`, or a change of currency.
    pub ends_sale: bool,
    /// Of `sale.ended`.
    pub reason: Option<EndReason>,
    /// A sale that had been interrupted is better than its best for the first time since: those hear of it too whom it
    /// has rung already, as they would of a new sale.
    pub rings_again: bool,
    /// When the price stops to hold, as the store says.
    pub holds_until: Option<DateTime<Utc>>,
}

/// What an observation does to an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Changed(Change),
    /// The same as before, seen again: no more than the time of observation, the availability and the told end have moved.
    Unchanged {
        after: Price,
    },
    /// Older than what is known: `past` goes into history and changes nothing else.
    Stale {
        past: Price,
    },
    /// Looks like a glitch, for this reason; `held` is what it says.
    Quarantined {
        held: Price,
        reason: GlitchReason,
    },
}

/// What prices are judged by. Configuration: `prices.*`, `quarantine.*`.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub glitches: GlitchRules,
    /// A sale that begins no later than this after the last one ended may be that one.
    pub same_sale_within: TimeDelta,
    /// An observation that was older than this when it was reported rings nobody.
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

/// When an observation is taken for a glitch. Configuration: `quarantine.*`.
#[derive(Clone, Copy, Debug)]
pub struct GlitchRules {
    /// A price above zero and below so many percent of the regular price.
    pub min_percent: i64,
    /// A regular price that moves by more than this factor.
    pub max_jump: i64,
    /// A second observation this much later that agrees lets it take effect.
    pub confirm_after: TimeDelta,
}

impl Default for GlitchRules {
    fn default() -> Self {
        GlitchRules { min_percent: 3, max_jump: 10, confirm_after: TimeDelta::minutes(10) }
    }
}

impl GlitchRules {
    fn judge(&self, before: Option<&Price>, after: &Price) -> Option<GlitchReason> {
        // What has been believed once is not doubted again.
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
        // Games do become free to play, and stop being it: nothing has no multiple.
        (low > 0 && high > low * self.max_jump).then_some(GlitchReason::RegularPriceJumped)
    }
}

/// Judges one observation of an offer whose price was `before` (`None`: never seen), for which no end of a sale has
/// passed since (`Price::lapse`).
///
/// `trusted` skips the glitch rules: a second observation agreed, or an operator released it.
pub fn observe(before: Option<&Price>, seen: &ObservedPrice, rules: &Rules, trusted: bool) -> Outcome {
    // A regular price that was not told is the last one, but a price above it shows that it has risen.
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
    // What is old is not measured by what is new: prices, and even currencies, may have changed since.
    let measure = before.filter(|price| price.observed_at <= seen.observed_at);
    if !trusted && let Some(reason) = rules.glitches.judge(measure, &after) {
        return Outcome::Quarantined { held: after, reason };
    }
    let told = seen.sale_ends_at.filter(|_| seen.amount < regular);
    let is_over = told.is_some_and(|end| end <= seen.observed_at);
    let is_sale = seen.available && seen.amount < regular && !is_over;
    let paid = Some(seen.amount).filter(|_| is_paid);
    let begin = || Sale {
        id: SaleId::now_v7(),
        best: paid,
        was_free: is_giveaway,
        ends_at: told,
        interrupted_at: None,
    };
    let Some(before) = before else {
        after.sale = is_sale.then(begin);
        let kind = if is_sale { TransitionKind::SaleStarted } else { TransitionKind::FirstSeen };
        return Outcome::Changed(Change::of(after, kind, told));
    };
    if seen.observed_at < before.observed_at {
        return Outcome::Stale { past: after };
    }
    let same_currency = before.currency == after.currency;
    // An end that has come in the meantime stands, unless the store names a later one.
    let come = before.ended.map(|ended| ended.at).filter(|at| same_currency && *at > seen.observed_at);
    let is_sale = is_sale && (come.is_none() || told > come);
    // Of two prices at the same instant the lower stands, and of two equal ones that which can be paid.
    let rank = |price: &Price| (price.amount, !price.available);
    if same_currency && seen.observed_at == before.observed_at && rank(&after) >= rank(before) {
        // What cannot be bought says nothing of the sale of what can.
        let agreed = before.sale.filter(|_| before.says_the_same(&after) && seen.available);
        // The later end, in whatever order they come.
        let sale = agreed.map(|sale| Sale { ends_at: sale.ends_at.max(told.filter(|_| !is_over)), ..sale });
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
        after.sale = open.map(|sale| Sale { ends_at: told.or(sale.ends_at), ..sale });
        after.ended = before.ended;
        return Outcome::Unchanged { after };
    }
    let recent = before
        .ended
        .filter(|ended| same_currency && is_sale && seen.observed_at - ended.at <= rules.same_sale_within);
    let kind = match (open, is_sale) {
        (None, true) => match recent {
            None => TransitionKind::SaleStarted,
            Some(ended) if ended.resume(told).is_bettered_by(seen.amount) => TransitionKind::SaleDeepened,
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
    let goes_on = open.or(recent.map(|ended| ended.resume(told))).filter(|_| is_sale);
    let rings_again = kind == TransitionKind::SaleDeepened
        && goes_on.is_some_and(|sale| sale.interrupted_at.is_some() && sale.is_bettered_by(seen.amount));
    after.sale = match goes_on {
        Some(sale) => Some(Sale {
            id: sale.id,
            best: sale.best.into_iter().chain(paid).min(),
            was_free: sale.was_free || is_giveaway,
            ends_at: told.or(sale.ends_at),
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
        ..Change::of(after, kind, after.sale.map_or(told.or(come), |sale| sale.ends_at))
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
