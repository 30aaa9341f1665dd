//! The beanstalkd dialect: lower-case verbs and the replies that beanstalkd's clients expect, to the byte.
//!
//! ```text
//! request = verb [ SP argument ]* CRLF [ body CRLF ]
//! ```
//! Only `put` has a body, of as many bytes as its last argument says. The published protocol is beanstalkd's
//! `doc/protocol.txt`; docs/beanstalkd.md says where this server differs, and why. The dialect's own words:
//!
//! | beanstalkd | here |
//! |---|---|
//! | tube | queue |
//! | put | submit |
//! | reserve, reserved | lease, leased |
//! | release | return |
//! | bury, buried | give up, dead |
//! | kick | make ready by hand |
//! | time left, ttr | what remains of the lease, its whole |
//!
//! A line may end in LF alone, for people who type; a body ends in CR LF, as beanstalkd has it.

mod reply;
mod request;
mod yaml;

pub use reply::write_reply;
pub use request::LINE_BYTES_MAX;

pub(super) use request::{decode, is_nothing, outgrown};

/// What a reply answers: the verb of its command, since the same thing is said in other words for other
/// verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as it is written")]
#[non_exhaustive]
pub enum Verb {
    Put,
    Reserve,
    ReserveWithTimeout,
    ReserveJob,
    Delete,
    Release,
    Bury,
    Kick,
    KickJob,
    Touch,
    Peek,
    PeekReady,
    PeekDelayed,
    PeekBuried,
    Use,
    Watch,
    Ignore,
    ListTubes,
    ListTubeUsed,
    ListTubesWatched,
    Stats,
    StatsJob,
    StatsTube,
    PauseTube,
    Quit,
    /// What was no verb, or not in its form.
    None,
}
