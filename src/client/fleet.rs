//! What the connections of a named worker say: who they are, which jobs they have, and what they should do.

use super::Client;
use crate::error::Error;
use crate::job::{Hello, JobId, Order};
use crate::protocol::native::Answer;
use crate::protocol::{Command, Wait};

impl Client {
    /// Introduces the connection as one of a worker's. Returns the verbs that the server knows.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::UnknownVerb`](crate::Code::UnknownVerb) if the server is of a version that
    /// knows no workers; otherwise see [`Client::call`].
    pub fn hello(&mut self, hello: Hello) -> Result<Vec<String>, Error> {
        match self.call(&Command::Hello(Box::new(hello)))? {
            Answer::Hello { verbs, .. } => Ok(verbs),
            _ => self.unexpected_reply(),
        }
    }

    /// Takes over the leases that lost connections of this worker had on these jobs, which must be all that it still
    /// works on: its other leases of lost connections are returned. Returns the jobs that it does not have.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::Usage`](crate::Code::Usage) without [`Client::hello`]; otherwise see
    /// [`Client::call`].
    pub fn hold(&mut self, ids: &[JobId]) -> Result<Vec<JobId>, Error> {
        self.lost(&Command::Hold { ids: ids.to_vec() })
    }

    /// Renews the leases of these jobs, whichever connection of the worker has them, each for the job's own time to
    /// run. Returns the jobs that it does not have.
    ///
    /// # Errors
    /// As for [`Client::hold`].
    pub fn beat(&mut self, ids: &[JobId]) -> Result<Vec<JobId>, Error> {
        self.lost(&Command::Beat { ids: ids.to_vec() })
    }

    fn lost(&mut self, command: &Command) -> Result<Vec<JobId>, Error> {
        match self.call(command)? {
            Answer::Held { lost, .. } => Ok(lost),
            Answer::Count(_) => Ok(Vec::new()),
            _ => self.unexpected_reply(),
        }
    }

    /// Waits for something that the worker should do, for at most `wait`. Use a connection of its own for that.
    ///
    /// # Errors
    /// As for [`Client::hold`].
    pub fn order(&mut self, wait: Wait) -> Result<Option<Order>, Error> {
        match self.call(&Command::Orders { wait })? {
            Answer::Order(order) => Ok(Some(order)),
            Answer::Empty => Ok(None),
            _ => self.unexpected_reply(),
        }
    }
}
