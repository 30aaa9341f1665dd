//! Bodies as JSON, in types of the program's own.

use std::fmt;

use serde_core::ser::Error;

use super::{Lease, Submission, is_task_name};

/// A value can't be written as JSON, or a body is not the JSON that was expected.
#[derive(Debug)]
pub struct BadJson(serde_json::Error);

impl fmt::Display for BadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad JSON: {}", self.0)
    }
}

impl std::error::Error for BadJson {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl Submission {
    /// A submission whose body is a task name and a value as JSON: `RESIZE: {"width":9}`. [`Lease::json`]
    /// reads it.
    ///
    /// # Errors
    /// [`BadJson`] if the task is not a name of `A-Z a-z 0-9 _ . -`, or if the value can't be JSON, such as a map whose
    /// keys are not text.
    pub fn json<T: serde_core::Serialize + ?Sized>(task: &str, value: &T) -> Result<Submission, BadJson> {
        if !is_task_name(task.as_bytes()) {
            return Err(BadJson(Error::custom("a task name before it has only A-Z a-z 0-9 _ . -")));
        }
        let json = serde_json::to_string(value).map_err(BadJson)?;
        Ok(Submission::new(format!("{task}: {json}")))
    }
}

impl Lease {
    /// Reads the JSON in the body: the part after the task name and its `: `, as in `RESIZE: {"width":9}`, or all of
    /// a body that has no task name, as in `{"to":"a: b"}`.
    ///
    /// ```
    /// use djqs::{Client, Submission, protocol::Wait};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Size {
    ///     width: u32,
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = djqs::Broker::in_memory(djqs::broker::Config::default());
    /// # let server = djqs::server::Server::bind("127.0.0.1:0".parse()?, broker, Default::default())?;
    /// # let address = server.local_addr()?.to_string();
    /// # std::thread::spawn(move || server.run());
    /// let mut client = Client::connect(&address)?;
    /// client.submit(Submission::json("RESIZE", &Size { width: 9 })?.attempts(2))?;
    /// let lease = client.get(&[], Wait::Forever)?.expect("there is a job");
    /// assert_eq!(lease.json::<Size>()?.width, 9);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BadJson`] if that is not JSON, or not a `T`.
    pub fn json<T: serde_core::de::DeserializeOwned>(&self) -> Result<T, BadJson> {
        serde_json::from_slice(self.task_and_args().1).map_err(BadJson)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::{JobId, QueueName};

    fn read(body: &[u8]) -> Option<serde_json::Value> {
        let (id, queue, ttr) = (JobId(1), QueueName::default(), Duration::from_secs(60));
        Lease { id, queue, attempt: 1, ttr, body: body.into() }.json().ok()
    }

    #[test]
    fn json_is_the_body_or_what_follows_the_task_name() {
        let object = serde_json::json!({ "a": 1 });
        assert_eq!(read(br#"{"a": 1}"#), Some(object.clone()));
        assert_eq!(read(br#"RESIZE: {"a": 1}"#), Some(object.clone()));
        assert_eq!(read(b"[1, 2]"), Some(serde_json::json!([1, 2])));
        assert_eq!(read(b"RESIZE: 7"), Some(7.into()));
        assert_eq!(read(b"7"), Some(7.into()));
        assert_eq!(read(br#"{"to": "a: b"}"#), Some(serde_json::json!({ "to": "a: b" })));
        assert_eq!(read(br#""a: b""#), Some("a: b".into()), "a text is no task name");
        assert_eq!(
            (read(b""), read(b"RESIZE"), read(b"RESIZE: {"), read(b"RESIZE: \xff")),
            (None, None, None, None)
        );
        let submission = Submission::json("RESIZE", &object).unwrap();
        assert_eq!(&submission.body[..], br#"RESIZE: {"a":1}"#);
        for task in ["", "RE SIZE", "RE: SIZE"] {
            assert!(Submission::json(task, &object).is_err(), "{task:?}");
        }
        assert!(Submission::json("RESIZE", &std::collections::HashMap::from([((1, 2), 3)])).is_err());
    }
}
