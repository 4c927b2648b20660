//! Running a program and judging what it gave.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A command to be run once.
#[derive(Debug)]
pub struct Run {
    command: Command,
    input: Vec<u8>,
}

/// What a finished program gave.
#[derive(Debug, Clone)]
pub struct Started {
    /// The command line.
    pub line: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, trailing white space removed.
    pub stdout: String,
    /// Standard error, trailing white space removed.
    pub stderr: String,
}

impl Run {
    /// Wraps a command.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self {
            command,
            input: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Starts it with all its streams piped.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(mut self) -> Result<Child> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.command
            .spawn()
            .with_context(|| format!("start {:?}", self.command))
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[track_caller]
    #[must_use]
    #[expect(
        clippy::unwrap_used,
        reason = "test support: a missing program fails the test"
    )]
    pub fn finish(self) -> Started {
        let words: Vec<_> = self
            .command
            .get_args()
            .map(|a| a.to_string_lossy().into_owned())
            .collect();
        let name = self.command.get_program().to_string_lossy().into_owned();
        let line = format!("{name} {}", words.join(" "));
        let input = self.input.clone();
        let mut child = self.start().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // In a thread of its own: a large input and a large output must not wait for each other.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        // The program may have ended without reading everything.
        let _ = writer.join().unwrap();
        Started {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned(),
            stderr: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        }
    }

    /// Runs it; its standard output is the answer.
    ///
    /// # Panics
    /// When it ends with another code than 0.
    #[track_caller]
    pub fn ok(self) -> String {
        self.finish().ok()
    }

    /// Runs it and expects a failure; its standard error is the answer.
    ///
    /// # Panics
    /// When it ends with 0.
    #[track_caller]
    pub fn fails(self) -> String {
        let done = self.finish();
        assert!(
            done.code != Some(0),
            "{}: succeeded: {}",
            done.line,
            done.stdout
        );
        done.stderr
    }
}

impl Started {
    /// Its standard output.
    ///
    /// # Panics
    /// When it ended with another code than 0.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> String {
        let Self {
            line,
            code,
            stdout,
            stderr,
        } = self;
        assert!(code == Some(0), "{line}: {code:?}\n{stdout}\n{stderr}");
        stdout
    }
}
