//! The question before a PURGE.

use djqs::client::Client;
use djqs::{JobState, QueueName};

use super::typed::{option, verb};

/// What to ask before this command; `None` if it is no PURGE, or one that deletes nothing or that the server refuses.
pub(super) fn question(command: &[u8], client: &mut Client) -> Option<String> {
    if verb(command) != b"PURGE" {
        return None;
    }
    let state = option(command, "state");
    if let Some(batch) = option(command, "batch") {
        let jobs = state.map_or("the jobs".to_owned(), |state| format!("the {state} jobs"));
        return Some(format!("delete {jobs} of the batch {batch}?"));
    }
    let queue = QueueName::new(option(command, "queue")?).ok()?;
    let jobs = client.queue_stats(&queue).ok()?.jobs;
    let count = match state {
        None => jobs.ready + jobs.delayed + jobs.dead,
        Some(state) => {
            let counted = [
                (JobState::Ready, jobs.ready),
                (JobState::Delayed, jobs.delayed),
                (JobState::Dead, jobs.dead),
                (JobState::Done, jobs.done),
                (JobState::Cancelled, jobs.cancelled),
            ];
            counted.into_iter().find(|(named, _)| named.as_str() == state)?.1
        }
    };
    let state = state.map(|state| format!("{state} ")).unwrap_or_default();
    (count > 0).then(|| {
        format!("delete {count} {state}{} of the queue {queue}?", if count == 1 { "job" } else { "jobs" })
    })
}
