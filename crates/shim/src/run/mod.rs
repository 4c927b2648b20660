//! The program: modes and their arguments.
//!
//! `supervise DIR [--net new|host|PATH]` runs a task or an exec, `seccomp` compiles a filter,
//! `archive` works on the files of a task. Start with [`supervisor`].

mod client;
mod confine;
mod creator;
mod external;
mod fence;
mod identity;
mod init;
mod mounts;
mod namespaces;
mod outward;
mod paths;
mod seccomp;
mod seed;
mod streams;
mod supervisor;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why the shim could not do its work; becomes one line in `shim.log`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{what}: {source}")]
    Io {
        what: String,
        source: std::io::Error,
    },
    #[error("usage: plimsoll-shim supervise DIR [--net new|host|PATH] | seccomp")]
    Usage,
}

impl RunError {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> RunError {
        RunError::Io {
            what: what.into(),
            source: source.into(),
        }
    }
}

/// Which network namespace a task gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Net {
    New,
    Host,
    Join(PathBuf),
}

pub(crate) fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plimsoll-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[OsString]) -> Result<(), RunError> {
    match args.first().and_then(|mode| mode.to_str()) {
        Some("supervise") => {
            let dir = PathBuf::from(args.get(1).ok_or(RunError::Usage)?);
            let net = match (args.get(2).and_then(|flag| flag.to_str()), args.get(3)) {
                (None, _) => Net::New,
                (Some("--net"), Some(value)) => match value.to_str() {
                    Some("new") => Net::New,
                    Some("host") => Net::Host,
                    _ => Net::Join(PathBuf::from(value)),
                },
                _ => return Err(RunError::Usage),
            };
            supervisor::run(&dir, &net)
        }
        Some("seccomp") => seccomp::compile_stdin(),
        _ => Err(RunError::Usage),
    }
}
