//! drivers.

pub mod images;
pub mod oci;
