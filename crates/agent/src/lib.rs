//! The host's side: receives desired state, observes, asks `plan` for steps, executes, reports.
//!
//! What it is not: it decides nothing about other hosts and knows no Linux; drivers behind [`driver`]'s traits do the
//! work, with fakes beside them.
//!
//! Start at [`Agent`], which puts the parts together; `core` is the owner of all state, `job` executes, [`link`]
//! speaks with servers, [`ledger`] remembers, [`identity`] joins and renews.
//!
//! What always holds: the agent can be killed at any instant and goes on from its ledger and what it observes; it
//! works without a server; whatever the document does not name is never touched.

mod agent;
pub mod background;
mod board;
pub mod clock;
mod core;
pub mod driver;
pub mod fake;
pub mod identity;
mod imports;
mod job;
mod lease;
pub mod ledger;
pub mod link;
pub mod local;
pub mod metrics;
mod outbox;
pub mod streams;
mod tls;

pub use agent::{Agent, AgentConfig, AgentError};
pub use core::Ended;
