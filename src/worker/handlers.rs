//! Which closure handles which job: one for each task name, and one for all others.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::job::WorkerJob;
use super::outcome::Outcome;
use crate::printable::printable;

type Handler = Box<dyn Fn(&WorkerJob) -> Outcome + Send + Sync>;

/// The closures of a worker.
#[derive(Default)]
pub(super) struct Handlers {
    by_task: HashMap<Vec<u8>, Handler>,
    otherwise: Option<Handler>,
}

impl Handlers {
    pub(super) fn add<R: Into<Outcome>>(
        &mut self,
        task: &str,
        handler: impl Fn(&WorkerJob) -> R + Send + Sync + 'static,
    ) {
        self.by_task.insert(task.as_bytes().to_vec(), boxed(handler));
    }

    pub(super) fn set_otherwise<R: Into<Outcome>>(
        &mut self,
        handler: impl Fn(&WorkerJob) -> R + Send + Sync + 'static,
    ) {
        self.otherwise = Some(boxed(handler));
    }

    /// Runs the job's closure. A closure that panics has failed; its panic goes no further.
    pub(super) fn run(&self, job: &WorkerJob) -> Outcome {
        let task = match job.split() {
            (b"", body) => body,
            (name, _) => name,
        };
        let Some(handler) = self.by_task.get(task).or(self.otherwise.as_ref()) else {
            return Outcome::retry(format_args!("this worker has no handler for {}", printable(task)));
        };
        // Unwind safe: a panic can only break the handler's own state, not the worker's.
        catch_unwind(AssertUnwindSafe(|| handler(job)))
            .unwrap_or_else(|panic| Outcome::retry(format_args!("panicked: {}", text_of(&*panic))))
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tasks: Vec<String> = self.by_task.keys().map(|task| printable(task)).collect();
        tasks.sort();
        f.debug_struct("Handlers")
            .field("tasks", &tasks)
            .field("otherwise", &self.otherwise.is_some())
            .finish()
    }
}

fn boxed<R: Into<Outcome>>(handler: impl Fn(&WorkerJob) -> R + Send + Sync + 'static) -> Handler {
    Box::new(move |job| handler(job).into())
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, Lease};

    fn job(body: &str) -> WorkerJob {
        WorkerJob::new(Lease::new(JobId(1), body))
    }

    #[test]
    fn closure_is_chosen_by_task_name() {
        let mut handlers = Handlers::default();
        handlers.add("UNIT", |_| ());
        handlers.add("RESULT", |job| -> Result<(), String> { Err(job.args().into_owned()) });
        handlers.add("OUTCOME", |_| Outcome::dead("no"));
        assert_eq!(handlers.run(&job("UNIT: x")), Outcome::Done);
        assert_eq!(handlers.run(&job("RESULT: x y")), Outcome::retry("x y"));
        assert_eq!(handlers.run(&job("OUTCOME")), Outcome::dead("no"), "the body is nothing but the name");
        assert_eq!(handlers.run(&job("OTHER: x")), Outcome::retry("this worker has no handler for OTHER"));
        handlers.set_otherwise(|_| Outcome::returned());
        assert_eq!(handlers.run(&job("OTHER: x")), Outcome::returned());
    }

    #[test]
    fn panic_is_a_failure_with_its_text() {
        let mut handlers = Handlers::default();
        handlers.add("LITERAL", |_| -> () { panic!("no such user") });
        handlers.add("FORMATTED", |job| -> () { panic!("no user {}", job.args()) });
        assert_eq!(handlers.run(&job("LITERAL")), Outcome::retry("panicked: no such user"));
        assert_eq!(handlers.run(&job("FORMATTED: 9")), Outcome::retry("panicked: no user 9"));
    }
}
