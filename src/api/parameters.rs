//! Parameters of a request that name something in the catalogue, or filter its lists.

use crate::app::App;
use crate::domain::observation::check_text;
use crate::domain::region::check_named_region;
use crate::error::{Error, FieldError, Result, brief};
use crate::store::stores::{self, Store};

/// Maximum number of characters of a name or a value that an error repeats; more could truncate the sentence around
/// them.
pub const MAX_REPEATED: usize = 200;
/// Longest name, slug or id of a store, in characters.
const MAX_STORE: usize = 100;

/// The refusal of an invalid query parameter: 400.
pub fn bad_parameter(name: &str, detail: &str) -> Error {
    let (name, detail) = (brief(name, MAX_REPEATED), brief(detail, MAX_REPEATED));
    let mut refusal = Error::malformed(format!("The query parameter {name} {detail}."));
    refusal.errors.push(FieldError { pointer: name, detail });
    refusal
}

/// Finds the store that a query parameter names by its id, slug or name; `None` without the parameter.
///
/// # Errors
/// `Malformed` if there is no such store.
pub async fn named_store(app: &App, reference: Option<&str>) -> Result<Option<Store>> {
    let Some(reference) = reference else { return Ok(None) };
    if check_text(reference, MAX_STORE).is_err() {
        return Err(bad_parameter("store", "does not name a store"));
    }
    match stores::find_store(app.reader(), reference).await? {
        Some(store) => Ok(Some(store)),
        None => Err(bad_parameter("store", "does not name a store")),
    }
}

/// Parses the region of a query parameter; `None` without the parameter.
///
/// # Errors
/// `Malformed` if the value is not a region.
pub fn named_region(region: Option<&str>) -> Result<Option<String>> {
    let Some(region) = region else { return Ok(None) };
    check_named_region(region).map(Some).map_err(|problem| bad_parameter("region", &problem))
}

/// The regions whose offers are valid in the region of a query parameter: that region, and everywhere.
///
/// # Errors
/// `Malformed` if the value is not a region.
pub fn named_regions(region: Option<&str>) -> Result<Option<Vec<String>>> {
    Ok(named_region(region)?.map(|region| match region.as_str() {
        "ZZ" => vec![region],
        _ => vec![region, "ZZ".to_owned()],
    }))
}
