//! HTTP clients over Unix sockets, TCP and TLS.
//!
//! Start at [`native::Client`] for the native API; [`endpoint`] says where and [`trust`] whom to believe. [`http2`]
//! is what a host uses for its link.

pub mod endpoint;
pub mod http2;
pub mod native;
mod streams;
pub mod trust;
