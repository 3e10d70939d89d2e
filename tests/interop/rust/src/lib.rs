//! A small worker on nothing but the generated stubs.

pub mod worker;

/// The stubs, by proto package.
#[allow(clippy::all)]
pub mod stubs {
    include!(concat!(env!("OUT_DIR"), "/stubs.rs"));
}
