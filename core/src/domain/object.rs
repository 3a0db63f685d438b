//! JSON objects for structs that come from outside. Serde's derived code also accepts an array for a struct, in the
//! order of its fields; the types here accept an object only.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Wrapper that deserialises a `T` from a JSON object only.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Object)
    }
}

/// Deserialises a value from a JSON object only: for `deserialize_with` on a field that is a struct, or an enum whose
/// variants have values.
///
/// # Errors
/// The value is not an object, `T` refuses it, or an enum's object has more than one key.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let value = T::deserialize(MapAccessDeserializer::new(&mut map))?;
            // An enum reads only the key that names its variant.
            match map.next_key::<IgnoredAny>()? {
                None => Ok(value),
                Some(_) => Err(A::Error::custom("must have exactly one key")),
            }
        }
    }
    deserializer.deserialize_map(Fields(PhantomData))
}
