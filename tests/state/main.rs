//! The state machine, called directly: work in slices, when something is due next, and what else no client of
//! an engine can see. The rules of the verbs are in tests/verbs; tests/state_machine checks whether all of
//! them hold at once.

use std::sync::Arc;
use std::time::Duration;

use djqs::internal::change::{Change, Place};
use djqs::internal::clock::{ManualClock, Moment, Now};
use djqs::internal::queue::state::{Accepted, Failed, Returned, SessionEnd, SessionId, State, Warn};
use djqs::job::{Counts, MAX_REASON_BYTES};
use djqs::protocol::OnDrained;
use djqs::stats::StateCounts;
use djqs::{Job, JobId, JobState, Key, Options, Priority, QueueName, Refusal, Submission};

mod memory;
mod records;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A state and the time that is passed to it.
struct Bench {
    state: State,
    now: Now,
}

impl Bench {
    fn new() -> Bench {
        let now = Now { mono: Moment::from_millis(0), wall_ms: ManualClock::WALL_ORIGIN_MS };
        Bench { state: State::new(u64::MAX, 1), now }
    }

    fn ack(&mut self, session: SessionId, id: JobId) -> Result<(), Refusal> {
        self.state.ack(self.now, session, id, Returned::Result(Arc::default())).map(|_| ())
    }

    /// Lets time pass, and does everything that is due by then.
    fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono.after(time);
        self.now.wall_ms += time.as_millis() as u64;
        while self.state.next_deadline().is_some_and(|next| next <= self.now.mono) {
            self.state.tick(self.now, 1);
        }
    }

    fn session(&mut self) -> SessionId {
        self.state.open_session()
    }

    fn accept(&mut self, options: Options) -> Accepted {
        let submission = Submission::new("work").options(&options);
        self.state.submit(self.now, submission).expect("there is room")
    }

    /// Submits a job that is new.
    fn submit(&mut self, options: Options) -> JobId {
        let accepted = self.accept(options);
        assert_eq!(accepted.duplicate, None);
        accepted.id
    }

    fn get(&mut self, session: SessionId) -> Option<JobId> {
        self.state.lease(self.now, session, &[name("default")]).map(|lease| lease.id)
    }

    /// A job that a session has leased.
    fn leased(&mut self, session: SessionId, options: Options) -> JobId {
        let id = self.submit(options);
        assert_eq!(self.get(session), Some(id));
        id
    }

    fn dead(&mut self, session: SessionId, options: Options) -> JobId {
        let id = self.leased(session, options);
        assert_eq!(self.fail(session, id, None, true, None), Failed::Dead);
        id
    }

    /// Lets a session wait for a job of the queue `default`.
    fn wait(&mut self, session: SessionId, on_drained: OnDrained) {
        assert_eq!(self.get(session), None);
        self.state.wait(session, &[name("default")], Warn::Never, on_drained);
    }

    fn fail(
        &mut self,
        session: SessionId,
        id: JobId,
        delay: Option<Duration>,
        dead: bool,
        reason: Option<&str>,
    ) -> Failed {
        let reason = reason.map(Arc::from);
        self.state.fail(self.now, session, id, delay, dead, reason).expect("it is leased")
    }

    fn end(&mut self, session: SessionId, ending: SessionEnd) {
        assert!(self.state.end_session(self.now, session, ending, u64::MAX));
    }

    fn pause(&mut self, queue: &str, time: Option<Duration>) {
        self.state.pause(self.now, &name(queue), time);
    }

    fn resume(&mut self, queue: &str) {
        self.state.resume(self.now, &name(queue));
    }

    fn woken(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.state.effects().wakes)
    }

    fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.state.effects().changes)
    }

    fn peek(&self, id: JobId) -> Job {
        self.state.peek(self.now, id).expect("it is there")
    }

    fn is(&self, id: JobId) -> JobState {
        self.peek(id).state
    }

    fn queues(&self) -> Vec<String> {
        let queues = self.state.queues(self.now, 0, usize::MAX);
        queues.into_iter().map(|(_, stats)| stats.name.to_string()).collect()
    }

    /// The state of a new process that has read these changes, this much later.
    fn restarted(&self, changes: Vec<Change>, later: Duration) -> Bench {
        let now = Now { mono: Moment::from_millis(7), wall_ms: self.now.wall_ms + later.as_millis() as u64 };
        let mut next = Bench { state: State::new(u64::MAX, 2), now };
        for change in changes {
            next.state.restore(now, change);
        }
        next.pass(Duration::ZERO);
        next
    }
}

fn name(text: &str) -> QueueName {
    QueueName::new(text).expect("it is good")
}

fn key(text: &str) -> Option<Key> {
    Some(Key::new(text).expect("it is good"))
}

fn options() -> Options {
    Options::default()
}

fn delayed(delay: Duration) -> Options {
    options().delay(delay)
}

fn attempts(attempts: u32) -> Options {
    options().attempts(attempts)
}

fn counts(failures: u32, crashes: u32, returns: u32) -> Counts {
    Counts { failures, crashes, returns }
}

// ---- leases, and jobs given to waiting sessions ----

#[test]
fn job_that_was_handed_to_a_lost_connection_but_never_seen_is_charged_nothing() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.wait(session, OnDrained::Wait);
    let id = bench.submit(attempts(1));
    bench.end(session, SessionEnd::Lost);
    assert_eq!((bench.is(id), bench.peek(id).counts), (JobState::Ready, counts(0, 0, 1)));
}

#[test]
fn session_with_many_leases_ends_in_slices() {
    let mut bench = Bench::new();
    let session = bench.session();
    (0..5).for_each(|_| {
        bench.leased(session, options());
    });
    // The first slices only sort the leases.
    for ready in [0, 0, 2, 4] {
        assert!(!bench.state.end_session(bench.now, session, SessionEnd::Quit, 2));
        assert_eq!(bench.state.counts(), StateCounts { ready, leased: 5 - ready, ..StateCounts::default() });
    }
    assert!(bench.state.end_session(bench.now, session, SessionEnd::Quit, 2));
    assert_eq!(bench.state.counts().ready, 5);
}

#[test]
fn jobs_of_a_lost_session_are_returned_most_urgent_first_over_all_of_them() {
    for ending in [SessionEnd::Lost, SessionEnd::Quit] {
        let mut bench = Bench::new();
        let holder = bench.session();
        // Those that are leased last, and so lapse last, are the most urgent.
        let mut ids: Vec<_> = (0..1000).map(|n| bench.leased(holder, options().priority(1000 - n))).collect();
        let waiting: Vec<_> = (0..1000).map(|_| bench.session()).collect();
        waiting.iter().for_each(|&session| bench.wait(session, OnDrained::Wait));
        let mut served = Vec::new();
        loop {
            let ended = bench.state.end_session(bench.now, holder, ending, 256);
            served.extend(bench.woken());
            if ended {
                break;
            }
        }
        assert_eq!(served, waiting, "all of them, in the order in which they wait");
        let handed = served.iter().map(|&session| bench.state.take_handed(session).unwrap().id);
        ids.reverse();
        assert_eq!(handed.collect::<Vec<_>>(), ids);
    }
}

#[test]
fn job_whose_lease_lapsed_before_its_waiter_came_is_not_taken() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.wait(session, OnDrained::Wait);
    let id = bench.submit(options().ttr(MS));
    bench.pass(MS);
    assert_eq!(bench.state.take_handed(session), None);
    assert_eq!(bench.is(id), JobState::Ready);
}

#[test]
fn many_waits_for_a_drained_queue_end_in_slices() {
    let mut bench = Bench::new();
    let worker = bench.session();
    let id = bench.leased(worker, options());
    let waiters: Vec<_> = (0..600).map(|_| bench.session()).collect();
    waiters.iter().for_each(|&session| bench.wait(session, OnDrained::End));
    bench.ack(worker, id).unwrap();
    let mut ended = Vec::new();
    while bench.state.next_deadline().is_some_and(|next| next <= bench.now.mono) {
        bench.state.tick(bench.now, 256);
        let woken = bench.woken();
        assert!(woken.len() <= 256, "{} at once", woken.len());
        ended.extend(woken);
    }
    assert_eq!(ended, waiters, "the oldest first");
    assert_eq!((bench.state.waiting(), bench.state.queue_count()), (0, 0));
}

// ---- slices ----

#[test]
fn queue_is_retried_oldest_first_and_in_slices() {
    let mut bench = Bench::new();
    let session = bench.session();
    let [one, two, three] = [(); 3].map(|()| bench.dead(session, options()));
    let (queue, last) = (name("default"), bench.state.last_id());
    let slice = bench.state.retry_all(bench.now, &queue.clone().into(), last, 2);
    assert_eq!((slice.count, slice.finished), (2, false));
    assert_eq!([one, two, three].map(|id| bench.is(id)), [JobState::Ready, JobState::Ready, JobState::Dead]);
    let slice = bench.state.retry_all(bench.now, &queue.clone().into(), last, 2);
    assert_eq!((slice.count, slice.finished), (1, true));
}

#[test]
fn purge_removes_what_was_there_when_it_began() {
    let mut bench = Bench::new();
    (0..3).for_each(|_| {
        bench.submit(options());
    });
    let (queue, last) = (name("default"), bench.state.last_id());
    assert!(!bench.state.purge(bench.now, &queue.clone().into(), JobState::Ready, last, 2).finished);
    let later = bench.submit(options());
    let slice = bench.state.purge(bench.now, &queue.clone().into(), JobState::Ready, last, 2);
    assert_eq!((slice.count, slice.finished), (1, true));
    assert_eq!(bench.is(later), JobState::Ready);
}

/// A paused queue with 600 jobs, for which 600 sessions wait, each in turn.
fn crowd(bench: &mut Bench, pause: Option<Duration>) -> Vec<SessionId> {
    bench.pause("default", pause);
    let sessions: Vec<_> = (0..600).map(|_| bench.session()).collect();
    sessions.iter().for_each(|&session| bench.wait(session, OnDrained::Wait));
    (0..600).for_each(|_| _ = bench.submit(options()));
    sessions
}

#[test]
fn resumed_queue_serves_a_crowd_a_part_at_a_time() {
    let mut bench = Bench::new();
    let sessions = crowd(&mut bench, None);
    let late = bench.session();
    let mut woken = Vec::new();
    while !bench.state.resume(bench.now, &name("default")) {
        woken.extend(bench.woken());
        assert!(woken.len() < 600 && woken == sessions[..woken.len()], "the oldest first");
        assert_eq!(bench.get(late), None, "others wait until those that did are served");
    }
    woken.extend(bench.woken());
    assert_eq!(woken, sessions);
    let id = bench.submit(options());
    assert_eq!(bench.get(late), Some(id));
}

#[test]
fn pause_that_ends_by_itself_serves_a_crowd_a_part_at_a_time() {
    let mut bench = Bench::new();
    let sessions = crowd(&mut bench, Some(SECOND));
    bench.now.mono = bench.now.mono.after(SECOND);
    bench.state.tick(bench.now, u64::MAX);
    let mut woken = bench.woken();
    assert!(!woken.is_empty() && woken.len() < 600, "{}", woken.len());
    bench.pass(Duration::ZERO);
    woken.extend(bench.woken());
    assert_eq!(woken, sessions);
}

// ---- time ----

#[test]
fn tick_does_no_more_than_it_is_asked_to() {
    let mut bench = Bench::new();
    (0..5).for_each(|_| {
        bench.submit(delayed(SECOND));
    });
    bench.now.mono = bench.now.mono.after(SECOND);
    bench.state.tick(bench.now, 3);
    assert_eq!(bench.state.counts(), StateCounts { ready: 3, delayed: 2, ..StateCounts::default() });
    assert!(bench.state.next_deadline().is_some_and(|next| next <= bench.now.mono), "there is more to do");
    bench.state.tick(bench.now, 3);
    assert_eq!(bench.state.counts().ready, 5);
}

#[test]
fn nothing_is_due_if_nothing_has_a_time() {
    let mut bench = Bench::new();
    assert_eq!(bench.state.next_deadline(), None);
    let session = bench.session();
    bench.submit(options());
    bench.pause("default", None);
    bench.wait(session, OnDrained::Wait);
    assert_eq!(bench.state.next_deadline(), None);
}

#[test]
fn next_deadline_is_the_earliest_of_delays_leases_and_pauses() {
    let mut bench = Bench::new();
    let session = bench.session();
    let at = |millis| Some(Moment::from_millis(millis));
    bench.leased(session, options().ttr(300 * MS));
    assert_eq!(bench.state.next_deadline(), at(300));
    bench.submit(delayed(200 * MS));
    assert_eq!(bench.state.next_deadline(), at(200));
    bench.pause("default", Some(100 * MS));
    assert_eq!(bench.state.next_deadline(), at(100));
}
