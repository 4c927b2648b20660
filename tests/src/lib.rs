//! What the end-to-end tests stand on: a real cluster, an unmodified docker client, raw HTTP, and waiting.
//!
//! What it is not: it knows nothing of the product's crates. Everything goes through programs and sockets, as a user's
//! tools would.
//!
//! Start at [`Cluster::shared`] and [`Pool::docker`]. What always holds: a cluster is removed when its test process ends,
//! however that happens (a helper process waits for it); every wait has a deadline and says what it last saw.

pub mod cgroups;
mod cluster;
mod etcd;
mod hostile;
mod http;
pub mod image;
mod program;
mod registry;
mod run;
mod wait;

pub use cluster::{Cluster, Pool, Role, archive, processes_with};
pub use etcd::Etcd;
pub use hostile::{Blob, HostileRegistry};
pub use http::{Response, request, send, send_late_body};
pub use program::Program;
pub use registry::{PASSWORD, Registry, Security, USER};
pub use run::{Run, Started};
pub use wait::eventually;
