//! The Docker Engine API of a pool, for unmodified Docker clients.
//!
//! What it is: a translation. Docker's requests become verbs of `control`, their results become Docker's answers; the
//! word "container" exists only here. What it is not: policy. Whether a tenant may have what it asks for is decided in
//! `control` and `plan`, on the value that is then executed.
//!
//! Start at [`router`], then `routes` (every route of Docker has a line there), then `from_docker`.
//!
//! What always holds: a field that is not supported and differs from its default is refused by name; an object of
//! another pool is answered exactly like one that does not exist; no answer is held in memory in full if it can be
//! long, and a reader that is slow slows down its own stream only.

mod containers;
mod detach;
mod events;
mod exec;
mod failure;
mod filters;
mod from_docker;
pub mod fuzz;
#[cfg(test)]
mod golden;
mod hijack;
mod images;
mod lifecycle;
mod networks;
mod reply;
mod request;
mod routes;
mod service;
mod stats;
mod stdcopy;
mod streams;
mod system;
#[cfg(test)]
mod tests;
mod to_docker;
mod value;
mod version;

pub use failure::Failure;
pub use request::Identity;
pub use service::{router, router_by_identity};
