//! The native REST API under `/api/v1`, for people and programs; the user's program is a client of it.
//!
//! What it is: a translation between `wire::native` and the verbs of `control`. What it is not: policy; and it opens
//! no socket: the listener says who is there ([`Identity`], [`PeerAddress`]).
//!
//! Start at [`router`] and the table in [`table`]; conversions are in [`from_native`], [`to_native`], [`hosts`] and [`slices`], the OpenAPI
//! document in [`document`].
//!
//! What always holds: a request without an identity reaches only health checks; every error is a
//! [`wire::native::Problem`] with the request's id; unknown fields of a request are refused by name; bodies are
//! bounded except uploads, which are passed on as they come.

mod access_log;
mod auth;
mod document;
mod exposition;
mod extract;
mod failure;
mod from_native;
mod hosts;
mod lines;
mod routes;
mod slices;
mod table;
mod to_native;
mod upgrade;
mod watch;

pub use auth::{Identity, PeerAddress};
pub use document::{openapi, openapi_json};
pub use table::{NativeConfig, router};

#[cfg(test)]
mod tests;
