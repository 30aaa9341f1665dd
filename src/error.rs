//! What can go wrong: a [`Refusal`] is the server's answer to a command that it did not carry out; an
//! [`Error`] is what a client of the library gets, a refusal among others.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::job::{BadKey, BadQueueName};

/// The stable word in an `ERR` reply. Programs branch on it; the text behind it is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The command is not well formed.
    Usage,
    /// There is no such verb.
    UnknownVerb,
    /// A line or a body is over its limit.
    TooBig,
    /// A queue name breaks the naming rule.
    BadName,
    /// There is no such job, or none in the state that the command needs.
    NotFound,
    /// The lease has lapsed, or is another connection's.
    NotLeased,
    /// The server has no room: memory, disk or connections. Comes with a time after which to try again.
    Full,
    /// The server takes no new jobs, or is about to stop.
    Draining,
    /// The journal can no longer be written.
    Unavailable,
    /// A mistake of the server's own.
    Internal,
}

impl Code {
    /// All codes.
    pub const ALL: [Code; 10] = [
        Code::Usage,
        Code::UnknownVerb,
        Code::TooBig,
        Code::BadName,
        Code::NotFound,
        Code::NotLeased,
        Code::Full,
        Code::Draining,
        Code::Unavailable,
        Code::Internal,
    ];

    /// The code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Usage => "usage",
            Code::UnknownVerb => "unknown-verb",
            Code::TooBig => "too-big",
            Code::BadName => "bad-name",
            Code::NotFound => "not-found",
            Code::NotLeased => "not-leased",
            Code::Full => "full",
            Code::Draining => "draining",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }

    /// The code of that name.
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The server's answer to a command that it did not carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of refusal.
    pub code: Code,
    /// When it is worth trying again; only with [`Code::Full`].
    pub retry_after: Option<Duration>,
    /// What to do about it, for people: one line, printable, never branched upon.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal without a time to try again.
    pub fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code, retry_after: None, text: text.into() }
    }

    /// A refusal for want of room, to be tried again after `retry_after`.
    pub fn full(retry_after: Duration, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code: Code::Full, retry_after: Some(retry_after), text: text.into() }
    }

    /// A command that is not well formed.
    pub fn usage(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(Code::Usage, text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

impl std::error::Error for Refusal {}

/// What a program that talks to a server through [`crate::Client`] can run into.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made.
    Connect {
        /// The address that was tried, as it was given.
        server: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke while a reply was awaited: whether the command took effect is not known.
    Disconnected {
        /// What the socket said; `None` where the server closed in good order.
        source: Option<io::Error>,
    },
    /// The server refused the command; nothing changed.
    Refused(Refusal),
    /// A text is not the name of a queue; nothing was sent.
    BadName(BadQueueName),
    /// A text is not a unique key; nothing was sent.
    BadKey(BadKey),
    /// The server sent something that is no reply. Its text says what, escaped.
    BadReply(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connect { server, source } => write!(f, "cannot reach {server}: {source}"),
            Error::Disconnected { source: Some(source) } => write!(f, "the connection broke: {source}"),
            Error::Disconnected { source: None } => write!(f, "the server closed the connection"),
            Error::Refused(refusal) => write!(f, "refused: {refusal}"),
            Error::BadName(bad) => bad.fmt(f),
            Error::BadKey(bad) => bad.fmt(f),
            Error::BadReply(what) => write!(f, "not a reply of a DJQS server: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Connect { source, .. } => Some(source),
            Error::Disconnected { source } => source.as_ref().map(|e| e as _),
            Error::Refused(refusal) => Some(refusal),
            Error::BadName(bad) => Some(bad),
            Error::BadKey(bad) => Some(bad),
            Error::BadReply(_) => None,
        }
    }
}

/// A value can't be written as JSON, or a body is not the JSON that was expected.
#[cfg(feature = "serde")]
#[derive(Debug)]
pub struct BadJson(pub(crate) serde_json::Error);

#[cfg(feature = "serde")]
impl fmt::Display for BadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad JSON: {}", self.0)
    }
}

#[cfg(feature = "serde")]
impl std::error::Error for BadJson {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl From<BadQueueName> for Error {
    fn from(bad: BadQueueName) -> Self {
        Error::BadName(bad)
    }
}

impl From<BadKey> for Error {
    fn from(bad: BadKey) -> Self {
        Error::BadKey(bad)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Refused(refusal)
    }
}
