//! A whole cluster in one thread: real control, real agents, fake drivers, seeded faults, and a checker that looks at
//! everything after every commit.
//!
//! What it is not: it tests no Linux, no bytes on a wire and no disk. [`loopback`] is its neighbour with real links in
//! real time, where a seed decides what is done but not in which order.
//!
//! Start at [`run::run`], which plays one [`script::Script`] in a [`cluster::Cluster`]; [`checker`] says what must
//! hold, [`shrink`] finds the steps that matter, [`entropy`] is why one seed always gives one history.
//!
//! What always holds: in a process of its own a seed gives the same trace every time; time is tokio's paused clock, so
//! that hours pass in milliseconds.

pub mod batch;
pub mod checker;
pub mod cluster;
pub mod entropy;
mod faults;
pub mod faulty_store;
pub mod host;
pub mod link;
pub mod loopback;
pub mod rng;
pub mod run;
pub mod script;
pub mod server;
pub mod shrink;
pub mod trace;
pub mod usage;
pub mod verbs;
