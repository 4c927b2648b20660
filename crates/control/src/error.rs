//! The public error: a small set of classes, a message for people, and inner context for the log.

use std::fmt;

/// Classes of errors; each personality has one table from these to its own codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The thing does not exist, or the caller may not know that it does.
    NotFound,
    /// The thing is not in a state that allows it, or a name is taken.
    Conflict,
    /// The request can never be right.
    Invalid,
    /// The caller may not do it.
    Forbidden,
    /// Who the caller is could not be established.
    Unauthenticated,
    /// No host fits, or a quota is used up.
    Exhausted,
    /// A host or the store cannot be reached now.
    Unavailable,
    /// More than is allowed at once.
    TooLarge,
    /// No room on a disk.
    Full,
    /// A defect of the program.
    Internal,
}

/// What went wrong. `message` says what failed, why, and what to do; it never holds secrets, host paths of the
/// platform, or names of other pools, except of those above the caller's own when one of them ran out.
pub struct Error {
    /// Class.
    pub kind: ErrorKind,
    /// For people outside.
    pub message: String,
    /// For the log.
    pub context: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result of a verb.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of a class.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            context: None,
        }
    }

    /// Adds inner context.
    #[must_use]
    pub fn with_context(
        mut self,
        context: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.context = Some(context.into());
        self
    }

    /// "No such …" for a noun and the reference that was looked for.
    #[must_use]
    pub fn not_found(noun: &str, reference: &str) -> Self {
        let shown: String = reference
            .chars()
            .take(128)
            .flat_map(char::escape_default)
            .collect();
        Self::new(ErrorKind::NotFound, format!("no such {noun}: {shown}"))
    }

    /// A conflict.
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// A request that can never be right.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self.kind {
            ErrorKind::Unavailable | ErrorKind::Exhausted | ErrorKind::Full => true,
            ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Invalid
            | ErrorKind::Forbidden
            | ErrorKind::Unauthenticated
            | ErrorKind::TooLarge
            | ErrorKind::Internal => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        if let Some(context) = &self.context {
            write!(f, " ({context})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.context
            .as_deref()
            .map(|context| context as &(dyn std::error::Error + 'static))
    }
}

impl From<store::CommitError> for Error {
    fn from(error: store::CommitError) -> Self {
        use store::CommitError as C;
        let (kind, message) = match &error {
            C::Conflict { .. } => {
                (ErrorKind::Conflict, "it was changed by someone else at the same time: try again".to_owned())
            }
            C::NameTaken { name, .. } => {
                (ErrorKind::Conflict, format!("the name \"{}\" is already in use", name.name))
            }
            C::Full { .. } => (
                ErrorKind::Full,
                "the server's disk is full: nothing was changed; free space there (removing things still works)".into(),
            ),
            C::Closed => (ErrorKind::Unavailable, "the server is shutting down".into()),
            C::Backend { outcome_unknown, .. } => (
                ErrorKind::Unavailable,
                if *outcome_unknown {
                    "the store failed and it is not known whether the change was made: look before trying again".into()
                } else {
                    "the store cannot be reached: nothing was changed; try again".into()
                },
            ),
            C::TooLarge { .. } => (ErrorKind::TooLarge, error.to_string()),
            C::Duplicate { .. } | C::Encode { .. } => {
                (ErrorKind::Internal, "the change could not be written: this is a defect".into())
            }
        };
        Self::new(kind, message).with_context(error)
    }
}
