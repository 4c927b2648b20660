//! The user's program: commands, output, terminal. A client of the native API and nothing else.
//!
//! What it is not: it knows no store, no host and no policy; it never reads the server's files.
//!
//! Start at [`args::Cli`], the one definition parser, help, completions and man pages come from; then [`run`].
//!
//! What always holds: data goes to standard output and everything else to standard error; what is printed for
//! programs (`--output json|yaml`, `--quiet`) carries no colour and no headings; exit codes are those of [`exit`].

pub mod args;
pub mod exit;

mod app;
mod commands;
mod error;
mod human;
mod output;
mod profile;
mod run;
mod terminal;

pub use run::{command, dispatch, run};
