//! A host without Linux: tasks, images and network in memory, with scripted ends and failures.
//!
//! For tests of the agent and of the control plane, and for simulations with thousands of hosts. One [`FakeHost`] is
//! all three drivers; it outlives agents, as a real host does.

mod host;
mod output;
mod runtime;
mod script;
mod store;

pub use host::{FakeHost, Halt, Op};
pub use script::Script;
