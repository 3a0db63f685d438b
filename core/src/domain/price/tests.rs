use super::*;
use proptest::prelude::*;

use crate::domain::ids::SaleId;

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_750_000_000 + minute * 60, 0).unwrap()
}

fn seen(minute: i64, amount: i64, regular: impl Into<Option<i64>>) -> ObservedPrice {
    ObservedPrice {
        currency: "EUR".parse().unwrap(),
        amount,
        regular: regular.into(),
        observed_at: at(minute),
        available: true,
        sale_ends_at: None,
    }
}

/// Applies observations one after another, each after the ends that have passed before it, and returns the changes.
fn changes(observed: &[ObservedPrice]) -> (Option<Price>, Vec<Change>) {
    let (mut price, mut changes) = (None::<Price>, Vec::new());
    for seen in observed {
        price = price.map(|price| price.lapse(seen.observed_at).unwrap_or(price));
        match observe(price.as_ref(), seen, &Rules::default(), false) {
            Outcome::Changed(change) => {
                price = Some(change.after);
                changes.push(change);
            }
            Outcome::Unchanged { after } => price = Some(after),
            Outcome::Stale { .. } | Outcome::Quarantined { .. } => {}
        }
    }
    (price, changes)
}

/// Applies observations one after another and returns the kinds of the changes.
fn kinds(observed: &[ObservedPrice]) -> Vec<(&'static str, bool)> {
    let mut price = None::<Price>;
    let mut kinds = Vec::new();
    for seen in observed {
        price = price.map(|price| price.lapse(seen.observed_at).unwrap_or(price));
        match observe(price.as_ref(), seen, &Rules::default(), false) {
            Outcome::Changed(Change { after, kind, new_low, .. }) => {
                price = Some(after);
                kinds.push((kind.name(), new_low));
            }
            Outcome::Unchanged { after } => price = Some(after),
            Outcome::Stale { .. } => kinds.push(("stale", false)),
            Outcome::Quarantined { reason, .. } => kinds.push((reason.name(), false)),
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
fn a_first_observation_below_the_regular_price_is_a_sale_and_not_a_new_low() {
    assert_eq!(kinds(&[seen(0, 500, 1000)]), [("sale.started", false)]);
    assert_eq!(kinds(&[seen(0, 0, 1000)]), [("sale.started", false)]);
    assert_eq!(kinds(&[seen(0, 0, 0)]), [("first.seen", false)]);
}

#[test]
fn a_low_that_is_only_reached_again_is_not_new() {
    assert_eq!(
        kinds(&[seen(0, 1000, 1000), seen(1, 500, 1000), seen(2, 1000, 1000), seen(2 + 361, 500, 1000)]),
        [("first.seen", false), ("sale.started", true), ("sale.ended", false), ("sale.started", false)]
    );
}

#[test]
fn of_two_prices_at_one_instant_the_lower_counts_whichever_comes_first() {
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
    let dollars = ObservedPrice { currency: "USD".parse().unwrap(), ..seen(1, 1000, 1000) };
    assert_eq!(kinds(&[seen(0, 1000, 1000), dollars]), [("first.seen", false), ("currency_changed", false)]);
}

#[test]
fn a_price_that_was_accepted_is_not_questioned_again() {
    let rules = Rules::default();
    let believed = match observe(None, &seen(0, 10, 1000), &rules, true) {
        Outcome::Changed(change) => change.after,
        other => panic!("{other:?}"),
    };
    let again = observe(Some(&believed), &seen(1, 10, 1000), &rules, false);
    assert!(matches!(again, Outcome::Unchanged { .. }), "{again:?}");
}

#[test]
fn a_game_may_become_free_to_play() {
    assert_eq!(
        kinds(&[seen(0, 1000, 1000), seen(1, 0, 0)]),
        [("first.seen", false), ("price.lowered", false)],
        "free to play is no low"
    );
}

#[test]
fn the_past_is_not_compared_with_the_present() {
    let dollars = ObservedPrice { currency: "USD".parse().unwrap(), ..seen(0, 50, 50) };
    assert_eq!(kinds(&[seen(1, 1000, 1000), dollars]), [("first.seen", false), ("stale", false)]);
}

#[test]
fn a_better_cut_rings_even_for_a_higher_price() {
    assert!(TransitionKind::SaleReduced.rings(50, 90));
    assert!(!TransitionKind::SaleReduced.rings(50, 40));
    assert!(!TransitionKind::RegularChanged.rings(50, 40));
}

#[test]
fn a_trusted_change_of_currency_ends_the_sale_and_starts_another() {
    let before = match observe(None, &seen(0, 500, 1000), &Rules::default(), false) {
        Outcome::Changed(change) => change.after,
        other => panic!("{other:?}"),
    };
    let dollars = ObservedPrice { currency: "USD".parse().unwrap(), ..seen(1, 400, 1000) };
    match observe(Some(&before), &dollars, &Rules::default(), true) {
        Outcome::Changed(Change { after, kind, new_low, ends_sale, .. }) => {
            let low = Some(Low { amount: 400, at: at(1) });
            assert_eq!(
                (kind, new_low, ends_sale, after.low),
                (TransitionKind::SaleStarted, false, true, low)
            );
            assert_ne!(after.sale.map(|sale| sale.id), before.sale.map(|sale| sale.id));
        }
        other => panic!("{other:?}"),
    }
}

/// The kinds of the changes, whether each is a new low, and their sales, numbered in the order of their beginning.
fn course(observed: &[ObservedPrice]) -> Vec<(&'static str, bool, Option<usize>)> {
    let (_, changes) = changes(observed);
    let mut known = Vec::new();
    let mut number = |id: SaleId| match known.iter().position(|other| *other == id) {
        Some(at) => at,
        None => {
            known.push(id);
            known.len() - 1
        }
    };
    changes
        .iter()
        .map(|change| (change.kind.name(), change.new_low, change.after.sale.map(|sale| number(sale.id))))
        .collect()
}

#[test]
fn a_giveaway_is_not_a_low_and_only_the_first_one_is_news() {
    let amounts = [2000, 1500, 2000, 0, 2000, 400, 2000, 0];
    let observed: Vec<ObservedPrice> =
        amounts.iter().enumerate().map(|(n, amount)| seen(n as i64 * 400, *amount, 2000)).collect();
    let (price, changes) = changes(&observed);
    let lows: Vec<i64> = changes.iter().filter(|c| c.new_low).map(|c| c.after.amount).collect();
    assert_eq!(lows, [1500, 0, 400], "and the second giveaway is no news");
    let price = price.unwrap();
    assert_eq!(
        (price.low, price.was_free_at),
        (Some(Low { amount: 400, at: at(5 * 400) }), Some(at(7 * 400)))
    );
}

#[test]
fn an_offer_that_was_only_ever_free_has_no_low() {
    let (price, free) = changes(&[seen(0, 0, 2000)]);
    let price = price.unwrap();
    assert_eq!((price.low, price.was_free_at, free[0].new_low), (None, Some(at(0)), false));
    let (price, paid) =
        changes(&[seen(0, 0, 2000), seen(1, 2000, 2000), seen(2, 0, 2000), seen(3, 1500, 2000)]);
    assert_eq!(price.unwrap().low.unwrap().amount, 1500);
    assert_eq!(paid.iter().map(|c| c.new_low).collect::<Vec<_>>(), [false, false, false, true]);
    let (price, _) = changes(&[seen(0, 0, 0)]);
    assert_eq!((price.unwrap().low, price.unwrap().was_free_at), (None, None), "free to play is no giveaway");
}

#[test]
fn a_sale_that_begins_again_within_six_hours_is_that_sale() {
    let wobble = [2000, 1000, 2000, 1000, 2000, 1000, 900];
    let observed: Vec<ObservedPrice> =
        wobble.iter().enumerate().map(|(n, amount)| seen(n as i64, *amount, 2000)).collect();
    assert_eq!(
        course(&observed),
        [
            ("first.seen", false, None),
            ("sale.started", true, Some(0)),
            ("sale.ended", false, None),
            ("sale.resumed", false, Some(0)),
            ("sale.ended", false, None),
            ("sale.resumed", false, Some(0)),
            ("sale.deepened", true, Some(0)),
        ]
    );
    let (_, changed) = changes(&observed);
    let again: Vec<bool> = changed.iter().map(|change| change.rings_again).collect();
    assert_eq!(again, [false, false, false, false, false, false, true]);
    let begins = |minute, amount| {
        let observed =
            [seen(0, 2000, 2000), seen(1, 1000, 2000), seen(2, 2000, 2000), seen(minute, amount, 2000)];
        course(&observed)[3]
    };
    assert_eq!(begins(2 + 360, 1000), ("sale.resumed", false, Some(0)), "at the last moment");
    assert_eq!(begins(2 + 360, 1500), ("sale.resumed", false, Some(0)), "for more");
    assert_eq!(begins(3, 999), ("sale.deepened", true, Some(0)), "below its best");
    assert_eq!(begins(2 + 361, 1000), ("sale.started", false, Some(1)), "too late");
    assert_eq!(begins(2 + 361, 999), ("sale.started", true, Some(1)));
}

#[test]
fn a_sale_that_came_back_rings_again_once_when_it_is_below_its_best() {
    let again = |amounts: &[i64]| {
        let observed: Vec<ObservedPrice> =
            amounts.iter().enumerate().map(|(n, amount)| seen(n as i64, *amount, 2000)).collect();
        let rings = changes(&observed).1.into_iter().filter(|change| change.rings_again);
        rings.map(|change| change.after.amount).collect::<Vec<_>>()
    };
    assert_eq!(again(&[2000, 1000, 900, 800]), [0_i64; 0], "one that was never interrupted has rung");
    assert_eq!(again(&[2000, 1000, 2000, 900, 800]), [900]);
    assert_eq!(again(&[2000, 1000, 2000, 1000, 1200, 1000, 900, 800]), [900]);
    assert_eq!(again(&[2000, 1000, 2000, 900, 2000, 900, 800]), [900, 800]);
}

#[test]
fn paid_prices_are_not_compared_with_a_giveaway() {
    let course = |amounts: &[i64]| {
        let observed: Vec<ObservedPrice> =
            amounts.iter().enumerate().map(|(n, amount)| seen(n as i64, *amount, 2000)).collect();
        let (_, changes) = changes(&observed);
        let sales: std::collections::HashSet<SaleId> =
            changes.iter().filter_map(|change| change.after.sale).map(|sale| sale.id).collect();
        assert_eq!(sales.len(), 1, "{amounts:?}");
        let lows: Vec<i64> = changes.iter().filter(|c| c.new_low).map(|c| c.after.amount).collect();
        let again: Vec<i64> = changes.iter().filter(|c| c.rings_again).map(|c| c.after.amount).collect();
        (lows, again)
    };
    assert_eq!(course(&[2000, 1500, 2000, 0, 2000, 400]), (vec![1500, 0, 400], vec![0, 400]));
    assert_eq!(course(&[0, 2000, 1500, 0, 2000, 1400]), (vec![1500, 1400], vec![1500, 1400]));
    assert_eq!(course(&[1500, 2000, 0, 2000, 400]), (vec![0, 400], vec![0, 400]));
    assert_eq!(course(&[0, 2000, 1500, 1400]), (vec![1500, 1400], vec![1500]), "once for each interruption");
    assert_eq!(course(&[0, 400, 2000, 300]), (vec![300], vec![300]));
    assert_eq!(course(&[2000, 0, 2000, 0, 2000, 0]), (vec![0], vec![]), "a giveaway that flaps is one bell");
    assert_eq!(course(&[2000, 0, 2000, 1500, 2000, 0, 2000, 1500]), (vec![0, 1500], vec![1500]));
}

/// An observation at this minute with the end of the sale that the store announces.
fn announced(minute: i64, amount: i64, end: i64) -> ObservedPrice {
    ObservedPrice { sale_ends_at: Some(at(end)), ..seen(minute, amount, 2000) }
}

#[test]
fn a_sale_is_over_when_its_store_said_so() {
    let (price, _) = changes(&[seen(0, 2000, 2000), announced(1, 1000, 100)]);
    let price = price.unwrap();
    assert!(price.is_on_sale(at(99)) && !price.is_on_sale(at(100)));
    assert_eq!((price.unknown_since(at(99)), price.unknown_since(at(100))), (None, Some(at(100))));
    assert_eq!(price.lapse(at(99)), None);
    let over = price.lapse(at(100)).unwrap();
    assert_eq!(
        (over.sale, over.ended.unwrap().at, over.unknown_since(at(500))),
        (None, at(100), Some(at(100)))
    );
    assert_eq!(over.lapse(at(100)), None, "once");
}

#[test]
fn a_newly_announced_end_counts_without_a_change_of_price() {
    let ends = |observed: &[ObservedPrice]| changes(observed).0.unwrap().sale.map(|sale| sale.ends_at);
    assert_eq!(ends(&[announced(1, 1000, 100), announced(2, 1000, 200)]), Some(Some(at(200))));
    assert_eq!(
        ends(&[announced(1, 1000, 100), announced(2, 1000, 50)]),
        Some(Some(at(50))),
        "a nearer one too"
    );
    assert_eq!(
        ends(&[announced(1, 1000, 100), seen(2, 1000, 2000)]),
        Some(Some(at(100))),
        "silence changes nothing"
    );
    assert_eq!(ends(&[seen(1, 1000, 2000), announced(2, 1000, 100)]), Some(Some(at(100))));
    assert_eq!(
        ends(&[announced(1, 1000, 100), announced(1, 1000, 200)]),
        Some(Some(at(200))),
        "at one instant the later"
    );
    assert_eq!(
        ends(&[announced(1, 1000, 200), announced(1, 1000, 100)]),
        Some(Some(at(200))),
        "in either order"
    );
}

#[test]
fn after_the_announced_end_the_next_observation_decides() {
    let course =
        |last: ObservedPrice| course(&[seen(0, 2000, 2000), announced(1, 1000, 100), last])[2..].to_vec();
    assert_eq!(
        course(seen(100, 1000, 2000)),
        [("sale.resumed", false, Some(0))],
        "its store has prolonged it"
    );
    assert_eq!(course(seen(100 + 360, 1000, 2000)), [("sale.resumed", false, Some(0))]);
    assert_eq!(course(seen(100 + 361, 1000, 2000)), [("sale.started", false, Some(1))]);
    assert_eq!(course(seen(101, 900, 2000)), [("sale.deepened", true, Some(0))]);
    assert_eq!(course(seen(101, 2000, 2000)), [("price.raised", false, None)]);
}

#[test]
fn an_observation_before_a_passed_end_opens_a_sale_only_with_a_later_end() {
    let (price, _) = changes(&[seen(0, 2000, 2000), announced(1, 1000, 100)]);
    let over = price.unwrap().lapse(at(150)).unwrap();
    for late in [seen(50, 1000, 2000), announced(50, 1000, 100), announced(50, 1000, 90)] {
        let Outcome::Unchanged { after } = observe(Some(&over), &late, &Rules::default(), false) else {
            panic!("{late:?}")
        };
        assert_eq!((after.sale, after.unknown_since(at(150))), (None, Some(at(100))), "{late:?}");
    }
    match observe(Some(&over), &announced(50, 1000, 200), &Rules::default(), false) {
        Outcome::Changed(change) => {
            assert_eq!(
                (change.kind, change.after.sale.unwrap().ends_at),
                (TransitionKind::SaleResumed, Some(at(200)))
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sale_that_is_reported_as_over_is_not_a_sale() {
    assert_eq!(kinds(&[announced(5, 1000, 5)]), [("first.seen", false)]);
    assert_eq!(
        kinds(&[seen(0, 2000, 2000), announced(5, 1000, 4)]),
        [("first.seen", false), ("price.lowered", true)]
    );
    let (price, changes) = changes(&[seen(0, 1000, 2000), announced(5, 1000, 4)]);
    assert_eq!((changes[1].kind, changes[1].reason), (TransitionKind::SaleEnded, Some(EndReason::ToldEnd)));
    assert!(!price.unwrap().is_on_sale(at(5)));
    // An end announced with a price that is not a sale has no effect.
    assert_eq!(kinds(&[announced(0, 2000, 100), seen(200, 2000, 2000)]), [("first.seen", false)]);
}

#[test]
fn an_offer_that_cannot_be_bought_is_neither_a_sale_nor_a_low() {
    let gone = |minute, amount| ObservedPrice { available: false, ..seen(minute, amount, 2000) };
    assert_eq!(kinds(&[gone(0, 1000)]), [("first.seen", false)]);
    assert_eq!(
        kinds(&[seen(0, 2000, 2000), gone(1, 1000), gone(2, 2000), gone(3, 0)]),
        [("first.seen", false), ("price.lowered", false), ("price.raised", false), ("price.lowered", false)]
    );
    let (price, changed) = changes(&[seen(0, 2000, 2000), seen(1, 1500, 2000), gone(2, 1000), gone(3, 1000)]);
    assert_eq!(
        (changed[2].kind, changed[2].reason),
        (TransitionKind::SaleEnded, Some(EndReason::Unavailable))
    );
    let price = price.unwrap();
    assert_eq!((price.low.unwrap().amount, price.available, price.amount), (1500, false, 1000));
    assert_eq!(
        course(&[seen(0, 2000, 2000), gone(1, 1000), seen(2, 1000, 2000)])[2],
        ("sale.started", true, Some(0)),
        "back on sale it is one"
    );
    assert_eq!(
        course(&[seen(0, 1000, 2000), gone(1, 1000), seen(2, 1000, 2000)])[2],
        ("sale.resumed", false, Some(0)),
        "and soon after it was sold out, the same"
    );
    assert_eq!(
        kinds(&[gone(0, 1000), seen(0, 1000, 2000)])[1].0,
        "sale.started",
        "of two alike the one to be had"
    );
    assert_eq!(kinds(&[seen(0, 1000, 2000), gone(0, 1000)]).len(), 1);
    let (price, _) =
        changes(&[announced(0, 1000, 60), ObservedPrice { sale_ends_at: Some(at(180)), ..gone(0, 1000) }]);
    assert_eq!(
        price.unwrap().sale.and_then(|sale| sale.ends_at),
        Some(at(60)),
        "and its end is that of the sale"
    );
}

type Best = (Option<i64>, bool);

fn best_with((paid, free): Best, amount: i64) -> Best {
    match amount {
        0 => (paid, true),
        amount => (Some(paid.map_or(amount, |paid| paid.min(amount))), free),
    }
}

/// Model of the rules for prices of one offer in the order of time. It describes whole courses instead of single steps.
struct Model {
    /// Beginning of each sale, its end so far, the lowest amount that was paid in it, and whether it was free.
    sales: Vec<(DateTime<Utc>, Option<DateTime<Utc>>, Best)>,
    low: Option<i64>,
}

impl Model {
    fn of(observed: &[ObservedPrice], now: DateTime<Utc>) -> Model {
        // The observation that stands at each instant.
        let mut standing: Vec<ObservedPrice> = Vec::new();
        for seen in observed {
            match standing.last_mut().filter(|last| last.observed_at == seen.observed_at) {
                // The first at an instant is the lowest; of equal ones the latest end counts, if any is on sale at all.
                Some(last) if (last.amount, last.available) == (seen.amount, seen.available) => {
                    let comes = |end: Option<DateTime<Utc>>| end.is_none_or(|end| end > seen.observed_at);
                    if comes(last.sale_ends_at) && comes(seen.sale_ends_at) {
                        last.sale_ends_at = last.sale_ends_at.max(seen.sale_ends_at);
                    }
                }
                Some(_) => {}
                None => standing.push(*seen),
            }
        }
        let paid = standing.iter().filter(|s| s.available && s.amount > 0).map(|s| s.amount);
        let mut model = Model { sales: Vec::new(), low: paid.min() };
        let mut end = None;
        for (n, seen) in standing.iter().enumerate() {
            let announced = seen.sale_ends_at.filter(|_| seen.amount < 2000);
            let is_sale =
                seen.available && seen.amount < 2000 && announced.is_none_or(|end| end > seen.observed_at);
            if !is_sale {
                end = None;
                continue;
            }
            // Without an announcement the end stays as announced before, until it has passed.
            end = announced.or(end.filter(|end| *end > seen.observed_at));
            let next = standing.get(n + 1).map(|next| next.observed_at);
            let until =
                [end, next].into_iter().flatten().min().filter(|until| next.is_some() || *until <= now);
            match model.sales.last_mut() {
                Some((_, last, best))
                    if last.is_some_and(|last| seen.observed_at - last <= TimeDelta::hours(6)) =>
                {
                    (*last, *best) = (until, best_with(*best, seen.amount));
                }
                _ => model.sales.push((seen.observed_at, until, best_with((None, false), seen.amount))),
            }
        }
        model
    }
}

fn observed() -> impl Strategy<Value = Vec<ObservedPrice>> {
    let amounts = prop::sample::select(vec![0, 700, 1000, 1500, 2000, 2000, 2000]);
    let end = prop::option::weighted(0.3, -1_i64..12);
    let parts = (0_i64..60, amounts, prop::bool::weighted(0.9), end);
    prop::collection::vec(parts, 1..40).prop_map(|observed| {
        let mut observed: Vec<ObservedPrice> = observed
            .into_iter()
            .map(|(hour, amount, available, end)| ObservedPrice {
                available,
                sale_ends_at: end.map(|hours| at((hour + hours) * 60)),
                ..seen(hour * 60, amount, 2000)
            })
            .collect();
        observed.sort_by_key(|s| (s.observed_at, s.amount, !s.available, s.sale_ends_at.is_none()));
        observed
    })
}

proptest! {
    /// Sales are the stretches below the regular price, joined if no more than six hours lie between them.
    #[test]
    fn sales_are_at_least_six_hours_apart(observed in observed()) {
        let now = observed.last().unwrap().observed_at;
        let model = Model::of(&observed, now);
        let (price, changes) = changes(&observed);
        let price = price.unwrap();
        let mut begun: Vec<(SaleId, DateTime<Utc>)> = Vec::new();
        for change in &changes {
            if let Some(sale) = change.after.sale {
                let known = begun.iter().any(|(id, _)| *id == sale.id);
                prop_assert_eq!(!known, change.kind == TransitionKind::SaleStarted);
                if !known {
                    begun.push((sale.id, change.after.observed_at));
                }
            }
        }
        let begins: Vec<_> = model.sales.iter().map(|(begin, ..)| *begin).collect();
        prop_assert_eq!(begun.iter().map(|(_, begin)| *begin).collect::<Vec<_>>(), begins);
        let open = price.sale.map(|sale| (sale.id, (sale.best, sale.was_free)));
        let last = open.or(price.ended.map(|ended| (ended.id, (ended.best, ended.was_free))));
        prop_assert_eq!(last.map(|(_, best)| best), model.sales.last().map(|(.., best)| *best));
        prop_assert_eq!(last.map(|(id, _)| id), begun.last().map(|(id, _)| *id));
        prop_assert_eq!(price.low.map(|low| low.amount), model.low);
    }

    /// A first price on sale, a sale that begins long after the last one, and a price below the previous one ring; a
    /// price that was as low a moment ago never does. Giveaways are not compared with paid prices.
    #[test]
    fn every_price_that_rings_is_better_than_the_earlier_ones(observed in observed()) {
        let (_, changes) = changes(&observed);
        let mut known: std::collections::HashMap<SaleId, (Best, bool)> = Default::default();
        let mut open = None;
        for change in &changes {
            let before = std::mem::replace(&mut open, change.after.sale.map(|sale| sale.id));
            let Some(sale) = change.after.sale else { continue };
            let amount = change.after.amount;
            let (best, mut interrupted) = known.get(&sale.id).copied().unwrap_or(((None, false), false));
            interrupted |= change.kind != TransitionKind::SaleStarted && before != Some(sale.id);
            let better = best_with(best, amount) != best;
            prop_assert!(change.kind != TransitionKind::SaleResumed || !better);
            let rings = better && change.kind == TransitionKind::SaleDeepened;
            // An announced end interrupts a sale too, and is not a change.
            prop_assert!(rings || !change.rings_again);
            prop_assert!(change.rings_again || !(rings && interrupted));
            known.insert(sale.id, (best_with(best, amount), interrupted && !change.rings_again));
        }
    }

    /// In whatever order observations come, the price is that of the newest instant (the lower of two), the low is the
    /// lowest that took effect, and reporting everything twice changes nothing.
    #[test]
    fn the_newest_observation_counts(observed in prop::collection::vec((0_i64..20, 300_i64..1000), 1..40)) {
        let observed: Vec<ObservedPrice> = observed.into_iter().map(|(minute, amount)| seen(minute, amount, 1000)).collect();
        let (mut price, mut low) = (None::<Price>, i64::MAX);
        for round in 0..2 {
            for seen in &observed {
                match observe(price.as_ref(), seen, &Rules::default(), false) {
                    Outcome::Changed(Change { after, kind, new_low, .. }) => {
                        prop_assert_eq!(round, 0);
                        prop_assert_eq!(new_low, price.is_some() && after.amount < low);
                        prop_assert_eq!(kind == TransitionKind::SaleEnded, after.sale.is_none() && price.is_some_and(|p| p.sale.is_some()));
                        low = low.min(after.amount);
                        price = Some(after);
                    }
                    Outcome::Unchanged { after } => price = Some(after),
                    Outcome::Stale { past } => prop_assert!(past.observed_at < price.unwrap().observed_at),
                    Outcome::Quarantined { .. } => prop_assert!(false),
                }
            }
        }
        let newest = observed.iter().map(|s| s.observed_at).max().unwrap();
        let stands = observed.iter().filter(|s| s.observed_at == newest).map(|s| s.amount).min().unwrap();
        let price = price.unwrap();
        let known = price.low.map(|low| low.amount);
        prop_assert_eq!((price.observed_at, price.amount, known), (newest, stands, Some(low)));
    }
}
