//! HTTP clients over Unix sockets, TCP and TLS.
