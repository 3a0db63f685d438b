//! Recorder of one offer: applies its observations one after another, and collects everything to write because of them.

use chrono::{DateTime, TimeDelta, Utc};

use super::batch::ObservationCounts;
use super::money::Currency;
use super::price::{
    Change, EndReason, GlitchReason, ObservedPrice, Outcome, Price, Rules, Sale, TransitionKind, observe,
};

use crate::domain::ids::{EventId, GameId, OfferId, QuarantinedPriceId, SaleId};

/// State of an offer before a message is applied.
#[derive(Clone, Debug)]
pub struct KnownOffer {
    pub id: OfferId,
    pub game_id: GameId,
    pub price: Option<Price>,
    /// Quarantined observations that no operator has judged yet.
    pub held: Vec<HeldPrice>,
}

/// An observation in quarantine.
#[derive(Clone, Debug)]
pub struct HeldPrice {
    pub id: QuarantinedPriceId,
    pub seen: ObservedPrice,
}

/// Everything that a message changes, in the order in which it happened. Each element is one row in the database.
#[derive(Debug, Default)]
pub struct Changes {
    /// Offers with their price after the message.
    pub offers: Vec<(OfferId, Price)>,
    /// Changes of prices.
    pub history: Vec<PastPrice>,
    /// Observations older than the known price.
    pub stale: Vec<PastPrice>,
    /// Offers whose last price change, made before the message, now holds until another instant than recorded then.
    pub moved_ends: Vec<(OfferId, Option<DateTime<Utc>>)>,
    pub started_sales: Vec<SaleChange>,
    pub changed_sales: Vec<SaleChange>,
    pub events: Vec<Event>,
    /// Sales from before the message for which the store has announced a later end at the same price, with their
    /// previous end. They are news if that end had already passed (`resume_prolonged_sales`).
    prolonged: Vec<(DateTime<Utc>, Event)>,
    pub quarantined: Vec<Quarantined>,
    /// Quarantined observations that a second one has confirmed.
    pub confirmed: Vec<QuarantinedPriceId>,
    pub counts: ObservationCounts,
    /// Number of sales that ended because their announced end has passed, and not because of an observation.
    pub told_ends: u64,
}

impl Changes {
    /// Adds `sale.resumed` for sales that had passed their announced end but, according to their stores, continue. No
    /// process had ended them yet, but they were no longer deals and did not ring. The event is not counted as a
    /// transition, as the end would not have been.
    pub fn resume_prolonged_sales(&mut self, now: DateTime<Utc>) {
        let prolonged = std::mem::take(&mut self.prolonged).into_iter();
        let resumed = prolonged.filter(|(end, event)| *end <= now && event.price.is_on_sale(now));
        self.events.extend(resumed.map(|(_, event)| event));
    }
}

/// A price from the time of its observation on.
#[derive(Clone, Copy, Debug)]
pub struct PastPrice {
    pub offer_id: OfferId,
    pub price: Price,
    /// Instant at which the price stops holding, according to the store.
    pub holds_until: Option<DateTime<Utc>>,
}

/// A sale that has begun, changed or ended.
#[derive(Clone, Debug)]
pub struct SaleChange {
    pub id: SaleId,
    pub offer_id: OfferId,
    pub price: Price,
    /// Whether the sale is at a new low; `None`: unchanged.
    pub new_low: Option<bool>,
    pub started_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// A transition, for the outbox.
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
    /// Only for `sale.ended`.
    pub reason: Option<EndReason>,
    /// Whether the dispatch handles the event: a watch may want to be notified, or was not notified of this sale
    /// because it was interrupted.
    pub rings: bool,
    /// Whether watches that the sale has already rung are notified again.
    pub rings_again: bool,
}

/// An observation that is to be quarantined.
#[derive(Debug)]
pub struct Quarantined {
    pub id: QuarantinedPriceId,
    pub offer_id: OfferId,
    pub price: Price,
    pub sale_ends_at: Option<DateTime<Utc>>,
    pub reason: GlitchReason,
    /// Whether a second observation in the same message has already confirmed it.
    pub confirmed: bool,
}

/// Effect of an observation. Each observation is counted under exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The price changed.
    Recorded,
    /// The observation repeated the known price.
    Unchanged,
    /// The observation is older than the known price and goes into history only.
    Stale,
    /// The observation is quarantined as a possible glitch.
    Quarantined,
}

/// One offer while a message is applied to it.
pub struct OfferRecorder<'a> {
    rules: &'a Rules,
    changes: &'a mut Changes,
    offer: KnownOffer,
    /// Changes to the offer's sales that are not written yet. Each sale is written once, however often it changes.
    sales: Vec<SaleChange>,
    /// Sales in `sales` that this message has started.
    started: Vec<SaleId>,
    touched: bool,
}

impl<'a> OfferRecorder<'a> {
    pub fn open(offer: KnownOffer, rules: &'a Rules, changes: &'a mut Changes) -> OfferRecorder<'a> {
        OfferRecorder { rules, changes, offer, sales: Vec::new(), started: Vec::new(), touched: false }
    }

    /// Applies one observation. The observations of an offer must come in the order of their time.
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
                // The first observation takes effect at its own time, then the second.
                let first = self.offer.held.swap_remove(at);
                match self.changes.quarantined.iter_mut().rev().find(|row| row.id == first.id) {
                    Some(row) => row.confirmed = true,
                    None => self.changes.confirmed.push(first.id),
                }
                // The first was counted when it was quarantined; what both have changed is counted with the second.
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

    /// Applies an observation regardless of the glitch rules, and returns its effect. The observation is not counted.
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

    /// Ends the sale if its announced end has passed by this instant.
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

    /// Notes the open sale again, in its current state.
    pub fn restate_sale(&mut self) {
        if let Some((price, sale)) = self.offer.price.and_then(|price| Some((price, price.sale?))) {
            self.note_sale(&sale, price, None, None);
        }
    }

    /// Ends the message for this offer: hands its final state to the changes.
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
        // The same observation again does not require a write.
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
            // Only `apply` checks for glitches, and it does not pass these outcomes on.
            Outcome::Quarantined { .. } => Effect::Quarantined,
        }
    }

    /// Applies an observation that repeats the price; the announced end of the sale may have changed.
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
            // An ended sale keeps its last price.
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
        // A second change at the same instant, with a lower price, replaces the first.
        let same =
            |past: &PastPrice| past.offer_id == self.offer.id && past.price.observed_at == after.observed_at;
        if self.changes.history.last().is_some_and(same) {
            self.changes.history.pop();
        }
        let holds_until = change.holds_until;
        self.changes.history.push(PastPrice { offer_id: self.offer.id, price: after, holds_until });
        // A new low can be a higher price than the one before: one that is paid after a giveaway. A resumed sale rings
        // for watches that could not be notified when it started.
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

    /// Notes the new state of a sale.
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

/// Whether a resumed sale is a new low if it was one when it ended, because nothing has cost less since.
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

/// Time between two observations. The second may have been reported before the first.
fn apart(first: &ObservedPrice, second: &ObservedPrice) -> TimeDelta {
    (second.observed_at - first.observed_at).abs()
}

#[cfg(test)]
mod tests;
