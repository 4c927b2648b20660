//! Tasks on this host: one shim each, libcontainer or another OCI runtime below it.
//!
//! What it is: the agent's task runtime. What it is not: images ([`crate::images`]) and networks.
//! Start with [`OciRuntime`]. Always holds: a task belongs to its shim, not to the agent; whatever is
//! unreadable on disk is set aside, never taken for "gone"; no file of a task is followed out of its root.

mod attempt;
mod bpf;
pub mod cgroup;
mod client;
pub mod devices;
mod driver;
mod exec;
mod follow;
mod limits;
mod mounts;
mod observe;
mod pools;
mod readers;
mod runtime;
pub mod seccomp;
pub mod spec;
mod stats;
mod task_dir;
mod trash;

pub use runtime::{OciConfig, OciRuntime};
