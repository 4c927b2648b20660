//! drivers.

pub mod images;
pub mod network;
pub mod oci;
