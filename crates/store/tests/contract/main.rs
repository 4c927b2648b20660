//! The contract of `store::Store`, run on every backend.
#![allow(clippy::unwrap_used, reason = "tests")]

#[macro_use]
mod backend;
mod basics;
mod objects;
