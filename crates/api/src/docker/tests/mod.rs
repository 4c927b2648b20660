//! Tests of the whole endpoint: requests against a control over the memory store with one scripted host, and the real
//! docker client on a socket.

mod client;
mod host;
mod requests;
