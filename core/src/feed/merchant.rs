//! Product data of Google Merchant Center, which shops export already:
//! <https://support.google.com/merchants/answer/7052112> (attributes),
//! <https://support.google.com/merchants/answer/6324460> (`sale_price_effective_date`).

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};

use crate::domain::instant::{Time, Twice, Zone};
use crate::domain::money::{Currency, split_code};
use crate::domain::observation::ReportedObservation;

/// Attributes that are read and must be plain text, without XML elements inside. A title may contain markup.
pub const PLAIN: [&str; 6] = ["id", "price", "sale_price", "sale_price_effective_date", "availability", LINK];
/// Attribute with the address of the product. It does not affect the price, so an invalid one is left out.
const LINK: &str = "link";

/// Rules for converting a shop's products into observations.
#[derive(Clone, Debug)]
pub struct Merchant {
    /// The shop, which product data does not name.
    pub store: String,
    /// Region in which its prices are valid; `None`: everywhere.
    pub region: Option<String>,
    pub platform: Option<String>,
    /// Currency of prices that name none. A price that names another one is refused.
    pub currency: Option<Currency>,
    /// Zone of times and days that name none.
    pub zone: Zone,
}

impl Merchant {
    /// Converts one product of an XML feed. `mixed` are the attributes of `PLAIN` that have elements inside. The
    /// meaning of `19<sup>99</sup> EUR` is unknown: a link with elements is left out, and any other such attribute
    /// costs the product.
    ///
    /// # Errors
    /// An attribute of `mixed` other than the link, and the errors of [`Merchant::observe`].
    pub fn observe_marked_up<'a>(
        &self,
        attribute: impl Fn(&str) -> Option<&'a str>,
        mixed: &[&str],
        now: DateTime<Utc>,
    ) -> Result<ReportedObservation, String> {
        if let Some(name) = mixed.iter().find(|name| **name != LINK) {
            return Err(format!("has elements inside its {name}, which must be plain text"));
        }
        let has_link = !mixed.contains(&LINK);
        let mut seen = self.observe(|name| attribute(name).filter(|_| has_link || name != LINK), now)?;
        if !has_link {
            seen.warnings.push((LINK, "has elements inside; it was left out".to_owned()));
        }
        Ok(seen)
    }

    /// Converts one product. `attribute` returns its attributes by their name without `g:`. `now` determines whether a
    /// sale price is in effect. A sale that cannot be understood is left out with a warning: the regular price is valid
    /// without it.
    ///
    /// # Errors
    /// The prices are missing or invalid, or their currencies differ. The error is the reason of a refusal.
    pub fn observe<'a>(
        &self,
        attribute: impl Fn(&str) -> Option<&'a str>,
        now: DateTime<Utc>,
    ) -> Result<ReportedObservation, String> {
        let text = |name| attribute(name).map(str::trim).filter(|text| !text.is_empty());
        let owned = |name| text(name).map(str::to_owned);
        let price = self.read_price("price", text("price").ok_or("has no price")?)?;
        let sale = text("sale_price").map(|sale| self.read_price("sale_price", sale)).transpose()?;
        if let Some(sale) = sale.filter(|sale| sale.currency != price.currency) {
            return Err(format!("has a price in {} and a sale_price in {}", price.currency, sale.currency));
        }
        let (mut holding, mut warnings) = (None, Vec::new());
        if let Some(sale) = sale {
            let period = text("sale_price_effective_date").map(|period| Period::read(period, self.zone));
            match period.transpose() {
                _ if sale.minor > price.minor => {
                    warnings.push(("sale_price", "is above the price; it was left out".to_owned()));
                }
                Ok(None) => holding = Some((sale, None)),
                Ok(Some(period)) if period.holds(now) => holding = Some((sale, Some(period.ends_at))),
                Ok(Some(_)) => {}
                Err(why) => {
                    warnings.push(("sale_price_effective_date", format!("{why}; the sale was left out")));
                }
            }
        }
        Ok(ReportedObservation {
            store: Some(self.store.clone()),
            sku: owned("id"),
            price: Some(holding.map_or(price.number, |(sale, _)| sale.number).to_owned()),
            regular_price: Some(price.number.to_owned()),
            currency: Some(price.currency.code().to_owned()),
            title: owned("title"),
            region: self.region.clone(),
            platform: self.platform.clone(),
            url: owned("link"),
            sale_ends_at: holding.and_then(|(_, ends_at)| Some(ends_at?.to_rfc3339())),
            observed_at: None,
            availability: owned("availability"),
            warnings,
            url_name: Some(LINK),
        })
    }

    /// Parses `18.49 EUR`, `EUR18.49`, or `18.49` if the currency is known.
    fn read_price<'p>(&self, name: &str, text: &'p str) -> Result<Amount<'p>, String> {
        let (number, code) = split_code(text);
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let currency = match (code, self.currency) {
            (Some(code), known) => {
                let currency =
                    code.parse().map_err(|problem| format!("has a {name} whose currency {problem}"))?;
                if let Some(known) = known.filter(|known| *known != currency) {
                    return Err(format!(
                        "has a {name} in {currency}, but the currency given for it is {known}"
                    ));
                }
                currency
            }
            (None, Some(known)) => known,
            (None, None) if is_number => {
                return Err(format!("has a {name} without a currency; it should be like \"18.49 EUR\""));
            }
            (None, None) => return Err(format!("has a {name} that is not like \"18.49 EUR\"")),
        };
        let minor = Currency::parse_amount(currency, number);
        Ok(Amount { number, currency, minor: minor.map_err(|problem| format!("{name} {problem}"))? })
    }
}

/// A price as it was written, with its meaning.
#[derive(Clone, Copy)]
struct Amount<'p> {
    number: &'p str,
    currency: Currency,
    minor: i64,
}

/// Period in which a sale price is in effect.
struct Period {
    begin: DateTime<Utc>,
    /// End as named by the shop.
    ends_at: DateTime<Utc>,
    /// First instant at which the price is no longer in effect. The last second of a day is still part of the sale.
    over_at: DateTime<Utc>,
}

impl Period {
    /// Parses `2026-11-01T00:00-0800/2026-11-08T23:59-0800`. A day begins at 00:00:00 and ends at 23:59:59. A time
    /// without an offset is in `zone`; if it occurs twice there, the longer sale is meant. In place of the slash, other
    /// separators that cannot be part of a time are accepted.
    fn read(text: &str, zone: Zone) -> Result<Period, String> {
        let (begin, end) = split_period(text).ok_or("is not two times with a slash between them")?;
        let time = |text: &str, side| match text.trim() {
            "" => Err(format!("has no {side}")),
            text => Time::read(text)
                .ok_or_else(|| format!("has {:?} as its {side}, which is not a time", brief(text))),
        };
        let (begin, end) = (time(begin, "begin")?, time(end, "end")?);
        let (midnight, last) =
            (NaiveTime::MIN, NaiveTime::from_hms_opt(23, 59, 59).unwrap_or(NaiveTime::MIN));
        let begin = match begin {
            Time::Instant(instant) => Some(instant),
            Time::Local(local) => zone.instant(local, Twice::Earlier),
            Time::Date(date) => zone.instant(date.and_time(midnight), Twice::Earlier),
        };
        let (end, last_second) = match end {
            Time::Instant(instant) => (Some(instant), 0),
            Time::Local(local) => (zone.instant(local, Twice::Later), 0),
            Time::Date(date) => (zone.instant(date.and_time(last), Twice::Later), 1),
        };
        let (Some(begin), Some(end)) = (begin, end) else { return Err("is out of range".to_owned()) };
        if end <= begin {
            return Err("ends before it begins".to_owned());
        }
        // Some shops write the last day of the calendar for "until further notice"; no time zone may move it into the
        // year 10000.
        let ends_at = end.min(DateTime::from_timestamp(LAST_SECOND, 0).unwrap_or(end));
        Ok(Period { begin, ends_at, over_at: end + TimeDelta::seconds(last_second) })
    }

    fn holds(&self, now: DateTime<Utc>) -> bool {
        self.begin <= now && now < self.over_at
    }
}

/// Last second of the year 9999 (9999-12-31T23:59:59Z), as a Unix timestamp.
const LAST_SECOND: i64 = 253_402_300_799;

/// Longest text of a period, in bytes.
const LONGEST_PERIOD: usize = 200;

fn split_period(text: &str) -> Option<(&str, &str)> {
    if text.len() > LONGEST_PERIOD {
        return None;
    }
    let both = |(begin, end): (&str, &str)| Time::read(begin).is_some() && Time::read(end).is_some();
    let others = ["\u{2013}", "\u{2014}", " - ", ",", ";", " to "];
    text.split_once('/').or_else(|| others.iter().find_map(|sign| text.split_once(sign))).or_else(|| {
        // Two times with a blank between them, each of which may contain one blank itself.
        text.match_indices(' ').map(|(at, _)| text.split_at(at)).find(|halves| both(*halves))
    })
}

/// The beginning of a foreign text, for quoting it in a sentence.
fn brief(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// Normalised name of an attribute: `g:sale price` is `sale_price`.
pub fn attribute_name(given: &str) -> String {
    let name = given.trim().trim_start_matches("g:").to_ascii_lowercase();
    name.replace([' ', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shop() -> Merchant {
        Merchant {
            store: "Shop".to_owned(),
            region: Some("DE".to_owned()),
            platform: None,
            currency: None,
            zone: Zone::UTC,
        }
    }

    fn observe_of(shop: &Merchant, pairs: &[(&str, &str)], now: &str) -> Result<ReportedObservation, String> {
        let find = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        shop.observe(find, now.parse().unwrap())
    }

    fn observe(pairs: &[(&str, &str)]) -> Result<ReportedObservation, String> {
        observe_of(&shop(), pairs, "2026-11-20T12:00:00Z")
    }

    /// Observes a game that costs 39.99, or 9.99 in a period: the price, the end, and the warnings.
    fn on_sale(zone: &str, period: &str, now: &str) -> (String, Option<String>, String) {
        let shop = Merchant { zone: zone.parse().unwrap(), ..shop() };
        let pairs = [
            ("id", "1"),
            ("price", "39.99 EUR"),
            ("sale_price", "9.99 EUR"),
            ("sale_price_effective_date", period),
        ];
        let seen = observe_of(&shop, &pairs, now).unwrap();
        assert_eq!(seen.regular_price.as_deref(), Some("39.99"));
        let checked = observe_of(&shop, &pairs, now).unwrap().check(now.parse().unwrap()).unwrap();
        let warnings: Vec<String> =
            checked.warnings.iter().map(|(field, problem)| format!("{field} {problem}")).collect();
        let ends = checked.observation.sale_ends_at.map(|end| end.to_rfc3339());
        (seen.price.unwrap(), ends, warnings.join("; "))
    }

    #[test]
    fn a_sale_price_holds_in_its_time() {
        let base = [("id", "1"), ("title", "Game"), ("link", "https://s/1"), ("price", "39.99 EUR")];
        for (sale, period, price, ends) in [
            (None, None, "39.99", None),
            (Some("9.99 EUR"), None, "9.99", None),
            (
                Some("9.99 EUR"),
                Some("2026-11-01T00:00-0800/2026-11-30T23:59-0800"),
                "9.99",
                Some("2026-12-01T07:59:00+00:00"),
            ),
            (Some("9.99 EUR"), Some("2026-11-01T00:00+01:00/2026-11-20T13:00+01:00"), "39.99", None),
            (Some("9.99 EUR"), Some("2026-12-01/2026-12-02"), "39.99", None),
            (Some("EUR 9.99"), Some("2026-11-20/2026-11-21"), "9.99", Some("2026-11-21T23:59:59+00:00")),
        ] {
            let mut pairs = base.to_vec();
            pairs.extend(sale.map(|sale| ("sale_price", sale)));
            pairs.extend(period.map(|period| ("sale_price_effective_date", period)));
            let seen = observe(&pairs).unwrap();
            assert_eq!(seen.price.as_deref(), Some(price), "{sale:?} {period:?}");
            assert_eq!(seen.regular_price.as_deref(), Some("39.99"));
            assert_eq!((seen.currency.as_deref(), seen.sale_ends_at.as_deref()), (Some("EUR"), ends));
            assert_eq!(seen.warnings, []);
        }
    }

    #[test]
    fn a_day_is_part_of_the_sale_from_its_first_second_to_its_last() {
        let holds = |zone: &str, period: &str, now: &str| on_sale(zone, period, now).0 == "9.99";
        for (zone, first, last, after) in [
            ("UTC", "2026-11-28T00:00:00Z", "2026-11-29T23:59:59.999Z", "2026-11-30T00:00:00Z"),
            ("Europe/Berlin", "2026-11-27T23:00:00Z", "2026-11-29T22:59:59.999Z", "2026-11-29T23:00:00Z"),
            ("America/Los_Angeles", "2026-11-28T08:00:00Z", "2026-11-30T07:59:59Z", "2026-11-30T08:00:00Z"),
            ("+0530", "2026-11-27T18:30:00Z", "2026-11-29T18:29:59Z", "2026-11-29T18:30:00Z"),
        ] {
            let period = "2026-11-28/2026-11-29";
            let before = first.parse::<DateTime<Utc>>().unwrap() - TimeDelta::milliseconds(1);
            assert!(!holds(zone, period, &before.to_rfc3339()), "{zone}");
            assert!(holds(zone, period, first), "{zone}");
            assert!(holds(zone, period, last), "{zone}");
            assert!(!holds(zone, period, after), "{zone}");
        }
        let (_, ends, _) = on_sale("Europe/Berlin", "2026-11-28/2026-11-29", "2026-11-29T12:00:00Z");
        assert_eq!(ends.as_deref(), Some("2026-11-29T22:59:59+00:00"));
        // The night in which the clocks are set back is longer, on either side of the period.
        assert!(holds("Europe/Berlin", "2026-10-25T02:30/2026-10-26", "2026-10-25T00:30:00Z"));
        assert!(holds("Europe/Berlin", "2026-10-24/2026-10-25T02:30", "2026-10-25T01:29:59Z"));
        assert!(!holds("Europe/Berlin", "2026-10-24/2026-10-25T02:30", "2026-10-25T01:30:00Z"));
    }

    #[test]
    fn periods_are_read_as_shops_write_them() {
        for period in [
            "2026-11-28T00:00-0800/2026-11-29T12:00-0800",
            "2026-11-28T00:00:00-08/2026-11-29T12:00:00-08:00",
            "2026-11-28T08:00Z/2026-11-29T20:00Z",
            " 2026-11-28T08:00Z / 2026-11-29T20:00:00.000Z ",
            "2026-11-28 08:00:00+00/2026-11-29 20:00:00 GMT",
            "2026-11-28 08:00/2026-11-29 20:00",
            "2026-11-28T08:00\u{2013}2026-11-29T20:00",
            "2026-11-28T08:00 \u{2014} 2026-11-29T20:00",
            "2026-11-28 08:00 - 2026-11-29 20:00",
            "2026-11-28T08:00Z,2026-11-29T20:00Z",
            "2026-11-28T08:00Z 2026-11-29T20:00Z",
            "2026-11-28 08:00 +00:00 2026-11-29 20:00 +00:00",
        ] {
            let seen = on_sale("UTC", period, "2026-11-28T12:00:00Z");
            let expected = ("9.99".to_owned(), Some("2026-11-29T20:00:00+00:00".to_owned()), String::new());
            assert_eq!(seen, expected, "{period:?}");
        }
        let one_day = on_sale("UTC", "2026-11-28/2026-11-28", "2026-11-28T12:00:00Z");
        assert_eq!(one_day.1.as_deref(), Some("2026-11-28T23:59:59+00:00"));
        let for_ever = on_sale("-0800", "0001-01-01/9999-12-31", "2026-11-28T12:00:00Z");
        assert_eq!(
            for_ever,
            ("9.99".to_owned(), Some("9999-12-31T23:59:59+00:00".to_owned()), String::new())
        );
    }

    #[test]
    fn a_period_that_says_nothing_costs_the_sale_and_not_the_product() {
        for (period, why) in [
            ("2026-11-01/", "has no end"),
            ("/2026-12-01", "has no begin"),
            ("/", "has no begin"),
            ("0000-00-00/0000-00-00", "which is not a time"),
            ("0000-00-00T00:00/2026-12-01T00:00", "which is not a time"),
            ("2026-11-01/0000-00-00", "which is not a time"),
            ("soon", "two times"),
            ("2026-11-01", "two times"),
            ("01.11.2026/01.12.2026", "which is not a time"),
            ("2026-11-01/P7D", "which is not a time"),
            ("2026-11-01/2026-11-31", "which is not a time"),
            ("2026-11-01/2026-12-01/2027-01-01", "which is not a time"),
            ("2026-12-01/2026-11-01", "ends before it begins"),
            ("2026-11-01T00:00Z/2026-11-01T00:00Z", "ends before it begins"),
        ] {
            let (price, ends, warnings) = on_sale("UTC", period, "2026-11-20T12:00:00Z");
            assert_eq!((price.as_str(), ends), ("39.99", None), "{period:?}");
            assert!(warnings.starts_with("sale_price_effective_date "), "{period:?}: {warnings}");
            assert!(
                warnings.contains(why) && warnings.ends_with("the sale was left out"),
                "{period:?}: {warnings}"
            );
            // A period without a sale price has no effect.
            let pairs = [("id", "1"), ("price", "39.99 EUR"), ("sale_price_effective_date", period)];
            let seen = observe(&pairs).unwrap();
            assert_eq!((seen.price.as_deref(), seen.warnings.len()), (Some("39.99"), 0), "{period:?}");
        }
    }

    #[test]
    fn a_sale_price_above_the_price_is_left_out() {
        let seen = observe(&[("id", "1"), ("price", "9.99 EUR"), ("sale_price", "10.00 EUR")]).unwrap();
        assert_eq!((seen.price.as_deref(), seen.regular_price.as_deref()), (Some("9.99"), Some("9.99")));
        assert_eq!(seen.warnings, [("sale_price", "is above the price; it was left out".to_owned())]);
        let same = observe(&[("id", "1"), ("price", "9.99 EUR"), ("sale_price", "9.990 EUR")]).unwrap();
        assert_eq!((same.price.as_deref(), same.warnings.len()), (Some("9.990"), 0));
    }

    #[test]
    fn a_price_has_its_currency_before_or_after_it_or_from_the_constants() {
        let euros = Merchant { currency: Some("EUR".parse().unwrap()), ..shop() };
        let now = "2026-11-20T12:00:00Z";
        for price in [
            "18.49 EUR",
            "EUR 18.49",
            "EUR18.49",
            "18.49EUR",
            "EUR\u{a0}18.49",
            "18.49\u{a0}EUR",
            "EUR  18.49",
        ] {
            for shop in [&shop(), &euros] {
                let seen = observe_of(shop, &[("id", "1"), ("price", price)], now).unwrap();
                assert_eq!(
                    (seen.price.as_deref(), seen.currency.as_deref()),
                    (Some("18.49"), Some("EUR")),
                    "{price}"
                );
            }
        }
        let seen =
            observe_of(&euros, &[("id", "1"), ("price", "18.49"), ("sale_price", "9 EUR")], now).unwrap();
        assert_eq!((seen.price.as_deref(), seen.currency.as_deref()), (Some("9"), Some("EUR")));
        let refused = observe_of(&euros, &[("id", "1"), ("price", "18.49 USD")], now).unwrap_err();
        assert_eq!(refused, "has a price in USD, but the currency given for it is EUR");
        let refused = observe_of(&euros, &[("price", "18.49"), ("sale_price", "9 USD")], now).unwrap_err();
        assert!(refused.starts_with("has a sale_price in USD"), "{refused}");
        for odd in [
            "18,49 EUR",
            "1,299.00 EUR",
            "1.299,00 EUR",
            "1 299.00 EUR",
            "1'299.00 EUR",
            "€18.49",
            "18.49 €",
            "18.49 Euro",
            "1e3 EUR",
            "+5 EUR",
            "-0 EUR",
            "-5 EUR",
            ".99 EUR",
            "5. EUR",
            "EUR",
            "１８.４９ EUR",
            "٩ EUR",
            "18.49 eur",
            "18.49 XXX",
            "EUR 18.49 EUR",
            "18.499 EUR",
            "18.49 EUR/month",
            "from 18.49 EUR",
        ] {
            for shop in [&shop(), &euros] {
                assert!(
                    observe_of(shop, &[("id", "1"), ("price", odd)], now).is_err(),
                    "{odd:?} was accepted"
                );
                let sale = [("id", "1"), ("price", "99.00 EUR"), ("sale_price", odd)];
                assert!(observe_of(shop, &sale, now).is_err(), "{odd:?} was accepted");
            }
        }
    }

    proptest! {
        #[test]
        fn no_period_is_too_odd(text in "[0-9TZ:+/, -]{0,40}", other in ".{0,60}", zone in prop::sample::select(vec!["UTC", "-0800", "Pacific/Apia"])) {
            for text in [&text, &other, &format!("2026-11-28{text}")] {
                if let Ok(period) = Period::read(text, zone.parse().unwrap()) {
                    prop_assert!(period.begin < period.over_at && period.ends_at <= period.over_at);
                }
            }
        }
    }

    #[test]
    fn values_that_cannot_be_read_have_a_reason() {
        for (pairs, why) in [
            (vec![("id", "1")], "has no price"),
            (vec![("price", "12")], "it should be like \"18.49 EUR\""),
            (vec![("price", "12,00 EUR")], "price must be a decimal number"),
            (vec![("price", "12 EUR"), ("sale_price", "9 USD")], "a sale_price in USD"),
            (vec![("price", "12 EUR"), ("sale_price", "9,00 EUR")], "sale_price must be a decimal number"),
        ] {
            assert!(observe(&pairs).unwrap_err().contains(why), "{pairs:?}");
        }
    }
}
