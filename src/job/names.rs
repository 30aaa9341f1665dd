//! What names a job and where it goes: its id, priority, queue and unique key.

use std::fmt;
use std::sync::Arc;

use smol_str::SmolStr;

/// The longest unique key, in bytes.
pub const MAX_KEY_BYTES: usize = 200;

/// The longest queue name, in bytes (beanstalkd's limit for tubes).
pub const MAX_QUEUE_NAME_BYTES: usize = 200;

/// A job's id: a number that counts up from 1. No two jobs of a data directory ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A job's urgency: the lowest number goes first. 0 is the most urgent; the default is 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u32);

impl Priority {
    /// Jobs of a priority below this, the default, are counted as urgent, as in beanstalkd.
    pub const URGENT_BELOW: Priority = Priority(1024);
}

impl Default for Priority {
    fn default() -> Self {
        Priority(1024)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a queue: 1 to 200 bytes of `A-Z a-z 0-9 + / ; . $ _ ( ) -`, not beginning with `-`.
///
/// The rule is beanstalkd's rule for tubes, so that a name is valid in both dialects.
///
/// ```
/// use djqs::QueueName;
/// assert!(QueueName::new("mail.outgoing").is_ok());
/// assert!(QueueName::new("-mail").is_err());
/// assert_eq!(QueueName::default().as_str(), "default");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(SmolStr);

/// A text is not a queue name. The error's text states the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadQueueName;

impl fmt::Display for BadQueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a queue name is 1 to 200 bytes of A-Z a-z 0-9 + / ; . $ _ ( ) - and does not begin with -",
        )
    }
}

impl std::error::Error for BadQueueName {}

impl QueueName {
    /// Makes a name of `text`.
    ///
    /// # Errors
    /// [`BadQueueName`] if the text breaks the rule.
    pub fn new(text: &str) -> Result<QueueName, BadQueueName> {
        QueueName::from_bytes(text.as_bytes())
    }

    /// Makes a name of bytes as they come from a socket.
    ///
    /// # Errors
    /// [`BadQueueName`] if the bytes break the rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<QueueName, BadQueueName> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"+/;.$_()-".contains(b);
        if bytes.is_empty()
            || bytes.len() > MAX_QUEUE_NAME_BYTES
            || bytes[0] == b'-'
            || !bytes.iter().all(allowed)
        {
            return Err(BadQueueName);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BadQueueName)?;
        Ok(QueueName(SmolStr::new(text)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Default for QueueName {
    /// `default`, the queue of a command that does not name one.
    fn default() -> Self {
        QueueName(SmolStr::new_static("default"))
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for QueueName {
    type Err = BadQueueName;
    fn from_str(text: &str) -> Result<Self, BadQueueName> {
        QueueName::new(text)
    }
}

/// Makes a type for names that follow the rule of queue names.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(QueueName);

        impl $name {
            /// Makes a name of `text`.
            ///
            /// # Errors
            /// [`BadQueueName`] if the text breaks the naming rule.
            pub fn new(text: &str) -> Result<$name, BadQueueName> {
                QueueName::new(text).map($name)
            }

            /// Makes a name of bytes from a client.
            ///
            /// # Errors
            /// [`BadQueueName`] if the bytes break the naming rule.
            pub fn from_bytes(bytes: &[u8]) -> Result<$name, BadQueueName> {
                QueueName::from_bytes(bytes).map($name)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl TryFrom<&str> for $name {
            type Error = BadQueueName;

            fn try_from(text: &str) -> Result<$name, BadQueueName> {
                $name::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name! {
    /// The name of a batch: jobs that were submitted to be followed together. The rule is that of queue names.
    BatchName
}

name! {
    /// The name of a worker. The rule is that of queue names.
    WorkerName
}

/// A unique key: 1 to 200 bytes of UTF-8 without spaces or control characters, not ending in `:`.
///
/// Keys are unique within a queue: while a job of the queue has the key, a second submission with it gets the
/// id of that job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// A text is not a key. The error's text states the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a key is 1 to 200 bytes of UTF-8 without spaces or control characters and does not end in :",
        )
    }
}

impl std::error::Error for BadKey {}

impl Key {
    /// Makes a key of `text`.
    ///
    /// # Errors
    /// [`BadKey`] if the text breaks the rule.
    pub fn new(text: &str) -> Result<Key, BadKey> {
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > MAX_KEY_BYTES || text.ends_with(':') || text.contains(bad) {
            return Err(BadKey);
        }
        Ok(Key(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
