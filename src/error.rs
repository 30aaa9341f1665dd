//! The errors. A [`Refusal`] is the server's reply to a command that it did not execute. An [`Error`] is what
//! [`Client`](crate::Client) returns: a refusal, or that the server could not be asked.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::job::{BadKey, BadQueueName};

/// The stable word in an `ERR` reply. Programs branch on it; the text after it is for people.
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
    /// No such job exists, or it is not in the state that the command needs.
    NotFound,
    /// The lease has lapsed, or another connection has it.
    NotLeased,
    /// The server has no room: memory, disk or connections. The refusal says when to try again.
    Full,
    /// The server takes no new jobs, or is about to stop.
    Draining,
    /// The journal can no longer be written.
    Unavailable,
    /// A bug in the server.
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

/// The server's reply to a command that it did not execute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The kind of refusal.
    pub code: Code,
    /// How long to wait before trying again; only with [`Code::Full`].
    pub retry_after: Option<Duration>,
    /// Whether the lease has ended because the job was cancelled; only with [`Code::NotLeased`].
    pub cancelled: bool,
    /// What to do about it, for people: one printable line. It may change in any version.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal that does not say when to try again.
    pub fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code, retry_after: None, cancelled: false, text: text.into() }
    }

    /// A refusal because there is no room. The client should try again after `retry_after`.
    pub fn full(retry_after: Duration, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { retry_after: Some(retry_after), ..Refusal::new(Code::Full, text) }
    }

    /// A refusal of a report about a job whose lease has ended because it was cancelled.
    pub fn cancelled(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { cancelled: true, ..Refusal::new(Code::NotLeased, text) }
    }

    /// A refusal because the command is not well formed.
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

/// Why a call of [`Client`](crate::Client) failed.
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
    /// The connection broke before a reply arrived. The command may or may not have taken effect.
    Disconnected {
        /// The socket's error; `None` if the server closed the connection.
        source: Option<io::Error>,
    },
    /// The server refused the command; nothing changed.
    Refused(Refusal),
    /// The system can't start a thread; nothing was sent.
    Thread(io::Error),
    /// A text is not the name of a queue; nothing was sent.
    BadName(BadQueueName),
    /// A text is not a unique key; nothing was sent.
    BadKey(BadKey),
    /// The server sent something that is not a reply. The text quotes it, escaped.
    BadReply(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connect { server, source } => write!(f, "cannot reach {server}: {source}"),
            Error::Disconnected { source: Some(source) } => write!(f, "the connection broke: {source}"),
            Error::Disconnected { source: None } => write!(f, "the server closed the connection"),
            Error::Refused(refusal) => write!(f, "refused: {refusal}"),
            Error::Thread(source) => write!(f, "cannot start a thread: {source}"),
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
            Error::Thread(source) => Some(source),
            Error::BadName(bad) => Some(bad),
            Error::BadKey(bad) => Some(bad),
            Error::BadReply(_) => None,
        }
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
