use std::collections::BTreeMap;

use super::*;
use crate::domain::ids::{GameId, SaleId};
use crate::domain::price::EndedSale;
use proptest::prelude::*;

fn seen(minute: i64, amount: i64, regular: i64) -> ObservedPrice {
    ObservedPrice {
        currency: "EUR".parse().unwrap(),
        amount,
        regular: Some(regular),
        observed_at: at(minute),
        available: true,
        sale_ends_at: None,
    }
}

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_750_000_000 + minute * 60, 0).unwrap()
}

fn unseen() -> KnownOffer {
    KnownOffer { id: OfferId::now_v7(), game_id: GameId::now_v7(), price: None, held: Vec::new() }
}

fn apply(observed: &[ObservedPrice]) -> Changes {
    let mut changes = Changes::default();
    let rules = Rules::default();
    let mut recorder = OfferRecorder::open(unseen(), &rules, &mut changes);
    observed.iter().for_each(|seen| recorder.apply(seen));
    recorder.close();
    changes
}

#[test]
fn a_sale_that_begins_and_ends_within_a_message_is_written_once() {
    let changes = apply(&[seen(0, 1000, 1000), seen(1, 700, 1000), seen(2, 500, 1000), seen(3, 1000, 1000)]);
    assert_eq!(changes.counts.recorded, 4);
    assert_eq!(changes.history.len(), 4);
    assert_eq!((changes.started_sales.len(), changes.changed_sales.len()), (1, 0));
    let sale = &changes.started_sales[0];
    assert_eq!((sale.price.amount, sale.started_at), (500, seen(1, 0, 0).observed_at));
    assert_eq!(sale.ended_at, Some(seen(3, 0, 0).observed_at));
    assert_eq!(changes.offers.len(), 1);
    assert_eq!(changes.offers[0].1.sale, None);
    let sales: Vec<_> = changes.events.iter().map(|event| event.sale_id).collect();
    assert_eq!(sales, [None, Some(sale.id), Some(sale.id), Some(sale.id)]);
}

#[test]
fn a_glitch_takes_effect_when_a_second_observation_ten_minutes_later_agrees() {
    let glitch = |minute| seen(minute, 10, 1000);
    let held = apply(&[seen(0, 1000, 1000), glitch(1), glitch(5)]);
    assert_eq!((held.counts.recorded, held.counts.quarantined, held.quarantined.len()), (1, 2, 1));
    let confirmed = apply(&[seen(0, 1000, 1000), glitch(1), glitch(11)]);
    assert_eq!((confirmed.counts.recorded, confirmed.counts.quarantined), (2, 1));
    assert!(confirmed.quarantined[0].confirmed && confirmed.confirmed.is_empty());
    assert_eq!(confirmed.started_sales[0].started_at, glitch(1).observed_at);
    assert_eq!(confirmed.offers[0].1.observed_at, glitch(11).observed_at);
    let total =
        |counts: &ObservationCounts| counts.recorded + counts.unchanged + counts.stale + counts.quarantined;
    assert_eq!((total(&held.counts), total(&confirmed.counts)), (3, 3));
}

#[test]
fn a_glitch_that_was_overtaken_goes_into_history_when_it_is_confirmed() {
    let changes = apply(&[seen(0, 1000, 1000), seen(1, 10, 1000), seen(2, 900, 1000), seen(20, 10, 1000)]);
    assert_eq!(changes.stale.len(), 1);
    assert_eq!(changes.counts.transitions["sale.deepened"], 1);
    assert_eq!((changes.counts.recorded, changes.counts.quarantined, changes.counts.stale), (3, 1, 0));
}

#[test]
fn a_glitch_and_the_truth_at_one_instant_leave_one_row_of_history() {
    let changes = apply(&[seen(0, 2000, 2000), seen(5, 1000, 2000), seen(5, 10, 2000), seen(20, 10, 2000)]);
    let mut instants: Vec<_> = changes.history.iter().map(|past| past.price.observed_at).collect();
    instants.dedup();
    assert_eq!(instants.len(), changes.history.len());
    assert_eq!(changes.offers[0].1.amount, 10);
}

/// An observation with the end of the sale that the store announces.
fn announced(minute: i64, amount: i64, end: i64) -> ObservedPrice {
    ObservedPrice { sale_ends_at: Some(at(end)), ..seen(minute, amount, 1000) }
}

#[test]
fn an_end_that_the_store_announces_stays_with_its_sale() {
    let changes =
        apply(&[announced(1, 500, 99), announced(0, 400, 50), seen(2, 1000, 1000), seen(2 + 361, 500, 1000)]);
    let ends: Vec<_> = changes.started_sales.iter().map(|sale| sale.ends_at).collect();
    assert_eq!(ends, [Some(at(99)), None]);
    assert_eq!(changes.offers[0].1.sale.unwrap().ends_at, None);
}

#[test]
fn a_sale_that_is_resumed_within_a_message_is_one_row() {
    let wobble: Vec<ObservedPrice> = [1000, 500, 1000, 500, 1000, 500, 450]
        .iter()
        .enumerate()
        .map(|(minute, amount)| seen(minute as i64, *amount, 1000))
        .collect();
    let changes = apply(&wobble);
    assert_eq!((changes.started_sales.len(), changes.changed_sales.len()), (1, 0));
    let sale = &changes.started_sales[0];
    assert_eq!((sale.price.amount, sale.started_at, sale.ended_at), (450, at(1), None));
    let bells: Vec<_> = changes
        .events
        .iter()
        .filter(|event| event.rings && event.kind != TransitionKind::SaleResumed)
        .map(|event| (event.price.amount, event.rings_again))
        .collect();
    assert_eq!(bells, [(500, false), (450, true)]);
    assert_eq!(changes.counts.transitions["sale.resumed"], 2);
}

#[test]
fn an_announced_end_between_two_observations_belongs_to_neither_transition() {
    let changes = apply(&[announced(0, 500, 10), seen(20, 1000, 1000)]);
    let ends: Vec<_> = changes
        .events
        .iter()
        .map(|event| (event.kind, event.price.observed_at, event.price.amount, event.reason, event.rings))
        .collect();
    assert_eq!(
        ends,
        [
            (TransitionKind::SaleStarted, at(0), 500, None, true),
            (TransitionKind::SaleEnded, at(10), 500, Some(EndReason::ToldEnd), false),
            (TransitionKind::PriceRaised, at(20), 1000, None, false),
        ]
    );
    assert_eq!((changes.counts.recorded, changes.counts.transitions.values().sum::<i64>()), (2, 2));
    assert_eq!((changes.told_ends, changes.started_sales[0].ended_at), (1, Some(at(10))));
    assert_eq!(changes.history[0].holds_until, Some(at(10)));
}

#[test]
fn an_end_that_an_earlier_version_ignored_is_forgotten() {
    let changes = apply(&[announced(0, 500, 10)]);
    let price = Price { observed_at: at(15), ..changes.offers[0].1 };
    let (mut later, rules) = (Changes::default(), Rules::default());
    let mut recorder = OfferRecorder::open(KnownOffer { price: Some(price), ..unseen() }, &rules, &mut later);
    recorder.lapse(at(20));
    recorder.close();
    assert_eq!(
        (later.events.len(), later.changed_sales[0].ends_at, later.changed_sales[0].ended_at),
        (0, None, None)
    );
    assert!(later.offers[0].1.is_on_sale(at(20)), "it was seen on sale after that");
}

#[test]
fn a_confirmed_glitch_keeps_the_other_fields_of_its_observation() {
    let glitch = |minute| ObservedPrice { available: false, ..announced(minute, 10, 500) };
    let held = apply(&[seen(0, 1000, 1000), glitch(1), glitch(20)]);
    assert_eq!((held.counts.transitions.get("sale.started"), held.offers[0].1.available), (None, false));
    let glitch = |minute| announced(minute, 10, 15);
    let over = apply(&[seen(0, 1000, 1000), glitch(1), glitch(20)]);
    assert_eq!(over.started_sales[0].ended_at, Some(at(15)));
    assert_eq!(over.offers[0].1.sale, None, "reported as over already");
}

#[test]
fn the_same_observation_twice_writes_nothing() {
    let changes = apply(&[seen(0, 500, 1000), seen(0, 500, 1000), seen(0, 600, 1000)]);
    assert_eq!((changes.counts.recorded, changes.counts.unchanged), (1, 2));
    assert_eq!((changes.history.len(), changes.events.len(), changes.started_sales.len()), (1, 1, 1));
}

#[test]
fn a_sale_that_is_resumed_is_a_new_low_only_if_nothing_has_cost_less_since() {
    let new_low = |observed: &[ObservedPrice]| {
        let stored = record(&[observed], false);
        let open = stored.price.unwrap().sale.unwrap().id;
        stored.sales.iter().find(|(sale, _)| sale.id == open).unwrap().1
    };
    let first = seen(0, 2000, 2000);
    let course = |last: &[ObservedPrice]| new_low(&[&[first], last].concat());
    assert!(course(&[seen(1, 1000, 2000), seen(2, 2000, 2000), seen(3, 1000, 2000)]));
    assert!(
        !course(&[seen(1, 1000, 2000), seen(2, 900, 900), seen(3, 1000, 2000)]),
        "the regular price was lower"
    );
    let over =
        |minute, amount, end| ObservedPrice { sale_ends_at: Some(at(end)), ..seen(minute, amount, 2000) };
    assert!(!course(&[over(1, 1000, 5), over(6, 800, 6), seen(7, 1000, 2000)]), "reported as over, and paid");
    assert!(course(&[seen(1, 0, 2000), seen(2, 2000, 2000), seen(3, 0, 2000)]), "the first giveaway");
}

#[test]
fn an_end_that_is_moved_resumes_a_sale_that_was_over() {
    let mut first = apply(&[announced(0, 500, 10)]);
    let known = KnownOffer { price: Some(first.offers.remove(0).1), ..unseen() };
    let events = |end, now| {
        let (mut later, rules) = (Changes::default(), Rules::default());
        let mut recorder = OfferRecorder::open(known.clone(), &rules, &mut later);
        recorder.apply(&announced(5, 500, end));
        recorder.close();
        later.resume_prolonged_sales(at(now));
        later.events.iter().map(|event| (event.kind, event.sale_id, event.rings)).collect::<Vec<_>>()
    };
    let sale = known.price.unwrap().sale.map(|sale| sale.id);
    assert_eq!(events(60, 10), [(TransitionKind::SaleResumed, sale, true)]);
    assert_eq!(events(60, 9), [], "it was not over");
    assert_eq!(events(20, 30), [], "it is over all the same");
    assert_eq!(events(10, 30), [], "nothing has moved");
}

#[test]
fn a_new_low_rings_even_if_it_costs_more_than_a_giveaway() {
    let changes = apply(&[seen(0, 2000, 2000), seen(1, 0, 2000), seen(2, 1500, 2000)]);
    let last = changes.events.last().unwrap();
    assert_eq!(
        (last.kind, last.new_low, last.rings, last.rings_again),
        (TransitionKind::SaleReduced, true, true, false)
    );
}

/// State of one offer in the database.
#[derive(Default)]
struct Stored {
    price: Option<Price>,
    sales: Vec<(SaleChange, bool)>,
    history: BTreeMap<DateTime<Utc>, PastPrice>,
    events: Vec<Event>,
    counts: ObservationCounts,
}

impl Stored {
    fn write(&mut self, changes: Changes) {
        for (_, price) in changes.offers {
            self.price = Some(price);
        }
        for (_, end) in changes.moved_ends {
            self.history.last_entry().unwrap().get_mut().holds_until = end;
        }
        for past in changes.history {
            self.history.insert(past.price.observed_at, past);
        }
        self.sales.extend(changes.started_sales.into_iter().map(|sale| {
            let new_low = sale.new_low == Some(true);
            (sale, new_low)
        }));
        for sale in changes.changed_sales {
            let (stored, new_low) = self.sales.iter_mut().find(|(stored, _)| stored.id == sale.id).unwrap();
            *new_low = sale.new_low.unwrap_or(*new_low);
            *stored = SaleChange { started_at: stored.started_at, ..sale };
        }
        self.events.extend(changes.events);
        let counts = changes.counts;
        self.counts.recorded += counts.recorded;
        self.counts.unchanged += counts.unchanged;
        self.counts.new_lows += counts.new_lows;
        for (kind, count) in counts.transitions {
            *self.counts.transitions.entry(kind).or_default() += count;
        }
    }

    /// Description of the whole state, with sales numbered in place of their ids.
    fn describe(&self) -> Vec<String> {
        let number = |id: SaleId| self.sales.iter().position(|(sale, _)| sale.id == id).unwrap();
        let price = self.price.map(|price| {
            let open = price.sale.map(|sale| (number(sale.id), Sale { id: SaleId::nil(), ..sale }));
            let ended = price.ended.map(|ended| (number(ended.id), EndedSale { id: SaleId::nil(), ..ended }));
            format!("{:?} {open:?} {ended:?}", Price { sale: None, ended: None, ..price })
        });
        let sales = self.sales.iter().map(|(sale, new_low)| {
            let SaleChange { price, started_at, ends_at, ended_at, .. } = sale;
            format!("{} {} {new_low} {started_at} {ends_at:?} {ended_at:?}", price.amount, price.observed_at)
        });
        let history = self.history.values().map(|past| {
            let PastPrice { price, holds_until, .. } = past;
            format!("{} {} {} {holds_until:?}", price.observed_at, price.amount, price.available)
        });
        let events = self.events.iter().map(|event| {
            let Event { kind, price, previous_amount, new_low, reason, rings, rings_again, .. } = event;
            let sale = event.sale_id.map(number);
            format!(
                "{kind:?} {sale:?} {} {} {previous_amount:?} {new_low} {reason:?} {rings} {rings_again}",
                price.amount, price.observed_at
            )
        });
        price
            .into_iter()
            .chain(sales)
            .chain(history)
            .chain(events)
            .chain([format!("{:?}", self.counts)])
            .collect()
    }
}

/// Applies messages. With `looks`, the schedule runs after each message: at its last observation, and half-way to the
/// next one.
fn record(messages: &[&[ObservedPrice]], with_schedule: bool) -> Stored {
    let (mut stored, rules) = (Stored::default(), Rules::default());
    let offer = unseen();
    for (n, message) in messages.iter().enumerate() {
        let mut changes = Changes::default();
        let mut recorder =
            OfferRecorder::open(KnownOffer { price: stored.price, ..offer.clone() }, &rules, &mut changes);
        message.iter().for_each(|seen| recorder.apply(seen));
        recorder.close();
        stored.write(changes);
        let Some(next) = messages.get(n + 1).filter(|_| with_schedule) else { continue };
        let last = message.last().unwrap().observed_at;
        for by in [last, last + (next[0].observed_at - last) / 2] {
            let mut changes = Changes::default();
            let mut recorder = OfferRecorder::open(
                KnownOffer { price: stored.price, ..offer.clone() },
                &rules,
                &mut changes,
            );
            recorder.lapse(by);
            recorder.close();
            stored.write(changes);
        }
    }
    stored
}

proptest! {
    /// Price, sales, history, events and counts do not depend on how observations are split into messages, or on when
    /// the schedule runs in between.
    #[test]
    fn the_division_into_messages_does_not_matter(
        observed in prop::collection::vec(
            (0_i64..60, prop::sample::select(vec![0, 500, 700, 900, 1000, 1000]), prop::bool::weighted(0.9),
                prop::option::weighted(0.3, -1_i64..12)), 1..30),
        cuts in prop::collection::btree_set(1_usize..30, 0..6),
    ) {
        let mut observed: Vec<ObservedPrice> = observed
            .into_iter()
            .map(|(hour, amount, available, end)| ObservedPrice {
                available,
                sale_ends_at: end.map(|hours| at((hour + hours) * 60)),
                ..seen(hour * 60, amount, 1000)
            })
            .collect();
        observed.sort_by_key(|s| (s.observed_at, s.amount, !s.available, s.sale_ends_at.is_none()));
        let mut messages = Vec::new();
        let mut begin = 0;
        for cut in cuts.into_iter().filter(|cut| *cut < observed.len()) {
            messages.push(&observed[begin..cut]);
            begin = cut;
        }
        messages.push(&observed[begin..]);
        let whole = record(&[&observed], false);
        // A sale shown as a new low has not cost less before, and news of an open sale rings.
        let open = whole.price.and_then(|price| Some((price, price.sale?)));
        if let Some((price, sale)) = open {
            let new_low = whole.sales.iter().any(|(stored, new_low)| stored.id == sale.id && *new_low);
            prop_assert!(!new_low || price.amount == 0 || price.low.unwrap().amount == price.amount);
        }
        let silent = |event: &Event| event.new_low && event.price.sale.is_some() && !event.rings;
        prop_assert!(!whole.events.iter().any(silent));
        let whole = whole.describe();
        prop_assert_eq!(&record(&messages, false).describe(), &whole);
        prop_assert_eq!(&record(&messages, true).describe(), &whole);
    }
}
