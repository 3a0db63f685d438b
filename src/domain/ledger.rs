//! Observations of one offer, applied one after another, and everything that is to be written because of them.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::batch::Counts;
use super::money::Currency;
use super::price::{GlitchRules, Kind, Outcome, Price, Seen, observe};

/// An offer as it is known when a message begins.
#[derive(Clone, Debug)]
pub struct KnownOffer {
    pub id: Uuid,
    pub game_id: Uuid,
    pub price: Option<Price>,
    pub sale_id: Option<Uuid>,
    /// Its quarantined observations that nobody has judged yet.
    pub held: Vec<Held>,
}

/// A quarantined observation.
#[derive(Clone, Debug)]
pub struct Held {
    pub id: Uuid,
    pub seen: Seen,
}

/// Everything that a message changes, in the order in which it happened. One row of the schema each.
#[derive(Debug, Default)]
pub struct Changes {
    pub offers: Vec<OfferChange>,
    /// The changes of prices.
    pub history: Vec<(Uuid, Price)>,
    /// Sights older than what is known.
    pub stale: Vec<(Uuid, Price)>,
    pub started_sales: Vec<SaleChange>,
    pub changed_sales: Vec<SaleChange>,
    pub events: Vec<Event>,
    pub quarantined: Vec<Quarantined>,
    /// Quarantined observations that a second one has confirmed.
    pub confirmed: Vec<Uuid>,
    pub counts: Counts,
}

/// An offer's current price after the message.
#[derive(Debug)]
pub struct OfferChange {
    pub id: Uuid,
    pub price: Price,
    pub sale_id: Option<Uuid>,
    pub sale_ends_at: Option<DateTime<Utc>>,
}

/// A sale that has begun, moved or ended.
#[derive(Clone, Debug)]
pub struct SaleChange {
    pub id: Uuid,
    pub offer_id: Uuid,
    pub price: Price,
    /// `None`: as it was.
    pub new_low: Option<bool>,
    pub started_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// One transition, for the outbox.
#[derive(Debug)]
pub struct Event {
    pub id: Uuid,
    pub kind: Kind,
    pub offer_id: Uuid,
    pub game_id: Uuid,
    pub sale_id: Option<Uuid>,
    pub price: Price,
    pub previous_amount: Option<i64>,
    pub new_low: bool,
    /// A watch can want to know.
    pub rings: bool,
}

/// An observation that is held back.
#[derive(Debug)]
pub struct Quarantined {
    pub id: Uuid,
    pub offer_id: Uuid,
    pub price: Price,
    pub reason: &'static str,
    /// A second sight within the same message has agreed already.
    pub confirmed: bool,
}

/// One offer while a message is applied to it.
pub struct Ledger<'a> {
    rules: &'a GlitchRules,
    changes: &'a mut Changes,
    offer: KnownOffer,
    sale: Option<OpenSale>,
    sale_ends_at: Option<DateTime<Utc>>,
    touched: bool,
}

/// The sale that is open now, and what of it is not written yet.
struct OpenSale {
    id: Uuid,
    is_new: bool,
    unwritten: Option<SaleChange>,
}

impl<'a> Ledger<'a> {
    pub fn open(offer: KnownOffer, rules: &'a GlitchRules, changes: &'a mut Changes) -> Ledger<'a> {
        let sale = offer.sale_id.map(|id| OpenSale { id, is_new: false, unwritten: None });
        Ledger { rules, changes, offer, sale, sale_ends_at: None, touched: false }
    }

    /// Applies one observation. Those of one offer come in the order of their time.
    pub fn apply(&mut self, seen: &Seen, sale_ends_at: Option<DateTime<Utc>>) {
        let outcome = observe(self.offer.price.as_ref(), seen, self.rules, false);
        let Outcome::Quarantined { held, reason } = outcome else {
            self.settle(outcome, sale_ends_at);
            return;
        };
        let agreed = self.offer.held.iter().position(|other| agree(&other.seen, &held));
        match agreed {
            Some(at) if apart(&self.offer.held[at].seen, seen) >= self.rules.confirm_after => {
                // The first takes effect at its own time, then the second.
                let first = self.offer.held.swap_remove(at);
                match self.changes.quarantined.iter_mut().rev().find(|row| row.id == first.id) {
                    Some(row) => row.confirmed = true,
                    None => self.changes.confirmed.push(first.id),
                }
                let before = self.changes.counts.clone();
                self.trust(&first.seen);
                let recorded = self.changes.counts.recorded > before.recorded;
                let transitions = std::mem::take(&mut self.changes.counts.transitions);
                let new_lows = self.changes.counts.new_lows;
                // The first was counted when it was held; what counts now is the second, and what both changed.
                self.changes.counts = Counts { transitions, new_lows, ..before };
                if recorded && self.says_nothing_new(seen) {
                    self.touch(seen);
                    self.changes.counts.recorded += 1;
                } else {
                    self.trust(seen);
                }
            }
            Some(_) => self.changes.counts.quarantined += 1,
            None => {
                let id = Uuid::now_v7();
                self.changes.counts.quarantined += 1;
                self.changes.quarantined.push(Quarantined {
                    id,
                    offer_id: self.offer.id,
                    price: held,
                    reason,
                    confirmed: false,
                });
                let seen = Seen { regular: Some(held.regular), ..*seen };
                self.offer.held.push(Held { id, seen });
            }
        }
    }

    /// Applies an observation whatever the glitch rules say.
    pub fn trust(&mut self, seen: &Seen) {
        let outcome = observe(self.offer.price.as_ref(), seen, self.rules, true);
        self.settle(outcome, None);
    }

    /// Ends the message for this offer: what it has become is written.
    pub fn close(mut self) {
        self.put_sale_down();
        if let Some(price) = self.offer.price.filter(|_| self.touched) {
            let sale_id = self.sale.map(|sale| sale.id);
            let sale_ends_at = self.sale_ends_at.filter(|_| sale_id.is_some());
            self.changes.offers.push(OfferChange { id: self.offer.id, price, sale_id, sale_ends_at });
        }
    }

    fn says_nothing_new(&self, seen: &Seen) -> bool {
        let outcome = observe(self.offer.price.as_ref(), seen, self.rules, true);
        matches!(outcome, Outcome::Unchanged { .. })
    }

    fn touch(&mut self, seen: &Seen) {
        if let Outcome::Unchanged { after } = observe(self.offer.price.as_ref(), seen, self.rules, true) {
            self.set_price(after);
        }
    }

    fn set_price(&mut self, price: Price) {
        // The same sight again is no reason to write.
        self.touched |= self.offer.price != Some(price);
        self.offer.price = Some(price);
    }

    fn settle(&mut self, outcome: Outcome, sale_ends_at: Option<DateTime<Utc>>) {
        match outcome {
            Outcome::Unchanged { after } => {
                self.changes.counts.unchanged += 1;
                self.set_price(after);
                if sale_ends_at.is_some() && self.sale.is_some() {
                    self.sale_ends_at = sale_ends_at;
                    self.touched = true;
                    self.move_sale(after, None, None);
                }
            }
            Outcome::Stale { past } => {
                self.changes.counts.stale += 1;
                self.changes.stale.push((self.offer.id, past));
            }
            Outcome::Changed { after, kind, new_low, ends_sale } => {
                self.change(after, kind, new_low, ends_sale, sale_ends_at);
            }
            // Only `apply` judges, and it does not pass these on.
            Outcome::Quarantined { .. } => self.changes.counts.quarantined += 1,
        }
    }

    fn change(
        &mut self,
        after: Price,
        kind: Kind,
        new_low: bool,
        ends_sale: bool,
        sale_ends_at: Option<DateTime<Utc>>,
    ) {
        let before = self.offer.price;
        let mut event_sale = self.sale.as_ref().map(|sale| sale.id);
        if ends_sale {
            self.move_sale(after, None, Some(after.observed_at));
            self.put_sale_down();
            self.sale = None;
        }
        if kind == Kind::SaleStarted || self.sale.is_none() {
            self.sale_ends_at = None;
        }
        self.sale_ends_at = sale_ends_at.or(self.sale_ends_at);
        match kind {
            Kind::SaleStarted => {
                let id = Uuid::now_v7();
                event_sale = Some(id);
                self.sale = Some(OpenSale { id, is_new: true, unwritten: None });
                self.move_sale(after, Some(new_low), None);
            }
            Kind::SaleDeepened | Kind::SaleReduced => self.move_sale(after, Some(new_low), None),
            Kind::RegularChanged => self.move_sale(after, None, None),
            Kind::FirstSeen | Kind::SaleEnded | Kind::PriceLowered | Kind::PriceRaised => {}
        }
        let counts = &mut self.changes.counts;
        counts.recorded += 1;
        counts.new_lows += i64::from(new_low);
        match counts.transitions.get_mut(kind.name()) {
            Some(count) => *count += 1,
            None => drop(counts.transitions.insert(kind.name().to_owned(), 1)),
        }
        // A second change at the same instant, by a lower price, outdoes the first.
        let same = |(offer, price): &(Uuid, Price)| {
            *offer == self.offer.id && price.observed_at == after.observed_at
        };
        if self.changes.history.last().is_some_and(same) {
            self.changes.history.pop();
        }
        self.changes.history.push((self.offer.id, after));
        self.changes.events.push(Event {
            id: Uuid::now_v7(),
            kind,
            offer_id: self.offer.id,
            game_id: self.offer.game_id,
            sale_id: event_sale,
            price: after,
            previous_amount: before.map(|price| price.amount),
            new_low,
            rings: kind.rings(before.map_or(0, |price| price.cut()), after.cut()),
        });
        self.touched = true;
        self.offer.price = Some(after);
    }

    /// Notes what the open sale has become; it is written once, however often it moves within a message.
    fn move_sale(&mut self, price: Price, new_low: Option<bool>, ended_at: Option<DateTime<Utc>>) {
        let Some(sale) = &mut self.sale else { return };
        let earlier = sale.unwritten.take();
        let started_at = earlier.as_ref().map_or(price.observed_at, |earlier| earlier.started_at);
        // An ended sale keeps the last price that it had.
        let last =
            earlier.as_ref().map(|earlier| earlier.price).or(self.offer.price.filter(|_| !sale.is_new));
        let price = if ended_at.is_some() { last.unwrap_or(price) } else { price };
        sale.unwritten = Some(SaleChange {
            id: sale.id,
            offer_id: self.offer.id,
            price,
            new_low: new_low.or(earlier.and_then(|earlier| earlier.new_low)),
            started_at,
            ends_at: self.sale_ends_at,
            ended_at,
        });
    }

    fn put_sale_down(&mut self) {
        let Some(sale) = &mut self.sale else { return };
        if let Some(change) = sale.unwritten.take() {
            match sale.is_new {
                true => self.changes.started_sales.push(change),
                false => self.changes.changed_sales.push(change),
            }
        }
    }
}

fn agree(first: &Seen, second: &Price) -> bool {
    let same = |currency: Currency| currency == second.currency;
    same(first.currency) && first.amount == second.amount && first.regular == Some(second.regular)
}

/// The second sight may be reported before the first.
fn apart(first: &Seen, second: &Seen) -> TimeDelta {
    (second.observed_at - first.observed_at).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(minute: i64, amount: i64, regular: i64) -> Seen {
        let observed_at = DateTime::from_timestamp(1_750_000_000 + minute * 60, 0).unwrap();
        Seen { currency: "EUR".parse().unwrap(), amount, regular: Some(regular), observed_at }
    }

    fn apply(sights: &[Seen]) -> Changes {
        let mut changes = Changes::default();
        let offer = KnownOffer {
            id: Uuid::now_v7(),
            game_id: Uuid::now_v7(),
            price: None,
            sale_id: None,
            held: Vec::new(),
        };
        let rules = GlitchRules::default();
        let mut ledger = Ledger::open(offer, &rules, &mut changes);
        sights.iter().for_each(|sight| ledger.apply(sight, None));
        ledger.close();
        changes
    }

    #[test]
    fn a_sale_that_begins_and_ends_within_a_message_is_written_once() {
        let changes =
            apply(&[seen(0, 1000, 1000), seen(1, 700, 1000), seen(2, 500, 1000), seen(3, 1000, 1000)]);
        assert_eq!(changes.counts.recorded, 4);
        assert_eq!(changes.history.len(), 4);
        assert_eq!((changes.started_sales.len(), changes.changed_sales.len()), (1, 0));
        let sale = &changes.started_sales[0];
        assert_eq!((sale.price.amount, sale.started_at), (500, seen(1, 0, 0).observed_at));
        assert_eq!(sale.ended_at, Some(seen(3, 0, 0).observed_at));
        assert_eq!(changes.offers.len(), 1);
        assert_eq!(changes.offers[0].sale_id, None);
        let sales: Vec<_> = changes.events.iter().map(|event| event.sale_id).collect();
        assert_eq!(sales, [None, Some(sale.id), Some(sale.id), Some(sale.id)]);
    }

    #[test]
    fn a_glitch_takes_effect_when_a_second_sight_ten_minutes_later_agrees() {
        let glitch = |minute| seen(minute, 10, 1000);
        let held = apply(&[seen(0, 1000, 1000), glitch(1), glitch(5)]);
        assert_eq!((held.counts.recorded, held.counts.quarantined, held.quarantined.len()), (1, 2, 1));
        let confirmed = apply(&[seen(0, 1000, 1000), glitch(1), glitch(11)]);
        assert_eq!((confirmed.counts.recorded, confirmed.counts.quarantined), (2, 1));
        assert!(confirmed.quarantined[0].confirmed && confirmed.confirmed.is_empty());
        assert_eq!(confirmed.started_sales[0].started_at, glitch(1).observed_at);
        assert_eq!(confirmed.offers[0].price.observed_at, glitch(11).observed_at);
        let total = |counts: &Counts| counts.recorded + counts.unchanged + counts.stale + counts.quarantined;
        assert_eq!((total(&held.counts), total(&confirmed.counts)), (3, 3));
    }

    #[test]
    fn a_glitch_that_was_overtaken_goes_into_history_when_it_is_confirmed() {
        let changes =
            apply(&[seen(0, 1000, 1000), seen(1, 10, 1000), seen(2, 900, 1000), seen(20, 10, 1000)]);
        assert_eq!(changes.stale.len(), 1);
        assert_eq!(changes.counts.transitions["sale.deepened"], 1);
        assert_eq!((changes.counts.recorded, changes.counts.quarantined, changes.counts.stale), (3, 1, 0));
    }

    #[test]
    fn a_glitch_and_the_truth_at_one_instant_leave_one_row_of_history() {
        let changes =
            apply(&[seen(0, 2000, 2000), seen(5, 1000, 2000), seen(5, 10, 2000), seen(20, 10, 2000)]);
        let mut instants: Vec<_> = changes.history.iter().map(|(_, price)| price.observed_at).collect();
        instants.dedup();
        assert_eq!(instants.len(), changes.history.len());
        assert_eq!(changes.offers[0].price.amount, 10);
    }

    #[test]
    fn an_end_that_the_store_tells_stays_with_its_sale() {
        let mut changes = Changes::default();
        let offer = KnownOffer {
            id: Uuid::now_v7(),
            game_id: Uuid::now_v7(),
            price: None,
            sale_id: None,
            held: Vec::new(),
        };
        let rules = GlitchRules::default();
        let mut ledger = Ledger::open(offer, &rules, &mut changes);
        let end = seen(99, 0, 0).observed_at;
        ledger.apply(&seen(1, 500, 1000), Some(end));
        ledger.apply(&seen(0, 400, 1000), Some(seen(50, 0, 0).observed_at));
        ledger.apply(&seen(2, 1000, 1000), None);
        ledger.apply(&seen(3, 500, 1000), None);
        ledger.close();
        let ends: Vec<_> = changes.started_sales.iter().map(|sale| sale.ends_at).collect();
        assert_eq!(ends, [Some(end), None]);
        assert_eq!(changes.offers[0].sale_ends_at, None);
    }

    #[test]
    fn the_same_sight_twice_writes_nothing() {
        let changes = apply(&[seen(0, 500, 1000), seen(0, 500, 1000), seen(0, 600, 1000)]);
        assert_eq!((changes.counts.recorded, changes.counts.unchanged), (1, 2));
        assert_eq!((changes.history.len(), changes.events.len(), changes.started_sales.len()), (1, 1, 1));
    }
}
