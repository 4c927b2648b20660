//! drivers.

pub mod images;
pub mod network;
