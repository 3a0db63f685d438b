//! Availability of offers, in the words of product feeds.

/// Whether an offer with this availability can be bought. Accepts the values of Google's product data
/// (<https://support.google.com/merchants/answer/6324448>), its earlier values, and those of
/// <https://schema.org/ItemAvailability>, in any case, with `_`, `-`, a blank or nothing between words. Without a value
/// the offer can be bought.
///
/// # Errors
/// The value is unknown. The error is the rest of a sentence that begins with the name of the field.
pub fn check_availability(availability: Option<&str>) -> Result<bool, String> {
    let given = availability.unwrap_or_default().trim();
    let schema = ["https://schema.org/", "http://schema.org/", "schema.org/", "schema:"];
    let lower = given.to_ascii_lowercase();
    let word = schema.iter().find_map(|schema| lower.strip_prefix(schema)).unwrap_or(&lower);
    let plain: String = word.chars().filter(|c| !c.is_whitespace() && !matches!(c, '_' | '-')).collect();
    match plain.as_str() {
        "" if given.is_empty() => Ok(true),
        "instock"
        | "preorder"
        | "backorder"
        | "availablefororder"
        | "available"
        | "presale"
        | "limitedavailability"
        | "onlineonly"
        | "instoreonly"
        | "madetoorder" => Ok(true),
        // A reserved item is reserved for another buyer, and an item that comes soon cannot be ordered yet.
        "outofstock" | "soldout" | "discontinued" | "unavailable" | "notavailable" | "reserved"
        | "comingsoon" => Ok(false),
        _ => {
            let named: String = given.chars().filter(|c| !c.is_control()).take(40).collect();
            Err(format!("must be one of in_stock, out_of_stock, preorder and backorder, not {named:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn availability_is_read_in_the_words_of_product_feeds() {
        for (text, available) in [
            (None, true),
            (Some(""), true),
            (Some("in_stock"), true),
            (Some("In Stock"), true),
            (Some("PREORDER"), true),
            (Some("backorder"), true),
            (Some(" out of stock "), false),
            (Some("out-of-stock"), false),
            (Some("InStock"), true),
            (Some("https://schema.org/InStock"), true),
            (Some("http://schema.org/OutOfStock"), false),
            (Some("pre-order"), true),
            (Some("available for order"), true),
            (Some("limited availability"), true),
            (Some("Back Order"), true),
            (Some("Discontinued"), false),
            (Some("SoldOut"), false),
            (Some("coming soon"), false),
        ] {
            assert_eq!(check_availability(text), Ok(available), "{text:?}");
        }
        for unknown in ["sold", "maybe", "1", "in", "https://schema.org/", "-", "in\u{0}stock"] {
            assert!(check_availability(Some(unknown)).is_err(), "{unknown:?}");
        }
        assert!(check_availability(Some("sold")).unwrap_err().ends_with("not \"sold\""));
    }
}
