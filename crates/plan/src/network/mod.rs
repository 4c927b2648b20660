//! Networks: their form, who gets which address, and what hosts are told of them.
//!
//! [`check_form`] and [`choose_subnet`] are for a network that is to be made, [`next_address`] and [`check_address`]
//! for a workload that comes onto one, [`host_network`], [`peer`] and [`endpoints`] for what hosts are told.
//!
//! What always holds: an address is never given to two workloads of a network, nor the network's own, its gateway's or
//! its last one; a peer is told only of workloads that run or are to run.

mod address;
mod form;
mod told;

pub use address::{AddressRefusal, check_address, next_address};
pub use form::{ENDPOINTS_MAX, Invalid, NewNetwork, check_endpoints, check_form, choose_subnet};
pub use told::{endpoints, host_network, is_present, peer};
