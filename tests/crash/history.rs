//! The history of both sides: what was sent, what was answered, and what nobody can know because no reply
//! came; and the judgement on what a restarted server shows.
//!
//! Every conversation reports each command before it is sent, and each reply when it has come. From these the
//! history knows what may have happened to each job. A command without a reply may have been executed or not;
//! everything else is certain.
//!
//! Connections talk at the same time, yet for one job the reports come in the order in which the server
//! acted: only the connection that holds a lease changes a leased job, and it does so after it got the lease,
//! which is after the last holder sent what ended the lease before; and nobody retries a job that is not
//! known to be dead. What ends a job (ACK, DELETE, PURGE) is the end in any order.
//!
//! What does not fit is kept as a complaint, not a panic: some tests ask for one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use djqs::job::Group;
use djqs::protocol::native::Answer;
use djqs::protocol::{Command, Retry};
use djqs::{Code, Job, JobId, JobState, Key, Lease, QueueName, Refusal, Submission};

use crate::fate::{
    Entry, Event, Outcome, Pause, Pausing, Place, SLACK_MS, Status, When, possible, possible_pauses,
};
use crate::rig::now_ms;

mod judgement;

/// Complaints beyond this many are not kept: they follow from the first.
const COMPLAINTS_MAX: usize = 20;

/// A lease shorter than this may lapse while a test runs; a longer one never does.
const MAY_LAPSE: Duration = Duration::from_secs(60);

/// How often, between two looks at it, a job may have been leased without anybody's being told, where that is
/// possible.
const UNSEEN_MAX: usize = 2;

/// What the server gives as the reason of a crash.
const LAPSED: &str = "the lease lapsed";
const LOST: &str = "the connection that held the lease was lost";

/// A submission's own number, which its body begins with: it tells a job by its body, whether or not anybody
/// was told its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tag(pub(crate) u64);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}:", self.0)
    }
}

impl Tag {
    fn of(body: &[u8]) -> Option<Tag> {
        let end = body.iter().position(|byte| *byte == b':')?;
        let number = body[..end].strip_prefix(b"t")?;
        std::str::from_utf8(number).ok()?.parse().ok().map(Tag)
    }
}

/// A connection's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Connection(u64);

/// How a client ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It closes: what it has leased has crashed.
    Lost,
    /// It says QUIT: what it has leased is handed back.
    Quit,
}

/// What the server may answer beside what is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    /// `ERR full`, to TASK.
    pub(crate) full: bool,
    /// `ERR unavailable`, and nothing else on that connection from then on.
    pub(crate) unavailable: bool,
    /// `ERR draining`, to GET.
    pub(crate) draining: bool,
}

/// What has been seen, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Jobs whose submission was answered with an id.
    pub(crate) acknowledged: u64,
    /// Jobs whose end was answered OK.
    pub(crate) finished: u64,
    /// Leases that a worker was told of.
    pub(crate) leases: u64,
    /// Commands that were sent and never answered.
    pub(crate) unanswered: u64,
    /// Jobs that a restarted server showed and that were compared, over all restarts.
    pub(crate) compared: u64,
    /// Submissions answered `ERR full`.
    pub(crate) full: u64,
    /// Commands answered `ERR unavailable`.
    pub(crate) unavailable: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        let Tally { acknowledged, finished, leases, unanswered, compared, full, unavailable } = other;
        self.acknowledged += acknowledged;
        self.finished += finished;
        self.leases += leases;
        self.unanswered += unanswered;
        self.compared += compared;
        self.full += full;
        self.unavailable += unavailable;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { acknowledged, finished, leases, unanswered, compared, full, unavailable } = self;
        write!(f, "{acknowledged} jobs acknowledged, {finished} finished, {leases} leases, ")?;
        write!(f, "{unanswered} commands never answered, {compared} jobs compared after restarts")?;
        if full + unavailable > 0 {
            write!(f, ", {full} times ERR full, {unavailable} times ERR unavailable")?;
        }
        Ok(())
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) allowed: Allowed,
    /// The disk was full at some time: reasons of failures may not have been kept.
    pub(crate) was_full: bool,
    pub(crate) tally: Tally,
    /// Submissions that may have become a job that may not have ended.
    jobs: BTreeMap<Tag, Known>,
    ids: HashMap<JobId, Tag>,
    /// Jobs that had ended when a restarted server was last looked at.
    finished: HashSet<JobId>,
    held: BTreeMap<Connection, BTreeSet<Tag>>,
    /// Commands that are not answered, and the GETs among them.
    pending: u64,
    waiting: u64,
    purges: Vec<Purge>,
    pauses: BTreeMap<QueueName, Vec<Pausing>>,
    /// Connections that were told `ERR unavailable`.
    broken: HashSet<Connection>,
    /// The highest id that anybody was ever shown, and what it was at the last restart.
    highest: u64,
    floor: u64,
    tags: u64,
    connections: u64,
    stamps: u64,
    complaints: Vec<String>,
}

struct Known {
    submission: Submission,
    sent: When,
    answered: Option<When>,
    id: Option<JobId>,
    /// Somebody was told of it: from then on it has to be there until it ends.
    told: bool,
    /// As a restarted server last showed it; `None` where it was submitted since.
    base: Option<Status>,
    /// What was done to it since, in order.
    entries: Vec<Entry>,
}

/// What may have become of a job.
struct Fate {
    /// If it has not ended.
    statuses: Vec<Status>,
    may_have_ended: bool,
    has_ended: bool,
}

/// A PURGE of all that a queue holds.
#[derive(Debug)]
struct Purge {
    queue: QueueName,
    sent: When,
    answered: Option<When>,
}

/// Where an entry of a job's stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    tag: Tag,
    index: usize,
}

/// A command that was sent, for when its answer comes.
#[derive(Debug)]
pub(crate) enum Asked {
    Task(Tag),
    /// With the queues that were paused when it was sent, and until when at least.
    Get {
        sent: When,
        paused: Vec<(QueueName, u64)>,
    },
    /// ACK, FAIL, RETURN, DELETE, RETRY of one job.
    Change(Change, Spot),
    Touch(JobId),
    /// What was to change all these.
    Each(Vec<Spot>),
    Purge(usize),
    Pause(QueueName, usize),
    Peek(JobId, When),
    /// What changes nothing.
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Ack,
    Fail,
    Return,
    Delete,
    Retry,
}

impl History {
    // ---- what those who load the server ask ----

    /// Takes what did not fit.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// A tag for a new submission.
    pub(crate) fn new_tag(&mut self) -> Tag {
        self.tags += 1;
        Tag(self.tags)
    }

    /// A number for a new connection.
    pub(crate) fn new_connection(&mut self) -> Connection {
        self.connections += 1;
        Connection(self.connections)
    }

    /// How many jobs there may be.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// The ids of the jobs of a queue that have surely not ended and for which `wanted` holds in whatever
    /// they may be.
    pub(crate) fn surely(&self, queue: &QueueName, wanted: impl Fn(&Status) -> bool) -> Vec<JobId> {
        let now = now_ms();
        let mut ids = Vec::new();
        for known in self.jobs.values().filter(|known| known.submission.queue == *queue) {
            let Some(id) = known.id else { continue };
            let fate = self.fate(known, now);
            if !fate.may_have_ended && !fate.statuses.is_empty() && fate.statuses.iter().all(&wanted) {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids
    }

    /// One of the jobs that may be there, by a random number.
    pub(crate) fn any(&self, random: u64) -> Option<JobId> {
        let start = Tag(random % (self.tags + 1));
        let mut jobs = self.jobs.range(start..).chain(self.jobs.range(..start));
        jobs.find_map(|(_, known)| known.id)
    }

    // ---- reports ----

    /// A command is about to be sent.
    pub(crate) fn sent(&mut self, command: &Command) -> Asked {
        self.pending += 1;
        let sent = self.now();
        match command {
            Command::Submit(submission) => self.submits(sent, submission),
            Command::Lease { .. } => {
                self.waiting += 1;
                Asked::Get { sent, paused: self.surely_paused(sent.ms) }
            }
            Command::Ack { id, result: None } => self.changes(sent, Change::Ack, *id, Event::End),
            Command::Delete { id } => self.changes(sent, Change::Delete, *id, Event::End),
            Command::Return { id, delay } => {
                self.changes(sent, Change::Return, *id, Event::Return { delay: *delay })
            }
            Command::Fail { id, delay, dead, reason } => {
                let event = Event::Fail { delay: *delay, dead: *dead, reason: reason.clone() };
                self.changes(sent, Change::Fail, *id, event)
            }
            Command::Retry(Retry::Job(id)) => self.changes(sent, Change::Retry, *id, Event::Retry),
            Command::Retry(Retry::All { of: Group::Queue(queue), limit }) => {
                let limit = limit.unwrap_or(u64::MAX) as usize;
                self.changes_dead(sent, queue, limit, &Event::Retry)
            }
            Command::Purge { of: Group::Queue(queue), state: Some(JobState::Dead) } => {
                self.changes_dead(sent, queue, usize::MAX, &Event::End)
            }
            Command::Purge { of: Group::Queue(queue), state: None } => {
                self.purges.push(Purge { queue: queue.clone(), sent, answered: None });
                Asked::Purge(self.purges.len() - 1)
            }
            Command::Pause { queue, time } => {
                self.pauses(sent, queue, time.map_or(Pause::UntilResumed, Pause::For))
            }
            Command::Resume { queue } => self.pauses(sent, queue, Pause::Running),
            Command::Touch { id, .. } => Asked::Touch(*id),
            Command::Peek { id } => Asked::Peek(*id, sent),
            Command::List { .. } | Command::Stats { .. } | Command::Queues | Command::Ping => Asked::Look,
            _ => unreachable!("no client here sends {command:?}"),
        }
    }

    /// An answer has come. Returns the lease where it is one.
    pub(crate) fn answered(&mut self, connection: Connection, asked: Asked, answer: Answer) -> Option<Lease> {
        let answered = self.now();
        self.pending -= 1;
        self.waiting -= u64::from(matches!(asked, Asked::Get { .. }));
        if let Answer::Refused(refusal) = &answer
            && refusal.code == Code::Unavailable
        {
            self.tally.unavailable += 1;
            self.broken.insert(connection);
            if !self.allowed.unavailable {
                self.complain(format!("{asked:?} was answered {refusal}"));
            }
            return None;
        }
        if self.broken.contains(&connection) {
            self.complain(format!("{asked:?} was answered {answer:?} after the journal had failed"));
        }
        match (asked, answer) {
            (Asked::Task(tag), Answer::Accepted { id, duplicate: None }) => self.accepted(answered, tag, id),
            (Asked::Task(tag), Answer::Accepted { id, duplicate: Some(_) }) => self.duplicate(tag, id),
            (Asked::Task(tag), Answer::Refused(refusal)) if self.allowed.full && is_full(&refusal) => {
                self.tally.full += 1;
                self.jobs.remove(&tag);
            }
            (Asked::Get { sent, paused }, Answer::Leased(lease)) => {
                self.leased(connection, sent, answered, &paused, &lease);
                return Some(lease);
            }
            (Asked::Get { .. }, Answer::Empty) => {}
            (Asked::Get { .. }, Answer::Refused(refusal))
                if self.allowed.draining && refusal.code == Code::Draining => {}
            (Asked::Change(change, spot), answer) => {
                self.changed(answered, change, spot, &answer);
            }
            (Asked::Touch(id), answer) => self.touched(id, &answer),
            (Asked::Each(spots), Answer::Count(count)) => {
                if count != spots.len() as u64 {
                    self.complain(format!("{count} jobs were changed instead of {}", spots.len()));
                }
                for spot in spots {
                    let entry = self.entry(spot);
                    entry.answered = Some(answered);
                    entry.outcome = Outcome::Done;
                    if matches!(entry.event, Event::End) {
                        self.tally.finished += 1;
                    }
                }
            }
            (Asked::Purge(index), Answer::Count(count)) => {
                self.purges[index].answered = Some(answered);
                self.tally.finished += count;
            }
            (Asked::Pause(queue, index), Answer::Done) => {
                self.pauses.get_mut(&queue).expect("it was entered")[index].answered = Some(answered);
            }
            (Asked::Peek(id, sent), Answer::Found(found)) => self.peeked(sent, id, &found),
            (Asked::Peek(id, _), Answer::Refused(refusal)) if refusal.code == Code::NotFound => {
                self.must_have_ended(id, "PEEK");
            }
            (Asked::Look, Answer::Lines(_) | Answer::Pong) => {}
            (asked, answer) => self.complain(format!("{asked:?} was answered {answer:?}")),
        }
        None
    }

    /// A client is about to end its connection.
    pub(crate) fn leaves(&mut self, connection: Connection, leaving: Leaving) {
        let sent = self.now();
        for tag in self.held.remove(&connection).unwrap_or_default() {
            let event = match leaving {
                Leaving::Lost => Event::Crash { reason: LOST },
                Leaving::Quit => Event::Return { delay: Duration::ZERO },
            };
            self.enter(tag, event, sent, Outcome::Unknown);
        }
    }

    /// The server has ended without a word: what it had leased is nobody's.
    pub(crate) fn server_was_killed(&mut self) {
        let now = self.now();
        self.jobs.values_mut().for_each(|known| known.may_have_lapsed_unseen(now));
        self.forget_connections();
    }

    /// The server was asked to stop, and has ended. If it did so gracefully, it has returned what was leased;
    /// if not, it may have.
    pub(crate) fn server_has_stopped(&mut self, gracefully: bool) {
        let now = self.now();
        let held: BTreeSet<Tag> = self.held.values().flatten().copied().collect();
        for (tag, known) in &mut self.jobs {
            let doubtful = known.entries.iter().any(|entry| entry.outcome == Outcome::Unknown) || !gracefully;
            if held.contains(tag) || doubtful {
                let outcome = if doubtful { Outcome::Unknown } else { Outcome::Done };
                known.enter(Event::Return { delay: Duration::ZERO }, now, outcome);
            }
            if self.waiting > 0 {
                // What a worker was sent and did not read any more was handed back, too.
                (0..UNSEEN_MAX)
                    .for_each(|_| _ = known.enter(Event::Unseen { lapsed: None }, now, Outcome::Unknown));
            }
            known.may_have_lapsed_unseen(now);
        }
        self.forget_connections();
    }

    fn forget_connections(&mut self) {
        self.held.clear();
        self.broken.clear();
        self.tally.unanswered += std::mem::take(&mut self.pending);
        self.waiting = 0;
    }

    // ---- commands ----

    fn submits(&mut self, sent: When, submission: &Submission) -> Asked {
        let tag = Tag::of(&submission.body).expect("every body here begins with its tag");
        let known = Known {
            submission: submission.clone(),
            sent,
            answered: None,
            id: None,
            told: false,
            base: None,
            entries: Vec::new(),
        };
        self.jobs.insert(tag, known);
        Asked::Task(tag)
    }

    fn changes(&mut self, sent: When, change: Change, id: JobId, event: Event) -> Asked {
        let tag =
            *self.ids.get(&id).unwrap_or_else(|| panic!("{change:?} of {id}, which nobody was told of"));
        if change.ends_lease()
            && let Some(holder) = self.jobs.get(&tag).and_then(Known::holder)
            && let Some(held) = self.held.get_mut(&holder)
        {
            held.remove(&tag);
        }
        Asked::Change(change, self.enter(tag, event, sent, Outcome::Unknown))
    }

    /// What is to be done to the oldest dead jobs of a queue where nobody else is at work.
    fn changes_dead(&mut self, sent: When, queue: &QueueName, limit: usize, event: &Event) -> Asked {
        let mut dead = self.surely(queue, |status| status.place == Place::Dead);
        dead.truncate(limit);
        let spots = dead.iter().map(|id| self.enter(self.ids[id], event.clone(), sent, Outcome::Unknown));
        Asked::Each(spots.collect())
    }

    fn pauses(&mut self, sent: When, queue: &QueueName, pause: Pause) -> Asked {
        let pausings = self.pauses.entry(queue.clone()).or_default();
        pausings.push(Pausing { pause, sent, answered: None });
        Asked::Pause(queue.clone(), pausings.len() - 1)
    }

    fn enter(&mut self, tag: Tag, event: Event, sent: When, outcome: Outcome) -> Spot {
        let known = self.jobs.get_mut(&tag).expect("jobs are forgotten between connections only");
        Spot { tag, index: known.enter(event, sent, outcome) }
    }

    fn entry(&mut self, spot: Spot) -> &mut Entry {
        &mut self.jobs.get_mut(&spot.tag).expect("it was entered").entries[spot.index]
    }

    // ---- answers ----

    fn accepted(&mut self, answered: When, tag: Tag, id: JobId) {
        self.tally.acknowledged += 1;
        let Some(known) = self.jobs.get_mut(&tag) else {
            return self.complain(format!("{tag} was accepted as {id}, and as another one before"));
        };
        known.answered = Some(answered);
        self.is_told(tag, id);
        if id.0 <= self.floor {
            self.complain(format!("id {id} was given, and {} had been given before the restart", self.floor));
        }
        let known = &self.jobs[&tag];
        let Some(key) = known.submission.options.key.clone() else { return };
        let same = |other: &&Known| {
            other.has_key(&known.submission.queue, &key)
                && other.told
                && other.id.is_some_and(|other| other < id)
        };
        let rival =
            self.jobs.values().filter(same).find(|other| !self.fate(other, answered.ms).may_have_ended);
        if let Some(rival) = rival {
            self.complain(format!(
                "job {id} has the key {} of job {:?}, which is there yet",
                key.as_str(),
                rival.id
            ));
        }
    }

    fn duplicate(&mut self, tag: Tag, id: JobId) {
        let Some(refused) = self.jobs.remove(&tag) else { return };
        let (queue, key) = (&refused.submission.queue, refused.submission.options.key.as_ref());
        let Some(key) = key else {
            return self.complain(format!("{tag} has no key and was answered that {id} has it"));
        };
        let has_key = |known: &Known| known.has_key(queue, key);
        match self.ids.get(&id) {
            Some(other) if self.jobs.get(other).is_some_and(has_key) => {
                self.must_not_have_ended(refused.sent, *other, "TASK with its key");
            }
            Some(_) => self.complain(format!("{tag} was answered that job {id} has its key, and it has not")),
            None => {
                let unknown = self.jobs.iter().find(|(_, known)| known.id.is_none() && has_key(known));
                match unknown.map(|(other, _)| *other) {
                    Some(other) => self.is_told(other, id),
                    None => {
                        self.complain(format!("{tag} was answered that job {id} has its key: which job?"))
                    }
                }
            }
        }
    }

    /// Somebody was shown that a submission is the job `id`.
    fn is_told(&mut self, tag: Tag, id: JobId) {
        self.highest = self.highest.max(id.0);
        if self.finished.contains(&id) {
            self.complain(format!("job {id} had ended before the restart, and is back"));
        }
        let known = self.jobs.get_mut(&tag).expect("the caller has looked");
        known.told = true;
        let before = known.id.replace(id);
        if before.is_some_and(|before| before != id) {
            self.complain(format!("{tag} is job {before:?} and job {id}"));
        }
        if let Some(other) = self.ids.insert(id, tag)
            && other != tag
        {
            self.complain(format!("id {id} was given twice: to {other} and to {tag}"));
        }
    }

    fn leased(
        &mut self,
        connection: Connection,
        sent: When,
        answered: When,
        paused: &[(QueueName, u64)],
        lease: &Lease,
    ) {
        self.tally.leases += 1;
        let id = lease.id;
        let tag = Tag::of(&lease.body).filter(|tag| self.jobs.contains_key(tag));
        let Some(tag) = tag else {
            let known = self.finished.contains(&id);
            let what = if known { "had ended before the restart" } else { "was never submitted" };
            return self.complain(format!("a worker was given job {id}, which {what}"));
        };
        self.is_told(tag, id);
        self.must_not_have_ended(sent, tag, "GET");
        if let Some((queue, until)) = paused.iter().find(|(queue, _)| *queue == lease.queue)
            && answered.ms + SLACK_MS < *until
        {
            self.complain(format!("a worker was given job {id} of the queue {queue}, which is paused"));
        }
        let Submission { queue, options, body, .. } = &self.jobs[&tag].submission;
        if (queue, options.ttr, body) != (&lease.queue, lease.ttr, &lease.body) {
            self.complain(format!(
                "job {id} was given to a worker as {lease:?}, and was submitted otherwise"
            ));
        }
        if self.allowed.draining {
            // The server stops: another worker may have been sent away, and its jobs handed back.
            self.enter(tag, Event::Return { delay: Duration::ZERO }, answered, Outcome::Unknown);
        }
        self.jobs.get_mut(&tag).expect("the caller has looked").may_have_lapsed_unseen(answered);
        self.enter(tag, Event::Leased { attempt: lease.attempt, by: connection }, answered, Outcome::Done);
        if lease.ttr < MAY_LAPSE {
            self.enter(tag, Event::Crash { reason: LAPSED }, answered, Outcome::Unknown);
        }
        self.held.entry(connection).or_default().insert(tag);
        self.must_fit(tag, answered.ms);
    }

    fn changed(&mut self, answered: When, change: Change, spot: Spot, answer: &Answer) {
        let outcome = match (change, answer) {
            (Change::Ack | Change::Return | Change::Delete, Answer::Done) => Outcome::Done,
            (Change::Retry, Answer::Count(1)) => Outcome::Done,
            (Change::Fail, Answer::RetryIn(wait)) => Outcome::RetryIn(*wait),
            (Change::Fail, Answer::Dead) => Outcome::Dead,
            (_, Answer::Refused(_)) => Outcome::Refused,
            (change, answer) => {
                return self.complain(format!(
                    "{change:?} of {:?} was answered {answer:?}",
                    self.jobs[&spot.tag].id
                ));
            }
        };
        let entry = self.entry(spot);
        entry.answered = Some(answered);
        entry.outcome = outcome;
        let id = self.jobs[&spot.tag].id.expect("it was changed by its id");
        if let Answer::Refused(refusal) = answer {
            return self.refused(id, change, refusal);
        }
        if matches!(change, Change::Ack | Change::Delete) {
            self.tally.finished += 1;
        }
        if change.ends_lease() {
            self.lapsed(spot.tag, Some(spot.index), Outcome::Refused);
        }
        self.must_fit(spot.tag, answered.ms);
    }

    /// A change was refused: that needs a reason.
    fn refused(&mut self, id: JobId, change: Change, refusal: &Refusal) {
        let tag = self.ids[&id];
        let good = match (change, refusal.code) {
            // It was a worker's at that moment, whether or not the worker has been told of it yet.
            (Change::Delete, Code::NotLeased) => true,
            (_, Code::NotFound) => return self.must_have_ended(id, "a change"),
            (Change::Ack | Change::Fail | Change::Return, Code::NotLeased) => {
                self.lapsed(tag, None, Outcome::Done)
            }
            _ => false,
        };
        if !good {
            self.complain(format!("{change:?} of job {id} was refused: {refusal}\n{:?}", self.jobs[&tag]));
        }
    }

    fn touched(&mut self, id: JobId, answer: &Answer) {
        let tag = self.ids[&id];
        match answer {
            Answer::Done => {
                // It had not lapsed by then; from now on it may.
                if self.lapsed(tag, None, Outcome::Refused) {
                    let now = self.now();
                    self.enter(tag, Event::Crash { reason: LAPSED }, now, Outcome::Unknown);
                }
            }
            Answer::Refused(refusal) if refusal.code == Code::NotLeased => {
                if !self.lapsed(tag, None, Outcome::Done) {
                    self.complain(format!("TOUCH of job {id} was refused: {refusal}"));
                }
            }
            Answer::Refused(refusal) if refusal.code == Code::NotFound => self.must_have_ended(id, "TOUCH"),
            answer => self.complain(format!("TOUCH of job {id} was answered {answer:?}")),
        }
    }

    /// It is known now whether a lease had lapsed, before the entry `before` was made; returns whether it may
    /// have.
    fn lapsed(&mut self, tag: Tag, before: Option<usize>, outcome: Outcome) -> bool {
        let known = self.jobs.get_mut(&tag).expect("the caller has looked");
        let before = before.unwrap_or(known.entries.len());
        let lapse = known.entries[..before].iter_mut().rev().find(|entry| entry.is_lapse());
        match lapse {
            Some(entry) if entry.outcome == Outcome::Unknown => {
                entry.outcome = outcome;
                true
            }
            Some(entry) => entry.outcome == outcome,
            None => false,
        }
    }

    fn peeked(&mut self, sent: When, id: JobId, found: &Job) {
        let Some(tag) = self.ids.get(&id).copied().filter(|tag| self.jobs.contains_key(tag)) else {
            return self.complain(format!("job {id} was shown, which is none"));
        };
        self.is_told(tag, id);
        self.must_not_have_ended(sent, tag, "PEEK");
        let Submission { queue, options, body, .. } = &self.jobs[&tag].submission;
        let shown =
            (&found.queue, found.priority, found.ttr, found.attempts, found.backoff, &found.key, &found.body);
        let was =
            (queue, options.priority, options.ttr, options.attempts, options.backoff, &options.key, body);
        if shown != was {
            self.complain(format!("job {id} is shown as {shown:?} and was submitted as {was:?}"));
        }
    }

    // ---- what must hold ----

    fn must_not_have_ended(&mut self, sent: When, tag: Tag, what: &str) {
        let known = &self.jobs[&tag];
        let ended = |entry: &&Entry| {
            entry.is_end()
                && entry.outcome.is_done()
                && entry.answered.is_some_and(|at| at.stamp < sent.stamp)
        };
        if let Some(entry) = known.entries.iter().find(ended) {
            self.complain(format!(
                "{what} was answered with job {:?}, which had ended before: it is back ({entry:?})",
                known.id
            ));
        }
    }

    fn must_have_ended(&mut self, id: JobId, what: &str) {
        if self.finished.contains(&id) {
            return;
        }
        let known = self.ids.get(&id).and_then(|tag| self.jobs.get(tag));
        if let Some(known) = known
            && !self.fate(known, now_ms()).may_have_ended
        {
            self.complain(format!(
                "{what} was answered that job {id} is not there, and nobody has ended it: {known:?}"
            ));
        }
    }

    fn must_fit(&mut self, tag: Tag, now: u64) {
        let known = &self.jobs[&tag];
        if self.fate(known, now).statuses.is_empty() {
            self.complain(format!(
                "what was answered of job {:?} does not fit together: {known:?}",
                known.id
            ));
        }
    }

    fn fate(&self, known: &Known, now: u64) -> Fate {
        let options = &known.submission.options;
        let base = known.base.clone().unwrap_or_else(|| {
            let to = known.answered.map_or(now, |answered| answered.ms);
            Status::submitted(options, known.sent.ms, to)
        });
        let statuses = possible(base, &known.entries, options, now);
        let ends = || known.entries.iter().filter(|entry| entry.is_end());
        let mut may_have_ended = ends().any(|entry| entry.outcome != Outcome::Refused);
        let mut has_ended = ends().any(|entry| entry.outcome.is_done());
        for purge in self.purges.iter().filter(|purge| purge.queue == known.submission.queue) {
            let there = known.base.is_some() || known.answered.is_some_and(|at| at.stamp < purge.sent.stamp);
            let too_late = purge.answered.is_some_and(|at| at.stamp < known.sent.stamp);
            may_have_ended |= !too_late;
            has_ended |= there && purge.answered.is_some();
        }
        Fate { statuses, may_have_ended, has_ended }
    }

    /// The queues that are paused whatever was executed, and until when at least.
    fn surely_paused(&self, now: u64) -> Vec<(QueueName, u64)> {
        let mut paused = Vec::new();
        for (queue, pausings) in &self.pauses {
            let until = possible_pauses(pausings, now).iter().map(|span| span.earliest).min();
            paused.push((queue.clone(), until.unwrap_or(0)));
        }
        paused
    }

    fn now(&mut self) -> When {
        self.stamps += 1;
        When { stamp: self.stamps, ms: now_ms() }
    }

    /// Notes that something is not as it must be.
    pub(crate) fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        }
    }
}

impl Change {
    /// Whether it ends the lease of the connection that sends it.
    fn ends_lease(self) -> bool {
        matches!(self, Change::Ack | Change::Fail | Change::Return)
    }
}

impl Entry {
    fn is_end(&self) -> bool {
        matches!(self.event, Event::End)
    }

    fn is_lapse(&self) -> bool {
        matches!(self.event, Event::Crash { reason: LAPSED })
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Known { submission, sent, answered, id, told, base, entries } = self;
        let Submission { queue, options, body, .. } = submission;
        let id = id.map_or(0, |id| id.0);
        write!(f, "job {id} (told: {told}) of {queue}, {} bytes, {options:?}, ", body.len())?;
        writeln!(f, "sent {sent:?}, answered {answered:?}, shown as {base:?}")?;
        entries.iter().try_for_each(|entry| writeln!(f, "    {entry:?}"))
    }
}

impl Known {
    fn enter(&mut self, event: Event, sent: When, outcome: Outcome) -> usize {
        self.entries.push(Entry { event, sent, answered: None, outcome });
        self.entries.len() - 1
    }

    /// A worker that waits is handed a job before it comes to look, and on a busy machine that may be too
    /// late for a short lease.
    fn may_have_lapsed_unseen(&mut self, now: When) {
        if self.submission.options.ttr < MAY_LAPSE {
            (0..UNSEEN_MAX)
                .for_each(|_| _ = self.enter(Event::Unseen { lapsed: Some(LAPSED) }, now, Outcome::Unknown));
        }
    }

    fn has_key(&self, queue: &QueueName, key: &Key) -> bool {
        self.submission.queue == *queue && self.submission.options.key.as_ref() == Some(key)
    }

    /// Who was last told of a lease of it.
    fn holder(&self) -> Option<Connection> {
        self.entries.iter().rev().find_map(|entry| match entry.event {
            Event::Leased { by, .. } => Some(by),
            _ => None,
        })
    }
}

fn is_full(refusal: &Refusal) -> bool {
    refusal.code == Code::Full && refusal.retry_after.is_some()
}
