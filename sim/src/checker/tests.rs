//! Each thing that must hold can fail.
