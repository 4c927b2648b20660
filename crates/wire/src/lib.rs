//! What goes over the wire: the native REST API, the host protocol, and a typed client.
//!
//! What it is not: it takes no decisions and opens no listening sockets.
//!
//! Start at [`native`] for the API people and programs use, [`link`] for what server and host say to each other,
//! [`client`] for calling either. [`boot`] is the clock that leases are measured with.

pub mod boot;
pub mod client;
pub mod link;
pub mod native;
