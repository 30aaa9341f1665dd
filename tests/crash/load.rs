//! The clients: submitters that send ahead, workers, one worker whose leases lapse, and an operator; each
//! tells the history of every word.
//!
//! Each kind has queues of its own, so that what the history must know stays knowable:
//! - `work` and `urgent`: submitters and workers; no lease there ever lapses; workers come and go.
//! - `bulk`: submitters, and the operator's PURGE; no workers.
//! - `lapsing`: its one worker submits to it, and holds its jobs longer than their time to run.
//! - `desk`: the operator's own, for dead jobs: RETRY, DELETE, PURGE.
//! - `gate` and `gate.2`: the operator's own, for PAUSE and RESUME.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use djqs::protocol::{Command, LIST_LIMIT_DEFAULT, OnDrained, Retry, Wait};
use djqs::{JobId, JobState, Key, Lease, Options, QueueName, Submission};

use crate::dice::Dice;
use crate::fate::Place;
use crate::history::{Connection, History, Leaving};
use crate::rig::{Gone, Wire};

/// The history that all clients share.
pub(crate) type Shared = Arc<Mutex<History>>;

/// With more jobs than this, submitters only look, and workers mostly finish.
const JOBS_MAX: usize = 600;

/// How many leases a worker holds at most.
const HELD_MAX: usize = 12;

/// A load that runs until the server is gone, or each client has had its rounds.
pub(crate) struct Load {
    threads: Vec<JoinHandle<Option<Client>>>,
}

/// How much load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) submitters: u64,
    pub(crate) workers: u64,
    /// One client does it all, so that nothing else goes on in the server meanwhile; the numbers above are
    /// then not looked at.
    pub(crate) alone: bool,
    /// How many times each client sends something and reads the answers; `None` for until the server is gone.
    pub(crate) rounds: Option<u64>,
}

impl Plan {
    /// How many clients that makes: a worker whose leases lapse and an operator are always there.
    pub(crate) fn clients(self) -> usize {
        if self.alone { 1 } else { (self.submitters + self.workers) as usize + 2 }
    }
}

impl Load {
    /// Starts all clients. `first` is a connection that is there already, for the first of them.
    pub(crate) fn start(
        address: SocketAddr,
        history: &Shared,
        plan: Plan,
        seed: u64,
        mut first: Option<Client>,
    ) -> Load {
        let mut dice = Dice(seed);
        let mut threads = Vec::new();
        let mut start = |name: String, client: Option<Client>, mut round: Round| {
            let (history, dice) = (Arc::clone(history), Dice(dice.next()));
            let run = move || {
                let mut client = match client {
                    Some(client) => client,
                    None => Client::connect(address, &history).ok()?,
                };
                client.dice = dice;
                let mut rounds = 0;
                while plan.rounds.is_none_or(|max| rounds < max) {
                    rounds += 1;
                    if round(&mut client).is_err() {
                        return None;
                    }
                }
                Some(client)
            };
            threads.push(std::thread::Builder::new().name(name).spawn(run).unwrap());
        };
        if plan.alone {
            let mut held = Vec::new();
            start("client".into(), first.take(), Box::new(move |client| do_anything(client, &mut held)));
            return Load { threads };
        }
        for number in 0..plan.submitters {
            start(
                format!("submitter {number}"),
                first.take(),
                Box::new(move |client| submit(client, number)),
            );
        }
        for number in 0..plan.workers {
            let mut held = Vec::new();
            start(format!("worker {number}"), None, Box::new(move |client| come_and_work(client, &mut held)));
        }
        let mut held = None;
        start("late worker".into(), None, Box::new(move |client| lapse(client, &mut held)));
        start("operator".into(), None, Box::new(operate));
        Load { threads }
    }

    /// Waits until all clients are done. The connections of those who still have one are returned: to drop
    /// them is to lose their leases.
    pub(crate) fn end(self) -> Vec<Client> {
        let ended = self.threads.into_iter().map(|thread| {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            thread.join().unwrap_or_else(|_| panic!("the {name} has failed, see above"))
        });
        ended.collect::<Vec<_>>().into_iter().flatten().collect()
    }
}

/// One thing that a client does: something sent, and its answers read.
type Round = Box<dyn FnMut(&mut Client) -> Result<(), Gone> + Send>;

/// A connection whose words the history hears.
#[derive(Debug)]
pub(crate) struct Client {
    wire: Wire,
    history: Shared,
    connection: Connection,
    address: SocketAddr,
    dice: Dice,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr, history: &Shared) -> Result<Client, Gone> {
        let connection = history.lock().unwrap().new_connection();
        let wire = Wire::connect(address)?;
        Ok(Client { wire, history: Arc::clone(history), connection, address, dice: Dice(0) })
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    /// Sends commands at one go and reads their answers; returns the leases among them.
    pub(crate) fn converse(&mut self, commands: &[Command]) -> Result<Vec<Lease>, Gone> {
        let asked: Vec<_> = {
            let mut history = self.history();
            commands.iter().map(|command| history.sent(command)).collect()
        };
        self.wire.send(commands);
        let mut leases = Vec::new();
        for asked in asked {
            let answer = self.wire.answer()?;
            leases.extend(self.history().answered(self.connection, asked, answer));
        }
        Ok(leases)
    }

    /// Ends the connection and begins another.
    fn reconnect(&mut self, leaving: Leaving) -> Result<(), Gone> {
        self.history().leaves(self.connection, leaving);
        if leaving == Leaving::Quit {
            self.wire.send(&[Command::Quit]);
            if let Ok(answer) = self.wire.answer() {
                panic!("QUIT was answered {answer:?}");
            }
        }
        let dice = self.dice.clone();
        let history = Arc::clone(&self.history);
        *self = Client::connect(self.address, &history)?;
        self.dice = dice;
        Ok(())
    }
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

/// A submission whose body begins with its tag; what follows is made from the tag, and now and then is no
/// text.
pub(crate) fn submission(
    history: &mut History,
    queue: QueueName,
    options: Options,
    length: u64,
) -> Submission {
    let tag = history.new_tag();
    let mut dice = Dice(tag.0);
    let mut body = tag.to_string().into_bytes();
    let (low, high) = if dice.percent(10) { (0, 256) } else { (b' '.into(), 127) };
    body.extend((0..length).map(|_| dice.within(low, high) as u8));
    Submission::new(body).to(&queue).options(&options)
}

fn get(queues: &[&str], wait: Duration) -> Command {
    Command::Lease {
        queues: queues.iter().map(|name| queue(name)).collect(),
        wait: Wait::AtMost(wait),
        on_drained: OnDrained::Wait,
    }
}

/// Options as submitters have them; no lease of them lapses while a test runs.
fn options(dice: &mut Dice, submitter: u64) -> Options {
    let key = dice.percent(20).then(|| Key::new(&format!("key:{submitter}.{}", dice.within(0, 12))).unwrap());
    Options::default()
        .priority(dice.one_of(&[0, 1, 1024, 1024, 1024, u32::MAX]))
        .delay(match dice.within(0, 20) {
            0 => Duration::from_secs(3600),
            1..4 => dice.millis(1, 600),
            _ => Duration::ZERO,
        })
        .ttr(Duration::from_secs(3600))
        .attempts(dice.one_of(&[0, 1, 2, 3, 10]))
        .backoff(dice.one_of(&[Duration::ZERO, Duration::from_millis(30), Duration::from_secs(1)]))
        .key(key)
}

fn submit(client: &mut Client, number: u64) -> Result<(), Gone> {
    if client.history().jobs() > JOBS_MAX {
        return look_around(client);
    }
    let mut commands = Vec::new();
    for _ in 0..client.dice.one_of(&[1, 1, 2, 8, 32]) {
        let name = client.dice.one_of(&["work", "work", "work", "urgent", "bulk"]);
        let length = client.dice.one_of(&[0, 10, 50, 100, 100, 300, 1400]);
        let options = options(&mut client.dice, number);
        let submission = submission(&mut client.history(), queue(name), options, length);
        commands.push(Command::Submit(Box::new(submission)));
    }
    client.converse(&commands).map(drop)
}

/// Looks without changing anything.
fn look_around(client: &mut Client) -> Result<(), Gone> {
    let random = client.dice.next();
    let id = client.history().any(random);
    let mut commands = vec![
        Command::Ping,
        Command::Stats { queue: None },
        Command::Queues,
        Command::List { of: queue("work").into(), state: None, limit: LIST_LIMIT_DEFAULT, after: None },
    ];
    commands.extend(id.map(|id| Command::Peek { id }));
    client.converse(&commands).map(drop)
}

/// One client in all parts but that of the worker whose leases lapse.
fn do_anything(client: &mut Client, held: &mut Vec<Lease>) -> Result<(), Gone> {
    match client.dice.within(0, 5) {
        0..2 => submit(client, 0),
        2..4 => work(client, held),
        _ => operate(client),
    }
}

/// A worker that now and then goes, with a word or without one, and comes again.
fn come_and_work(client: &mut Client, held: &mut Vec<Lease>) -> Result<(), Gone> {
    if client.dice.percent(2) {
        held.clear();
        let leaving = client.dice.one_of(&[Leaving::Lost, Leaving::Quit]);
        return client.reconnect(leaving);
    }
    work(client, held)
}

fn work(client: &mut Client, held: &mut Vec<Lease>) -> Result<(), Gone> {
    let crowded = client.history().jobs() > JOBS_MAX;
    let mut commands = Vec::new();
    // One that waits, if there is nothing else to do; several at a time otherwise.
    let gets = if held.is_empty() { 1 } else { client.dice.within(0, 8) };
    for _ in 0..gets {
        let wait = if held.is_empty() { Duration::from_millis(20) } else { Duration::ZERO };
        commands.push(get(&["urgent", "work"], wait));
    }
    let mut kept = Vec::new();
    for lease in held.drain(..) {
        let id = lease.id;
        match client.dice.within(0, 100) {
            _ if crowded => commands.push(Command::Ack { id, result: None }),
            0..55 => commands.push(Command::Ack { id, result: None }),
            55..75 => commands.push(failure(&mut client.dice, id)),
            75..82 => {
                let delay = if client.dice.percent(70) { Duration::ZERO } else { client.dice.millis(1, 600) };
                commands.push(Command::Return { id, delay });
            }
            82..90 => {
                commands.push(Command::Touch { id, ttr: None, progress: None, note: None });
                kept.push(lease);
            }
            _ => kept.push(lease),
        }
    }
    *held = kept;
    held.extend(client.converse(&commands)?);
    while held.len() > HELD_MAX {
        let id = held.remove(0).id;
        client.converse(&[Command::Ack { id, result: None }])?;
    }
    Ok(())
}

fn failure(dice: &mut Dice, id: JobId) -> Command {
    let delay = match dice.within(0, 4) {
        0 => Some(Duration::ZERO),
        1 => Some(dice.millis(1, 600)),
        _ => None,
    };
    let dead = dice.percent(15);
    let reason = dice.percent(70).then(|| format!("reason {}", dice.within(0, 1000)).into());
    Command::Fail { id, delay: delay.filter(|_| !dead), dead, reason }
}

/// A worker that holds its one job for longer than it may, more often than not.
fn lapse(client: &mut Client, held: &mut Option<Lease>) -> Result<(), Gone> {
    let Some(lease) = held.take() else {
        if client.history().jobs() <= JOBS_MAX {
            let options = Options::default()
                .ttr(client.dice.millis(1, 40))
                .attempts(client.dice.one_of(&[0, 2, 3, 5]))
                .backoff(Duration::from_millis(5));
            let submission = submission(&mut client.history(), queue("lapsing"), options, 60);
            client.converse(&[Command::Submit(Box::new(submission))])?;
        }
        *held = client.converse(&[get(&["lapsing"], Duration::from_millis(10))])?.pop();
        return Ok(());
    };
    let id = lease.id;
    // Its lease lapses while this waits.
    let leases = match client.dice.within(0, 4) {
        0 => Vec::new(),
        1 => client.converse(&[Command::Touch { id, ttr: None, progress: None, note: None }])?,
        _ => client.converse(&[get(&["lapsing"], Duration::from_millis(20))])?,
    };
    if let Some(next) = leases.into_iter().next() {
        *held = Some(next);
        return Ok(());
    }
    let end = match client.dice.within(0, 3) {
        0 => Command::Return { id, delay: Duration::ZERO },
        1 => failure(&mut client.dice, id),
        _ => Command::Ack { id, result: None },
    };
    client.converse(&[end]).map(drop)
}

fn operate(client: &mut Client) -> Result<(), Gone> {
    let crowded = client.history().jobs() > JOBS_MAX;
    match client.dice.within(0, 10) {
        0..5 if crowded => delete_some(client),
        0..3 => fill_desk(client),
        3..5 => clear_desk(client),
        5..7 => open_and_close_gates(client),
        7 => delete_some(client),
        8 => retry_dead(client),
        _ => client.converse(&[Command::Purge { of: queue("bulk").into(), state: None }]).map(drop),
    }
}

/// Submits to the desk, and has what it can get there fail.
fn fill_desk(client: &mut Client) -> Result<(), Gone> {
    let mut commands = Vec::new();
    for _ in 0..client.dice.within(1, 6) {
        let options = Options::default().ttr(Duration::from_secs(3600));
        let submission = submission(&mut client.history(), queue("desk"), options, 40);
        commands.push(Command::Submit(Box::new(submission)));
    }
    commands.extend((0..4).map(|_| get(&["desk"], Duration::ZERO)));
    let leases = client.converse(&commands)?;
    let fail = |lease: &Lease| Command::Fail {
        id: lease.id,
        delay: None,
        dead: true,
        reason: Some(format!("job {} is no good", lease.id).into()),
    };
    client.converse(&leases.iter().map(fail).collect::<Vec<_>>()).map(drop)
}

/// Some dead jobs of the desk are tried again, some deleted, now and then all purged.
fn clear_desk(client: &mut Client) -> Result<(), Gone> {
    let dead = client.history().surely(&queue("desk"), |status| status.place == Place::Dead);
    let command = match (client.dice.within(0, 5), dead.as_slice()) {
        (0, _) => Command::Purge { of: queue("desk").into(), state: Some(JobState::Dead) },
        (1, _) => {
            let limit = Some(client.dice.within(1, 10));
            Command::Retry(Retry::All { of: queue("desk").into(), limit })
        }
        (2, [.., last]) => Command::Retry(Retry::Job(*last)),
        (_, [first, ..]) => Command::Delete { id: *first },
        _ => return Ok(()),
    };
    client.converse(&[command]).map(drop)
}

/// Pauses and resumes queues, and sees whether a paused one hands anything out.
fn open_and_close_gates(client: &mut Client) -> Result<(), Gone> {
    let name = client.dice.one_of(&["gate", "gate.2"]);
    let mut commands = Vec::new();
    if client.history().jobs() <= JOBS_MAX {
        let options = Options::default().ttr(Duration::from_secs(3600));
        let submission = submission(&mut client.history(), queue(name), options, 20);
        commands.push(Command::Submit(Box::new(submission)));
    }
    commands.push(match client.dice.within(0, 5) {
        0 => Command::Pause { queue: queue(name), time: None },
        1 => Command::Pause { queue: queue(name), time: Some(Duration::from_secs(3600)) },
        2 => Command::Pause { queue: queue(name), time: Some(client.dice.millis(1, 400)) },
        _ => Command::Resume { queue: queue(name) },
    });
    commands.extend([get(&[name], Duration::ZERO), get(&[name], Duration::ZERO)]);
    let leases = client.converse(&commands)?;
    client
        .converse(&leases.iter().map(|lease| Command::Ack { id: lease.id, result: None }).collect::<Vec<_>>())
        .map(drop)
}

/// Deletes jobs of whatever queue, in whatever state; those that are leased are refused.
fn delete_some(client: &mut Client) -> Result<(), Gone> {
    let mut ids: Vec<JobId> = Vec::new();
    for _ in 0..client.dice.within(1, 16) {
        let random = client.dice.next();
        ids.extend(client.history().any(random));
    }
    ids.sort_unstable();
    ids.dedup();
    client.converse(&ids.iter().map(|&id| Command::Delete { id }).collect::<Vec<_>>()).map(drop)
}

/// Brings back one dead job of the workers' queues.
fn retry_dead(client: &mut Client) -> Result<(), Gone> {
    let dead = client.history().surely(&queue("work"), |status| status.place == Place::Dead);
    let Some(&id) = dead.first() else { return Ok(()) };
    client.converse(&[Command::Retry(Retry::Job(id))]).map(drop)
}

/// Takes all that there is, one job at a time, until nothing is left: what has been kept must be good for
/// work, too.
pub(crate) fn drain(client: &mut Client) -> Result<(), Gone> {
    let queues = ["urgent", "work", "bulk", "lapsing", "desk", "gate", "gate.2"];
    let resume = |name: &&str| Command::Resume { queue: queue(name) };
    client.converse(&queues.iter().map(resume).collect::<Vec<_>>())?;
    loop {
        let gets: Vec<Command> = (0..32).map(|_| get(&queues, Duration::ZERO)).collect();
        let leases = client.converse(&gets)?;
        if leases.is_empty() {
            break;
        }
        client.converse(
            &leases.iter().map(|lease| Command::Ack { id: lease.id, result: None }).collect::<Vec<_>>(),
        )?;
    }
    // What is left is delayed or dead.
    let mut rest = Vec::new();
    for name in queues {
        rest.extend(client.history().surely(&queue(name), |_| true));
    }
    client.converse(&rest.iter().map(|&id| Command::Delete { id }).collect::<Vec<_>>()).map(drop)
}
