//! The contract of `store::Store`, run on every backend.
#![allow(clippy::unwrap_used, reason = "tests")]

#[macro_use]
mod backend;
mod basics;
#[path = "../common/etcd.rs"]
mod etcd;
#[path = "../common/objects.rs"]
mod objects;
mod races;
mod random;
mod watching;
