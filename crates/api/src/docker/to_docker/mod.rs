//! The model's words into Docker's: pure functions.
//!
//! Start at [`container`]. What always holds: these read values only; nothing is asked of a host to answer a list.

pub(super) mod container;
pub(super) mod host_config;
pub(super) mod image;
pub(super) mod network;
pub(super) mod text;
