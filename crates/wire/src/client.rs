//! HTTP clients over Unix sockets, TCP and TLS.

pub mod http2;
