//! Observations: a price of an offer at a time, as a report names it.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::availability::check_availability;
use super::instant::Time;
use super::money::{Currency, split_code};
use super::region::{Region, check_region};
use super::text::fold_white_space;
use super::title;

/// A checked observation, as messages on the bus hold it. Field names are short because a message holds thousands. They
/// are a contract with the previous and the next version, so fields may only be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Slug of the store.
    #[serde(rename = "s")]
    pub store: String,
    /// The store's name as reported, if it differs from the slug. An unknown store is created with this name.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub store_name: Option<String>,
    /// The store's own identifier of the product.
    #[serde(rename = "k")]
    pub sku: String,
    /// ISO 3166-1 alpha-2 code, or `ZZ` for everywhere.
    #[serde(rename = "r")]
    pub region: String,
    /// ISO 4217 currency.
    #[serde(rename = "c")]
    pub currency: Currency,
    /// Price in minor units.
    #[serde(rename = "a")]
    pub amount: i64,
    /// Regular price in minor units; `None`: the offer's last regular price stands.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub regular: Option<i64>,
    /// Time at which the price was observed.
    #[serde(rename = "t", with = "chrono::serde::ts_microseconds")]
    pub observed_at: DateTime<Utc>,
    /// Title of the game, for an unknown sku.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Platform, such as `windows` or `switch`.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Address at which the offer can be bought.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// End of the sale as announced by the store.
    #[serde(
        rename = "e",
        default,
        skip_serializing_if = "Option::is_none",
        with = "chrono::serde::ts_microseconds_option"
    )]
    pub sale_ends_at: Option<DateTime<Utc>>,
    /// Whether the store takes orders, including before the release. An offer that cannot be bought is not on sale.
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
    /// Size of its JSON on the bus in bytes, with the comma: the upper bound of its compressed size.
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
        // This cannot fail: there is no map, and the writer accepts everything.
        let _ = serde_json::to_writer(&mut counted, self);
        counted.0
    }
}

/// An observation as reported, before it is checked. Amounts and instants are text, which is checked with the rest.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(
    as = Observation,
    description = "A price of an offer at a time. Null is the same as an absent field. In a text a run of white space \
        becomes one space, and control characters are refused.",
    example = json!({
        "store": "gog",
        "sku": "1207664643",
        "price": "9.99",
        "currency": "EUR",
        "title": "The Witcher® 3: Wild Hunt",
        "region": "DE",
        "regular_price": "49.99",
        "platform": "windows",
        "url": "https://shop.example/the-witcher-3",
        "sale_ends_at": "2026-12-01T10:00:00Z",
        "observed_at": "2026-11-20T12:00:00Z",
        "availability": "in_stock",
    }),
)]
#[serde(deny_unknown_fields)]
pub struct ReportedObservation {
    /// Slug or name of the store, with a letter or a digit. An unknown store is created if the token has
    /// `catalogue:write`.
    #[schema(value_type = String, min_length = 1, max_length = 100, pattern = r"\S", example = "gog")]
    pub store: Option<String>,
    /// The store's own identifier of the product. An unknown one creates an offer.
    #[schema(value_type = String, min_length = 1, max_length = 200, pattern = r"\S", example = "1207664643")]
    pub sku: Option<String>,
    /// A decimal number with at most as many places as the currency has, up to 10^12 of its minor units; it may repeat
    /// the currency (`18.49 EUR`, `EUR18.49`).
    #[schema(
        value_type = String,
        pattern = r"^([A-Z]{3} ?[0-9]+(\.[0-9]+)?|[0-9]+(\.[0-9]+)?( ?[A-Z]{3})?)$",
        max_length = 40,
        example = "9.99"
    )]
    pub price: Option<String>,
    #[schema(value_type = Currency)]
    pub currency: Option<String>,
    /// Title of the game, for a new offer.
    #[schema(max_length = 500, example = "The Witcher® 3: Wild Hunt")]
    pub title: Option<String>,
    /// Region in which the offer is valid; default: `ZZ`.
    #[schema(value_type = Option<Region>)]
    pub region: Option<String>,
    /// In the form of `price`, and not below it; default: the offer's last regular price.
    #[schema(
        pattern = r"^([A-Z]{3} ?[0-9]+(\.[0-9]+)?|[0-9]+(\.[0-9]+)?( ?[A-Z]{3})?)$",
        max_length = 40,
        example = "49.99"
    )]
    pub regular_price: Option<String>,
    /// Platform such as `windows` or `switch`, for a new offer.
    #[schema(max_length = 50, example = "windows")]
    pub platform: Option<String>,
    /// Address at which the offer can be bought, for a new offer. An invalid one is left out, with a warning.
    #[schema(pattern = r"^https?://.", max_length = 2000, example = "https://shop.example/the-witcher-3")]
    pub url: Option<String>,
    /// End of the sale as announced by the store; one in the past means that there is no sale.
    #[schema(value_type = Option<Timestamp>)]
    pub sale_ends_at: Option<String>,
    /// Time at which the price was observed, at most 5 minutes ahead; default: now.
    #[schema(value_type = Option<Timestamp>)]
    pub observed_at: Option<String>,
    /// A value of Google's product data or of schema.org; default: `in_stock`. Other spellings are accepted as well. An
    /// offer that cannot be bought is not on sale.
    #[schema(
        pattern = "^(in_stock|out_of_stock|preorder|backorder|(https://schema\\.org/)?(BackOrder|Discontinued|InStock|\
            InStoreOnly|LimitedAvailability|MadeToOrder|OnlineOnly|OutOfStock|PreOrder|PreSale|Reserved|SoldOut))$",
        example = "in_stock"
    )]
    pub availability: Option<String>,
    /// Problems of fields that the reader of a file has already left out.
    #[serde(skip)]
    pub warnings: Vec<FieldProblem>,
    /// Name of `url` in the file, if it differs.
    #[serde(skip)]
    pub url_name: Option<&'static str>,
}

/// Problem with one field: its name, and the rest of a sentence that begins with it.
pub type FieldProblem = (&'static str, String);

/// A valid observation with its warnings.
#[derive(Debug, PartialEq, Eq)]
pub struct Checked {
    pub observation: Observation,
    /// Problems of fields that were left out, since the price is valid without them.
    pub warnings: Vec<FieldProblem>,
}

/// Largest lead of a reporter's clock over ours.
const MAX_AHEAD: TimeDelta = TimeDelta::minutes(5);
/// First valid year: no price was observed before it.
const FIRST_YEAR: i32 = 1970;

impl ReportedObservation {
    /// Checks all fields and collects the problems of each, so that a reporter needs to correct a line only once.
    ///
    /// `now` is the time at which the report arrived, which is the default of `observed_at`.
    ///
    /// # Errors
    /// Required fields are missing or fields are invalid: one problem for each.
    pub fn check(self, now: DateTime<Utc>) -> Result<Checked, Vec<FieldProblem>> {
        let (mut problems, mut warnings) = (Vec::new(), self.warnings);
        let store = required(&mut problems, "store", self.store.as_deref(), 100);
        let sku = required(&mut problems, "sku", self.sku.as_deref(), 200);
        let slug = title::slug(&store);
        if !store.is_empty() && slug.is_empty() {
            problems.push(("store", "must contain a letter or a digit".to_owned()));
        }
        let region = check_region(self.region.as_deref()).unwrap_or_else(|problem| {
            problems.push(("region", problem));
            String::new()
        });
        let (price, price_code) = split_code(self.price.as_deref().unwrap_or_default());
        let (regular_price, regular_code) = split_code(self.regular_price.as_deref().unwrap_or_default());
        let code = self.currency.as_deref().map(str::trim).filter(|code| !code.is_empty()).or(price_code);
        let currency = match code.unwrap_or_default().parse::<Currency>() {
            Ok(currency) => Some(currency),
            Err(problem) => {
                let problem = if code.is_none() { "is required".to_owned() } else { problem };
                problems.push(("currency", problem));
                None
            }
        };
        let (mut amount, mut regular) = (0, None);
        if price.is_empty() {
            problems.push(("price", "is required".to_owned()));
        } else if let Some(currency) = currency {
            match read_amount(currency, price, price_code) {
                Ok(minor) => amount = minor,
                Err(problem) => problems.push(("price", problem)),
            }
        }
        if let Some(currency) = currency.filter(|_| !regular_price.is_empty()) {
            match read_amount(currency, regular_price, regular_code) {
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
        let title = self.title.as_deref().map(title::clean);
        let title = optional(&mut problems, "title", title.as_deref(), 500);
        let platform = optional(&mut problems, "platform", self.platform.as_deref(), 50);
        // The address does not affect the price: an invalid address is left out, and the rest is accepted.
        let url_name = self.url_name.unwrap_or("url");
        let url = optional(&mut warnings, url_name, self.url.as_deref(), 2000).filter(|url| {
            let is_web = is_web_address(url);
            if !is_web {
                warnings.push((url_name, "must start with https:// or http://".to_owned()));
            }
            is_web
        });
        for (_, problem) in warnings.iter_mut().filter(|(field, _)| *field == url_name) {
            problem.push_str("; it was left out");
        }
        match currency {
            Some(currency) if problems.is_empty() => {
                let observation = Observation {
                    store_name: (store != slug).then(|| store.into_owned()),
                    store: slug,
                    sku: sku.into_owned(),
                    region,
                    currency,
                    amount,
                    regular,
                    observed_at,
                    title: title.map(Cow::into_owned),
                    platform: platform.map(|platform| platform.to_lowercase()),
                    url: url.map(Cow::into_owned),
                    sale_ends_at,
                    available,
                };
                Ok(Checked { observation, warnings })
            }
            _ => Err(problems),
        }
    }
}

/// Parses an amount whose text may name its currency, which must be that of the observation.
fn read_amount(currency: Currency, number: &str, code: Option<&str>) -> Result<i64, String> {
    match code.filter(|code| *code != currency.code()) {
        Some(other) => Err(format!("is in {other}, but the currency is {currency}")),
        None => currency.parse_amount(number),
    }
}

fn is_web_address(url: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| {
        url.split_at_checked(scheme.len())
            .is_some_and(|(begin, rest)| begin.eq_ignore_ascii_case(scheme) && !rest.is_empty())
    })
}

/// Parses an instant in the forms of `Time::read`, in the years 1970 to 9999. It is truncated to microseconds, the
/// precision that the database stores.
///
/// # Errors
/// The text is not a time, lacks its offset from UTC, or is out of range. The error is the rest of a sentence
/// that begins with the name of the field.
pub fn parse_instant(text: &str) -> Result<DateTime<Utc>, String> {
    let instant = match Time::read(text) {
        Some(Time::Instant(instant)) => instant,
        Some(Time::Local(_)) => {
            return Err("must include its offset from UTC, such as \"Z\" or \"+01:00\"".to_owned());
        }
        Some(Time::Date(_)) | None => {
            return Err("must be an RFC 3339 instant such as \"2026-11-20T12:00:00Z\"".to_owned());
        }
    };
    if instant.year() < FIRST_YEAR || instant.year() > 9999 {
        return Err("must lie between the years 1970 and 9999".to_owned());
    }
    // PostgreSQL stores microseconds: an instant must be unchanged after a round trip.
    DateTime::from_timestamp_micros(instant.timestamp_micros()).ok_or_else(|| "is out of range".to_owned())
}

/// An instant in a JSON body, parsed by `parse_instant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(
    description = "An instant of RFC 3339 in the years 1970 to 9999, no leap second. It is truncated to microseconds.",
    value_type = String,
    format = DateTime,
    pattern = r"^(19[7-9][0-9]|[2-9][0-9]{3})-",
    example = "2026-11-20T12:00:00Z"
)]
#[serde(transparent)]
pub struct Timestamp(pub DateTime<Utc>);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        parse_instant(&text).map(Timestamp).map_err(serde::de::Error::custom)
    }
}

fn required<'t>(
    problems: &mut Vec<FieldProblem>,
    field: &'static str,
    text: Option<&'t str>,
    max: usize,
) -> Cow<'t, str> {
    optional(problems, field, text, max).unwrap_or_else(|| {
        if !problems.iter().any(|(name, _)| *name == field) {
            problems.push((field, "is required".to_owned()));
        }
        Cow::Borrowed("")
    })
}

/// A text with its white space folded; an empty text is `None`.
fn optional<'t>(
    problems: &mut Vec<FieldProblem>,
    field: &'static str,
    text: Option<&'t str>,
    max: usize,
) -> Option<Cow<'t, str>> {
    let text = fold_white_space(text?);
    if text.is_empty() {
        return None;
    }
    if let Err(problem) = check_text(&text, max) {
        problems.push((field, problem));
        return None;
    }
    Some(text)
}

/// Checks a text that PostgreSQL stores and people read.
///
/// # Errors
/// The text has more than `max` characters or a control character.
pub fn check_text(text: &str, max: usize) -> Result<(), String> {
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    if text.len() > max && text.chars().count() > max {
        return Err(format!("is longer than {max} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_all(json: &str) -> Result<Checked, Vec<FieldProblem>> {
        let now = parse_instant("2026-11-20T12:00:00Z").unwrap();
        serde_json::from_str::<ReportedObservation>(json).unwrap().check(now)
    }

    fn check(json: &str) -> Result<Observation, Vec<FieldProblem>> {
        check_all(json).map(|checked| {
            assert_eq!(checked.warnings, []);
            checked.observation
        })
    }

    /// The shortest valid report, with the fields `more` appended.
    fn short(more: &str) -> String {
        format!(r#"{{"store": "s", "sku": "a", "price": "9.99", "currency": "EUR"{more}}}"#)
    }

    #[test]
    fn invisible_characters_around_a_sku_do_not_make_another_offer() {
        for around in ["", "\\u200b", "\\ufeff", "\\u2060", "\\u200d \\u200b", "\\u00ad", "\\u00a0"] {
            let around = |text: &str| format!("{around}{text}{around}");
            let seen = check(&format!(
                r#"{{"store": "{}", "sku": "{}", "platform": "{}", "price": "9.9", "currency": "EUR"}}"#,
                around("GOG.com"),
                around("a b"),
                around("Switch"),
            ))
            .unwrap();
            assert_eq!((seen.sku.as_str(), seen.platform.as_deref()), ("a b", Some("switch")));
            assert_eq!((seen.store.as_str(), seen.store_name.as_deref()), ("gog-com", Some("GOG.com")));
        }
        let none =
            check(r#"{"store": "s", "sku": "\u200b", "price": "9.9", "currency": "EUR"}"#).unwrap_err();
        assert_eq!(none, [("sku", "is required".to_owned())]);
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
    fn all_invalid_fields_are_named_at_once() {
        let problems = check(
            r#"{"store": "", "sku": "a\u0000b", "price": "1.1234567", "currency": "EUR", "region": "Germany",
                "regular_price": "x", "observed_at": "2026-11-20T12:06:00Z", "url": "javascript:alert(1)"}"#,
        )
        .unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| *field).collect();
        assert_eq!(fields, ["store", "sku", "region", "price", "regular_price", "observed_at"]);
    }

    #[test]
    fn an_invalid_url_is_dropped_and_the_price_is_kept() {
        let long = format!("https://s/{}", "x".repeat(2_000));
        for url in [
            "javascript:alert(1)",
            "shop.example/a",
            "//shop.example/a",
            "ftp://s/a",
            "https://",
            "/a",
            "ht\\u0001tps://s",
            &long,
        ] {
            let checked = check_all(&short(&format!(r#", "url": "{url}""#))).unwrap();
            assert_eq!((checked.observation.amount, checked.observation.url), (999, None), "{url}");
            let [("url", why)] = checked.warnings.as_slice() else { panic!("{:?}", checked.warnings) };
            assert!(why.ends_with("it was left out"), "{why}");
        }
        assert_eq!(
            check(&short(r#", "url": " HTTPS://shop.example/a ""#)).unwrap().url.as_deref(),
            Some("HTTPS://shop.example/a")
        );
    }

    #[test]
    fn white_space_is_folded_in_every_text_and_invisible_characters_are_removed_from_titles() {
        let seen = check(
            r#"{"store": "My\n\tShop", "sku": "a\u00a0 b", "price": " 9.99\n", "currency": "EUR",
                "platform": "Nintendo\t Switch", "title": "Bur\u00adrow\r\nTales &amp;\u200b Co"}"#,
        )
        .unwrap();
        assert_eq!((seen.store_name.as_deref(), seen.sku.as_str()), (Some("My Shop"), "a b"));
        assert_eq!(seen.platform.as_deref(), Some("nintendo switch"));
        assert_eq!(seen.title.as_deref(), Some("Burrow Tales & Co"));
        assert_eq!(check(&short(r#", "title": "&shy;\u200b""#)).unwrap().title, None);
        assert!(check(&short(r#", "title": "a\u0007b""#)).is_err());
    }

    #[test]
    fn a_price_may_name_its_currency_but_no_other() {
        let seen = |price: &str, regular: &str, currency: &str| {
            let report = format!(
                r#"{{"store": "s", "sku": "a", "price": "{price}", "regular_price": "{regular}", "currency": "{currency}"}}"#
            );
            check(&report).map(|seen| (seen.currency.code(), seen.amount, seen.regular))
        };
        for price in
            ["9.99", "9.99 EUR", "EUR 9.99", "EUR9.99", "9.99EUR", "EUR\\u00a09.99", "9.99\\u202fEUR"]
        {
            assert_eq!(seen(price, "19.99", "EUR"), Ok(("EUR", 999, Some(1999))), "{price}");
            assert_eq!(seen("1.00", price, "EUR"), Ok(("EUR", 100, Some(999))), "{price}");
        }
        assert_eq!(seen("9.99 EUR", "", ""), Ok(("EUR", 999, None)));
        let problem =
            |price: &str, regular: &str, currency: &str| seen(price, regular, currency).unwrap_err();
        assert_eq!(
            problem("9.99 USD", "", "EUR"),
            [("price", "is in USD, but the currency is EUR".to_owned())]
        );
        assert_eq!(problem("9.99", "19.99 USD", "EUR")[0].0, "regular_price");
        assert_eq!(problem("9.99", "", "")[0], ("currency", "is required".to_owned()));
        for odd in [
            "EUR 9.99 EUR",
            "9,99 EUR",
            "1,299.00",
            "1.299,00 EUR",
            "1 299.00",
            "€9.99",
            "9.99 €",
            "$9.99",
            "1e3",
            "1e3 EUR",
            "+5",
            "-0",
            "-5 EUR",
            ".99",
            "5.",
            "EUR",
            "9.99 eur",
            "９.９９",
            "٩.٩٩",
            "EUR 9.999",
            "free",
            "0x10",
            "9.99 EURO",
        ] {
            assert!(seen(odd, "", "EUR").is_err(), "{odd:?} was accepted");
        }
    }

    #[test]
    fn impossible_instants_are_refused() {
        for text in [
            "10000-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-02-30T00:00:00Z",
            "2026-11-20",
            "now",
            "",
            "9999-12-31T23:59:60Z",
            "9999-12-31T23:59:59-01:00",
            "0000-01-01T00:00:00Z",
            "2026-11-20T12:00:00",
            "-262143-01-01T00:00:00Z",
            "2016-12-31T23:59:60Z",
        ] {
            assert!(parse_instant(text).is_err(), "{text:?} was accepted");
        }
        let instant = parse_instant("2025-07-15T20:33:15Z");
        for text in ["2025-07-15T22:33:15+02:00", "2025-07-15 22:33:15+02", "2025-07-15 20:33:15 GMT"] {
            assert_eq!(parse_instant(text), instant);
        }
        assert!(instant.is_ok());
    }

    #[test]
    fn a_regular_price_below_the_price_is_refused() {
        let problems = check(
            r#"{"store": "s", "sku": "a", "price": "9.99", "regular_price": "5.00", "currency": "EUR"}"#,
        );
        assert_eq!(problems.unwrap_err(), [("regular_price", "is below the price".to_owned())]);
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
