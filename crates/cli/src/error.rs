//! What is said when a command fails: what failed, why, and what to do; and the exit code.

use wire::client::native::ClientError;
use wire::native::ProblemKind;

use crate::exit;

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What failed, a fragment such as `cannot stop workload "web"`; empty: say nothing, only exit.
    pub what: String,
    /// Why, for people; empty: `what` says it all.
    pub why: String,
    /// What to do; empty: nothing known.
    pub hint: String,
    /// One of [`crate::exit`].
    pub code: u8,
}

/// Result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure.
    pub(crate) fn new(code: u8, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: String::new(),
            hint: String::new(),
            code,
        }
    }

    /// Ends the program without a word.
    pub(crate) fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// Adds the reason.
    #[must_use]
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Adds what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The lines for standard error.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut out = format!("error: {}\n", self.what);
        for (name, text) in [("why", &self.why), ("try", &self.hint)] {
            if !text.is_empty() {
                out.push_str(&format!(
                    "  {name}: {}\n",
                    text.trim_end().replace('\n', "\n       ")
                ));
            }
        }
        out
    }
}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    /// Adds what was being done, a fragment such as `cannot list pools`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, ClientError> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| from_client(what(), &error))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::new(exit::FAILED, what()).why(error.to_string()))
    }
}

fn from_client(what: String, error: &ClientError) -> Failure {
    match error {
        ClientError::Refused(problem) => {
            let (code, hint) = of_kind(problem.kind);
            let hint = problem.hint.clone().unwrap_or_else(|| hint.to_owned());
            let why = if problem.kind == ProblemKind::Internal {
                format!("{} (request {})", problem.message, problem.request_id)
            } else {
                problem.message.clone()
            };
            Failure::new(code, what).why(why).hint(hint)
        }
        ClientError::Unreachable { source, .. } => Failure::new(exit::UNREACHABLE, what)
            .why(chain(error))
            .hint(match source.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "the local server is for root: use sudo, or log in with `plimsoll login URL`"
                }
                std::io::ErrorKind::InvalidData => {
                    "if the installation's CA is a new one, log in again with `plimsoll login URL`"
                }
                _ => {
                    "start a server (`plimsoll dev up` for a cluster on this machine), or name one with --server or PLIMSOLL_SERVER"
                }
            }),
        ClientError::Trust(_) => Failure::new(exit::UNREACHABLE, what)
            .why(chain(error))
            .hint("check the address, and that the server's TLS endpoint is up"),
        ClientError::Broken { .. } | ClientError::Timeout { .. } => Failure::new(exit::UNREACHABLE, what)
            .why(chain(error))
            .hint("see whether the server still runs; what was asked for may have been done"),
        ClientError::Unreadable { .. } => Failure::new(exit::FAILED, what)
            .why(chain(error))
            .hint("compare `plimsoll version`: program and server may be of different versions"),
        ClientError::Endpoint(_) | ClientError::Request(_) => {
            Failure::new(exit::USAGE, what).why(chain(error))
        }
    }
}

fn of_kind(kind: ProblemKind) -> (u8, &'static str) {
    match kind {
        ProblemKind::NotFound => (exit::NOT_FOUND, ""),
        ProblemKind::Conflict => (exit::CONFLICT, ""),
        ProblemKind::Exhausted => (
            exit::CONFLICT,
            "see `plimsoll host ls` for room, and ask for less or remove something",
        ),
        ProblemKind::Forbidden => (
            exit::REFUSED,
            "ask whoever administers the pool for a role that allows it",
        ),
        ProblemKind::Unauthenticated => (exit::REFUSED, "log in with `plimsoll login URL`"),
        ProblemKind::TooManyRequests => (exit::REFUSED, "wait a minute"),
        ProblemKind::Unavailable => (
            exit::FAILED,
            "see `plimsoll host ls`; trying again later helps",
        ),
        ProblemKind::Timeout => (exit::FAILED, "look what came of it before trying again"),
        ProblemKind::Full => (exit::FAILED, "free space on the server's disk"),
        ProblemKind::Invalid | ProblemKind::TooLarge => (exit::FAILED, ""),
        ProblemKind::Internal => (
            exit::FAILED,
            "look for the request's id in the server's log",
        ),
    }
}

/// An error with its causes in one line; a cause that only repeats what was said is left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_what_why_and_what_to_do() {
        let failure = Failure::new(exit::CONFLICT, "cannot remove workload \"web\"")
            .why("it runs")
            .hint("stop it first, or use --force");
        assert_eq!(
            failure.text(),
            "error: cannot remove workload \"web\"\n  why: it runs\n  try: stop it first, or use --force\n"
        );
    }

    #[test]
    fn an_unreachable_server_has_its_own_code() {
        let error = ClientError::Unreachable {
            endpoint: "unix:///x".into(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        let failure = from_client("cannot list pools".into(), &error);
        assert_eq!(failure.code, exit::UNREACHABLE);
        assert!(failure.hint.contains("plimsoll dev up"), "{}", failure.hint);
    }
}
