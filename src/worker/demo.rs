//! Simulated work: it sleeps for the time in the task.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use super::job::WorkerJob;
use super::outcome::Outcome;
use crate::printable::printable;
use crate::protocol::native::parse_duration;

/// The longest sleep between two looks at whether the job is cancelled.
const SLICE: Duration = Duration::from_millis(50);

/// Prints the job, sleeps for the time in its body, and prints that it is done.
///
/// The time is the last word of the body that is a duration followed by `_delay`, as in
/// `CALCULATE_FINANCE: 5s_delay` or `250ms_delay`. Without such a word it does not sleep. If the job is
/// cancelled meanwhile, it is returned.
pub fn demonstrate(job: &WorkerJob) -> Outcome {
    say(&format!("working on {} {}", job.id(), printable(job.body())));
    let mut left = delay(job.body());
    while !left.is_zero() {
        if job.cancelled() {
            say(&format!("gave up {}", job.id()));
            return Outcome::returned();
        }
        let slice = left.min(SLICE);
        thread::sleep(slice);
        left -= slice;
    }
    say(&format!("done {}", job.id()));
    Outcome::Done
}

/// A worker continues if nobody reads its output.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

fn delay(body: &[u8]) -> Duration {
    let words = body.rsplit(u8::is_ascii_whitespace);
    let delays =
        words.filter_map(|word| parse_duration(str::from_utf8(word).ok()?.strip_suffix("_delay")?).ok());
    { delays }.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_says_how_long_it_takes() {
        let millis = |body: &str| delay(body.as_bytes()).as_millis();
        assert_eq!(millis("CALCULATE_FINANCE: 5s_delay"), 5000);
        assert_eq!(millis("CLEANUP_LOGS: 250ms_delay now"), 250);
        assert_eq!(millis("A: 1s_delay 2s_delay"), 2000);
        assert_eq!(millis("A: 3_delay"), 3000);
        assert_eq!(millis("A: later_delay"), 0);
        assert_eq!(millis("A"), 0);
        assert_eq!(millis(""), 0);
    }
}
