//! Observations of a message, grouped by offer.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::observation::Observation;
use super::offer_recorder::{Changes, KnownOffer, OfferRecorder};
use super::price::{ObservedPrice, Rules};

use crate::domain::ids::StoreId;

/// The observations of a message by offer, those of each offer in the order of their time.
pub struct ObservedOffers<'a> {
    pub offers: Vec<ObservedOffer<'a>>,
}

/// The observations of one offer.
pub struct ObservedOffer<'a> {
    /// Id of the store; `None`: the store is unknown and may not be created.
    pub store_id: Option<StoreId>,
    pub observations: Vec<&'a Observation>,
}

impl<'a> ObservedOffer<'a> {
    /// The observation that names the offer for a new row: the first one with a title, or the first one if none has
    /// one.
    pub fn titled(&self) -> &'a Observation {
        self.observations.iter().find(|seen| seen.title.is_some()).unwrap_or(&self.observations[0])
    }
}

impl<'a> ObservedOffers<'a> {
    /// Groups the observations of a message.
    pub fn of(observations: &'a [Observation]) -> ObservedOffers<'a> {
        let mut places: HashMap<(&str, &str, &str), usize> = HashMap::with_capacity(observations.len());
        let mut offers: Vec<ObservedOffer<'a>> = Vec::with_capacity(observations.len());
        for seen in observations {
            let key = (seen.store.as_str(), seen.sku.as_str(), seen.region.as_str());
            let place = *places.entry(key).or_insert_with(|| {
                offers.push(ObservedOffer { store_id: None, observations: Vec::with_capacity(1) });
                offers.len() - 1
            });
            offers[place].observations.push(seen);
        }
        for offer in &mut offers {
            // Of two observations at the same instant the lower one comes first and stands; the other changes nothing.
            // Of two equal ones, the one that announces the sale's end comes before the one that leaves it unchanged.
            offer.observations.sort_by_key(|seen| {
                (seen.observed_at, seen.amount, !seen.available, seen.sale_ends_at.is_none())
            });
        }
        ObservedOffers { offers }
    }

    /// Sets the stores of all offers, by their slugs.
    pub fn set_stores(&mut self, stores: &HashMap<String, StoreId>) {
        for offer in &mut self.offers {
            offer.store_id = stores.get(&offer.observations[0].store).copied();
        }
    }

    /// One observation of each store, which provides its name.
    pub fn stores(&self) -> HashMap<&'a str, &'a Observation> {
        self.offers
            .iter()
            .map(|offer| (offer.observations[0].store.as_str(), offer.observations[0]))
            .collect()
    }

    /// The offers that have a store and are not among the `known` ones, which are keyed by their index.
    pub fn unknown(&self, known: &HashMap<usize, KnownOffer>) -> Vec<&ObservedOffer<'a>> {
        let all = self.offers.iter().enumerate();
        all.filter(|(at, offer)| offer.store_id.is_some() && !known.contains_key(at))
            .map(|(_, offer)| offer)
            .collect()
    }

    /// Applies the observations to the `known` offers, which are keyed by their index, and returns all changes.
    /// Observations that are `too_old` to ring are counted.
    pub fn fold(
        &self,
        mut known: HashMap<usize, KnownOffer>,
        rules: &Rules,
        too_old: impl Fn(DateTime<Utc>) -> bool,
        now: DateTime<Utc>,
    ) -> Changes {
        let mut changes = Changes::default();
        for (index, offer) in self.offers.iter().enumerate() {
            let Some(known) = known.remove(&index) else {
                // The store has been removed, or never existed.
                changes.counts.failed += offer.observations.len() as i64;
                continue;
            };
            let old = offer.observations.iter().filter(|seen| too_old(seen.observed_at)).count();
            changes.counts.too_old_to_ring += old as i64;
            let mut recorder = OfferRecorder::open(known, rules, &mut changes);
            for seen in &offer.observations {
                let Observation { currency, amount, regular, observed_at, available, sale_ends_at, .. } =
                    **seen;
                recorder.apply(&ObservedPrice {
                    currency,
                    amount,
                    regular,
                    observed_at,
                    available,
                    sale_ends_at,
                });
            }
            recorder.close();
        }
        changes.resume_prolonged_sales(now);
        changes
    }
}
