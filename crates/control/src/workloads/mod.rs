//! Verbs on workloads: write desired state, then wait for it to be observed.
//!
//! One module per thing that happens to a workload: [`create`], [`start`] (with [`placing`]), [`stop`], [`update`],
//! [`remove`]; [`wait`] for what is waited for, [`find`] for how one is named;
//! [`explain`] says why it is where it is.

mod create;
mod explain;
mod find;
mod placing;
mod remove;
mod start;
mod stop;
mod update;
mod wait;

pub use explain::WorkloadExplanation;
pub(crate) use find::{live, running_host};
pub(crate) use placing::{Circumstances, priority_of};
pub use plan::place::{Explanation, HostVerdict, Score, Verdict};
pub use remove::RemoveOptions;
pub use start::StartOptions;
pub use stop::StopOptions;
pub use update::WorkloadUpdate;
pub use wait::{Changed, WaitCondition, WaitOutcome};
