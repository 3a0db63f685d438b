//! Product data of Google Merchant Center, as shops export it already:
//! <https://support.google.com/merchants/answer/7052112> (attributes), <https://support.google.com/merchants/answer/6324460>
//! (`sale_price_effective_date`).

use chrono::{DateTime, Utc};

use crate::domain::observation::ReportedObservation;

/// How a shop's products become observations.
#[derive(Clone, Debug)]
pub struct Merchant {
    /// The shop: product data does not name it.
    pub store: String,
    /// Where its prices hold; `None`: everywhere.
    pub region: Option<String>,
    pub platform: Option<String>,
}

impl Merchant {
    /// One product; `attribute` gives its attributes by their name without `g:`. `now` decides whether a sale price
    /// holds.
    ///
    /// # Errors
    /// What is wrong with it, in the words of a refusal.
    pub fn observe<'a>(
        &self,
        attribute: impl Fn(&str) -> Option<&'a str>,
        now: DateTime<Utc>,
    ) -> Result<ReportedObservation, String> {
        let text = |name| attribute(name).map(str::trim).filter(|text| !text.is_empty());
        let owned = |name| text(name).map(str::to_owned);
        let (price, currency) = split_price("price", text("price").ok_or("has no price")?)?;
        let sale = text("sale_price").map(|sale| split_price("sale_price", sale)).transpose()?;
        if let Some((_, other)) = sale.filter(|(_, other)| *other != currency) {
            return Err(format!("has a price in {currency} and a sale_price in {other}"));
        }
        let period = text("sale_price_effective_date").map(parse_period).transpose()?;
        let holds = period.is_none_or(|(begin, end)| begin <= now && now < end);
        let sale = sale.filter(|_| holds);
        Ok(ReportedObservation {
            store: Some(self.store.clone()),
            sku: owned("id"),
            price: Some(sale.map_or(price, |(sale, _)| sale).to_owned()),
            regular_price: Some(price.to_owned()),
            currency: Some(currency.to_owned()),
            title: owned("title"),
            region: self.region.clone(),
            platform: self.platform.clone(),
            url: owned("link"),
            sale_ends_at: period.filter(|_| sale.is_some()).map(|(_, end)| end.to_rfc3339()),
            observed_at: None,
            availability: owned("availability"),
        })
    }
}

/// `18.49 EUR`: the number and the currency.
fn split_price<'p>(name: &str, text: &'p str) -> Result<(&'p str, &'p str), String> {
    let wrong = || format!("has a {name} that is not like \"18.49 EUR\"");
    let begin = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, currency) = match begin {
        // Some write the currency first.
        0 => text.split_once(' ').map(|(currency, number)| (number, currency)).ok_or_else(wrong)?,
        _ => text.split_at(begin),
    };
    Ok((number.trim(), currency.trim()))
}

/// `2026-11-01T00:00-0800/2026-11-08T23:59-0800`; a time without an offset is of UTC, a date without a time its begin.
fn parse_period(text: &str) -> Result<(DateTime<Utc>, DateTime<Utc>), String> {
    let wrong = || "has a sale_price_effective_date that is not two times with a slash between".to_owned();
    let (begin, end) = text.split_once('/').or_else(|| text.split_once(' ')).ok_or_else(wrong)?;
    let begin = parse_time(begin.trim()).ok_or_else(wrong)?;
    let end = parse_time(end.trim()).ok_or_else(wrong)?;
    Ok((begin, end))
}

fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    const WITH_OFFSET: [&str; 3] = ["%Y-%m-%dT%H:%M%#z", "%Y-%m-%dT%H:%M:%S%#z", "%Y-%m-%dT%H:%M:%S%.f%#z"];
    const WITHOUT: [&str; 2] = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];
    let with = |format: &&str| DateTime::parse_from_str(text, format).ok().map(|time| time.to_utc());
    let without =
        |format: &&str| chrono::NaiveDateTime::parse_from_str(text, format).ok().map(|time| time.and_utc());
    let date = || text.parse::<chrono::NaiveDate>().ok()?.and_hms_opt(0, 0, 0).map(|time| time.and_utc());
    WITH_OFFSET.iter().find_map(with).or_else(|| WITHOUT.iter().find_map(without)).or_else(date)
}

/// An attribute's name as this module knows it: `g:sale price` is `sale_price`.
pub fn attribute_name(given: &str) -> String {
    let name = given.trim().trim_start_matches("g:").to_ascii_lowercase();
    name.replace([' ', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(pairs: &[(&str, &str)]) -> Result<ReportedObservation, String> {
        let shop = Merchant { store: "Shop".to_owned(), region: Some("DE".to_owned()), platform: None };
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        shop.observe(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value), now)
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
            (Some("EUR 9.99"), Some("2026-11-20/2026-11-21"), "9.99", Some("2026-11-21T00:00:00+00:00")),
        ] {
            let mut pairs = base.to_vec();
            pairs.extend(sale.map(|sale| ("sale_price", sale)));
            pairs.extend(period.map(|period| ("sale_price_effective_date", period)));
            let seen = observe(&pairs).unwrap();
            assert_eq!(seen.price.as_deref(), Some(price), "{sale:?} {period:?}");
            assert_eq!(seen.regular_price.as_deref(), Some("39.99"));
            assert_eq!((seen.currency.as_deref(), seen.sale_ends_at.as_deref()), (Some("EUR"), ends));
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (pairs, why) in [
            (vec![("id", "1")], "has no price"),
            (vec![("price", "12")], "not like \"18.49 EUR\""),
            (vec![("price", "12 EUR"), ("sale_price", "9 USD")], "a sale_price in USD"),
            (vec![("price", "12 EUR"), ("sale_price_effective_date", "soon")], "two times"),
        ] {
            assert!(observe(&pairs).unwrap_err().contains(why), "{pairs:?}");
        }
    }
}
