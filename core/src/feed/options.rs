//! Options of an import: how its file is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::mapping::{FIELDS, Mapping, TIME_ZONE};
use super::merchant::Merchant;
use super::rows::Meaning;
use crate::domain::instant::Zone;
use crate::domain::region::check_region;

/// Longest name of a column or constant value, in bytes. No field of an observation is longer.
const LONGEST: usize = 2_000;

/// Options for reading a file. They are stored with the import.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(
    description = "Options for reading a file.",
    example = json!({"format": "observations", "columns": {"sku": "ID"}, "constants": {"store": "Steam"}}),
)]
#[serde(deny_unknown_fields)]
pub struct ImportOptions {
    #[serde(default)]
    #[schema(required)]
    pub format: ImportFormat,
    /// Mapping of foreign columns: field → column.
    #[serde(default)]
    #[schema(required, schema_with = columns_schema)]
    pub columns: BTreeMap<String, String>,
    /// Constants: field → its value in every row.
    #[serde(default)]
    #[schema(required, schema_with = constants_schema)]
    pub constants: BTreeMap<String, String>,
}

/// Schema of the columns of an import.
pub fn columns_schema() -> Object {
    let description = "Names of the columns of a CSV file, or of the keys of NDJSON, by the field of an observation \
        that each contains. A field under its own name needs none. Not for `merchant`.";
    texts_by_field(&FIELDS, description)
}

/// Schema of the constants of an import.
pub fn constants_schema() -> Object {
    let description = "Values that are the same in every row, by the field of an observation; `time_zone` is the zone \
        of times that name none (`Europe/Berlin`, `+01:00`). `merchant` requires `store`, and takes `region`, \
        `platform`, `currency` and `time_zone` besides. No field is both a constant and a column.";
    texts_by_field(&[&FIELDS[..], &[TIME_ZONE]].concat(), description)
}

fn texts_by_field(fields: &[&str], description: &str) -> Object {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    ObjectBuilder::new()
        .description(Some(description))
        .property_names(Some(text().enum_values(Some(fields.iter().copied())).build()))
        .additional_properties(Some(text().max_length(Some(LONGEST)).pattern(Some(r"^[^\x00]*$"))))
        .build()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(
    description = "Format of a file: `observations`, CSV or NDJSON with the fields of observations; or \
    `merchant`, product data of Google Merchant Center as TSV, CSV, RSS or Atom."
)]
#[serde(rename_all = "snake_case")]
pub enum ImportFormat {
    /// CSV or NDJSON of observations.
    #[default]
    Observations,
    /// Google Merchant Center product data: TSV, CSV, RSS or Atom.
    Merchant,
}

impl ImportOptions {
    /// The first invalid text, which no file can contain: `columns` or `constants`, the name in it, and the problem.
    pub fn bad_text(&self) -> Option<(&'static str, &str, String)> {
        let lists = [("columns", &self.columns), ("constants", &self.constants)];
        let texts = lists.into_iter().flat_map(|(list, map)| map.iter().map(move |pair| (list, pair)));
        for (list, (name, value)) in texts {
            // A name in a header may contain a line end, but not a NUL, which PostgreSQL cannot store either.
            if name.contains('\0') || value.contains('\0') {
                return Some((list, name, "contains a NUL".to_owned()));
            }
            // A constant is repeated in every row.
            if value.len() > LONGEST {
                return Some((list, name, format!("is longer than {LONGEST} bytes")));
            }
        }
        None
    }

    /// Meaning of the rows.
    ///
    /// # Errors
    /// The options contradict each other or have invalid values. The error is a sentence.
    pub fn meaning(&self) -> Result<Meaning, String> {
        let pairs = |map: &BTreeMap<String, String>| {
            map.iter().map(|(field, value)| format!("{field}={value}")).collect::<Vec<_>>()
        };
        if let Some((list, name, problem)) = self.bad_text() {
            return Err(format!("has in {list} a {name} that {problem}"));
        }
        if self.format == ImportFormat::Observations {
            let mapping = Mapping::parse(&pairs(&self.columns), &pairs(&self.constants));
            return mapping.map(Meaning::Fields).map_err(|error| error.to_string());
        }
        if !self.columns.is_empty() {
            return Err("product data has its own columns: only constants can be given".to_owned());
        }
        const TAKEN: [&str; 5] = ["store", "region", "platform", "currency", "time_zone"];
        if let Some(other) = self.constants.keys().find(|key| !TAKEN.contains(&key.as_str())) {
            return Err(format!("of product data {} can be given, not {other}", TAKEN.join(", ")));
        }
        let of = |field: &str| self.constants.get(field).cloned();
        let invalid = |field: &'static str| move |problem: String| format!("the constant {field} {problem}");
        let store = of("store").ok_or("product data does not name its store; the constants must")?;
        let region = of("region").map(|region| check_region(Some(&region))).transpose();
        let currency = of("currency").map(|code| code.trim().parse()).transpose();
        let zone = of("time_zone").map_or(Ok(Zone::UTC), |zone| zone.parse());
        Ok(Meaning::Products(Merchant {
            store,
            region: region.map_err(invalid("region"))?,
            platform: of("platform"),
            currency: currency.map_err(invalid("currency"))?,
            zone: zone.map_err(invalid("time_zone"))?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(json: &str) -> Result<Meaning, String> {
        serde_json::from_str::<ImportOptions>(json).unwrap().meaning()
    }

    #[test]
    fn invalid_options_are_reported_before_anything_is_read() {
        assert!(matches!(meaning("{}"), Ok(Meaning::Fields(_))));
        assert!(matches!(
            meaning(r#"{"columns": {"sku": "ID"}, "constants": {"store": "Steam"}}"#),
            Ok(Meaning::Fields(_))
        ));
        assert!(meaning(r#"{"constants": {"time_zone": "-08:00"}}"#).is_ok());
        let shop = r#"{"format": "merchant", "constants":
            {"store": "Shop", "region": "UK", "currency": "GBP", "time_zone": "Europe/London"}}"#;
        assert!(matches!(meaning(shop), Ok(Meaning::Products(_))));
        for (options, why) in [
            (r#"{"columns": {"prize": "x"}}"#, "prize is not one of"),
            (r#"{"format": "merchant"}"#, "store"),
            (r#"{"format": "merchant", "columns": {"sku": "x"}}"#, "its own columns"),
            (r#"{"format": "merchant", "constants": {"store": "x", "price": "1"}}"#, "not price"),
            (r#"{"format": "merchant", "constants": {"store": "x", "region": "EU"}}"#, "\"EU\" is neither"),
            (
                r#"{"format": "merchant", "constants": {"store": "x", "currency": "euro"}}"#,
                "currency must be",
            ),
            (
                r#"{"format": "merchant", "constants": {"store": "x", "time_zone": "CEST"}}"#,
                "time_zone must be",
            ),
            (r#"{"constants": {"region": "EN"}}"#, "\"EN\" is neither"),
            (r#"{"constants": {"time_zone": "+1"}}"#, "time_zone must be"),
        ] {
            let problem = meaning(options).unwrap_err();
            assert!(problem.contains(why), "{options}: {problem}");
        }
    }
}
