//! Enums that are stored as text in the database and in JSON. One list declares variants and names for both, so that a
//! `match` is exhaustive and an unknown name is an error.

use std::fmt;

/// Error for a name that an enum does not have: the database holds a value that this version does not know.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownVariant {
    pub name: String,
    /// Name of the Rust type.
    pub of: &'static str,
}

impl fmt::Display for UnknownVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no {}", self.name, self.of)
    }
}

impl std::error::Error for UnknownVariant {}

/// Declares an enum with a text name for each variant.
macro_rules! text_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:tt,)+ }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
            utoipa::ToSchema,
        )]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Names of all variants.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// Name in the database and in JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::domain::text_enum::UnknownVariant;

            fn from_str(name: &str) -> Result<$name, Self::Err> {
                match name {
                    $($text => Ok($name::$variant),)+
                    _ => Err($crate::domain::text_enum::UnknownVariant {
                        name: name.to_owned(),
                        of: stringify!($name),
                    }),
                }
            }
        }

        impl sqlx::Type<sqlx::Postgres> for $name {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                <str as sqlx::Type<sqlx::Postgres>>::type_info()
            }

            fn compatible(column: &sqlx::postgres::PgTypeInfo) -> bool {
                <str as sqlx::Type<sqlx::Postgres>>::compatible(column)
            }
        }

        impl<'r> sqlx::Decode<'r, sqlx::Postgres> for $name {
            fn decode(value: sqlx::postgres::PgValueRef<'r>) -> Result<$name, sqlx::error::BoxDynError> {
                Ok(<&str as sqlx::Decode<'r, sqlx::Postgres>>::decode(value)?.parse()?)
            }
        }
    };
}
pub(crate) use text_enum;

#[cfg(test)]
mod tests {
    text_enum! {
        pub enum Light {
            Red = "red",
            FlashingYellow = "yellow.flashing",
        }
    }

    #[test]
    fn a_name_means_the_same_everywhere_and_an_unknown_one_is_reported() {
        assert_eq!(Light::NAMES, ["red", "yellow.flashing"]);
        for light in [Light::Red, Light::FlashingYellow] {
            assert_eq!(light.name().parse(), Ok(light));
            assert_eq!(serde_json::to_value(light).unwrap(), light.name());
            assert_eq!(serde_json::from_value::<Light>(light.name().into()).unwrap(), light);
        }
        assert_eq!("green".parse::<Light>().unwrap_err().to_string(), "\"green\" is no Light");
    }
}
