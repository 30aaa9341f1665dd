//! How a journal is kept: the sync policy, the size of segments, and what tests change.

use std::fmt;
use std::time::Duration;

use super::failure::OnFailure;

/// The smallest size of a segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 8 << 10;

/// When written changes are synced, and so what a reply promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before every reply: an acknowledged change survives a power cut.
    Always,
    /// At most this long after the write: an acknowledged change survives the end of the process, and a power
    /// cut loses at most the last interval.
    Interval(Duration),
    /// When the operating system decides to: an acknowledged change survives the end of the process.
    Never,
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fsync::Always => f.write_str("always"),
            Fsync::Interval(interval) => write!(f, "{}ms", interval.as_millis()),
            Fsync::Never => f.write_str("never"),
        }
    }
}

/// How a journal is kept.
#[derive(Clone)]
pub struct Options {
    /// When it is synced. Default [`Fsync::Always`].
    pub fsync: Fsync,
    /// The size of a segment. Default 16 MiB, at least [`SEGMENT_BYTES_MIN`]. Should be at least
    /// [`segment_bytes_for`](super::segment_bytes_for) the longest record; a longer record gets a longer
    /// segment.
    pub segment_bytes: u64,
    /// Called once when the journal can no longer be written. It must not block or call the journal.
    pub on_failure: Option<OnFailure>,
    /// Whether the journal has threads of its own. Without them everything is done inside the calls, one
    /// operation after another in a fixed order: for tests.
    #[doc(hidden)]
    pub background: bool,
    /// Fixes the salts of the segments: for tests that compare bytes.
    #[doc(hidden)]
    pub salt: Option<u64>,
    /// A fault that is built in on purpose, to check that the tests find it.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            fsync: Fsync::Always,
            segment_bytes: 16 << 20,
            on_failure: None,
            background: true,
            salt: None,
            sabotage: Sabotage::None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("fsync", &self.fsync)
            .field("segment_bytes", &self.segment_bytes)
            .field("background", &self.background)
            .field("sabotage", &self.sabotage)
            .finish_non_exhaustive()
    }
}

/// Faults that are built in on purpose. A test that passes with one of them checks nothing.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// Waits end before the changes are written.
    ReplyBeforeWrite,
    /// Waits end when the changes are written, before they are synced.
    ReplyBeforeSync,
    /// The directory is never synced.
    SkipDirectorySync,
    /// A failed sync counts as a successful one.
    IgnoreSyncError,
    /// The oldest segment is removed before its copies are durable.
    DropBeforeSync,
}
