//! Structs of JSON that come from outside. Serde's own code takes an array for a struct too, by the order of its fields;
//! here only an object is one.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A `T` that was an object.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Object)
    }
}

/// For `deserialize_with` of a field that is a struct, or an enum whose variants have values.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let value = T::deserialize(MapAccessDeserializer::new(&mut map))?;
            // An enum reads its one name alone.
            match map.next_key::<IgnoredAny>()? {
                None => Ok(value),
                Some(_) => Err(A::Error::custom("must have exactly one key")),
            }
        }
    }
    deserializer.deserialize_map(Fields(PhantomData))
}
