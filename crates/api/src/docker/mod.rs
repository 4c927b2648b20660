//! The Docker Engine API of a pool, for unmodified Docker clients.
//!
//! What it is: a translation. Docker's requests become verbs of `control`, their results become Docker's answers; the
//! word "container" exists only here. What it is not: policy. Whether a tenant may have what it asks for is decided in
//! `control` and `plan`, on the value that is then executed.
//!
//! Start at [`router`], then [`routes`] (every route of Docker has a line there), then [`from_docker`].
//!
//! What always holds: a field that is not supported and differs from its default is refused by name; an object of
//! another pool is answered exactly like one that does not exist; no answer is held in memory in full if it can be
//! long, and a reader that is slow slows down its own stream only.

mod failure;
mod from_docker;
mod reply;
mod value;

#[cfg(test)]
mod golden;

pub use failure::Failure;
