//! The n-th system call of each kind, in each of the server's threads, meets a fault: the process is killed
//! there, or the call fails with EIO or ENOSPC. So every write, sync, rename and removal has its turn, those
//! of rotation, of compaction, of recovery and of the clean end included.
//!
//! - Killed: what was acknowledged is there after a restart.
//! - EIO: from then on no success is reported, the process exits with 1, and the next start is right.
//! - ENOSPC: only TASK may be refused, and all goes on when there is room again.

use std::ops::RangeInclusive;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use djqs::Options;
use djqs::protocol::Command;
use rustix::process::Signal;

use crate::common::{Server, until};
use crate::dice::{Dice, seed};
use crate::history::{Allowed, Tally};
use crate::kill::judge;
use crate::load::{Client, Load, Plan, Shared, queue, submission};
use crate::rig::{Gone, Policy, Site, copy_directory, ended, kill, now_ms, start};
use crate::strace::{Fault, Injection, Log, Strace, thread, unusable};

/// So small that a few commands fill a segment.
const SEGMENT_BYTES: u64 = 8 << 10;

/// Enough for some segments to come and go.
const CROWD: Plan = Plan { submitters: 2, workers: 1, alone: false, rounds: Some(12) };
/// Some of the intervals after which is synced by the clock.
const LONGER: Plan = Plan { rounds: Some(80), ..CROWD };
const ALONE: Plan = Plan { submitters: 0, workers: 0, alone: true, rounds: Some(40) };

/// A sweep is over when so many numbers in a row were not reached: no two loads are quite alike.
const MISSES: u64 = 3;

/// A thread of the server's, and the calls that it makes on the journal's files.
struct Role {
    thread: &'static str,
    policy: Policy,
    plan: Plan,
    syscalls: &'static [&'static str],
}

const ROLES: [Role; 7] = [
    // Who waits for his own commands alone writes them himself.
    Role { thread: "connection", policy: Policy::Always, plan: ALONE, syscalls: &["pwrite64", "fdatasync"] },
    Role { thread: "connection", policy: Policy::Never, plan: ALONE, syscalls: &["pwrite64", "fdatasync"] },
    Role {
        thread: "journal-writer",
        policy: Policy::Always,
        plan: CROWD,
        syscalls: &["pwrite64", "fdatasync"],
    },
    Role {
        thread: "journal-writer",
        policy: Policy::Interval,
        plan: CROWD,
        syscalls: &["pwrite64", "fdatasync"],
    },
    Role { thread: "journal-sync", policy: Policy::Interval, plan: LONGER, syscalls: &["fdatasync"] },
    // Makes segments ahead.
    Role {
        thread: "journal-reserve",
        policy: Policy::Always,
        plan: CROWD,
        syscalls: &["openat", "pwrite64", "fdatasync", "/renameat", "fsync"],
    },
    // Empties and removes the oldest.
    Role {
        thread: "journal-compact",
        policy: Policy::Always,
        plan: CROWD,
        syscalls: &["openat", "pread64", "pwrite64", "fdatasync", "/unlinkat", "fsync"],
    },
];

impl Role {
    /// Whether the call could meet that on a real disk.
    fn may_meet(&self, syscall: &str, fault: Fault) -> bool {
        let reads = syscall == "pread64" || (syscall == "openat" && self.thread == "journal-compact");
        fault != Fault::Enospc || !reads
    }
}

/// The calls of the main thread, which reads and mends the journal before it serves.
const AT_START: [&str; 7] = ["openat", "pread64", "pwrite64", "fdatasync", "/renameat", "/unlinkat", "fsync"];

/// The calls of the main thread, which ends the journal when all connections have ended.
const AT_STOP: [&str; 2] = ["pwrite64", "fdatasync"];

/// Which faults and which numbers. DJQS_CRASH_FAULTS says it: `all` for all of both; `kill`, `eio` or
/// `enospc` for that fault and one number at random; without it, both are random.
struct Choice {
    all: bool,
    only: Option<Fault>,
    seed: u64,
    dice: Dice,
}

impl Choice {
    fn new() -> Choice {
        let (all, only) = match std::env::var("DJQS_CRASH_FAULTS").as_deref() {
            Err(_) => (false, None),
            Ok("all") => (true, None),
            Ok("kill") => (false, Some(Fault::Kill)),
            Ok("eio") => (false, Some(Fault::Eio)),
            Ok("enospc") => (false, Some(Fault::Enospc)),
            Ok(other) => panic!("DJQS_CRASH_FAULTS={other} is none of all, kill, eio, enospc"),
        };
        let seed = seed();
        Choice { all, only, seed, dice: Dice(seed) }
    }

    fn faults(&mut self, possible: impl Fn(Fault) -> bool) -> Vec<Fault> {
        let wanted = |fault: &Fault| possible(*fault) && self.only.is_none_or(|only| only == *fault);
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(wanted).collect();
        if !self.all && !faults.is_empty() {
            faults = vec![self.dice.one_of(&faults)];
        }
        faults
    }

    fn numbers(&mut self) -> RangeInclusive<u64> {
        let one = self.dice.within(1, 4);
        if self.all { 1..=u64::MAX } else { one..=one }
    }

    /// Tries one number after another, until none is reached any more, and tells.
    fn sweep(&mut self, what: &str, mut attempt: impl FnMut(u64, &mut Report) -> Result<bool, String>) {
        let mut report = Report::default();
        let mut misses = 0;
        for number in self.numbers() {
            report.runs += 1;
            match attempt(number, &mut report) {
                Ok(true) => (report.hits, misses) = (report.hits + 1, 0),
                Ok(false) => misses += 1,
                Err(broken) => panic!("DJQS_SEED={}: {what}, number {number}: {broken}", self.seed),
            }
            if misses == MISSES {
                break;
            }
        }
        println!("{what}: {report}");
    }
}

/// What was done, for the report.
#[derive(Debug, Default)]
struct Report {
    runs: u64,
    hits: u64,
    /// How long after the fault the process had ended, in milliseconds.
    ended_after: Vec<u64>,
    tally: Tally,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} runs, {} faults", self.runs, self.hits)?;
        let mut times = self.ended_after.clone();
        times.sort_unstable();
        if let (Some(middle), Some(longest)) = (times.get(times.len() / 2), times.last()) {
            write!(f, ", ended {middle} ms after it (median of {}), {longest} ms at most", times.len())?;
        }
        write!(f, ": {}", self.tally)
    }
}

/// Ends an attempt: what did not fit, and where the files are.
fn conclude(site: &mut Site, history: &Shared, report: &mut Report) -> Result<(), String> {
    let mut history = history.lock().unwrap();
    report.tally += std::mem::take(&mut history.tally);
    match history.complaints() {
        complaints if complaints.is_empty() => Ok(()),
        complaints => Err(format!("kept in {}:\n- {}", site.keep().display(), complaints.join("\n- "))),
    }
}

fn allow(history: &Shared, full: bool, unavailable: bool) {
    let mut history = history.lock().unwrap();
    history.allowed = Allowed { full, unavailable, draining: false };
    history.was_full |= full;
}

fn complain(history: &Shared, complaint: String) {
    history.lock().unwrap().complain(complaint);
}

/// A connection whose thread there is.
fn connected(server: &Server, history: &Shared) -> Client {
    let mut client = Client::connect(server.address, history).expect("it listens");
    client.converse(&[Command::Ping]).expect("it answers");
    client
}

// ---- under load ----

#[test]
fn fault_in_any_call_under_load_breaks_no_promise() {
    if let Some(why) = unusable() {
        return println!("skipped: {why}");
    }
    let mut choice = Choice::new();
    for role in &ROLES {
        for syscall in role.syscalls {
            for fault in choice.faults(|fault| role.may_meet(syscall, fault)) {
                let what = format!("{} (fsync {}), {syscall}, {fault:?}", role.thread, role.policy.flag());
                let seed = choice.seed;
                choice.sweep(&what, |number, report| {
                    let injection = Injection { syscall, fault, number, for_good: false };
                    hit_under_load(role, injection, seed.wrapping_add(number), report)
                });
            }
        }
    }
}

/// Loads a server one of whose threads has this waiting for it, starts it again, and has the history judge.
/// Returns whether the thread came to that call.
fn hit_under_load(role: &Role, injection: Injection, seed: u64, report: &mut Report) -> Result<bool, String> {
    let mut site = Site::new(role.policy, SEGMENT_BYTES);
    let history = Shared::default();
    let mut server = site.start();
    let first = connected(&server, &history);
    // A full disk is not the journal's end; but where a sync, or a name's change, finds no room, it may be.
    let may_end = match injection.fault {
        Fault::Kill => false,
        Fault::Eio => true,
        Fault::Enospc => !["pwrite64", "openat"].contains(&injection.syscall),
    };
    allow(&history, injection.fault == Fault::Enospc, may_end);
    let strace = Strace::attach(thread(&server, role.thread), injection, &site.home().join("strace"));
    let mut clients = Load::start(server.address, &history, role.plan, seed, Some(first)).end();
    let log = strace.log();
    let all_served = clients.len() == role.plan.clients();
    let hit = match injection.fault {
        Fault::Kill => !all_served || log.was_killed(),
        Fault::Eio | Fault::Enospc => log.hit_at().is_some(),
    };
    match injection.fault {
        _ if !hit => kill(server),
        Fault::Kill => _ = ended(&mut server),
        Fault::Enospc if all_served && accepts_again(&mut clients[0], &history).is_ok() => kill(server),
        Fault::Enospc if !may_end => {
            complain(&history, format!("a full disk ended the server: {}", site.log()))
        }
        Fault::Eio if !told_nothing_good(&log, &history) => kill(server),
        Fault::Eio | Fault::Enospc => {
            must_end(server, &log, &history, report);
            let said = site.log().matches("the journal can no longer be written").count();
            if said != 1 {
                complain(&history, format!("the failure was logged {said} times: {}", site.log()));
            }
        }
    }
    drop((strace, clients));
    history.lock().unwrap().server_was_killed();
    allow(&history, false, false);
    judge(&site.start(), &history);
    conclude(&mut site, &history, report).map(|()| hit)
}

/// After a call that failed, the thread that made it must not tell anybody of a success.
fn told_nothing_good(log: &Log, history: &Shared) -> bool {
    let told = log.sent_after_hit().find(|line| !line.contains("\"ERR unavailable"));
    if let Some(line) = told {
        complain(history, format!("after a write or a sync had failed, this was told: {line}"));
    }
    told.is_none()
}

/// The journal has failed: the process has to end with 1.
fn must_end(mut server: Server, log: &Log, history: &Shared, report: &mut Report) {
    let status = ended(&mut server);
    if status.and_then(|status| status.code()) != Some(1) {
        complain(
            history,
            format!("the journal had failed, and the server ended with {status:?}, not with exit code 1"),
        );
    }
    report.ended_after.extend(log.hit_at().map(|at| now_ms() - at));
}

/// The disk was full for a moment: jobs are accepted again.
fn accepts_again(client: &mut Client, history: &Shared) -> Result<(), Gone> {
    let mut result = Ok(());
    until("a job to be accepted again", || {
        let before = history.lock().unwrap().tally.acknowledged;
        result = submit(client, history, 100);
        result.is_err() || history.lock().unwrap().tally.acknowledged > before
    });
    result
}

fn submit(client: &mut Client, history: &Shared, length: u64) -> Result<(), Gone> {
    let submission = submission(&mut history.lock().unwrap(), queue("work"), Options::default(), length);
    client.converse(&[Command::Submit(Box::new(submission))]).map(drop)
}

// ---- at the start ----

#[test]
fn fault_in_any_call_of_recovery_breaks_no_promise() {
    if let Some(why) = unusable() {
        return println!("skipped: {why}");
    }
    let mut choice = Choice::new();
    let history = Shared::default();
    let mut crashed = Site::new(Policy::Always, SEGMENT_BYTES);
    leave_much_to_mend(&crashed, &history, choice.seed);
    for syscall in AT_START {
        for fault in choice.faults(|fault| fault != Fault::Enospc || syscall != "pread64") {
            choice.sweep(&format!("main thread, at the start, {syscall}, {fault:?}"), |number, report| {
                let injection = Injection { syscall, fault, number, for_good: false };
                let hit = hit_at_start(crashed.data(), injection, &history);
                conclude(&mut crashed, &history, report).map(|()| hit)
            });
        }
    }
}

/// A journal as a crash leaves it, with all that there can be to mend.
fn leave_much_to_mend(site: &Site, history: &Shared, seed: u64) {
    let server = site.start();
    let first = connected(&server, history);
    let mut clients = Load::start(server.address, history, CROWD, seed, Some(first)).end();
    until("a segment with room behind the last batch", || {
        submit(&mut clients[0], history, 100).expect("it answers");
        site.tail().1 + 1500 < SEGMENT_BYTES as usize
    });
    kill(server);
    drop(clients);
    history.lock().unwrap().server_was_killed();
    let (tail, end) = site.tail();
    let mut bytes = std::fs::read(&tail).unwrap();
    // Of a batch that was on its way when the power went; its first sector had not come yet. Compaction may
    // have taken the room for it.
    if let Some(torn) = bytes.get_mut(end + 512..end + 1100) {
        torn.fill(0xA5);
    }
    std::fs::write(&tail, bytes).unwrap();
    std::fs::write(site.data().join("0000009999.0123456789abcdef.new"), [0; 5000]).unwrap();
}

/// Starts a server on a copy of a journal, with this waiting for it; then one without, whose jobs are judged.
fn hit_at_start(crashed: &Path, injection: Injection, history: &Shared) -> bool {
    let site = Site::new(Policy::Always, SEGMENT_BYTES);
    copy_directory(crashed, site.data());
    let log = site.home().join("strace");
    let hit = match start(&mut site.command_of(injection.around(&log))) {
        // What it could do without.
        Ok(server) => {
            kill(server);
            Log::read(&log).hit_at().is_some()
        }
        Err(status) => {
            if injection.fault != Fault::Kill && status.code().is_none_or(|code| code == 0) {
                complain(history, format!("{injection:?} at the start made the server end with {status}"));
            }
            true
        }
    };
    judge(&site.start(), history);
    hit
}

// ---- at the end ----

#[test]
fn fault_in_any_call_of_a_clean_end_breaks_no_promise() {
    if let Some(why) = unusable() {
        return println!("skipped: {why}");
    }
    let mut choice = Choice::new();
    for syscall in AT_STOP {
        for fault in choice.faults(|_| true) {
            let seed = choice.seed;
            choice.sweep(&format!("main thread, at the end, {syscall}, {fault:?}"), |number, report| {
                let injection = Injection { syscall, fault, number, for_good: false };
                hit_at_stop(injection, seed.wrapping_add(number), report)
            });
        }
    }
}

/// Tells a loaded server to stop, with this waiting for its main thread.
fn hit_at_stop(injection: Injection, seed: u64, report: &mut Report) -> Result<bool, String> {
    let mut site = Site::new(Policy::Interval, SEGMENT_BYTES);
    let history = Shared::default();
    let mut server = site.start();
    let clients = Load::start(server.address, &history, CROWD, seed, None).end();
    let strace = Strace::attach(server.child.id(), injection, &site.home().join("strace"));
    server.signal(Signal::TERM);
    let status = ended(&mut server);
    let log = strace.log();
    drop(clients);
    let killed = status.is_some_and(|status| status.signal().is_some());
    let hit = killed || log.hit_at().is_some();
    let good = match (hit, injection.fault, status.and_then(|status| status.code())) {
        (false, _, code) => code == Some(0),
        (true, Fault::Kill, code) => code.is_none(),
        // It had told nobody that it would end well.
        (true, Fault::Eio, code) => code == Some(1),
        // A write is tried again, a sync is not.
        (true, Fault::Enospc, code) => code == Some(0) || code == Some(1),
    };
    if !good {
        complain(
            &history,
            format!("{injection:?} (hit: {hit}): at SIGTERM the server ended with {status:?}"),
        );
    }
    history.lock().unwrap().server_has_stopped(!hit);
    judge(&site.start(), &history);
    conclude(&mut site, &history, report).map(|()| hit)
}

// ---- without a fault ----

#[test]
fn nothing_is_told_before_it_is_synced_and_no_name_is_left_unsynced() {
    if let Some(why) = unusable() {
        return println!("skipped: {why}");
    }
    let site = Site::new(Policy::Always, SEGMENT_BYTES);
    let history = Shared::default();
    let server = site.start();
    let first = connected(&server, &history);
    let watch = |name: &str, syscalls: &[&str]| {
        Strace::watch(thread(&server, name), syscalls, &site.home().join(name))
    };
    let connection = watch("connection", &["pwrite64", "fdatasync"]);
    let spares = watch("journal-reserve", &["pwrite64", "fdatasync", "/renameat", "fsync"]);
    let compaction = watch("journal-compact", &["/unlinkat", "fsync"]);
    let plan = Plan { rounds: Some(300), ..ALONE };
    let clients = Load::start(server.address, &history, plan, seed(), Some(first)).end();
    let told = follows(&connection.log(), "pwrite64", "fdatasync", "sendto");
    let named = follows(&spares.log(), "renameat", "fsync", "pwrite64");
    let filled = follows(&spares.log(), "pwrite64", "fdatasync", "renameat");
    let removed = follows(&compaction.log(), "unlinkat", "fsync", "unlinkat");
    println!(
        "{told} times told after a write and its sync, {filled} segments synced before they were named, \
         {named} names synced before use, {removed} removals synced before the next"
    );
    assert!(told > 20 && named > 2 && filled > 2 && removed > 2, "too few to tell: see above");
    drop(clients);
    kill(server);
}

/// Sees to it that between the last `first` and each `last`, there is a `between`; returns how often there
/// was.
fn follows(log: &Log, first: &str, between: &str, last: &str) -> u64 {
    let (mut open, mut closed, mut count) = (false, false, 0);
    for call in log.calls() {
        if call == last && open {
            assert!(closed, "{call} after {first} without {between} between them: {log:#?}");
            count += 1;
            open = false;
        }
        (open, closed) = match call {
            _ if call == first => (true, false),
            _ if call == between => (open, true),
            _ => (open, closed),
        };
    }
    count
}

// ---- no more segments ----

#[test]
fn disk_that_was_full_for_a_moment_takes_jobs_again_once_some_are_done() {
    if let Some(why) = unusable() {
        return println!("skipped: {why}");
    }
    let site = Site::new(Policy::Always, SEGMENT_BYTES);
    let server = site.start();
    let mut talk = server.connect();
    let spares = thread(&server, "journal-reserve");
    let injection = Injection { syscall: "pwrite64", fault: Fault::Enospc, number: 1, for_good: false };
    let strace = Strace::attach(spares, injection, &site.home().join("strace"));
    let body = "x".repeat(700);
    let mut last = 0;
    until("no room for a segment", || {
        if let Some(id) = talk.ask(&format!("TASK: {body}")).strip_prefix("ACK ") {
            last = id.parse().unwrap();
        }
        strace.log().hit_at().is_some()
    });
    for id in 1..=last {
        assert_eq!(talk.ask("GET wait=0"), format!("JOB {id} queue=default attempt=1 ttr=1m: {body}"));
        assert_eq!(talk.ask(&format!("ACK {id}")), "OK");
    }
    until("room for a new job", || talk.ask("TASK: one more").starts_with("ACK "));
    kill(server);
}

#[test]
fn server_that_finds_no_room_to_write_ends_all_the_same_when_told_to() {
    if let Some(why) = unusable() {
        return println!("skipped: {why}");
    }
    let site = Site::new(Policy::Always, SEGMENT_BYTES);
    let mut server = site.start();
    let mut talk = server.connect();
    assert_eq!(talk.ask("TASK: safe"), "ACK 1");
    let injection = Injection { syscall: "pwrite64", fault: Fault::Enospc, number: 1, for_good: true };
    let strace = Strace::attach(thread(&server, "connection"), injection, &site.home().join("strace"));
    talk.send("TASK: never written\n");
    until("a write that finds no room", || strace.log().hit_at().is_some());
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(1), "{}", site.log());
    let server = site.start();
    assert!(server.greeting.contains("recovered 1 jobs"), "{}", server.greeting);
    assert_eq!(talk.rest(), "");
}

#[test]
fn while_no_segment_can_be_made_only_new_jobs_are_refused() {
    if let Some(why) = unusable() {
        return println!("skipped: {why}");
    }
    // What is set aside is meant for jobs that are small beside a segment.
    let mut site = Site::new(Policy::Always, 4 * SEGMENT_BYTES);
    let history = Shared::default();
    let server = site.start();
    let mut client = connected(&server, &history);
    allow(&history, true, false);
    // Overwriting what is there needs no room.
    let injection = Injection { syscall: "openat", fault: Fault::Enospc, number: 1, for_good: true };
    let spares = thread(&server, "journal-reserve");
    let strace = Strace::attach(spares, injection, &site.home().join("strace"));
    until("a job to be refused", || {
        submit(&mut client, &history, 500).expect("it answers");
        history.lock().unwrap().tally.full > 0
    });
    // Everything else is executed, or the history complains.
    let plan = Plan { rounds: Some(60), ..ALONE };
    let mut clients = Load::start(server.address, &history, plan, seed(), Some(client)).end();
    assert_eq!(clients.len(), 1, "the server has gone: {}", site.log());
    strace.let_go();
    accepts_again(&mut clients[0], &history).expect("it answers");
    kill(server);
    history.lock().unwrap().server_was_killed();
    judge(&site.start(), &history);
    let mut report = Report::default();
    conclude(&mut site, &history, &mut report).unwrap();
    println!("no more segments for a while: {}", report.tally);
}
