//! An observation: somebody saw a price for an offer at a time.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::money::Currency;

/// One checked observation, as it lies on the bus. Field names are short because a message holds thousands; they
/// are a contract with the version before and after, so they may only be added to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The store's slug.
    #[serde(rename = "s")]
    pub store: String,
    /// The store's name as it was reported, when it is not the slug: what an unknown store would be called.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub store_name: Option<String>,
    /// The store's own name of the thing that it sells.
    #[serde(rename = "k")]
    pub sku: String,
    /// ISO 3166-1 alpha-2, or `ZZ` for everywhere.
    #[serde(rename = "r")]
    pub region: String,
    /// ISO 4217.
    #[serde(rename = "c")]
    pub currency: Currency,
    /// Minor units.
    #[serde(rename = "a")]
    pub amount: i64,
    /// Minor units; `None`: the offer's last regular price stands.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub regular: Option<i64>,
    /// When the price was seen.
    #[serde(rename = "t", with = "chrono::serde::ts_microseconds")]
    pub observed_at: DateTime<Utc>,
    /// What an unknown sku's game is called.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Such as `windows`, `switch`.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Where the offer can be bought.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// When the store says that its sale ends.
    #[serde(
        rename = "e",
        default,
        skip_serializing_if = "Option::is_none",
        with = "chrono::serde::ts_microseconds_option"
    )]
    pub sale_ends_at: Option<DateTime<Utc>>,
    /// Whether the store takes orders for it, also ahead of its release. What cannot be bought is no sale.
    #[serde(rename = "b", default = "yes", skip_serializing_if = "is_yes")]
    pub available: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(flag: &bool) -> bool {
    *flag
}

impl Observation {
    /// Its bytes of JSON on the bus, with the comma: what it packs to at the most.
    pub fn wire_size(&self) -> usize {
        struct Counted(usize);
        impl std::io::Write for Counted {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 += bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut counted = Counted(1);
        // Nothing here can fail: no map, and a writer that takes all.
        let _ = serde_json::to_writer(&mut counted, self);
        counted.0
    }
}

/// An observation as it is reported, before it is checked. Amounts and instants are text, judged with the rest.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportedObservation {
    pub store: Option<String>,
    pub sku: Option<String>,
    pub price: Option<String>,
    pub currency: Option<String>,
    pub title: Option<String>,
    pub region: Option<String>,
    pub regular_price: Option<String>,
    pub platform: Option<String>,
    pub url: Option<String>,
    pub sale_ends_at: Option<String>,
    pub observed_at: Option<String>,
    pub availability: Option<String>,
}

/// What is wrong with one field: its name and a sentence about it.
pub type FieldProblem = (&'static str, String);

/// How far ahead of our clock a reporter's may be.
const MAX_AHEAD: TimeDelta = TimeDelta::minutes(5);
/// No price was seen before this year.
const FIRST_YEAR: i32 = 1970;

impl ReportedObservation {
    /// Checks every field and collects what is wrong with each, so that a reporter mends a line once.
    ///
    /// `now` is when the report came, the default of `observed_at`.
    pub fn check(self, now: DateTime<Utc>) -> Result<Observation, Vec<FieldProblem>> {
        let mut problems = Vec::new();
        let store = required(&mut problems, "store", self.store.as_deref(), 100);
        let sku = required(&mut problems, "sku", self.sku.as_deref(), 200);
        let slug = super::title::slug(store);
        if !store.is_empty() && slug.is_empty() {
            problems.push(("store", "must have a letter or a digit".to_owned()));
        }
        let region = check_region(self.region.as_deref()).unwrap_or_else(|problem| {
            problems.push(("region", problem));
            String::new()
        });
        let code = self.currency.as_deref().map(str::trim).unwrap_or_default();
        let currency = match code.parse::<Currency>() {
            Ok(currency) => Some(currency),
            Err(problem) => {
                problems.push(("currency", if code.is_empty() { "is required".to_owned() } else { problem }));
                None
            }
        };
        let price = self.price.as_deref().map(str::trim).unwrap_or_default();
        let regular_price = self.regular_price.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let (mut amount, mut regular) = (0, None);
        if price.is_empty() {
            problems.push(("price", "is required".to_owned()));
        } else if let Some(currency) = currency {
            match currency.parse_amount(price) {
                Ok(minor) => amount = minor,
                Err(problem) => problems.push(("price", problem)),
            }
        }
        if let (Some(currency), Some(text)) = (currency, regular_price) {
            match currency.parse_amount(text) {
                Ok(minor) if minor < amount => {
                    problems.push(("regular_price", "is below the price".to_owned()));
                }
                Ok(minor) => regular = Some(minor),
                Err(problem) => problems.push(("regular_price", problem)),
            }
        }
        let observed_at = match self.observed_at.as_deref() {
            None => now,
            Some(text) => parse_instant(text).unwrap_or_else(|problem| {
                problems.push(("observed_at", problem));
                now
            }),
        };
        if observed_at > now + MAX_AHEAD {
            problems.push(("observed_at", "is more than 5 minutes in the future".to_owned()));
        }
        let sale_ends_at = self.sale_ends_at.as_deref().and_then(|text| {
            parse_instant(text).map_err(|problem| problems.push(("sale_ends_at", problem))).ok()
        });
        let available = check_availability(self.availability.as_deref()).unwrap_or_else(|problem| {
            problems.push(("availability", problem));
            false
        });
        let title = optional(&mut problems, "title", self.title.as_deref(), 500);
        let platform = optional(&mut problems, "platform", self.platform.as_deref(), 50);
        let url = optional(&mut problems, "url", self.url.as_deref(), 2000);
        if url.is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
            problems.push(("url", "must start with https:// or http://".to_owned()));
        }
        match currency {
            Some(currency) if problems.is_empty() => Ok(Observation {
                store_name: (store != slug).then(|| store.to_owned()),
                store: slug,
                sku: sku.to_owned(),
                region,
                currency,
                amount,
                regular,
                observed_at,
                title: title.map(str::to_owned),
                platform: platform.map(str::to_lowercase),
                url: url.map(str::to_owned),
                sale_ends_at,
                available,
            }),
            _ => Err(problems),
        }
    }
}

/// `None` and the empty text are everywhere, `ZZ`.
pub fn check_region(region: Option<&str>) -> Result<String, String> {
    match region.map(str::trim) {
        None | Some("") => Ok("ZZ".to_owned()),
        Some(code) if code.len() == 2 && code.bytes().all(|b| b.is_ascii_alphabetic()) => {
            Ok(code.to_ascii_uppercase())
        }
        Some(_) => Err("must be an ISO 3166-1 code of two letters, or \"ZZ\" for everywhere".to_owned()),
    }
}

/// Whether what is called so can be bought: the words of Google's product data
/// (<https://support.google.com/merchants/answer/6324448>), in any case, with `_`, `-` or a blank. Nothing said: it can.
pub fn check_availability(availability: Option<&str>) -> Result<bool, String> {
    let plain = availability.unwrap_or_default().trim().to_ascii_lowercase().replace([' ', '-'], "_");
    match plain.as_str() {
        "" | "in_stock" | "preorder" | "pre_order" | "backorder" | "back_order" => Ok(true),
        "out_of_stock" => Ok(false),
        _ => Err("must be one of in_stock, out_of_stock, preorder and backorder".to_owned()),
    }
}

/// RFC 3339, with an offset. Years 1970 to 9999 and microseconds, which is what is kept.
pub fn parse_instant(text: &str) -> Result<DateTime<Utc>, String> {
    let instant = DateTime::parse_from_rfc3339(text.trim())
        .map_err(|_| "must be an RFC 3339 instant such as \"2026-11-20T12:00:00Z\"".to_owned())?
        .to_utc();
    if instant.year() < FIRST_YEAR || instant.year() > 9999 {
        return Err("must lie between the years 1970 and 9999".to_owned());
    }
    // PostgreSQL keeps microseconds: the same instant must be the same after a round trip.
    DateTime::from_timestamp_micros(instant.timestamp_micros()).ok_or_else(|| "is out of range".to_owned())
}

fn required<'t>(
    problems: &mut Vec<FieldProblem>,
    field: &'static str,
    text: Option<&'t str>,
    max: usize,
) -> &'t str {
    optional(problems, field, text, max).unwrap_or_else(|| {
        if !problems.iter().any(|(name, _)| *name == field) {
            problems.push((field, "is required".to_owned()));
        }
        ""
    })
}

fn optional<'t>(
    problems: &mut Vec<FieldProblem>,
    field: &'static str,
    text: Option<&'t str>,
    max: usize,
) -> Option<&'t str> {
    let text = text?.trim();
    if text.is_empty() {
        return None;
    }
    if let Err(problem) = check_text(text, max) {
        problems.push((field, problem));
        return None;
    }
    Some(text)
}

/// Text that PostgreSQL and people can take: at most `max` characters, none of them a control character.
pub fn check_text(text: &str, max: usize) -> Result<(), String> {
    if text.chars().any(char::is_control) {
        return Err("must not have control characters".to_owned());
    }
    if text.len() > max && text.chars().count() > max {
        return Err(format!("is longer than {max} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<Observation, Vec<FieldProblem>> {
        let now = parse_instant("2026-11-20T12:00:00Z").unwrap();
        serde_json::from_str::<ReportedObservation>(json).unwrap().check(now)
    }

    #[test]
    fn a_short_report_gets_its_defaults() {
        let seen = check(r#"{"store": "GOG.com", "sku": " a ", "price": "9.9", "currency": "EUR"}"#).unwrap();
        assert_eq!((seen.store.as_str(), seen.store_name.as_deref()), ("gog-com", Some("GOG.com")));
        assert_eq!(
            (seen.sku.as_str(), seen.region.as_str(), seen.amount, seen.regular),
            ("a", "ZZ", 990, None)
        );
        assert_eq!(seen.observed_at.to_rfc3339(), "2026-11-20T12:00:00+00:00");
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let problems = check(
            r#"{"store": "", "sku": "a\u0000b", "price": "1.1234567", "currency": "EUR", "region": "Germany",
                "regular_price": "x", "observed_at": "2026-11-20T12:06:00Z", "url": "javascript:alert(1)"}"#,
        )
        .unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| *field).collect();
        assert_eq!(fields, ["store", "sku", "region", "price", "regular_price", "observed_at", "url"]);
    }

    #[test]
    fn impossible_instants_are_refused() {
        for text in
            ["10000-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "2026-11-20", "now", ""]
        {
            assert!(parse_instant(text).is_err(), "{text:?} was accepted");
        }
        assert!(parse_instant("2025-07-15T22:33:15+02:00").is_ok());
    }

    #[test]
    fn a_regular_price_below_the_price_is_refused() {
        let problems = check(
            r#"{"store": "s", "sku": "a", "price": "9.99", "regular_price": "5.00", "currency": "EUR"}"#,
        );
        assert_eq!(problems.unwrap_err(), [("regular_price", "is below the price".to_owned())]);
    }

    #[test]
    fn what_can_be_bought_is_told_in_the_words_of_product_feeds() {
        for (text, available) in [
            (None, true),
            (Some(""), true),
            (Some("in_stock"), true),
            (Some("In Stock"), true),
            (Some("PREORDER"), true),
            (Some("backorder"), true),
            (Some(" out of stock "), false),
            (Some("out-of-stock"), false),
        ] {
            assert_eq!(check_availability(text), Ok(available), "{text:?}");
        }
        assert!(check_availability(Some("sold")).is_err());
    }

    #[test]
    fn an_observation_survives_the_bus() {
        let seen = check(
            r#"{"store": "s", "sku": "a", "price": "9.99", "regular_price": "19.99", "currency": "EUR", "title": "T",
                "region": "de", "platform": "Windows", "url": "https://s/a", "sale_ends_at": "2026-12-01T00:00:00Z"}"#,
        )
        .unwrap();
        let wire = serde_json::to_vec(&seen).unwrap();
        assert_eq!(serde_json::from_slice::<Observation>(&wire).unwrap(), seen);
    }
}
