//! Regions: the countries of ISO 3166-1, and a code for everywhere.

use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Region of an offer that is valid everywhere. ISO 3166-1 leaves this code to its users.
pub const EVERYWHERE: &str = "ZZ";

/// The 249 officially assigned two-letter codes (<https://www.iso.org/obp/ui/#search/code/>), in alphabetical order.
const CODES: &str = "\
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD \
    CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF \
    GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN \
    KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA \
    NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI \
    SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI \
    VN VU WF WS YE YT ZA ZM ZW";

/// Schema of a region that a request names. Requests and responses have it as a text (`check_region`).
pub struct Region;

impl PartialSchema for Region {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A country by its ISO 3166-1 code, or `ZZ` for everywhere."))
            .enum_values(Some(CODES.split(' ').chain([EVERYWHERE])))
            .examples([json!("DE")])
            .into()
    }
}

impl ToSchema for Region {}

/// Known codes: indexed by the first letter, with a bit for each second letter.
static KNOWN: [u32; 26] = read_codes(CODES.as_bytes());

const fn read_codes(text: &[u8]) -> [u32; 26] {
    let mut known = [0; 26];
    let mut at = 0;
    while at + 1 < text.len() {
        if text[at] == b' ' {
            at += 1;
        } else {
            known[(text[at] - b'A') as usize] |= 1 << (text[at + 1] - b'A');
            at += 2;
        }
    }
    known
}

/// The code of a region by which a list is filtered, in upper case. An empty one is no filter that a caller can mean: it
/// is neither everywhere, as in an observation, nor any region.
///
/// # Errors
/// Those of [`check_region`], and if the text is blank.
pub fn check_named_region(region: &str) -> Result<String, String> {
    if region.trim().is_empty() {
        return Err("must not be empty".to_owned());
    }
    check_region(Some(region))
}

/// The code of a region, in upper case. `None` and the empty text mean everywhere, `ZZ`. `UK`, as shops write it, is
/// `GB`.
///
/// # Errors
/// The code is not a country's, such as `EU`, which ISO 3166-1 only reserves. The error is the rest of a sentence that
/// begins with the name of the field.
pub fn check_region(region: Option<&str>) -> Result<String, String> {
    let given = region.map(str::trim).unwrap_or_default();
    if given.is_empty() {
        return Ok(EVERYWHERE.to_owned());
    }
    let code = given.to_ascii_uppercase();
    if code == "UK" {
        return Ok("GB".to_owned());
    }
    let is_known = match code.as_bytes() {
        [first @ b'A'..=b'Z', second @ b'A'..=b'Z'] => {
            KNOWN[usize::from(first - b'A')] & (1 << (second - b'A')) != 0
        }
        _ => false,
    };
    if is_known || code == EVERYWHERE {
        return Ok(code);
    }
    let named: String = given.chars().filter(|c| !c.is_control()).take(20).collect();
    Err(format!("must be an ISO 3166-1 code of two letters, or \"ZZ\" for everywhere; {named:?} is neither"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_and_everywhere_are_regions() {
        for (given, code) in [
            (None, "ZZ"),
            (Some(""), "ZZ"),
            (Some("zz"), "ZZ"),
            (Some(" de "), "DE"),
            (Some("GB"), "GB"),
            (Some("UK"), "GB"),
            (Some("uk"), "GB"),
        ] {
            assert_eq!(check_region(given).as_deref(), Ok(code), "{given:?}");
        }
        let codes: Vec<&str> = CODES.split(' ').collect();
        assert_eq!(codes.len(), 249);
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(codes.iter().all(|code| check_region(Some(code)).as_deref() == Ok(code)));
        assert_eq!(KNOWN.iter().map(|row| row.count_ones()).sum::<u32>(), 249);
    }

    #[test]
    fn codes_of_no_country_are_refused_by_name() {
        for given in ["EN", "EU", "XK", "AA", "XX", "WW", "DEU", "Germany", "D", "1A", "Ж", "D\u{0}"] {
            let problem = check_region(Some(given)).unwrap_err();
            let name: String = given.chars().filter(|c| !c.is_control()).collect();
            assert!(problem.contains(&format!("{name:?}")), "{problem}");
        }
        assert!(check_region(Some(&"x".repeat(10_000))).unwrap_err().len() < 200);
    }
}
