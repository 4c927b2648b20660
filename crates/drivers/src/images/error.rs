//! What can go wrong with images.

use std::io;
use std::path::PathBuf;

use model::Digest;

/// An image operation that failed, with its subject.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// A system call on the store failed.
    #[error("cannot {operation} {}: {source}", outward(subject))]
    Io {
        /// What was tried, for example `write`.
        operation: &'static str,
        /// The file or thing it was tried on.
        subject: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The disk of the image store is full.
    #[error(
        "no space left on the disk of the image store while trying to {operation} {}; remove images or enlarge the disk",
        outward(subject)
    )]
    DiskFull {
        /// What was tried.
        operation: &'static str,
        /// The file or thing it was tried on.
        subject: String,
    },
    /// An entry of a layer must not or cannot be unpacked.
    #[error("invalid layer entry \"{entry}\": {reason}")]
    Entry {
        /// Name as in the archive, escaped and shortened.
        entry: String,
        /// The rule it breaks.
        reason: String,
    },
    /// Bytes that are not a (supported) tar archive or compressed stream.
    #[error("invalid archive: {0}")]
    Archive(String),
    /// More than the store accepts.
    #[error("{what} is over the limit of {limit}")]
    TooLarge {
        /// What was counted.
        what: String,
        /// The limit with its unit.
        limit: String,
    },
    /// Content differs from its name.
    #[error("{what} has digest {actual}, but {expected} was promised")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// The digest it must have.
        expected: Digest,
        /// The digest it has.
        actual: Digest,
    },
    /// Content has another length than promised.
    #[error("{what} has {actual} bytes, but {expected} were promised")]
    SizeMismatch {
        /// What was read.
        what: String,
        /// The promised length in bytes.
        expected: u64,
        /// The length in bytes, or more than the promised one when reading was stopped there.
        actual: u64,
    },
    /// A manifest, index or configuration that cannot be used.
    #[error("invalid {what}: {reason}")]
    Document {
        /// Which document.
        what: String,
        /// The rule it breaks.
        reason: String,
    },
    /// A form that is known, but deliberately not supported.
    #[error("{0}")]
    Unsupported(String),
    /// There is no such content in the store.
    #[error("no such {what}: {subject}")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        subject: String,
    },
    /// The registry refused or failed.
    #[error("registry {registry}: {reason}")]
    Registry {
        /// `host` or `host:port`.
        registry: String,
        /// Its answer in words.
        reason: String,
        /// Whether the same request may work a moment later.
        transient: bool,
    },
    /// The registry has no such repository, tag or digest (or does not tell).
    #[error("manifest for {reference} not found")]
    ManifestUnknown {
        /// The reference as people write it.
        reference: String,
    },
    /// The registry wants other credentials.
    #[error("access to {reference} denied: {reason}")]
    Denied {
        /// The reference as people write it.
        reference: String,
        /// The registry's words.
        reason: String,
    },
    /// The address must not be contacted on behalf of a user.
    #[error("refusing to contact {address}: {reason}")]
    ForbiddenAddress {
        /// Host or address.
        address: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A blob source failed.
    #[error("cannot read {digest} from its source: {reason}")]
    Source {
        /// Which content.
        digest: Digest,
        /// The source's words.
        reason: String,
    },
    /// Somebody gave up on the operation before it was done.
    #[error("cancelled")]
    Cancelled,
    /// The store's folder is used by another process.
    #[error("the image store {} is used by another process", .0.display())]
    // Said at the agent's start only.
    Locked(PathBuf),
}

impl ImagesError {
    /// Wraps a failed system call; finds limits and a full disk behind it.
    pub(crate) fn io(
        operation: &'static str,
        subject: impl Into<String>,
        source: io::Error,
    ) -> Self {
        if source.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            // One of our own readers failed inside a `Read` implementation.
            return match source.into_inner().map(|inner| inner.downcast::<Self>()) {
                Some(Ok(own)) => *own,
                Some(Err(other)) => Self::Archive(other.to_string()),
                None => Self::Archive("unknown read error".to_owned()),
            };
        }
        let subject = subject.into();
        if subject.starts_with('/') {
            tracing::debug!(operation, %subject, error = %source, "a file of the image store");
        }
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::DiskFull { operation, subject },
            _ => Self::Io {
                operation,
                subject,
                source,
            },
        }
    }

    /// For `Read` and `Write` implementations, which can only fail with an I/O error.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other),
        }
    }

    /// Whether what came was not what was asked for, so that another copy of it may be.
    pub(crate) fn is_other_content(&self) -> bool {
        match self {
            Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Archive(_)
            | Self::Entry { .. }
            | Self::TooLarge { .. } => true,
            Self::Io { .. }
            | Self::DiskFull { .. }
            | Self::Registry { .. }
            | Self::Source { .. }
            | Self::Document { .. }
            | Self::Unsupported(_)
            | Self::NotFound { .. }
            | Self::ManifestUnknown { .. }
            | Self::Denied { .. }
            | Self::ForbiddenAddress { .. }
            | Self::Cancelled
            | Self::Locked(_) => false,
        }
    }

    /// Whether trying again in a moment may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Registry { transient, .. } => *transient,
            Self::Source { .. } => true,
            Self::Io { .. }
            | Self::DiskFull { .. }
            | Self::Entry { .. }
            | Self::Archive(_)
            | Self::TooLarge { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Document { .. }
            | Self::Unsupported(_)
            | Self::NotFound { .. }
            | Self::ManifestUnknown { .. }
            | Self::Denied { .. }
            | Self::ForbiddenAddress { .. }
            | Self::Cancelled
            | Self::Locked(_) => false,
        }
    }
}

/// What users read of a subject: of a path of this host its last part only.
fn outward(subject: &str) -> &str {
    match subject.strip_prefix('/') {
        Some(path) => path.rsplit('/').next().unwrap_or(path),
        None => subject,
    }
}

/// Text from outside, escaped and shortened so that it can stand in a message.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let shown: String = String::from_utf8_lossy(&bytes[..bytes.len().min(120)])
        .chars()
        .flat_map(char::escape_default)
        .collect();
    if bytes.len() > 120 {
        format!("{shown}…")
    } else {
        shown
    }
}
