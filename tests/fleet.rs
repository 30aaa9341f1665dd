//! A fleet of real workers on one server: every job is done, exactly once while nothing fails, at least once
//! when workers die.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Server, until};

mod common;

const WORKERS: usize = 8;

/// How many jobs the fleet gets; `DJQS_FLEET_JOBS` says otherwise.
fn jobs() -> u64 {
    std::env::var("DJQS_FLEET_JOBS")
        .map_or(100_000, |jobs| jobs.parse().expect("DJQS_FLEET_JOBS is a number"))
}

/// Pipes numbered tasks into the client, and checks that each was accepted.
fn submit(server: &Server, directory: &Path, count: u64) {
    let tasks = directory.join("tasks.txt");
    let text: String = (1..=count).map(|n| format!("TASK: NUMBER: {n}\n")).collect();
    std::fs::write(&tasks, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_client"))
        .args(["-s", &server.address.to_string()])
        .stdin(File::open(&tasks).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let acks = String::from_utf8(output.stdout).unwrap();
    let expected: String = (1..=count).map(|id| format!("ACK {id}\n")).collect();
    assert!(acks == expected, "the replies are one ACK a task, in order");
}

/// Starts a demonstration worker that writes what it does into a file of its own.
fn start_worker(server: &Server, log: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_worker"))
        .args(["-s", &server.address.to_string()])
        .env("RUST_LOG", "warn")
        .stdout(File::create(log).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// How often each task was begun, and how often one was finished, by its number.
fn count_work(logs: &[std::path::PathBuf]) -> (HashMap<u64, u64>, HashMap<u64, u64>) {
    let (mut begun, mut done) = (HashMap::new(), HashMap::new());
    for log in logs {
        for line in std::fs::read_to_string(log).unwrap().lines() {
            if let Some((_, number)) = line.split_once("NUMBER: ") {
                *begun.entry(number.parse().unwrap()).or_default() += 1;
            } else if let Some(id) = line.strip_prefix("done ") {
                // A killed worker's last line may be cut off.
                *done.entry(id.parse().unwrap_or(0)).or_default() += 1;
            }
        }
    }
    (begun, done)
}

#[test]
fn each_of_many_jobs_is_done_exactly_once_by_eight_workers() {
    let (server, directory, count) = (Server::start(&[]), tempfile::tempdir().unwrap(), jobs());
    submit(&server, directory.path(), count);
    let logs: Vec<_> = (0..WORKERS).map(|n| directory.path().join(format!("worker-{n}.log"))).collect();
    let mut workers: Vec<_> = logs.iter().map(|log| start_worker(&server, log)).collect();
    until("all jobs are done", || server.stat("acked_total") == count.to_string());
    for worker in &mut workers {
        let pid = rustix::process::Pid::from_child(worker);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(worker.wait().unwrap().code(), Some(0));
    }
    let (begun, done) = count_work(&logs);
    assert_eq!(begun.len() as u64, count);
    assert_eq!(done.len() as u64, count);
    assert!(begun.values().chain(done.values()).all(|&times| times == 1), "some job was done twice");
    assert_eq!(server.stat("crashed_total"), "0");
    let busy = logs.iter().filter(|log| std::fs::metadata(log).unwrap().len() > 0).count();
    assert_eq!(busy, WORKERS, "all of them had a share");
}

#[test]
fn no_job_is_lost_when_workers_are_killed_at_random() {
    let (server, directory, count) = (Server::start(&[]), tempfile::tempdir().unwrap(), jobs());
    submit(&server, directory.path(), count);
    let mut logs = Vec::new();
    let mut start = || {
        logs.push(directory.path().join(format!("worker-{}.log", logs.len())));
        start_worker(&server, logs.last().unwrap())
    };
    let mut workers: Vec<_> = (0..WORKERS).map(|_| start()).collect();
    let seed = std::env::var("DJQS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    let (mut random, mut kills) = (seed, 0);
    // One is killed each time another twentieth of the work is done, so that the kills are spread over it.
    let mut next_kill = count / 20;
    until("all jobs are done", || {
        let acked: u64 = server.stat("acked_total").parse().unwrap();
        if acked >= next_kill && acked < count {
            next_kill += count / 20;
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let victim = &mut workers[(random >> 33) as usize % WORKERS];
            victim.kill().unwrap();
            victim.wait().unwrap();
            *victim = start();
            kills += 1;
        }
        acked == count
    });
    workers.iter_mut().for_each(|worker| {
        worker.kill().unwrap();
        worker.wait().unwrap();
    });
    assert!(kills >= 10, "seed {seed}: only {kills} kills");
    let (begun, _) = count_work(&logs);
    assert_eq!(begun.len() as u64, count, "seed {seed}: every job was begun at least once");
    let again = begun.values().filter(|&&times| times > 1).count();
    assert!(
        again as u64 <= kills,
        "seed {seed}: {again} jobs were begun again for {kills} kills of one job each"
    );
    for figure in ["jobs_ready", "jobs_delayed", "jobs_leased", "jobs_dead"] {
        assert_eq!(server.stat(figure), "0", "seed {seed}: {figure}");
    }
}
