//! The accounted memory of everything in the queue, and who may take more.
//!
//! The limit is on an estimate, not on what the allocator has. The code that creates a thing decides what it
//! costs. Jobs stop at the limit. Notes about jobs, and queues without jobs, have a reserve beyond the limit,
//! so that workers can continue when jobs have taken everything. The sum never exceeds the limit by more than
//! a twentieth, whatever clients do.
//!
//! The lists of queues that a connection waits for and watches are not counted: the length of a command and
//! `WATCHED_MAX` limit them to some 30 KiB, and the number of connections is limited too.

/// The accounted memory of a queue without its jobs.
pub const QUEUE_OVERHEAD_BYTES: u64 = 1024;

/// What memory is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A job. There is no reserve: its submission is refused.
    Job,
    /// The reason of a failure, or statistics about a job's past. Without room they are not kept; what
    /// happened to the job is recorded in any case.
    Note,
    /// A queue that a client waits for, watches or pauses. Workers can wait, and queues can be paused, when
    /// jobs and notes have taken everything.
    Queue,
}

/// The accounted memory and its limit, in bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    taken: u64,
    limit: u64,
}

impl Budget {
    /// Nothing is taken yet.
    pub(crate) fn new(limit: u64) -> Budget {
        Budget { taken: 0, limit }
    }

    /// What is taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// What jobs may take.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether `bytes` more may be taken.
    pub(crate) fn has_room(&self, purpose: Purpose, bytes: u64) -> bool {
        let reserve = match purpose {
            Purpose::Job => 0,
            Purpose::Note => self.limit / 32,
            // Less the queue `default`, which is created without a check.
            Purpose::Queue => (self.limit / 20).saturating_sub(QUEUE_OVERHEAD_BYTES),
        };
        self.taken.saturating_add(bytes) <= self.limit.saturating_add(reserve)
    }

    /// Takes memory, even beyond the limit. Callers that can be refused check [`Budget::has_room`] first.
    pub(crate) fn take(&mut self, bytes: u64) {
        self.taken += bytes;
    }

    /// Gives memory back.
    pub(crate) fn release(&mut self, bytes: u64) {
        self.taken -= bytes;
    }

    /// Something that cost `before` costs `after`.
    pub(crate) fn resize(&mut self, before: u64, after: u64) {
        self.taken = self.taken - before + after;
    }
}
