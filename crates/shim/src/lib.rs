//! shim.
