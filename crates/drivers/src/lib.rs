//! drivers.

pub mod images;
