//! Workers by name: processes whose connections have introduced themselves.
//!
//! A process is known by its secret while it has a session. Its sessions may report about each other's jobs. If
//! one of them loses its connection, its leases can wait for the process to come back: the session is parked, and
//! ends when its time is over or when the process has taken over what it still works on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::job::{Hello, Order, Secret, Wish, WorkerName};
use crate::stats::{HeldJob, WorkerStats};

/// The most ended leases of a process that it has not been told of. Beyond that the oldest are forgotten: it learns
/// of them when it reports or renews.
const UNTOLD_MAX: usize = 10_000;

/// The most jobs that WORKERS names of one worker.
pub const HELD_JOBS_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WorkerIx(u32);

#[derive(Debug, Default)]
pub(super) struct Fleet {
    all: Vec<Option<Worker>>,
    free: Vec<u32>,
    by_secret: BTreeMap<Secret, WorkerIx>,
    by_name: BTreeSet<(WorkerName, WorkerIx)>,
}

#[derive(Debug)]
struct Worker {
    hello: Hello,
    /// Its sessions, also those that are parked.
    sessions: BTreeSet<SessionId>,
    wish: Wish,
    /// The wish that it was told last.
    told: Wish,
    /// Whether it has ever asked for orders.
    listens: bool,
    /// Its leases that ended without its report, and that it was not told of yet: whether the job was cancelled.
    untold: BTreeMap<JobId, LeaseEnd>,
    /// Sessions that wait for an order, by ticket.
    listeners: BTreeMap<u64, SessionId>,
    done: u64,
    failed: u64,
    since: Moment,
}

/// How a lease ended without its worker's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEnd {
    Cancelled,
    Lost,
}

impl State {
    /// Introduces a session as one of a worker's.
    pub fn hello(&mut self, now: Now, session: SessionId, hello: Hello) {
        let known = self.fleet.by_secret.get(&hello.secret).copied();
        // A worker is forgotten with its last session: one that says the same again must not leave first.
        if known.is_none() || self.session(session).worker != known {
            self.leave_fleet(session);
        }
        let worker = known.unwrap_or_else(|| self.make_worker(now, &hello));
        let found = self.worker_mut(worker);
        found.sessions.insert(session);
        let before = std::mem::replace(&mut found.hello, hello).name;
        let name = found.hello.name.clone();
        if before != name {
            self.fleet.by_name.remove(&(before, worker));
            self.fleet.by_name.insert((name, worker));
        }
        self.session_mut(session).worker = Some(worker);
    }

    fn make_worker(&mut self, now: Now, hello: &Hello) -> WorkerIx {
        let worker = Worker {
            hello: hello.clone(),
            sessions: BTreeSet::new(),
            wish: Wish::Work,
            told: Wish::Work,
            listens: false,
            untold: BTreeMap::new(),
            listeners: BTreeMap::new(),
            done: 0,
            failed: 0,
            since: now.mono,
        };
        let ix = match self.fleet.free.pop() {
            Some(number) => {
                self.fleet.all[number as usize] = Some(worker);
                WorkerIx(number)
            }
            None => {
                self.fleet.all.push(Some(worker));
                WorkerIx(u32::try_from(self.fleet.all.len() - 1).expect("there are fewer than sessions"))
            }
        };
        self.fleet.by_secret.insert(hello.secret, ix);
        self.fleet.by_name.insert((hello.name.clone(), ix));
        ix
    }

    /// Takes a session out of its worker, which is forgotten with its last session.
    pub(super) fn leave_fleet(&mut self, session: SessionId) {
        let Some(worker) = self.session_mut(session).worker.take() else { return };
        let found = self.worker_mut(worker);
        found.sessions.remove(&session);
        if found.sessions.is_empty() {
            let found = self.fleet.all[worker.0 as usize].take().expect("it was just used");
            self.fleet.by_secret.remove(&found.hello.secret);
            self.fleet.by_name.remove(&(found.hello.name, worker));
            self.fleet.free.push(worker.0);
        }
    }

    fn worker(&self, worker: WorkerIx) -> &Worker {
        self.fleet.all[worker.0 as usize].as_ref().expect("sessions name only workers that exist")
    }

    fn worker_mut(&mut self, worker: WorkerIx) -> &mut Worker {
        self.fleet.all[worker.0 as usize].as_mut().expect("sessions name only workers that exist")
    }

    /// Whether two sessions are the same, or of the same process.
    pub(super) fn are_kin(&self, one: SessionId, other: SessionId) -> bool {
        one == other || {
            let worker = self.session(one).worker;
            worker.is_some() && worker == self.session(other).worker
        }
    }

    /// The name of the worker that a session belongs to, if it said.
    pub(super) fn worker_name(&self, session: SessionId) -> Option<&WorkerName> {
        self.session(session).worker.map(|worker| &self.worker(worker).hello.name)
    }

    pub(super) fn count_report(&mut self, session: SessionId, done: bool) {
        if let Some(worker) = self.session(session).worker {
            let found = self.worker_mut(worker);
            *if done { &mut found.done } else { &mut found.failed } += 1;
        }
    }

    // ---- leases that outlive their connection ----

    /// Parks a session whose connection was lost, if its worker wants that and it has leases. Returns whether it
    /// did.
    pub(super) fn park(&mut self, now: Now, session: SessionId) -> bool {
        let found = self.session(session);
        let Some(worker) = found.worker else { return false };
        let resume = self.worker(worker).hello.resume;
        // Its end has begun already if something is being returned.
        if resume.is_zero() || found.parked_until.is_some() || !found.returning.is_empty() {
            return false;
        }
        if let Some(Handed::Lease(id)) = self.session_mut(session).handed.take()
            && self.is_leased_by(session, id)
        {
            // Its worker has never seen this job.
            self.return_to_queue(now, id, Duration::ZERO);
        }
        if self.session(session).leases.is_empty() {
            return false;
        }
        self.detach(session);
        self.session_mut(session).parked_until = Some(now.mono.after(resume));
        self.schedule_session(session);
        true
    }

    fn is_parked(&self, session: SessionId) -> bool {
        self.session(session).parked_until.is_some()
    }

    /// Lets a session take over those of these jobs that parked sessions of its process hold. Returns those that no
    /// session of the process holds.
    ///
    /// # Errors
    /// [`Code::Usage`] if the session has not introduced itself.
    pub fn hold(&mut self, session: SessionId, ids: &[JobId]) -> Result<Vec<JobId>, Refusal> {
        self.worker_of(session)?;
        let mut lost = Vec::new();
        for &id in ids {
            match self.jobs.get(id).map(|slot| slot.place()) {
                Some(Place::Leased { until, holder }) if self.are_kin(holder, session) => {
                    if self.is_parked(holder) {
                        self.pass_lease(id, until, holder, session);
                    }
                }
                _ => lost.push(id),
            }
        }
        Ok(lost)
    }

    fn pass_lease(&mut self, id: JobId, until: Moment, from: SessionId, to: SessionId) {
        // A job that is being returned is not among the leases any more.
        let Some(since) = self.session_mut(from).leases.remove(&(until, id)) else { return };
        self.jobs.get_mut(id).expect("it is leased").set_place(Place::Leased { until, holder: to });
        self.session_mut(to).leases.insert((until, id), since);
        self.schedule_session(to);
    }

    /// Ends a parked session of this session's process, at most `most` of its leases at a time: they are returned.
    /// Returns whether none is left.
    pub fn end_parked(&mut self, now: Now, session: SessionId, most: u64) -> bool {
        let Some(worker) = self.session(session).worker else { return true };
        let parked = self.worker(worker).sessions.iter().copied().find(|&session| self.is_parked(session));
        if let Some(parked) = parked {
            self.end_session(now, parked, SessionEnd::Quit, most);
            return false;
        }
        true
    }

    /// Renews the leases of these jobs, whichever session of the process holds them. Returns those that none
    /// holds.
    ///
    /// # Errors
    /// [`Code::Usage`] if the session has not introduced itself.
    pub fn beat(&mut self, now: Now, session: SessionId, ids: &[JobId]) -> Result<Vec<JobId>, Refusal> {
        self.worker_of(session)?;
        let mut lost = Vec::new();
        for &id in ids {
            match self.leased_by(session, id).map(|slot| slot.options) {
                Ok(options) => self.renew(id, now.mono.after(self.shared_options.get(options).ttr())),
                Err(_) => lost.push(id),
            }
        }
        Ok(lost)
    }

    fn worker_of(&self, session: SessionId) -> Result<WorkerIx, Refusal> {
        self.session(session).worker.ok_or_else(|| {
            Refusal::usage("this connection has not introduced itself: HELLO worker=NAME secret=HEX first")
        })
    }

    // ---- orders ----

    /// What the session's process should do, if there is anything that it was not told.
    ///
    /// # Errors
    /// [`Code::Usage`] if the session has not introduced itself.
    pub fn take_order(&mut self, session: SessionId) -> Result<Option<Order>, Refusal> {
        let worker = self.worker_of(session)?;
        let found = self.worker_mut(worker);
        found.listens = true;
        if let Some((id, end)) = found.untold.pop_first() {
            return Ok(Some(match end {
                LeaseEnd::Cancelled => Order::Cancel(id),
                LeaseEnd::Lost => Order::Lost(id),
            }));
        }
        if found.told == found.wish {
            return Ok(None);
        }
        found.told = found.wish;
        Ok(Some(match found.wish {
            Wish::Work => Order::Resume,
            Wish::Quiet => Order::Quiet,
            Wish::Stop => Order::Stop,
        }))
    }

    /// Makes a session wait for an order. [`Effects::wakes`] names it then.
    ///
    /// # Errors
    /// [`Code::Usage`] if the session has not introduced itself.
    pub fn wait_for_order(&mut self, session: SessionId) -> Result<(), Refusal> {
        let worker = self.worker_of(session)?;
        let ticket = self.next_ticket();
        self.worker_mut(worker).listeners.insert(ticket, session);
        self.session_mut(session).pending_wait = Some(PendingWait::Order { ticket });
        Ok(())
    }

    pub(super) fn forget_listener(&mut self, session: SessionId, ticket: u64) {
        if let Some(worker) = self.session(session).worker {
            self.worker_mut(worker).listeners.remove(&ticket);
        }
    }

    /// Tells all workers of this name what is wanted of them. Returns how many there are.
    pub fn wish(&mut self, name: &WorkerName, wish: Wish) -> u64 {
        let from = (name.clone(), WorkerIx(0));
        let workers = self.fleet.by_name.range(from..).take_while(|entry| entry.0 == *name);
        let workers: Vec<_> = workers.map(|entry| entry.1).collect();
        for &worker in &workers {
            self.worker_mut(worker).wish = wish;
            self.wake_listeners(worker);
        }
        workers.len() as u64
    }

    fn wake_listeners(&mut self, worker: WorkerIx) {
        let listeners: Vec<_> = self.worker(worker).listeners.values().copied().collect();
        for session in listeners {
            self.cancel_wait(session);
            self.effects.wakes.push(session);
        }
    }

    /// Notes that a lease has ended without a report of its worker.
    pub(super) fn note_lease_end(&mut self, holder: SessionId, id: JobId, end: LeaseEnd) {
        let Some(worker) = self.session(holder).worker else { return };
        let found = self.worker_mut(worker);
        if found.listens {
            found.untold.insert(id, end);
            if found.untold.len() > UNTOLD_MAX {
                found.untold.pop_first();
            }
            self.wake_listeners(worker);
        }
    }

    // ---- what people see ----

    /// At most `most` workers, from the number `from` on. Each comes with its number and one more, from which the
    /// next call continues.
    pub fn workers(&self, now: Now, from: u32, most: usize) -> Vec<(u32, WorkerStats)> {
        let rest = self.fleet.all.iter().enumerate().skip(from as usize);
        let known = rest.filter_map(|(at, worker)| Some((at as u32 + 1, worker.as_ref()?)));
        known.take(most).map(|(next, worker)| (next, self.worker_stats(now, worker))).collect()
    }

    fn worker_stats(&self, now: Now, worker: &Worker) -> WorkerStats {
        let Hello { name, host, pid, slots, version, .. } = worker.hello.clone();
        let sessions = || worker.sessions.iter().map(|&session| self.session(session));
        let queues: BTreeSet<&QueueName> = sessions().flat_map(|session| &session.asked).collect();
        let leases = sessions().flat_map(|session| &session.leases);
        let jobs = leases.clone().take(HELD_JOBS_MAX);
        WorkerStats {
            name,
            host,
            pid,
            slots,
            version,
            wish: worker.wish,
            connections: sessions().filter(|session| session.parked_until.is_none()).count() as u64,
            known_for: now.mono.until(worker.since),
            queues: queues.into_iter().cloned().collect(),
            held: leases.count() as u64,
            jobs: jobs.map(|(&(_, id), &since)| HeldJob { id, held_for: now.mono.until(since) }).collect(),
            done: worker.done,
            failed: worker.failed,
        }
    }
}
