//! HTTP personalities: what the world outside says to `control`.
//!
//! Start at [`docker`] for the Docker Engine API of a pool, [`native`] for the REST API, [`link`] for the hosts' side.
//!
//! What always holds: a personality only translates; policy is enforced once, in `control` and `plan`.

pub mod docker;
pub mod link;
pub mod native;
