//! The broker inside a program of one's own: no socket, no second process. Run it with
//! `cargo run --example broker`.
//!
//! Three threads share a queue: one submits, two work. With a directory as its argument the jobs are kept
//! there, and those that were not done the last time are done now.

use std::sync::Arc;
use std::time::Duration;

use djqs::broker::{Config, DiskStorage, JournalOptions, Outcome, Waited};
use djqs::protocol::{Command, OnDrained, Reply, Wait};
use djqs::{Broker, Submission};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = match std::env::args_os().nth(1) {
        None => Broker::in_memory(Config::default()),
        Some(directory) => {
            let storage = Arc::new(DiskStorage::open(directory.as_ref())?);
            let (broker, recovered) = Broker::open(Config::default(), storage, JournalOptions::default())?;
            println!("{} records came back", recovered.records);
            broker
        }
    };
    let mut session = broker.connect();
    for n in 1..=6 {
        session.submit(Submission::new(format!("NUMBER: {n}")))?;
    }
    // Until here none of them is promised to anybody; now they all are, with one sync.
    session.settle()?;
    let workers: Vec<_> = ["left", "right"]
        .map(|name| {
            let broker = broker.clone();
            std::thread::spawn(move || work(&broker, name))
        })
        .into();
    for worker in workers {
        worker.join().expect("a worker does not panic")?;
    }
    broker.close()?;
    Ok(())
}

/// Works until nothing has come for a tenth of a second.
fn work(broker: &Broker, name: &str) -> Result<(), djqs::Refusal> {
    let mut session = broker.connect();
    loop {
        let get = Command::Lease {
            queues: Vec::new(),
            wait: Wait::AtMost(Duration::from_millis(100)),
            on_drained: OnDrained::Wait,
        };
        let lease = match session.execute(get) {
            Outcome::Reply(Reply::Leased(lease)) => lease,
            Outcome::Wait(wanted) => match session.wait(&wanted) {
                Waited::Leased(lease) => lease,
                Waited::Refused(refusal) => return Err(refusal),
                _ => return Ok(()),
            },
            other => panic!("a lease is not answered with {other:?}"),
        };
        session.settle()?;
        println!("{name} works on {} {}", lease.id, String::from_utf8_lossy(&lease.body));
        std::thread::sleep(Duration::from_millis(50));
        session.ack(lease.id)?;
        session.settle()?;
    }
}
