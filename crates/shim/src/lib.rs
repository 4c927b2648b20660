//! The protocol, log format and state files of `plimsoll-shim`, the single-threaded supervisor of one task.
//!
//! What it is: everything a driver needs to talk to a shim and to understand what a shim left on disk.
//! What it is not: the supervisor itself; that is the program in `main.rs` and `run/`, the only place
//! in the project where libcontainer is used.
//! Start with [`message`], then [`log`] and [`state`].
//! Always holds: a file is either absent, whole, or recognisably torn; readers never trust its length fields.

pub mod capability;
pub mod frame;
pub mod log;
pub mod message;
pub mod process;
pub mod state;
