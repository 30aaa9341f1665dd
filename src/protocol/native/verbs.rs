//! The verbs as text: one table, from which requests are read, errors say what there is, and HELP
//! is written. Over 500 lines because the table is one piece.

use std::sync::Arc;
use std::time::Duration;

use super::options::{
    any_duration, batch_name, batch_total, job_id, job_ids, job_state, json, label, lease_duration,
    list_limit, not_an_id, number_u32, percent, queue_name, queue_names, retry_limit, secret, unique_key,
    worker_name, yes,
};
use super::text::{number, quoted};
use crate::error::{Code, Refusal};
use crate::job::{Group, Hello, JobId, Options, Priority, QueueName, Search, Submission, Wish, WorkerName};
use crate::protocol::{Cancel, Command, Each, LIST_LIMIT_DEFAULT, OnDrained, Retry, Wait};

/// One verb of the dialect.
pub(super) struct Verb {
    pub(super) name: &'static str,
    pub(super) body: TakesBody,
    id: TakesId,
    /// Whether it takes several ids, with commas between them.
    several: bool,
    options: &'static [&'static str],
    /// How it is written, for HELP.
    form: &'static str,
    /// What it does, and what it answers, for HELP.
    what: &'static str,
    make: fn(&Given<'_>) -> Result<Command, Refusal>,
}

/// Whether a verb stands before a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TakesBody {
    Always,
    IfGiven,
    Never,
}

/// Whether a job's id stands behind a verb, before its options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TakesId {
    Always,
    InsteadOfOptions,
    /// The name of a batch instead.
    Batch,
    Never,
}

/// The most options that a verb has.
const OPTIONS_MAX: usize = 10;

/// A verb with nothing behind it, for the table to begin with.
const LINE: Verb = Verb {
    name: "",
    body: TakesBody::Never,
    id: TakesId::Never,
    several: false,
    options: &[],
    form: "",
    what: "",
    make: |given| Err(given.usage("is no verb")),
};

/// A verb with nothing behind it but a job's id.
const ID_LINE: Verb = Verb { id: TakesId::Always, ..LINE };

/// All verbs; the busy ones first, since they are looked for in this order.
static VERBS: [Verb; 29] = [
    Verb {
        name: "TASK",
        body: TakesBody::Always,
        // `len` is read where the body is found.
        options: &["queue", "priority", "delay", "ttr", "attempts", "backoff", "key", "keep", "batch", "len"],
        form: "TASK [queue=Q] [priority=N] [delay=D] [ttr=D] [attempts=N] [backoff=D] [key=K] [keep=D] [batch=B] [len=N]: body",
        what: "accept a job: ACK id",
        make: |given| {
            let default = Options::default();
            let options = Options {
                priority: given.option("priority", number_u32)?.map_or(default.priority, Priority),
                delay: given.option("delay", any_duration)?.unwrap_or(default.delay),
                ttr: given.option("ttr", lease_duration)?.unwrap_or(default.ttr),
                attempts: given.option("attempts", number_u32)?.unwrap_or(default.attempts),
                backoff: given.option("backoff", any_duration)?.unwrap_or(default.backoff),
                key: given.option("key", unique_key)?,
                keep: given.option("keep", any_duration)?.unwrap_or(default.keep),
                batch: given.option("batch", batch_name)?,
            };
            let queue = given.option("queue", queue_name)?.unwrap_or_default();
            let body = given.body.unwrap_or_default().into();
            Ok(Command::Submit(Box::new(Submission { queue, options, body })))
        },
        ..LINE
    },
    Verb {
        name: "GET",
        options: &["queue", "wait", "drain"],
        form: "GET [queue=Q[,Q...]] [wait=D] [drain=yes]",
        what: "lease the next job: JOB id queue=Q attempt=N ttr=D: body, or EMPTY [drained=yes]",
        make: |given| {
            let queues = given.option("queue", queue_names)?.unwrap_or_default();
            let wait = given.option("wait", any_duration)?.map_or(Wait::Forever, Wait::AtMost);
            let drains = given.option("drain", yes)?.is_some();
            let on_drained = if drains { OnDrained::End } else { OnDrained::Wait };
            Ok(Command::Lease { queues, wait, on_drained })
        },
        ..LINE
    },
    Verb {
        name: "ACK",
        body: TakesBody::IfGiven,
        options: &["len"],
        form: "ACK id [len=N][: result]",
        what: "a leased job is done: OK",
        make: |given| Ok(Command::Ack { id: given.id()?, result: given.body.map(Into::into) }),
        ..ID_LINE
    },
    Verb {
        name: "FAIL",
        body: TakesBody::IfGiven,
        options: &["delay", "dead", "len"],
        form: "FAIL id [delay=D | dead=yes] [len=N][: reason]",
        what: "a leased job failed: OK retry=D, or OK dead=yes",
        make: |given| {
            let delay = given.option("delay", any_duration)?;
            let dead = given.option("dead", yes)?.is_some();
            if delay.is_some() && dead {
                return Err(given.usage("takes delay or dead=yes, not both: a dead job is not tried again"));
            }
            let reason = given.body.map(|body| String::from_utf8_lossy(body).into());
            Ok(Command::Fail { id: given.id()?, delay, dead, reason })
        },
        ..ID_LINE
    },
    Verb {
        name: "RETURN",
        options: &["delay"],
        form: "RETURN id [delay=D]",
        what: "return a leased job undone, no attempt charged: OK",
        make: |given| {
            let delay = given.option("delay", any_duration)?.unwrap_or_default();
            Ok(Command::Return { id: given.id()?, delay })
        },
        ..ID_LINE
    },
    Verb {
        name: "TOUCH",
        body: TakesBody::IfGiven,
        options: &["ttr", "progress", "len"],
        form: "TOUCH id [ttr=D] [progress=0..100] [len=N][: note]",
        what: "renew a lease, and say how far the job is: OK",
        make: |given| {
            let (id, ttr) = (given.id()?, given.option("ttr", lease_duration)?);
            let progress = given.option("progress", percent)?;
            let note = given.body.map(|body| String::from_utf8_lossy(body).into());
            Ok(Command::Touch { id, ttr, progress, note })
        },
        ..ID_LINE
    },
    Verb {
        name: "PEEK",
        options: &["form"],
        form: "PEEK id [form=json]",
        what: "look at a job: JOB id queue=Q state=S ...: body; or as LIST shows it",
        make: |given| match given.option("form", json)? {
            None => Ok(Command::Peek { id: given.id()? }),
            Some(()) => Ok(Command::Show { id: given.id()? }),
        },
        ..ID_LINE
    },
    Verb {
        name: "WHY",
        form: "WHY id",
        what: "why a job is where it is: OK state=S ...: a sentence",
        make: |given| Ok(Command::Why { id: given.id()? }),
        ..ID_LINE
    },
    Verb {
        name: "WAIT",
        options: &["wait"],
        form: "WAIT id [wait=D]",
        what: "wait for the end of a job: DONE, DEAD, CANCELLED or GONE id, or EMPTY",
        make: |given| Ok(Command::Wait { id: given.id()?, wait: given.wait()?.unwrap_or(Wait::Forever) }),
        ..ID_LINE
    },
    Verb {
        name: "BATCH",
        id: TakesId::Batch,
        options: &["total", "wait"],
        form: "BATCH B [total=N] [wait=D]",
        what: "a batch's counts, at once or when it is complete: OK total=N ... complete=yes or no",
        make: |given| {
            let name = given.batch.ok_or_else(|| given.usage("needs the batch's name: BATCH B"))?;
            let total = given.option("total", batch_total)?.unwrap_or(1);
            let wait = given.wait()?.unwrap_or(Wait::AtMost(Duration::ZERO));
            Ok(Command::Batch { name: batch_name("batch", name)?, total, wait })
        },
        ..LINE
    },
    Verb {
        name: "CANCEL",
        body: TakesBody::IfGiven,
        id: TakesId::InsteadOfOptions,
        several: true,
        options: &["queue", "batch", "state", "len"],
        form: "CANCEL id[,id...] [len=N][: reason] | CANCEL queue=Q|batch=B [state=S] [len=N][: reason]",
        what: "take back jobs that are not done: OK state=S, what it was, or OK count=N",
        make: |given| {
            let reason: Option<Arc<str>> = given.body.map(|body| String::from_utf8_lossy(body).into());
            if let Some(several) = given.several(|| Each::Cancel(reason.clone())) {
                return Ok(several);
            }
            let what = match given.id {
                Some(id) => Cancel::Job(id),
                None => Cancel::All { of: given.group()?, state: given.option("state", job_state)? },
            };
            Ok(Command::Cancel { what, reason })
        },
    },
    Verb {
        name: "LIST",
        body: TakesBody::IfGiven,
        options: &["queue", "batch", "state", "limit", "after", "key", "age", "before", "len"],
        form: "LIST queue=Q|batch=B [state=S] [limit=N] [after=id] | LIST [queue=Q|batch=B] [state=S] [key=K] [age=D] [limit=N] [before=id] [len=N][: text]",
        what: "look at jobs, oldest first, or look for jobs, newest first: OK lines=N, one JSON object a line",
        make: |given| {
            if let Some(search) = given.search()? {
                return Ok(search);
            }
            let of = given.group()?;
            let state = given.option("state", job_state)?;
            let limit = given.option("limit", list_limit)?.unwrap_or(LIST_LIMIT_DEFAULT);
            Ok(Command::List { of, state, limit, after: given.option("after", job_id)? })
        },
        ..LINE
    },
    Verb {
        name: "RETRY",
        id: TakesId::InsteadOfOptions,
        options: &["queue", "batch", "limit"],
        form: "RETRY id[,id...] | RETRY queue=Q|batch=B [limit=N]",
        what: "make dead jobs ready again, or a cancelled one: OK count=N",
        several: true,
        make: |given| match (given.several(|| Each::Retry), given.id) {
            (Some(several), _) => Ok(several),
            (None, Some(id)) => Ok(Command::Retry(Retry::Job(id))),
            (None, None) => {
                let limit = given.option("limit", retry_limit)?;
                Ok(Command::Retry(Retry::All { of: given.group()?, limit }))
            }
        },
        ..LINE
    },
    Verb {
        name: "DELETE",
        form: "DELETE id[,id...]",
        what: "remove a job: OK; or several: OK count=N",
        several: true,
        make: |given| {
            let one = || Ok(Command::Delete { id: given.id()? });
            given.several(|| Each::Delete).map_or_else(one, Ok)
        },
        ..ID_LINE
    },
    Verb {
        name: "PURGE",
        options: &["queue", "batch", "state"],
        form: "PURGE queue=Q|batch=B [state=S]",
        what: "remove ready, delayed and dead jobs, or those in a state: OK count=N",
        make: |given| Ok(Command::Purge { of: given.group()?, state: given.option("state", job_state)? }),
        ..LINE
    },
    Verb {
        name: "PAUSE",
        options: &["queue", "for"],
        form: "PAUSE queue=Q [for=D]",
        what: "hand out nothing of a queue: OK",
        make: |given| Ok(Command::Pause { queue: given.queue()?, time: given.option("for", any_duration)? }),
        ..LINE
    },
    Verb {
        name: "RESUME",
        options: &["queue", "worker"],
        form: "RESUME queue=Q | RESUME worker=W",
        what: "hand out a paused queue's jobs again: OK; or let a quiet worker work: OK count=N",
        make: |given| match (given.option("queue", queue_name)?, given.option("worker", worker_name)?) {
            (Some(queue), None) => Ok(Command::Resume { queue }),
            (None, Some(worker)) => Ok(Command::Wish { worker, wish: Wish::Work }),
            (Some(_), Some(_)) => Err(given.usage("takes a queue or a worker, not both")),
            (None, None) => Err(given.usage("needs a queue or a worker: queue=Q or worker=W")),
        },
        ..LINE
    },
    Verb {
        name: "HELLO",
        options: &["worker", "secret", "host", "pid", "slots", "version", "resume"],
        form: "HELLO worker=W secret=HEX [host=H] [pid=N] [slots=N] [version=V] [resume=D]",
        what: "introduce a worker's connection: OK version=V verbs=...",
        make: |given| {
            let name = given.option("worker", worker_name)?.ok_or_else(|| given.no_worker())?;
            let secret = given.option("secret", secret)?;
            let secret = secret.ok_or_else(|| given.usage("needs the worker's secret: secret=HEX"))?;
            let mut hello = Hello::new(name, secret);
            hello.host = given.option("host", label)?;
            hello.pid = given.option("pid", number_u32)?;
            hello.slots = given.option("slots", number_u32)?;
            hello.version = given.option("version", label)?;
            hello.resume = given.option("resume", any_duration)?.unwrap_or_default();
            Ok(Command::Hello(Box::new(hello)))
        },
        ..LINE
    },
    Verb {
        name: "HOLD",
        body: TakesBody::Always,
        options: &["len"],
        form: "HOLD [len=N]: id,...",
        what: "take over leases of the worker's lost connections: OK count=N [lost=id,...]",
        make: |given| Ok(Command::Hold { ids: job_ids(given.body.unwrap_or_default())? }),
        ..LINE
    },
    Verb {
        name: "BEAT",
        body: TakesBody::Always,
        options: &["len"],
        form: "BEAT [len=N]: id,...",
        what: "renew a worker's leases: OK count=N [lost=id,...]",
        make: |given| Ok(Command::Beat { ids: job_ids(given.body.unwrap_or_default())? }),
        ..LINE
    },
    Verb {
        name: "ORDERS",
        options: &["wait"],
        form: "ORDERS [wait=D]",
        what: "what a worker should do: ORDER cancel id, ORDER lost id, ORDER quiet, resume or stop, or EMPTY",
        make: |given| Ok(Command::Orders { wait: given.wait()?.unwrap_or(Wait::Forever) }),
        ..LINE
    },
    Verb {
        name: "QUIET",
        options: &["worker"],
        form: "QUIET worker=W",
        what: "have a worker take no more jobs: OK count=N",
        make: |given| Ok(Command::Wish { worker: given.worker()?, wish: Wish::Quiet }),
        ..LINE
    },
    Verb {
        name: "STOP",
        options: &["worker"],
        form: "STOP worker=W",
        what: "have a worker finish what runs and end: OK count=N",
        make: |given| Ok(Command::Wish { worker: given.worker()?, wish: Wish::Stop }),
        ..LINE
    },
    Verb {
        name: "WORKERS",
        form: "WORKERS",
        what: "all workers that have introduced themselves: OK lines=N, one JSON object a line",
        make: |_| Ok(Command::Workers),
        ..LINE
    },
    Verb {
        name: "STATS",
        options: &["queue"],
        form: "STATS [queue=Q]",
        what: "the server's counters, or a queue's: OK lines=N, each name: value",
        make: |given| Ok(Command::Stats { queue: given.option("queue", queue_name)? }),
        ..LINE
    },
    Verb {
        name: "QUEUES",
        form: "QUEUES",
        what: "all queues with their counts: OK lines=N",
        make: |_| Ok(Command::Queues),
        ..LINE
    },
    Verb { name: "PING", form: "PING", what: "is anybody there: PONG", make: |_| Ok(Command::Ping), ..LINE },
    Verb { name: "HELP", form: "HELP", what: "this list: OK lines=N", make: |_| Ok(Command::Help), ..LINE },
    Verb {
        name: "QUIT",
        form: "QUIT",
        what: "return what is leased and close; no reply",
        make: |_| Ok(Command::Quit),
        ..LINE
    },
];

/// The lines that HELP answers, one a verb.
pub(super) fn help() -> impl ExactSizeIterator<Item = String> {
    VERBS.iter().map(|verb| format!("{}  {}", verb.form, verb.what))
}

/// The verb of that name.
///
/// # Errors
/// `unknown-verb`, with a hint where only the case is wrong.
pub(super) fn find(name: &[u8]) -> Result<&'static Verb, Refusal> {
    VERBS.iter().find(|verb| verb.name.as_bytes() == name).ok_or_else(|| unknown(name))
}

#[cold]
fn unknown(name: &[u8]) -> Refusal {
    if name.is_empty() {
        return Refusal::new(Code::UnknownVerb, "a line begins with its verb; HELP lists the verbs");
    }
    let text = match VERBS.iter().find(|verb| verb.name.as_bytes().eq_ignore_ascii_case(name)) {
        Some(verb) => format!("{} is no verb; verbs are upper case: write {}", quoted(name), verb.name),
        None => format!("{} is no verb; HELP lists the verbs", quoted(name)),
    };
    Refusal::new(Code::UnknownVerb, text)
}

/// A request's parts, cut but not understood.
pub(super) struct Header<'a> {
    pub(super) verb: &'static Verb,
    /// What stands between the verb and the header's end.
    pub(super) words: &'a [u8],
    /// The body, if there is a colon.
    pub(super) body: Option<&'a [u8]>,
}

impl Header<'_> {
    /// Makes a command of the parts.
    ///
    /// # Errors
    /// `usage` or `bad-name`, with what to write instead.
    pub(super) fn read(&self) -> Result<Command, Refusal> {
        let verb = self.verb;
        match (verb.body, self.body) {
            (TakesBody::Always, None) => {
                return Err(verb.usage("needs its body behind a colon and a space: TASK: body"));
            }
            (TakesBody::Never, Some(_)) => {
                return Err(verb.usage("takes no body: leave out the colon and what follows"));
            }
            _ => {}
        }
        let values = [None; OPTIONS_MAX];
        let mut given =
            Given { verb, id: None, ids: Vec::new(), batch: None, body: self.body, values, any: false };
        let mut words = self.words.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).peekable();
        let takes_id = match verb.id {
            TakesId::Always => true,
            TakesId::InsteadOfOptions => words.peek().is_none_or(|word| !word.contains(&b'=')),
            TakesId::Batch | TakesId::Never => false,
        };
        if verb.id == TakesId::Batch {
            given.batch = words.next_if(|word| !word.contains(&b'='));
        }
        if takes_id {
            let word = words.next();
            match word.filter(|word| verb.several && word.contains(&b',')) {
                Some(word) => given.ids = job_ids(word)?,
                None => given.id = Some(verb.read_id(word)?),
            }
            let no_options = verb.options.iter().all(|option| *option == "len");
            let alone = no_options || verb.id == TakesId::InsteadOfOptions;
            if alone && words.peek().is_some_and(|word| !word.starts_with(b"len=")) {
                return Err(verb.usage("takes one job's id and nothing else"));
            }
        }
        for word in words {
            given.add(word)?;
        }
        (verb.make)(&given)
    }
}

/// What stands behind a verb.
struct Given<'a> {
    verb: &'static Verb,
    id: Option<JobId>,
    /// The ids, if there are several.
    ids: Vec<JobId>,
    batch: Option<&'a [u8]>,
    body: Option<&'a [u8]>,
    /// The values of the verb's options, in the order of its table.
    values: [Option<&'a [u8]>; OPTIONS_MAX],
    any: bool,
}

impl<'a> Given<'a> {
    fn add(&mut self, word: &'a [u8]) -> Result<(), Refusal> {
        let (name, value) = super::text::name_and_value(word).ok_or_else(|| self.verb.not_an_option(word))?;
        let mut options = self.verb.options.iter();
        let at = options
            .position(|option| option.as_bytes() == name)
            .ok_or_else(|| self.verb.unknown_option(name))?;
        if self.values[at].replace(value).is_some() && self.verb.options[at] != "len" {
            return Err(Refusal::usage(format!("{0} is given twice; give it once", self.verb.options[at])));
        }
        self.any = true;
        Ok(())
    }

    /// The value of an option, if it was given.
    fn option<T>(
        &self,
        name: &'static str,
        read: fn(&'static str, &[u8]) -> Result<T, Refusal>,
    ) -> Result<Option<T>, Refusal> {
        if !self.any {
            return Ok(None);
        }
        let at = self.verb.options.iter().position(|option| *option == name);
        at.and_then(|at| self.values[at]).map(|value| read(name, value)).transpose()
    }

    fn queue(&self) -> Result<QueueName, Refusal> {
        self.option("queue", queue_name)?.ok_or_else(|| self.usage("needs a queue: queue=Q"))
    }

    /// The queue or the batch that was given.
    fn group(&self) -> Result<Group, Refusal> {
        self.any_group()?.ok_or_else(|| self.usage("needs a queue or a batch: queue=Q or batch=B"))
    }

    /// The queue or the batch, if one was given.
    fn any_group(&self) -> Result<Option<Group>, Refusal> {
        match (self.option("queue", queue_name)?, self.option("batch", batch_name)?) {
            (Some(queue), None) => Ok(Some(Group::Queue(queue))),
            (None, Some(batch)) => Ok(Some(Group::Batch(batch))),
            (Some(_), Some(_)) => Err(self.usage("takes a queue or a batch, not both")),
            (None, None) => Ok(None),
        }
    }

    /// A LIST that is a search: it asks for more than the jobs of a queue or a batch in their order.
    fn search(&self) -> Result<Option<Command>, Refusal> {
        let search = Search {
            of: self.any_group()?,
            state: self.option("state", job_state)?,
            key: self.option("key", unique_key)?,
            age: self.option("age", any_duration)?,
            text: self.body.map(Into::into),
        };
        let before = self.option("before", job_id)?;
        let asks = search.key.is_some() || search.age.is_some() || search.text.is_some() || before.is_some();
        if !asks && search.of.is_some() {
            return Ok(None);
        }
        if self.option("after", job_id)?.is_some() {
            return Err(self.usage("of a queue or a batch has after; a search, newest first, has before"));
        }
        let limit = self.option("limit", list_limit)?.unwrap_or(LIST_LIMIT_DEFAULT);
        Ok(Some(Command::Search { search: Box::new(search), limit, before }))
    }

    /// The command for several ids, if more than one was given.
    fn several(&self, what: impl FnOnce() -> Each) -> Option<Command> {
        (self.ids.len() > 1).then(|| Command::Several { ids: self.ids.clone(), what: what() })
    }

    fn worker(&self) -> Result<WorkerName, Refusal> {
        self.option("worker", worker_name)?.ok_or_else(|| self.no_worker())
    }

    fn no_worker(&self) -> Refusal {
        self.usage("needs a worker's name: worker=W")
    }

    fn wait(&self) -> Result<Option<Wait>, Refusal> {
        Ok(self.option("wait", any_duration)?.map(Wait::AtMost))
    }

    fn id(&self) -> Result<JobId, Refusal> {
        self.id.ok_or_else(|| self.verb.no_id())
    }

    fn usage(&self, text: &str) -> Refusal {
        self.verb.usage(text)
    }
}

impl Verb {
    fn read_id(&self, word: Option<&[u8]>) -> Result<JobId, Refusal> {
        match word {
            None => Err(self.no_id()),
            Some(word) => number(word).map(JobId).ok_or_else(|| match word.contains(&b'=') {
                true => self.usage_of_id("needs the job's id before its options"),
                false => not_an_id(word),
            }),
        }
    }

    #[cold]
    fn no_id(&self) -> Refusal {
        match self.id {
            TakesId::InsteadOfOptions => self.usage(&format!(
                "needs a job's id, a queue or a batch: {0} id, {0} queue=Q or {0} batch=B",
                self.name
            )),
            _ => self.usage_of_id("needs a job's id"),
        }
    }

    fn usage_of_id(&self, text: &str) -> Refusal {
        Refusal::usage(format!("{0} {text}: {0} id", self.name))
    }

    fn usage(&self, text: &str) -> Refusal {
        Refusal::usage(format!("{} {text}", self.name))
    }

    fn unknown_option(&self, name: &[u8]) -> Refusal {
        let options = if self.options.is_empty() { "none".to_owned() } else { self.options.join(", ") };
        Refusal::usage(format!("{} has no option {}; it has {options}", self.name, quoted(name)))
    }

    fn not_an_option(&self, word: &[u8]) -> Refusal {
        let hint = match (self.body, self.options.is_empty()) {
            (TakesBody::Never, true) => "nothing else belongs in the line".to_owned(),
            (TakesBody::Never, false) => {
                format!("options are written name=value, and it has {}", self.options.join(", "))
            }
            _ => format!("options are written name=value, and the body goes behind a colon: {}", self.form),
        };
        Refusal::usage(format!("{} does not take {}; {hint}", self.name, quoted(word)))
    }
}

/// The names of all verbs.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    VERBS.iter().map(|verb| verb.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_has_one_line_a_verb_that_begins_with_it() {
        let lines: Vec<String> = help().collect();
        assert_eq!(lines.len(), VERBS.len());
        for (line, verb) in lines.iter().zip(&VERBS) {
            assert!(line.starts_with(verb.name), "{line}");
            for option in verb.options {
                assert!(line.contains(&format!("{option}=")), "{line} does not show {option}");
            }
        }
    }
}
