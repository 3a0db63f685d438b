#!/usr/bin/env bash
# utoipa 6.0.0 with utoipa-gen 6.0.1 (crates.io): where an enum is declared by a `macro_rules!` macro that writes
# `#[serde(rename = $text)]` with `$text:literal`, serde renames the variants and the derived schema does not: it lists the names
# in Rust, without a warning. A fragment `literal` reaches a derive inside of an invisible group, which serde looks into and
# utoipa-gen's own parser of serde's attributes passes over. With `$text:tt` there is no group, and both agree.
#
# Output seen:
#   serde, literal: "yellow.flashing"
#   schema, literal: ["Red","FlashingYellow"]
#   serde, tt: "yellow.flashing"
#   schema, tt: ["red","yellow.flashing"]
#
# Exits with 1 when one of them behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset CARGO_TARGET_DIR
mkdir src
cat >Cargo.toml <<'END'
[package]
name = "light"
version = "0.0.0"
edition = "2024"

[dependencies]
serde = { version = "1", features = ["derive"] }
serde_json = "1"
utoipa = "=6.0.0"
utoipa-gen = "=6.0.1"
END
cat >src/main.rs <<'END'
use utoipa::PartialSchema;

macro_rules! by_literal {
    ($name:ident { $($variant:ident = $text:literal,)+ }) => {
        #[derive(serde::Serialize, utoipa::ToSchema)]
        enum $name { $(#[serde(rename = $text)] $variant,)+ }
    };
}

macro_rules! by_tt {
    ($name:ident { $($variant:ident = $text:tt,)+ }) => {
        #[derive(serde::Serialize, utoipa::ToSchema)]
        enum $name { $(#[serde(rename = $text)] $variant,)+ }
    };
}

by_literal!(Literal { Red = "red", FlashingYellow = "yellow.flashing", });
by_tt!(Tt { Red = "red", FlashingYellow = "yellow.flashing", });

fn main() {
    let _ = (Literal::Red, Tt::Red);
    let names = |schema| serde_json::to_value(schema).unwrap()["enum"].clone();
    println!("serde, literal: {}", serde_json::to_value(Literal::FlashingYellow).unwrap());
    println!("schema, literal: {}", names(Literal::schema()));
    println!("serde, tt: {}", serde_json::to_value(Tt::FlashingYellow).unwrap());
    println!("schema, tt: {}", names(Tt::schema()));
}
END
cargo run --quiet | tee said
diff said - <<'END'
serde, literal: "yellow.flashing"
schema, literal: ["Red","FlashingYellow"]
serde, tt: "yellow.flashing"
schema, tt: ["red","yellow.flashing"]
END
