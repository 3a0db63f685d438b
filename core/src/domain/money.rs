//! Money: an integer of minor units internally, a decimal string in JSON.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::object::object;

/// Largest amount in minor units. A larger one is a mistake, and this bound keeps sums and tenfold comparisons far from
/// overflow.
pub const MAX_MINOR_UNITS: i64 = 1_000_000_000_000;

/// An ISO 4217 currency that has minor units. Written as its three upper-case letters in JSON and in the database.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// Code of the currency, such as `EUR`.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Codes of all currencies, by trying every code: `iso_currency` lists them only with another crate.
    fn codes() -> &'static [String] {
        static CODES: LazyLock<Vec<String>> = LazyLock::new(Currency::find_codes);
        &CODES
    }

    fn find_codes() -> Vec<String> {
        let letters = || b'A'..=b'Z';
        let codes = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
        let codes = codes.filter_map(|code| String::from_utf8(code.to_vec()).ok());
        codes.filter(|code| code.parse::<Currency>().is_ok()).collect()
    }

    /// Number of decimal places: 2 for EUR, 0 for JPY, 3 for KWD.
    pub fn places(self) -> usize {
        // `from_str` refuses currencies without minor units (gold, test codes).
        usize::from(self.0.exponent().unwrap_or(0))
    }

    /// Parses an amount such as `18.49` or `18.5` into minor units.
    ///
    /// # Errors
    /// The text is not a plain decimal number, is negative, has too many decimal places for the currency, or is too
    /// large. The error is the rest of a sentence that begins with the name of the field.
    pub fn parse_amount(self, text: &str) -> Result<i64, String> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
            return Err(if text.starts_with('-') && text.len() > 1 {
                "must not be negative".to_owned()
            } else {
                "must be a decimal number such as \"9.99\"".to_owned()
            });
        }
        let places = self.places();
        let significant = fraction.trim_end_matches('0');
        if significant.len() > places {
            return Err(format!("has more than the {places} decimal places of {}", self.code()));
        }
        let minor = format!("{whole}{significant:0<places$}");
        match minor.parse::<i64>() {
            Ok(minor) if minor <= MAX_MINOR_UNITS => Ok(minor),
            _ => Err("is too large".to_owned()),
        }
    }

    /// Formats minor units as a decimal string with the currency's number of decimal places.
    pub fn format_amount(self, minor: i64) -> String {
        let places = self.places();
        if places == 0 {
            return minor.to_string();
        }
        let unit = 10_i64.pow(places as u32);
        format!("{}.{:0places$}", minor / unit, minor % unit)
    }
}

impl FromStr for Currency {
    type Err = String;

    fn from_str(code: &str) -> Result<Self, String> {
        iso_currency::Currency::from_code(code)
            .filter(|currency| currency.exponent().is_some())
            .map(Currency)
            .ok_or_else(|| "must be an ISO 4217 currency code such as \"EUR\"".to_owned())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl PartialSchema for Currency {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("An ISO 4217 currency that has minor units."))
            .enum_values(Some(Currency::codes().iter().cloned()))
            .examples([json!("EUR")])
            .into()
    }
}

impl ToSchema for Currency {}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<str>::deserialize(deserializer)?;
        code.parse().map_err(serde::de::Error::custom)
    }
}

/// Splits a price as shops write it (`18.49 EUR`, `EUR18.49`) into its number and the three letters before or after it
/// that name a currency. Neither part is validated.
pub fn split_code(text: &str) -> (&str, Option<&str>) {
    let text = text.trim();
    let is_letter = |c: char| c.is_ascii_alphabetic();
    let after = text.trim_start_matches(is_letter);
    if text.len() - after.len() == 3 {
        return (after.trim_start(), Some(&text[..3]));
    }
    let before = text.trim_end_matches(is_letter);
    match text.len() - before.len() {
        3 => (before.trim_end(), Some(&text[before.len()..])),
        _ => (text, None),
    }
}

/// An amount with its currency. In JSON: `{"amount": "18.49", "currency": "EUR"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    /// Amount in minor units, never negative.
    pub minor: i64,
    /// Currency of the amount.
    pub currency: Currency,
}

/// An amount with its currency.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"amount": "18.49", "currency": "EUR"}))]
#[serde(deny_unknown_fields)]
struct MoneyOnTheWire {
    /// A decimal number with at most as many places as the currency has, below 10^12 of its minor units.
    #[schema(pattern = r"^[0-9]+(\.[0-9]+)?$", max_length = 40)]
    amount: String,
    currency: Currency,
}

impl PartialSchema for Money {
    fn schema() -> RefOr<Schema> {
        MoneyOnTheWire::schema()
    }
}

impl ToSchema for Money {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        MoneyOnTheWire::schemas(schemas);
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let amount = self.currency.format_amount(self.minor);
        MoneyOnTheWire { amount, currency: self.currency }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire: MoneyOnTheWire = object(deserializer)?;
        let minor = wire
            .currency
            .parse_amount(&wire.amount)
            .map_err(|problem| serde::de::Error::custom(format!("amount {problem}")))?;
        Ok(Money { minor, currency: wire.currency })
    }
}

/// Percentage by which `amount` lies below `regular`, rounded to the nearest whole number as shops print it: 0 if it is
/// not below, 100 only for a giveaway.
pub fn cut_percent(amount: i64, regular: i64) -> i16 {
    if regular <= 0 || amount >= regular {
        return 0;
    }
    let cut = (200 * (regular - amount) + regular) / (2 * regular);
    if amount > 0 { cut.min(99) as i16 } else { 100 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn currency(code: &str) -> Currency {
        code.parse().unwrap()
    }

    #[test]
    fn amounts_have_the_decimal_places_of_their_currency() {
        assert_eq!(currency("EUR").parse_amount("18.49"), Ok(1849));
        assert_eq!(currency("EUR").parse_amount("18.5"), Ok(1850));
        assert_eq!(currency("EUR").parse_amount("0.0"), Ok(0));
        assert_eq!(currency("EUR").parse_amount("9.9900000"), Ok(999));
        assert_eq!(currency("JPY").parse_amount("1980"), Ok(1980));
        assert_eq!(currency("KWD").parse_amount("1.234"), Ok(1234));
        assert_eq!(currency("JPY").format_amount(1980), "1980");
        assert_eq!(currency("KWD").format_amount(5), "0.005");
    }

    #[test]
    fn texts_that_are_not_amounts_are_refused() {
        for text in
            ["", ".", "9.", ".5", "-1", "+1", "1e3", "9,99", " 9.99", "9.999", "0x10", "٣", "1.0000001"]
        {
            assert!(currency("EUR").parse_amount(text).is_err(), "{text:?} was accepted");
        }
        assert!(currency("EUR").parse_amount("99999999999999999999").is_err());
        assert!(currency("JPY").parse_amount("1.5").is_err());
    }

    #[test]
    fn a_price_may_have_its_currency_on_either_side() {
        for (text, number, code) in [
            ("18.49 EUR", "18.49", Some("EUR")),
            ("EUR 18.49", "18.49", Some("EUR")),
            (" EUR\u{a0}18.49 ", "18.49", Some("EUR")),
            ("EUR18.49", "18.49", Some("EUR")),
            ("18.49", "18.49", None),
            ("EUR 18.49 EUR", "18.49 EUR", Some("EUR")),
            ("EUR", "", Some("EUR")),
            ("18.49 EURO", "18.49 EURO", None),
            ("1e3", "1e3", None),
            ("€18", "€18", None),
            ("", "", None),
        ] {
            assert_eq!(split_code(text), (number, code), "{text:?}");
        }
    }

    #[test]
    fn only_real_currencies_are_accepted() {
        for code in ["eur", "EURO", "ABC", "", "XAU", "XXX"] {
            assert!(code.parse::<Currency>().is_err(), "{code:?} was accepted");
        }
    }

    #[test]
    fn cuts_are_rounded_as_shops_print_them() {
        assert_eq!(cut_percent(1479, 1849), 20);
        assert_eq!(cut_percent(250, 499), 50);
        assert_eq!(cut_percent(1, 100_000), 99);
        assert_eq!(cut_percent(0, 499), 100);
        assert_eq!(cut_percent(0, 0), 0);
        assert_eq!(cut_percent(500, 499), 0);
    }

    proptest! {
        #[test]
        fn an_amount_survives_the_wire(minor in 0..=MAX_MINOR_UNITS, code in prop::sample::select(vec!["EUR", "JPY", "KWD", "CLF"])) {
            let money = Money { minor, currency: currency(code) };
            let wire = serde_json::to_string(&money).unwrap();
            prop_assert_eq!(serde_json::from_str::<Money>(&wire).unwrap(), money);
        }
    }
}
