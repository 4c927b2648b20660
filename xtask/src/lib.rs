//! The project's toolbox: everything that is done *to* Plimsoll rather than by it.
//!
//! What it is: the checks of the source tree ([`tidy`]), the steps of continuous integration ([`ci`]), the builder of
//! test and demo images from Debian packages ([`images`]), the guided demo ([`demo`]) and the starters of benchmarks,
//! simulator and fuzzing.
//! What it is not: no product crate depends on it, and it holds no shell scripts: the Makefile and `.ci/run` only call it.
//!
//! Start at `main.rs`, which maps one subcommand to one function of these modules.

pub mod ci;
pub mod demo;
pub mod fuzz;
pub mod images;
pub mod process;
pub mod repo;
pub mod setup;
pub mod tidy;
