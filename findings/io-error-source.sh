#!/usr/bin/env bash
# Rust's std::io::Error leaves out the error that it wraps when it is asked for its cause.
#
# Met with: rustc 1.95.0 and its standard library; tokio-rustls, hyper-util and sqlx wrap their errors in it.
# `io::Error::other(inner).source()` is not `inner`: it is `inner.source()`, for `Display` of the outer one already says
# what `inner` says. So the usual loop over `source()` with `downcast_ref` never finds an error that was wrapped once, such as
# rustls::Error of a certificate that is not trusted, and finds the inner one of two. It has to ask `get_ref()` too.
#
# Output seen:
#   source() of the wrapping error: the cause
#   found by source(): false
#   found by get_ref(): true
# Ends with another code than 0 when that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/main.rs" <<'RUST'
use std::error::Error;
use std::fmt;
use std::io;

#[derive(Debug)]
struct Layer(&'static str, Option<Box<Layer>>);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Layer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|layer| layer as &(dyn Error + 'static))
    }
}

fn main() {
    let wrapped = Layer("the wrapped error", Some(Box::new(Layer("the cause", None))));
    let outer = io::Error::other(wrapped);
    println!("source() of the wrapping error: {}", outer.source().unwrap());
    let mut next: Option<&(dyn Error + 'static)> = Some(&outer);
    let mut found = false;
    while let Some(error) = next {
        found |= error.downcast_ref::<Layer>().is_some_and(|layer| layer.0 == "the wrapped error");
        next = error.source();
    }
    println!("found by source(): {found}");
    println!("found by get_ref(): {}", outer.get_ref().is_some_and(|inner| inner.is::<Layer>()));
}
RUST
rustc --edition 2021 -o "$folder/main" "$folder/main.rs"
expected='source() of the wrapping error: the cause
found by source(): false
found by get_ref(): true'
seen=$("$folder/main")
echo "$seen"
[ "$seen" = "$expected" ]
