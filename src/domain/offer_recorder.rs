//! Observations of one offer, applied one after another, and everything that is to be written because of them.

use chrono::{DateTime, TimeDelta, Utc};

use super::batch::ObservationCounts;
use super::money::Currency;
use super::price::{
    Change, EndReason, GlitchReason, ObservedPrice, Outcome, Price, Rules, Sale, TransitionKind, observe,
};

use crate::domain::ids::{EventId, GameId, OfferId, QuarantinedPriceId, SaleId};

/// An offer as it is known when a message begins.
#[derive(Clone, Debug)]
pub struct KnownOffer {
    pub id: OfferId,
    pub game_id: GameId,
    pub price: Option<Price>,
    /// Its quarantined observations that nobody has judged yet.
    pub held: Vec<HeldPrice>,
}

/// A quarantined observation.
#[derive(Clone, Debug)]
pub struct HeldPrice {
    pub id: QuarantinedPriceId,
    pub seen: ObservedPrice,
}

/// Everything that a message changes, in the order in which it happened. One row of the schema each.
#[derive(Debug, Default)]
pub struct Changes {
    /// Offers with their price after the message.
    pub offers: Vec<(OfferId, Price)>,
    /// The changes of prices.
    pub history: Vec<PastPrice>,
    /// Observations older than what is known.
    pub stale: Vec<PastPrice>,
    /// Offers whose last change of price before the message holds until another instant than was said then.
    pub moved_ends: Vec<(OfferId, Option<DateTime<Utc>>)>,
    pub started_sales: Vec<SaleChange>,
    pub changed_sales: Vec<SaleChange>,
    pub events: Vec<Event>,
    /// Sales from before the message for which the store has named a later end at the same price, with the end that they
    /// had: news if that had come already (`resume_what_was_over`).
    prolonged: Vec<(DateTime<Utc>, Event)>,
    pub quarantined: Vec<Quarantined>,
    /// Quarantined observations that a second one has confirmed.
    pub confirmed: Vec<QuarantinedPriceId>,
    pub counts: ObservationCounts,
    /// Sales that are over because the end has come that the store had told: no observation's doing.
    pub told_ends: u64,
}

impl Changes {
    /// Adds `sale.resumed` for the sales that were over by now, and are not as their stores say: nobody had ended them yet,
    /// but they were no deals, and their bells were not rung. That is nobody's transition, as the end would have been.
    pub fn resume_what_was_over(&mut self, now: DateTime<Utc>) {
        let prolonged = std::mem::take(&mut self.prolonged).into_iter();
        let resumed = prolonged.filter(|(end, event)| *end <= now && event.price.is_on_sale(now));
        self.events.extend(resumed.map(|(_, event)| event));
    }
}

/// A price from its time of observation on.
#[derive(Clone, Copy, Debug)]
pub struct PastPrice {
    pub offer_id: OfferId,
    pub price: Price,
    /// When it stops to hold, as the store says.
    pub holds_until: Option<DateTime<Utc>>,
}

/// A sale that has begun, moved or ended.
#[derive(Clone, Debug)]
pub struct SaleChange {
    pub id: SaleId,
    pub offer_id: OfferId,
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
    pub id: EventId,
    pub kind: TransitionKind,
    pub offer_id: OfferId,
    pub game_id: GameId,
    pub sale_id: Option<SaleId>,
    pub price: Price,
    pub previous_amount: Option<i64>,
    pub new_low: bool,
    /// Of `sale.ended`.
    pub reason: Option<EndReason>,
    /// The dispatch looks at it: a watch can want to know, or is owed what could not be told of an interrupted sale.
    pub rings: bool,
    /// Those too whom the sale has rung already.
    pub rings_again: bool,
}

/// An observation that is held back.
#[derive(Debug)]
pub struct Quarantined {
    pub id: QuarantinedPriceId,
    pub offer_id: OfferId,
    pub price: Price,
    pub sale_ends_at: Option<DateTime<Utc>>,
    pub reason: GlitchReason,
    /// A second observation within the same message has agreed already.
    pub confirmed: bool,
}

/// What an observation did, of which exactly one is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changed the price.
    Recorded,
    /// Repeated what was known.
    Unchanged,
    /// Was older than what is known: history only.
    Stale,
    /// Is held back as a glitch.
    Quarantined,
}

/// One offer while a message is applied to it.
pub struct OfferRecorder<'a> {
    rules: &'a Rules,
    changes: &'a mut Changes,
    offer: KnownOffer,
    /// What has become of its sales and is not written yet. Each is written once, however often it moves.
    sales: Vec<SaleChange>,
    /// Of those, the ones that this message has started.
    started: Vec<SaleId>,
    touched: bool,
}

impl<'a> OfferRecorder<'a> {
    pub fn open(offer: KnownOffer, rules: &'a Rules, changes: &'a mut Changes) -> OfferRecorder<'a> {
        OfferRecorder { rules, changes, offer, sales: Vec::new(), started: Vec::new(), touched: false }
    }

    /// Applies one observation. Those of one offer come in the order of their time.
    pub fn apply(&mut self, seen: &ObservedPrice) {
        self.lapse(seen.observed_at);
        let outcome = observe(self.offer.price.as_ref(), seen, self.rules, false);
        let Outcome::Quarantined { held, reason } = outcome else {
            let effect = self.settle(outcome, seen);
            return self.count(effect);
        };
        let agreed = self.offer.held.iter().position(|other| agree(&other.seen, &held));
        let effect = match agreed {
            Some(at) if apart(&self.offer.held[at].seen, seen) >= self.rules.glitches.confirm_after => {
                // The first takes effect at its own time, then the second.
                let first = self.offer.held.swap_remove(at);
                match self.changes.quarantined.iter_mut().rev().find(|row| row.id == first.id) {
                    Some(row) => row.confirmed = true,
                    None => self.changes.confirmed.push(first.id),
                }
                // The first was counted when it was held; what both have changed is counted with the second.
                match (self.trust(&first.seen), self.trust(seen)) {
                    (Effect::Recorded, Effect::Unchanged) => Effect::Recorded,
                    (_, second) => second,
                }
            }
            Some(_) => Effect::Quarantined,
            None => {
                let id = QuarantinedPriceId::now_v7();
                self.changes.quarantined.push(Quarantined {
                    id,
                    offer_id: self.offer.id,
                    price: held,
                    sale_ends_at: seen.sale_ends_at,
                    reason,
                    confirmed: false,
                });
                let seen = ObservedPrice { regular: Some(held.regular), ..*seen };
                self.offer.held.push(HeldPrice { id, seen });
                Effect::Quarantined
            }
        };
        self.count(effect);
    }

    /// Applies an observation whatever the glitch rules say, and returns what it did. The observation itself is not
    /// counted.
    pub fn trust(&mut self, seen: &ObservedPrice) -> Effect {
        self.lapse(seen.observed_at);
        let outcome = observe(self.offer.price.as_ref(), seen, self.rules, true);
        self.settle(outcome, seen)
    }

    fn count(&mut self, effect: Effect) {
        let counts = &mut self.changes.counts;
        let count = match effect {
            Effect::Recorded => &mut counts.recorded,
            Effect::Unchanged => &mut counts.unchanged,
            Effect::Stale => &mut counts.stale,
            Effect::Quarantined => &mut counts.quarantined,
        };
        *count += 1;
    }

    /// Ends the sale if the end has come by this instant that the store told.
    pub fn lapse(&mut self, by: DateTime<Utc>) {
        let Some((before, sale)) = self.offer.price.and_then(|price| Some((price, price.sale?))) else {
            return;
        };
        let Some(after) = before.lapse(by) else { return };
        if let Some(ended) = after.ended {
            self.note_sale(&sale, before, None, Some(ended.at));
            self.changes.told_ends += 1;
            self.changes.events.push(Event {
                id: EventId::now_v7(),
                kind: TransitionKind::SaleEnded,
                offer_id: self.offer.id,
                game_id: self.offer.game_id,
                sale_id: Some(sale.id),
                price: Price { observed_at: ended.at, ..before },
                previous_amount: Some(before.amount),
                new_low: false,
                reason: Some(EndReason::ToldEnd),
                rings: false,
                rings_again: false,
            });
        } else if let Some(sale) = after.sale {
            self.note_sale(&sale, after, None, None);
        }
        self.set_price(after);
    }

    /// Writes the open sale anew as the offer has it.
    pub fn restate_sale(&mut self) {
        if let Some((price, sale)) = self.offer.price.and_then(|price| Some((price, price.sale?))) {
            self.note_sale(&sale, price, None, None);
        }
    }

    /// Ends the message for this offer: what it has become is written.
    pub fn close(self) {
        for sale in self.sales {
            if self.started.contains(&sale.id) {
                self.changes.started_sales.push(sale)
            } else {
                self.changes.changed_sales.push(sale)
            }
        }
        if let Some(price) = self.offer.price.filter(|_| self.touched) {
            self.changes.offers.push((self.offer.id, price));
        }
    }

    fn set_price(&mut self, price: Price) {
        // The same observation again is no reason to write.
        self.touched |= self.offer.price != Some(price);
        self.offer.price = Some(price);
    }

    fn settle(&mut self, outcome: Outcome, seen: &ObservedPrice) -> Effect {
        match outcome {
            Outcome::Unchanged { after } => {
                self.see_again(after);
                Effect::Unchanged
            }
            Outcome::Stale { past } => {
                let holds_until = seen.sale_ends_at.filter(|_| past.amount < past.regular);
                self.changes.stale.push(PastPrice { offer_id: self.offer.id, price: past, holds_until });
                Effect::Stale
            }
            Outcome::Changed(change) => {
                self.change(&change);
                Effect::Recorded
            }
            // Only `apply` judges, and it does not pass these on.
            Outcome::Quarantined { .. } => Effect::Quarantined,
        }
    }

    /// The price is the same; its sale may end at another time now.
    fn see_again(&mut self, after: Price) {
        let end_before = self.offer.price.and_then(|price| price.sale).map(|sale| sale.ends_at);
        if let Some(sale) = after.sale
            && end_before != Some(sale.ends_at)
        {
            self.note_sale(&sale, after, None, None);
            let offer_id = self.offer.id;
            if let Some(end) = end_before.flatten()
                && !self.started.contains(&sale.id)
            {
                let event = Event {
                    id: EventId::now_v7(),
                    kind: TransitionKind::SaleResumed,
                    offer_id,
                    game_id: self.offer.game_id,
                    sale_id: Some(sale.id),
                    price: after,
                    previous_amount: Some(after.amount),
                    new_low: false,
                    reason: None,
                    rings: true,
                    rings_again: false,
                };
                self.changes.prolonged.push((end, event));
            }
            match self.changes.history.last_mut().filter(|last| last.offer_id == offer_id) {
                Some(last) => last.holds_until = sale.ends_at,
                None => {
                    self.changes.moved_ends.retain(|(other, _)| *other != offer_id);
                    self.changes.moved_ends.push((offer_id, sale.ends_at));
                }
            }
        }
        self.set_price(after);
    }

    fn change(&mut self, change: &Change) {
        let Change { after, kind, new_low, .. } = *change;
        let before = self.offer.price;
        let sale_before = before.and_then(|price| price.sale);
        if change.ends_sale
            && let Some((sale, before)) = sale_before.zip(before)
        {
            // An ended sale keeps the last price that it had.
            self.note_sale(&sale, before, None, Some(after.observed_at));
        }
        if let Some(sale) = after.sale {
            match kind {
                TransitionKind::SaleStarted => {
                    self.started.push(sale.id);
                    self.note_sale(&sale, after, Some(new_low), None);
                }
                TransitionKind::RegularChanged => self.note_sale(&sale, after, None, None),
                TransitionKind::SaleResumed if is_as_low_as_it_was(&sale, &after) => {
                    self.note_sale(&sale, after, None, None);
                }
                _ => self.note_sale(&sale, after, Some(new_low), None),
            }
        }
        let counts = &mut self.changes.counts;
        counts.new_lows += i64::from(new_low);
        match counts.transitions.get_mut(kind.name()) {
            Some(count) => *count += 1,
            None => drop(counts.transitions.insert(kind.name().to_owned(), 1)),
        }
        // A second change at the same instant, by a lower price, outdoes the first.
        let same =
            |past: &PastPrice| past.offer_id == self.offer.id && past.price.observed_at == after.observed_at;
        if self.changes.history.last().is_some_and(same) {
            self.changes.history.pop();
        }
        let holds_until = change.holds_until;
        self.changes.history.push(PastPrice { offer_id: self.offer.id, price: after, holds_until });
        // A new low may come for more than the price before it: paid after a giveaway. A sale that was resumed is owed to
        // watches that could not be rung when it started.
        let rings = new_low
            || kind == TransitionKind::SaleResumed
            || kind.rings(before.map_or(0, |price| price.cut()), after.cut());
        self.changes.events.push(Event {
            id: EventId::now_v7(),
            kind,
            offer_id: self.offer.id,
            game_id: self.offer.game_id,
            sale_id: after.sale.or(sale_before).map(|sale| sale.id),
            price: after,
            previous_amount: before.map(|price| price.amount),
            new_low,
            reason: change.reason,
            rings: rings && after.sale.is_some(),
            rings_again: change.rings_again,
        });
        self.touched = true;
        self.offer.price = Some(after);
    }

    /// Notes what a sale has become.
    fn note_sale(
        &mut self,
        sale: &Sale,
        price: Price,
        new_low: Option<bool>,
        ended_at: Option<DateTime<Utc>>,
    ) {
        if let Some(noted) = self.sales.iter_mut().find(|noted| noted.id == sale.id) {
            noted.price = price;
            noted.new_low = new_low.or(noted.new_low);
            noted.ends_at = sale.ends_at;
            noted.ended_at = ended_at;
            return;
        }
        self.sales.push(SaleChange {
            id: sale.id,
            offer_id: self.offer.id,
            price,
            new_low,
            started_at: price.observed_at,
            ends_at: sale.ends_at,
            ended_at,
        });
    }
}

/// Whether a resumed sale is a new low if it was one when it ended: nothing has cost less since.
fn is_as_low_as_it_was(sale: &Sale, price: &Price) -> bool {
    match price.amount {
        0 => sale.best.is_none(),
        paid => sale.best == Some(paid) && price.low.is_none_or(|low| low.amount >= paid),
    }
}

fn agree(first: &ObservedPrice, second: &Price) -> bool {
    let same = |currency: Currency| currency == second.currency;
    same(first.currency) && first.amount == second.amount && first.regular == Some(second.regular)
}

/// The second observation may be reported before the first.
fn apart(first: &ObservedPrice, second: &ObservedPrice) -> TimeDelta {
    (second.observed_at - first.observed_at).abs()
}

#[cfg(test)]
mod tests;
