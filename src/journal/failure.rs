//! What can go wrong: why a journal can't be opened, and why it can no longer be written.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::segment::{Damage, FORMAT_VERSION};
use super::storage::DiskError;

/// Called once, from the thread that found it, when the journal can no longer be written.
pub type OnFailure = Arc<dyn Fn(&Failure) + Send + Sync>;

/// Why the journal can no longer be written.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The operating system reported an error.
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Bytes that had been durable are damaged.
    Damaged(Damage),
    /// A fault in the code has left a change half made, so nothing after it may be kept.
    Broken,
    /// It was closed.
    Closed,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            Failure::Damaged(damage) => damage.fmt(f),
            Failure::Broken => f.write_str("a fault in the code has left a change half made"),
            Failure::Closed => f.write_str("it is closed"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Failure::Io { source, .. } => Some(source),
            Failure::Damaged(_) | Failure::Broken | Failure::Closed => None,
        }
    }
}

/// The journal can no longer be written. It is not known whether the change that was waited for survives a
/// restart.
#[derive(Clone, Debug)]
pub struct Unavailable(pub Arc<Failure>);

impl From<Failure> for Unavailable {
    fn from(failure: Failure) -> Self {
        Unavailable(Arc::new(failure))
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal can no longer be written: {}", self.0)
    }
}

impl std::error::Error for Unavailable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// Why a journal can't be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory can't be opened, or another server has locked it.
    Disk(DiskError),
    /// Bytes that had been durable are damaged.
    Damaged(Damage),
    /// A segment is missing.
    Missing {
        /// Its file.
        path: PathBuf,
    },
    /// A later version of this program wrote it.
    Version {
        /// The file.
        path: PathBuf,
        /// The version of its format.
        version: u32,
    },
    /// The operating system reported an error.
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Everything was read, but the first batch can't be written.
    Unavailable(Unavailable),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Disk(e) => e.fmt(f),
            OpenError::Damaged(damage) => damage.fmt(f),
            OpenError::Missing { path } => write!(f, "{} is missing", path.display()),
            OpenError::Version { path, version } => write!(
                f,
                "{} has format version {version}, this program reads up to version {FORMAT_VERSION}: use a newer one",
                path.display(),
            ),
            OpenError::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
            OpenError::Unavailable(unavailable) => unavailable.0.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Disk(e) => Some(e),
            OpenError::Io { source, .. } => Some(source),
            OpenError::Unavailable(unavailable) => unavailable.source(),
            OpenError::Damaged(_) | OpenError::Missing { .. } | OpenError::Version { .. } => None,
        }
    }
}

impl From<DiskError> for OpenError {
    fn from(e: DiskError) -> Self {
        OpenError::Disk(e)
    }
}
