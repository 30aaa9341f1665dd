//! When a worker has done enough: after a number of jobs, or when its queues have nothing left for it.

use parking_lot::Mutex;

/// Whether a worker ends when its queues have nothing left for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// It does not.
    No,
    /// When they have no ready job. The slots find that out together: see [`Turns`].
    Ready,
    /// When they are drained. The server says so.
    All,
}

/// What the slots of a worker count together.
#[derive(Debug)]
pub(super) struct Turns {
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    /// How many jobs may still be started; `None` for no limit.
    left: Option<u64>,
    /// How many slots have sent a GET whose job, if it got one, has not ended.
    busy: usize,
    /// How many jobs have ended.
    ended: u64,
}

/// When a GET was sent: the number of jobs that had ended before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

/// What a GET that found no ready job means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Emptiness {
    /// There is none, and no running job could submit more.
    Nothing,
    /// A job has ended since the GET, and may have submitted more.
    AskAgain,
    /// Other jobs still run: ask again when one of them has ended.
    Others,
}

impl Turns {
    pub(super) fn new(jobs: Option<u64>) -> Turns {
        Turns { counts: Mutex::new(Counts { left: jobs, busy: 0, ended: 0 }) }
    }

    /// Reserves one more job to run; false if none is left.
    pub(super) fn take(&self) -> bool {
        let mut counts = self.counts.lock();
        match &mut counts.left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// A GET is sent.
    pub(super) fn ask(&self) -> Mark {
        let mut counts = self.counts.lock();
        counts.busy += 1;
        Mark(counts.ended)
    }

    /// The GET found nothing.
    pub(super) fn found_nothing(&self, asked: Mark) -> Emptiness {
        let mut counts = self.counts.lock();
        counts.busy -= 1;
        if counts.ended != asked.0 {
            Emptiness::AskAgain
        } else if counts.busy > 0 {
            Emptiness::Others
        } else {
            Emptiness::Nothing
        }
    }

    /// The GET was not answered.
    pub(super) fn get_failed(&self) {
        self.counts.lock().busy -= 1;
    }

    /// The job that the GET brought has ended.
    pub(super) fn job_ended(&self) {
        let mut counts = self.counts.lock();
        counts.busy -= 1;
        counts.ended += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_of_jobs_is_kept() {
        let turns = Turns::new(Some(2));
        assert_eq!([turns.take(), turns.take(), turns.take(), turns.take()], [true, true, false, false]);
        let endless = Turns::new(None);
        assert!(endless.take() && endless.take());
    }

    #[test]
    fn nothing_is_left_once_nobody_works_and_a_later_get_found_nothing() {
        let turns = Turns::new(None);
        let (works, first) = (turns.ask(), turns.ask());
        assert_eq!(turns.found_nothing(first), Emptiness::Others);
        let second = turns.ask();
        turns.job_ended();
        assert_eq!(turns.found_nothing(second), Emptiness::AskAgain, "the job may have submitted another");
        let third = turns.ask();
        assert_eq!(turns.found_nothing(third), Emptiness::Nothing);
        assert_eq!(works.0, 0);
    }

    #[test]
    fn failed_get_counts_as_nobody_at_work() {
        let turns = Turns::new(None);
        turns.ask();
        turns.get_failed();
        let asked = turns.ask();
        assert_eq!(turns.found_nothing(asked), Emptiness::Nothing);
    }
}
