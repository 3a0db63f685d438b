//! Mapping of foreign records to observations: which column is which field, which fields are constant, and how dates
//! are converted to the form that the API accepts.

use std::borrow::Cow;

use chrono::{NaiveTime, SecondsFormat};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::error::{FeedError, MappingError};
use crate::domain::instant::{Time, Twice, Zone};
use crate::domain::money::Currency;
use crate::domain::region::check_region;
use crate::domain::text::trim_unseen;
use crate::tables::text::unguard;

/// Fields of an observation, as `POST /v1/prices` accepts them.
pub(super) const FIELDS: [&str; 12] = [
    "store",
    "sku",
    "price",
    "currency",
    "title",
    "region",
    "regular_price",
    "platform",
    "url",
    "sale_ends_at",
    "observed_at",
    "availability",
];
/// Fields without which the API accepts no observation.
const REQUIRED: [&str; 4] = ["store", "sku", "price", "currency"];
/// Name that `--set` accepts in addition to the fields: the zone of times that name none.
pub(super) const TIME_ZONE: &str = "time_zone";

/// Mapping given by `--map` and `--set`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Mapping {
    columns: Vec<(&'static str, String)>,
    constants: Vec<(&'static str, String)>,
    /// Zone of times without an offset, which are refused if it is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
}

impl Mapping {
    /// Parses the arguments `field=Column` (`--map`) and `field=value` (`--set`).
    ///
    /// # Errors
    /// An argument has no `=`, names an unknown field, or repeats a field, or a constant is invalid.
    pub fn parse(map: &[String], set: &[String]) -> Result<Self, MappingError> {
        let mut mapping = Self::default();
        for (option, pairs, list) in
            [("--map", map, &mut mapping.columns), ("--set", set, &mut mapping.constants)]
        {
            for pair in pairs {
                let Some((field, value)) = pair.split_once('=') else {
                    return Err(MappingError::NoPair { option, pair: pair.clone() });
                };
                let (field, value) = (field.trim(), value.trim());
                let invalid = |problem| MappingError::BadValue {
                    option,
                    pair: pair.clone(),
                    field: field.to_owned(),
                    problem,
                };
                if (option, field) == ("--set", TIME_ZONE) {
                    if mapping.zone.replace(value.parse().map_err(invalid)?).is_some() {
                        return Err(MappingError::NamedTwice { field: TIME_ZONE, options: "--set" });
                    }
                    continue;
                }
                let Some(field) = FIELDS.into_iter().find(|known| *known == field) else {
                    let (pair, field, known) = (pair.clone(), field.to_owned(), FIELDS.join(", "));
                    return Err(MappingError::NoSuchField { option, pair, field, known });
                };
                // An invalid constant would fail on every line.
                match (option, field) {
                    ("--set", "region") => check_region(Some(value)).map(|_| ()).map_err(invalid)?,
                    ("--set", "currency") => value.parse::<Currency>().map(|_| ()).map_err(invalid)?,
                    _ => {}
                }
                list.push((field, value.to_owned()));
            }
        }
        let mut seen = Vec::new();
        for (field, _) in mapping.columns.iter().chain(&mapping.constants) {
            if seen.contains(field) {
                return Err(MappingError::NamedTwice { field, options: "--map or --set" });
            }
            seen.push(field);
        }
        Ok(mapping)
    }

    /// Resolves the mapping for the records below this CSV header. Columns named like a field need no `--map`.
    ///
    /// # Errors
    /// A mapped column is missing or occurs twice, or a required field has no source.
    pub fn for_columns(&self, header: &[String]) -> Result<ColumnMapping, FeedError> {
        let mut columns = Vec::new();
        for (field, name) in &self.columns {
            let mut indices = header.iter().enumerate().filter(|(_, column)| *column == name);
            match (indices.next(), indices.next()) {
                (Some((index, _)), None) => columns.push((*field, index)),
                (Some(_), Some(_)) => {
                    return Err(FeedError::RepeatedColumn(name.clone()));
                }
                (None, _) => {
                    let columns = quote_list(header.iter().map(String::as_str));
                    return Err(FeedError::NoSuchColumn { name: name.clone(), columns });
                }
            }
        }
        for field in FIELDS {
            let is_named = self.columns.iter().chain(&self.constants).any(|(named, _)| *named == field);
            if is_named {
                continue;
            }
            let mut indices = header.iter().enumerate().filter(|(_, column)| *column == field);
            let Some((index, _)) = indices.next() else { continue };
            if indices.next().is_some() {
                return Err(FeedError::RepeatedColumn(field.to_owned()));
            }
            columns.push((field, index));
        }
        let has = |field: &str| {
            columns.iter().any(|(known, _)| *known == field)
                || self.constants.iter().any(|(known, _)| *known == field)
        };
        let missing: Vec<&str> = REQUIRED.into_iter().filter(|field| !has(field)).collect();
        if !missing.is_empty() {
            let columns = quote_list(header.iter().map(String::as_str));
            return Err(FeedError::MissingFields { fields: missing.join(", "), columns });
        }
        let ignored = header
            .iter()
            .enumerate()
            .filter(|(index, _)| columns.iter().all(|(_, taken)| taken != index))
            .map(|(_, name)| name.clone())
            .collect();
        let (constants, width, zone) = (self.constants.clone(), header.len(), self.zone);
        Ok(ColumnMapping { columns, constants, zone, width, ignored })
    }

    /// Converts one line of NDJSON into one for the API. With `--map`, keys that are neither mapped nor fields are left
    /// out; without it, everything is passed on, so that the API names the fields that it does not know.
    ///
    /// # Errors
    /// The line is not a JSON object. The error is the reason of a refusal.
    pub fn map_json(&self, line: &str) -> Result<Vec<u8>, String> {
        let Object(pairs) = serde_json::from_str(line).map_err(|error| {
            // The position within the line is more useful than "line 1".
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or_default();
            format!("is not a JSON object: {reason} (column {})", error.column())
        })?;
        let mut fields: Vec<(&str, Value<'_>)> = Vec::with_capacity(pairs.len() + self.constants.len());
        for (key, raw) in &pairs {
            let fields_of_key = self.columns.iter().filter(|(_, column)| column == key.as_ref());
            let before = fields.len();
            for (field, _) in fields_of_key {
                fields.push((field, Value::of_raw(field, raw, self.zone)));
            }
            let is_named =
                self.columns.iter().chain(&self.constants).any(|(named, _)| *named == key.as_ref());
            let is_known = FIELDS.contains(&key.as_ref()) || self.columns.is_empty();
            if fields.len() == before && is_known && !is_named {
                fields.push((key, Value::of_raw(key, raw, self.zone)));
            }
        }
        let constants = self.constants.iter();
        fields.extend(constants.map(|(field, value)| (*field, Value::of_text(field, value, self.zone))));
        Ok(write_line(&fields))
    }
}

/// A mapping resolved for the columns of one CSV file.
#[derive(Debug)]
pub struct ColumnMapping {
    columns: Vec<(&'static str, usize)>,
    constants: Vec<(&'static str, String)>,
    zone: Option<Zone>,
    width: usize,
    /// Names of the columns that are not reported.
    pub ignored: Vec<String>,
}

impl ColumnMapping {
    /// Index of the column for this field.
    pub fn index(&self, field: &str) -> Option<usize> {
        self.columns.iter().find(|(known, _)| *known == field).map(|(_, index)| *index)
    }

    /// Whether a column or a constant provides this field.
    pub fn has(&self, field: &str) -> bool {
        let columns = self.columns.iter().map(|(known, _)| *known);
        columns.chain(self.constants.iter().map(|(known, _)| *known)).any(|known| known == field)
    }

    /// Converts one record into a line for the API. Empty fields are left out.
    ///
    /// # Errors
    /// The record has another number of fields than the header. The error is the reason of a refusal.
    pub fn map_record(&self, record: &[String]) -> Result<Vec<u8>, String> {
        if record.len() != self.width {
            return Err(format!("has {} fields where the header has {}", record.len(), self.width));
        }
        let mut fields = Vec::with_capacity(self.columns.len() + self.constants.len());
        // People edit CSV in spreadsheets, and our exports protect text from being read as formulas there.
        let columns = self.columns.iter().map(|(field, index)| (*field, unguard(&record[*index])));
        let constants = self.constants.iter().map(|(field, value)| (*field, value.as_str()));
        for (field, text) in columns.chain(constants) {
            if !text.is_empty() {
                fields.push((field, Value::of_text(field, text, self.zone)));
            }
        }
        Ok(write_line(&fields))
    }
}

enum Value<'v> {
    Text(Cow<'v, str>),
    Raw(&'v RawValue),
}

impl<'v> Value<'v> {
    fn of_text(field: &str, text: &'v str, zone: Option<Zone>) -> Self {
        match field {
            "observed_at" | "sale_ends_at" => Self::Text(normalise_instant(field, text, zone)),
            _ => Self::Text(Cow::Borrowed(text)),
        }
    }

    /// A value as JSON has it. Prices, and skus that are numbers, are passed on as text, digit for digit.
    fn of_raw(field: &str, raw: &'v RawValue, zone: Option<Zone>) -> Self {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'"') => match serde_json::from_str::<String>(text) {
                Ok(text) if matches!(field, "observed_at" | "sale_ends_at") => {
                    Self::Text(Cow::Owned(normalise_instant(field, trim_unseen(&text), zone).into_owned()))
                }
                Ok(text) => Self::Text(Cow::Owned(trim_unseen(&text).to_owned())),
                Err(_) => Self::Raw(raw),
            },
            Some(b'-' | b'0'..=b'9') if matches!(field, "price" | "regular_price" | "sku") => {
                Self::Text(Cow::Borrowed(text))
            }
            _ => Self::Raw(raw),
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Raw(raw) => raw.serialize(serializer),
        }
    }
}

/// Writes pairs as one JSON object with a line end.
fn write_line(fields: &[(&str, Value<'_>)]) -> Vec<u8> {
    struct Line<'l>(&'l [(&'l str, Value<'l>)]);
    impl Serialize for Line<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(self.0.len()))?;
            for (field, value) in self.0 {
                map.serialize_entry(field, value)?;
            }
            map.end()
        }
    }
    // Writing text keys and values to memory cannot fail, and an empty line would be refused with its number.
    let mut line = serde_json::to_vec(&Line(fields)).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Converts `2025-07-15 22:33:15+02:00` and related forms to RFC 3339 in UTC, with all digits of the second. A time
/// without an offset is in `zone`. A sale that ends on a day ends at the end of that day. Text that cannot be parsed is
/// left unchanged, for the API to refuse.
fn normalise_instant<'t>(field: &str, text: &'t str, zone: Option<Zone>) -> Cow<'t, str> {
    // chrono stores nanoseconds and would drop further digits.
    let fraction =
        text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    if fraction > 9 {
        return Cow::Borrowed(text);
    }
    let instant = match (Time::read(text), zone) {
        (Some(Time::Instant(instant)), _) => Some(instant),
        (Some(Time::Local(local)), Some(zone)) => zone.instant(local, Twice::Earlier),
        (Some(Time::Date(date)), Some(zone)) if field == "sale_ends_at" => {
            let last = NaiveTime::from_hms_opt(23, 59, 59).unwrap_or(NaiveTime::MIN);
            zone.instant(date.and_time(last), Twice::Later)
        }
        _ => None,
    };
    match instant {
        Some(instant) => Cow::Owned(instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        None => Cow::Borrowed(text),
    }
}

/// The pairs of an object in their order, with values as they were written.
struct Object<'o>(Vec<(Cow<'o, str>, &'o RawValue)>);

impl<'de: 'o, 'o> Deserialize<'de> for Object<'o> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    pairs.push((key.0, value));
                }
                Ok(Object(pairs))
            }
        }
        #[derive(Deserialize)]
        struct Key<'k>(#[serde(borrow)] Cow<'k, str>);
        deserializer.deserialize_map(Pairs)
    }
}

fn quote_list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn line(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn foreign_columns_become_fields_and_the_rest_is_left_out() {
        let mapping = Mapping::parse(
            &strings(&["sku=ID", "price=Price (€)", "observed_at=Date"]),
            &strings(&["store=Steam"]),
        )
        .unwrap();
        let columns =
            mapping.for_columns(&strings(&["Name", "ID", "Date", "Price (€)", "currency", "title"])).unwrap();
        assert_eq!(columns.ignored, ["Name"]);
        let record = strings(&["x", "7", "2025-07-15 22:33:15+02:00", "18.5", "EUR", ""]);
        assert_eq!(
            line(columns.map_record(&record).unwrap()),
            "{\"sku\":\"7\",\"price\":\"18.5\",\"observed_at\":\"2025-07-15T20:33:15Z\",\"currency\":\"EUR\",\"store\":\"Steam\"}\n"
        );
        assert_eq!(columns.map_record(&record[1..]).unwrap_err(), "has 5 fields where the header has 6");
    }

    #[test]
    fn a_mapping_that_cannot_work_is_refused_before_anything_is_sent() {
        let refuse = |map: &[&str], set: &[&str], header: &[&str]| {
            Mapping::parse(&strings(map), &strings(set))
                .map_err(|error| error.to_string())
                .and_then(|mapping| mapping.for_columns(&strings(header)).map_err(|error| error.to_string()))
                .unwrap_err()
        };
        assert!(refuse(&["prize=x"], &[], &[]).contains("prize is not one of store"));
        assert!(refuse(&["price"], &[], &[]).contains("must be field="));
        assert!(refuse(&["price=a"], &["price=1"], &[]).contains("more than once"));
        assert!(refuse(&["price=a"], &[], &["b"]).contains("no column \"a\"; it has \"b\""));
        assert!(refuse(&["price=a"], &[], &["a", "a"]).contains("column \"a\" more than once"));
        assert!(
            refuse(&[], &["store=s", "currency=EUR"], &["sku", "price", "price"])
                .contains("column \"price\" more than once")
        );
        assert!(refuse(&[], &[], &["sku", "price"]).contains("says store, currency"));
    }

    #[test]
    fn json_numbers_are_passed_on_digit_for_digit() {
        let mapping = Mapping::default();
        let mapped = mapping.map_json(r#"{"sku": 7, "price": 18.4900000000000000001, "x": [1, 2]}"#).unwrap();
        assert_eq!(line(mapped), "{\"sku\":\"7\",\"price\":\"18.4900000000000000001\",\"x\":[1, 2]}\n");
        let mapping = Mapping::parse(&strings(&["price=Preis"]), &strings(&["store=GOG"])).unwrap();
        let mapped = mapping.map_json(r#"{"sku":" a ","Preis":0.0,"x":1,"store":"Steam"}"#).unwrap();
        assert_eq!(line(mapped), "{\"sku\":\"a\",\"price\":\"0.0\",\"store\":\"GOG\"}\n");
    }

    #[test]
    fn values_that_are_not_objects_are_refused_with_their_position() {
        let mapping = Mapping::default();
        assert!(mapping.map_json("[1]").unwrap_err().starts_with("is not a JSON object"));
        assert_eq!(
            mapping.map_json(r#"{"a": }"#).unwrap_err(),
            "is not a JSON object: expected value (column 7)"
        );
    }

    #[test]
    fn instants_keep_their_digits_and_ambiguous_times_are_left_to_the_api() {
        for (text, expected) in [
            ("2025-07-15 22:33:15+02:00", "2025-07-15T20:33:15Z"),
            ("2025-07-15 22:33:15 +0200", "2025-07-15T20:33:15Z"),
            ("2025-07-15 22:33:15.123456Z", "2025-07-15T22:33:15.123456Z"),
            ("2025-07-15 22:33:15 UTC", "2025-07-15T22:33:15Z"),
            ("2025-07-15T22:33:15-03:30", "2025-07-16T02:03:15Z"),
            ("2025-07-15 22:33:15", "2025-07-15 22:33:15"),
            ("15.07.2025", "15.07.2025"),
            ("2025-07-15T22:33:15.1234567891Z", "2025-07-15T22:33:15.1234567891Z"),
            ("2025-07-15 22:33:15+02", "2025-07-15T20:33:15Z"),
            ("2025-07-15T22:33Z", "2025-07-15T22:33:00Z"),
            ("2025-07-15 22:33 GMT", "2025-07-15T22:33:00Z"),
            ("2025-07-15 22:33:60Z", "2025-07-15 22:33:60Z"),
        ] {
            assert_eq!(normalise_instant("observed_at", text, None), expected);
        }
    }

    #[test]
    fn a_time_without_an_offset_belongs_to_the_configured_zone() {
        let mapping = Mapping::parse(
            &[],
            &strings(&["store=s", "price=1", "currency=EUR", "time_zone=Europe/Berlin", "region=uk"]),
        )
        .unwrap();
        let columns = mapping.for_columns(&strings(&["sku", "observed_at", "sale_ends_at"])).unwrap();
        let times = |observed: &str, ends: &str| {
            let mapped = columns.map_record(&strings(&["a", observed, ends])).unwrap();
            let mapped: serde_json::Value = serde_json::from_slice(&mapped).unwrap();
            let of = |field: &str| mapped[field].as_str().unwrap().to_owned();
            let json = format!(r#"{{"sku": "a", "observed_at": "{observed}", "sale_ends_at": "{ends}"}}"#);
            let same: serde_json::Value = serde_json::from_slice(&mapping.map_json(&json).unwrap()).unwrap();
            assert_eq!(same, mapped);
            (of("observed_at"), of("sale_ends_at"))
        };
        let expected = |observed: &str, ends: &str| (observed.to_owned(), ends.to_owned());
        assert_eq!(
            times("2026-11-20 12:00", "2026-11-29"),
            expected("2026-11-20T11:00:00Z", "2026-11-29T22:59:59Z")
        );
        assert_eq!(
            times("2026-11-20 12:00:00-08", "2026-07-01 00:00:00"),
            expected("2026-11-20T20:00:00Z", "2026-06-30T22:00:00Z")
        );
        // A day is not an instant at which a price was observed.
        assert_eq!(times("2026-11-20", "soon"), expected("2026-11-20", "soon"));
        for invalid in ["time_zone=Berlin", "region=EU", "currency=euro"] {
            let problem = Mapping::parse(&[], &strings(&[invalid])).unwrap_err().to_string();
            assert!(problem.contains(invalid), "{problem}");
        }
        assert!(Mapping::parse(&strings(&["time_zone=Zone"]), &[]).is_err());
        assert!(Mapping::parse(&[], &strings(&["time_zone=UTC", "time_zone=UTC"])).is_err());
    }
}
