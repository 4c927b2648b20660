//! Verbs and controllers: authorise, snapshot, plan, commit; waiting; brokering of streams.
//!
//! What it is: the one door to every change. What it is not: it speaks no HTTP and no foreign word, and takes no
//! decision itself: those are functions in `plan`.
//!
//! Start at [`Control`]; its verbs are grouped by noun in the modules below. [`caller`] says who may do what,
//! [`links`] is where hosts are connected (`lease` is what they are promised there), [`documents`] sends them their desired state, [`observe`] takes in what
//! they report; [`admission`] keeps pools inside their lines.
//!
//! What always holds: every verb takes a [`Caller`] and is authorised for one [`Action`] before it reads or writes;
//! a write needs the [`caller::Grant`] that proves it; every lookup of a tenant's object is scoped to the pool before
//! matching; whoever wants the result of a change waits for it to be observed.

mod addressing;
mod admission;
pub mod caller;
pub mod copies;
mod core;
pub mod displace;
pub mod dividing;
mod documents;
pub mod error;
pub mod events;
pub mod exec;
pub mod hosts;
pub mod images;
mod kept;
mod lease;
pub mod links;
mod loss;
pub mod maintenance;
pub mod measures;
mod metrics;
mod names;
pub mod networks;
mod observe;
pub mod pki;
mod placing;
pub mod pools;
pub mod principals;
mod reclaim;
mod registries;
pub mod relay;
mod resume;
mod segments;
pub mod streams;
pub mod testing;
mod wait;
pub mod whatif;
pub mod workloads;

pub use caller::{Action, Caller};
pub use core::{Control, ControlConfig, now};
pub use error::{Error, ErrorKind, Result};
pub use kept::Kept;
pub use links::LinkStream;
pub use metrics::Metrics;
