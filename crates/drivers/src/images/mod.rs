//! Images on this host: a content-addressed store, and the ways into and out of it.
//!
//! What it is: pull from registries, load and save of archives, fetch of known content from other hosts, unpacked layers
//! for overlayfs. What it is not: it knows no tags and no pools (the server's records do), and it decides nothing:
//! an image is removed only when somebody names it.
//!
//! Start at [`LocalImages`]. What always holds: a blob or layer that has its final name is whole and has the digest
//! in its name; an image is visible only when all its content is; a crash at any moment leaves at most garbage in
//! `tmp/`, which the next start sweeps.

mod build;
mod disk;
mod documents;
mod driver;
mod error;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
mod intake;
mod jail;
mod layer;
mod limits;
mod load;
mod loadplan;
mod pipe;
mod pull;
mod registry;
mod save;
mod store;
mod streams;
mod tarentry;
mod tarstream;
mod unpack;
mod verify;

pub use error::ImagesError;
pub use limits::Limits;
pub use registry::{Patience, RegistryOptions};
pub use store::LocalImages;
