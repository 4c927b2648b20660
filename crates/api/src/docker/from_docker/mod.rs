//! Docker's words into the model's: pure functions.
//!
//! Start at [`create::ContainerDraft`]: the body of `POST /containers/create`, which becomes a
//! [`model::WorkloadSpec`] once the image's defaults are known.
//!
//! What always holds: a field that differs from its default and cannot be expressed is refused by name, never dropped.
//! Whether a tenant may have what is expressed is not decided here but in `plan`.

pub(super) mod create;
pub(super) mod host_config;
pub(super) mod mounts;
pub(super) mod placement;
pub(super) mod ports;
pub(super) mod resources;
pub(super) mod small;
