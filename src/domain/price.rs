//! What an observation changes: the transition from an offer's price before to its price after.

use chrono::{DateTime, TimeDelta, Utc};

use super::money::{Currency, cut_percent};

/// An offer's current price. Amounts are minor units of `currency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub currency: Currency,
    pub amount: i64,
    pub regular: i64,
    /// When it was last seen.
    pub observed_at: DateTime<Utc>,
    /// The lowest amount ever observed, and when.
    pub low: i64,
    pub low_at: DateTime<Utc>,
}

impl Price {
    /// A price below the regular one is a sale; free to play (0 of 0) is none.
    pub fn on_sale(&self) -> bool {
        self.amount < self.regular
    }

    /// Whole percent below the regular price.
    pub fn cut(&self) -> i16 {
        cut_percent(self.amount, self.regular)
    }

    fn says_the_same(&self, other: &Price) -> bool {
        (self.currency, self.amount, self.regular) == (other.currency, other.amount, other.regular)
    }
}

/// What was seen of one offer: the part of an observation that the rules need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub currency: Currency,
    pub amount: i64,
    /// `None`: the offer's last regular price stands.
    pub regular: Option<i64>,
    pub observed_at: DateTime<Utc>,
}

/// The kinds of transition; exactly one for each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// First sight, not on sale.
    FirstSeen,
    /// On sale now and not before; also a first sight below the regular price.
    SaleStarted,
    /// Still on sale, for less.
    SaleDeepened,
    /// Still on sale, for more.
    SaleReduced,
    /// On sale before and after, and only the regular price moved.
    RegularChanged,
    /// On sale before and not now.
    SaleEnded,
    /// On sale neither before nor after, for less.
    PriceLowered,
    /// On sale neither before nor after, for more.
    PriceRaised,
}

impl Kind {
    /// The name outside, such as `sale.started`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::FirstSeen => "first.seen",
            Kind::SaleStarted => "sale.started",
            Kind::SaleDeepened => "sale.deepened",
            Kind::SaleReduced => "sale.reduced",
            Kind::RegularChanged => "regular.changed",
            Kind::SaleEnded => "sale.ended",
            Kind::PriceLowered => "price.lowered",
            Kind::PriceRaised => "price.raised",
        }
    }

    /// Whether a watch can want to know: there is a sale, and its price or its cut has become better.
    pub fn rings(self, cut_before: i16, cut_after: i16) -> bool {
        match self {
            Kind::SaleStarted | Kind::SaleDeepened => true,
            // The regular price may have grown more than the price.
            Kind::SaleReduced | Kind::RegularChanged => cut_after > cut_before,
            Kind::FirstSeen | Kind::SaleEnded | Kind::PriceLowered | Kind::PriceRaised => false,
        }
    }
}

/// What an observation does to an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The price is `after` now, and that is news.
    Changed {
        after: Price,
        kind: Kind,
        /// Strictly below every earlier price in this currency; never on the first sight.
        new_low: bool,
        /// The sale that was open before is over: `sale.ended`, or a change of currency.
        ends_sale: bool,
    },
    /// The same as before, seen again: only the time of sight moves, to `after`.
    Unchanged { after: Price },
    /// Older than what is known: `past` goes into history and changes nothing else.
    Stale { past: Price },
    /// Looks like a glitch, for this reason; `held` is what it says.
    Quarantined { held: Price, reason: &'static str },
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
    fn judge(&self, before: Option<&Price>, after: &Price) -> Option<&'static str> {
        // What has been believed once is not doubted again.
        if before.is_some_and(|before| before.says_the_same(after)) {
            return None;
        }
        if after.amount > 0 && after.amount * 100 < after.regular * self.min_percent {
            return Some("price_far_below_regular");
        }
        let before = before?;
        if before.currency != after.currency {
            return Some("currency_changed");
        }
        let (low, high) = (before.regular.min(after.regular), before.regular.max(after.regular));
        // Games do become free to play, and stop being it: nothing has no multiple.
        (low > 0 && high > low * self.max_jump).then_some("regular_price_jumped")
    }
}

/// Judges one observation of an offer whose price was `before` (`None`: never seen).
///
/// `trusted` skips the glitch rules: a second observation agreed, or an operator released it.
pub fn observe(before: Option<&Price>, seen: &Seen, rules: &GlitchRules, trusted: bool) -> Outcome {
    // A regular price that was not told is the last one, but a price above it shows that it has risen.
    let last_regular = before.filter(|price| price.currency == seen.currency).map(|price| price.regular);
    let regular = seen.regular.unwrap_or_else(|| last_regular.unwrap_or(seen.amount).max(seen.amount));
    let mut after = Price {
        currency: seen.currency,
        amount: seen.amount,
        regular,
        observed_at: seen.observed_at,
        low: seen.amount,
        low_at: seen.observed_at,
    };
    // What is old is not measured by what is new: prices, and even currencies, may have changed since.
    let measure = before.filter(|price| price.observed_at <= seen.observed_at);
    if !trusted && let Some(reason) = rules.judge(measure, &after) {
        return Outcome::Quarantined { held: after, reason };
    }
    let Some(before) = before else {
        let kind = if after.on_sale() { Kind::SaleStarted } else { Kind::FirstSeen };
        return Outcome::Changed { after, kind, new_low: false, ends_sale: false };
    };
    if seen.observed_at < before.observed_at {
        return Outcome::Stale { past: after };
    }
    let same_currency = before.currency == after.currency;
    if same_currency && before.low <= after.amount {
        (after.low, after.low_at) = (before.low, before.low_at);
    }
    // Of two prices at the same instant the lower stands.
    let outdone = seen.observed_at == before.observed_at && same_currency && seen.amount >= before.amount;
    if outdone || before.says_the_same(&after) {
        return Outcome::Unchanged { after: Price { observed_at: seen.observed_at, ..*before } };
    }
    let kind = match (before.on_sale() && same_currency, after.on_sale()) {
        (false, true) => Kind::SaleStarted,
        (true, false) => Kind::SaleEnded,
        (true, true) if after.amount < before.amount => Kind::SaleDeepened,
        (true, true) if after.amount > before.amount => Kind::SaleReduced,
        (true, true) => Kind::RegularChanged,
        (false, false) if !same_currency => Kind::FirstSeen,
        (false, false) if after.amount < before.amount => Kind::PriceLowered,
        (false, false) => Kind::PriceRaised,
    };
    Outcome::Changed {
        after,
        kind,
        new_low: same_currency && after.amount < before.low,
        ends_sale: before.on_sale() && (kind == Kind::SaleEnded || !same_currency),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_750_000_000 + minute * 60, 0).unwrap()
    }

    fn seen(minute: i64, amount: i64, regular: impl Into<Option<i64>>) -> Seen {
        Seen { currency: "EUR".parse().unwrap(), amount, regular: regular.into(), observed_at: at(minute) }
    }

    /// Runs observations one after another and returns the kinds of what changed.
    fn kinds(sights: &[Seen]) -> Vec<(&'static str, bool)> {
        let mut price = None;
        let mut kinds = Vec::new();
        for sight in sights {
            match observe(price.as_ref(), sight, &GlitchRules::default(), false) {
                Outcome::Changed { after, kind, new_low, .. } => {
                    price = Some(after);
                    kinds.push((kind.name(), new_low));
                }
                Outcome::Unchanged { after } => price = Some(after),
                Outcome::Stale { .. } => kinds.push(("stale", false)),
                Outcome::Quarantined { reason, .. } => kinds.push((reason, false)),
            }
        }
        kinds
    }

    #[test]
    fn a_sale_runs_its_course() {
        let course = [
            seen(0, 1849, 1849),
            seen(1, 1849, None),
            seen(2, 1479, None),
            seen(3, 1479, 1999),
            seen(4, 999, None),
            seen(5, 1499, None),
            seen(6, 1999, None),
            seen(7, 1799, 1799),
            seen(8, 2099, None),
        ];
        assert_eq!(
            kinds(&course),
            [
                ("first.seen", false),
                ("sale.started", true),
                ("regular.changed", false),
                ("sale.deepened", true),
                ("sale.reduced", false),
                ("sale.ended", false),
                ("price.lowered", false),
                ("price.raised", false),
            ]
        );
    }

    #[test]
    fn a_first_sight_below_the_regular_price_is_a_sale_and_no_new_low() {
        assert_eq!(kinds(&[seen(0, 500, 1000)]), [("sale.started", false)]);
        assert_eq!(kinds(&[seen(0, 0, 1000)]), [("sale.started", false)]);
        assert_eq!(kinds(&[seen(0, 0, 0)]), [("first.seen", false)]);
    }

    #[test]
    fn a_low_that_is_only_reached_again_is_not_new() {
        assert_eq!(
            kinds(&[seen(0, 1000, 1000), seen(1, 500, 1000), seen(2, 1000, 1000), seen(3, 500, 1000)]),
            [("first.seen", false), ("sale.started", true), ("sale.ended", false), ("sale.started", false)]
        );
    }

    #[test]
    fn of_two_prices_at_one_instant_the_lower_stands_whichever_comes_first() {
        assert_eq!(kinds(&[seen(0, 500, 1000), seen(0, 700, 1000)]), [("sale.started", false)]);
        assert_eq!(
            kinds(&[seen(0, 1000, 1000), seen(1, 700, 1000), seen(1, 500, 1000)]),
            [("first.seen", false), ("sale.started", true), ("sale.deepened", true)]
        );
    }

    #[test]
    fn glitches_are_held_back() {
        assert_eq!(kinds(&[seen(0, 29, 1000)]), [("price_far_below_regular", false)]);
        assert_eq!(kinds(&[seen(0, 30, 1000)]), [("sale.started", false)]);
        assert_eq!(
            kinds(&[seen(0, 1000, 1000), seen(1, 11_000, 11_000)]),
            [("first.seen", false), ("regular_price_jumped", false)]
        );
        let dollars = Seen { currency: "USD".parse().unwrap(), ..seen(1, 1000, 1000) };
        assert_eq!(
            kinds(&[seen(0, 1000, 1000), dollars]),
            [("first.seen", false), ("currency_changed", false)]
        );
    }

    #[test]
    fn what_was_believed_is_not_doubted_again() {
        let rules = GlitchRules::default();
        let believed = match observe(None, &seen(0, 10, 1000), &rules, true) {
            Outcome::Changed { after, .. } => after,
            other => panic!("{other:?}"),
        };
        let again = observe(Some(&believed), &seen(1, 10, 1000), &rules, false);
        assert!(matches!(again, Outcome::Unchanged { .. }), "{again:?}");
    }

    #[test]
    fn a_game_may_become_free_to_play() {
        assert_eq!(
            kinds(&[seen(0, 1000, 1000), seen(1, 0, 0)]),
            [("first.seen", false), ("price.lowered", true)]
        );
    }

    #[test]
    fn the_past_is_not_measured_by_the_present() {
        let dollars = Seen { currency: "USD".parse().unwrap(), ..seen(0, 50, 50) };
        assert_eq!(kinds(&[seen(1, 1000, 1000), dollars]), [("first.seen", false), ("stale", false)]);
    }

    #[test]
    fn a_better_cut_rings_even_for_a_higher_price() {
        assert!(Kind::SaleReduced.rings(50, 90));
        assert!(!Kind::SaleReduced.rings(50, 40));
        assert!(!Kind::RegularChanged.rings(50, 40));
    }

    #[test]
    fn a_trusted_change_of_currency_ends_the_sale_and_starts_anew() {
        let before = match observe(None, &seen(0, 500, 1000), &GlitchRules::default(), false) {
            Outcome::Changed { after, .. } => after,
            other => panic!("{other:?}"),
        };
        let dollars = Seen { currency: "USD".parse().unwrap(), ..seen(1, 400, 1000) };
        match observe(Some(&before), &dollars, &GlitchRules::default(), true) {
            Outcome::Changed { after, kind, new_low, ends_sale } => {
                assert_eq!((kind, new_low, ends_sale, after.low), (Kind::SaleStarted, false, true, 400));
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// Whatever comes in whatever order: the price is that of the newest instant (the lower of two), the low is
        /// the lowest that took effect, and telling everything twice changes nothing.
        #[test]
        fn the_newest_sight_stands(sights in prop::collection::vec((0_i64..20, 300_i64..1000), 1..40)) {
            let sights: Vec<Seen> = sights.into_iter().map(|(minute, amount)| seen(minute, amount, 1000)).collect();
            let (mut price, mut low) = (None::<Price>, i64::MAX);
            for round in 0..2 {
                for sight in &sights {
                    match observe(price.as_ref(), sight, &GlitchRules::default(), false) {
                        Outcome::Changed { after, kind, new_low, .. } => {
                            prop_assert_eq!(round, 0);
                            prop_assert_eq!(new_low, price.is_some() && after.amount < low);
                            prop_assert_eq!(kind == Kind::SaleEnded, !after.on_sale() && price.is_some_and(|p| p.on_sale()));
                            low = low.min(after.amount);
                            price = Some(after);
                        }
                        Outcome::Unchanged { after } => price = Some(after),
                        Outcome::Stale { past } => prop_assert!(past.observed_at < price.unwrap().observed_at),
                        Outcome::Quarantined { .. } => prop_assert!(false),
                    }
                }
            }
            let newest = sights.iter().map(|s| s.observed_at).max().unwrap();
            let stands = sights.iter().filter(|s| s.observed_at == newest).map(|s| s.amount).min().unwrap();
            let price = price.unwrap();
            prop_assert_eq!((price.observed_at, price.amount, price.low), (newest, stands, low));
        }
    }
}
