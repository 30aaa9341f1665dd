//! What to look for among jobs.

use std::sync::Arc;
use std::time::Duration;

use super::finished::Group;
use super::{JobState, Key};

/// Which jobs a search finds: those to which all of this applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Search {
    /// Those of this queue or batch; `None` for all.
    pub of: Option<Group>,
    /// Those in this state.
    pub state: Option<JobState>,
    /// Those with this key.
    pub key: Option<Key>,
    /// Those that were submitted at least this long ago, to the second.
    pub age: Option<Duration>,
    /// Those with these bytes in their body, result or reason.
    pub text: Option<Arc<[u8]>>,
}
