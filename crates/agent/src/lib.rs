//! The host's side: receives desired state, observes, asks `plan` for steps, executes, reports.
//!
//! What it is not: it decides nothing about other hosts and knows no Linux; drivers behind [`driver`]'s traits do the
//! work, with fakes beside them.

pub mod driver;
