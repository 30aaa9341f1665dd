//! kill -9 of a real server at random moments while jobs end: kept results, cancelled jobs, plain jobs and the counts
//! of their batches are found again as they were acknowledged.
//!
//! Each thread has a queue of its own, so that it knows the order of what happens to its jobs. `DJQS_CRASH_CYCLES`
//! sets the number of kills, `DJQS_SEED` the seed.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::Server;
use djqs::job::{Finished, Group};
use djqs::protocol::Wait;
use djqs::{Client, Error, JobId, JobState, Key, QueueName, Submission};
use tempfile::TempDir;

mod common;

const CYCLES_DEFAULT: u64 = 10;
const THREADS: usize = 3;
const AT_ONCE: Wait = Wait::AtMost(Duration::ZERO);

/// What is known of a job.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    Unfinished,
    /// With this result; of a job that is not kept, it is gone.
    Done(Vec<u8>),
    Cancelled(String),
}

#[derive(Clone, Debug)]
struct Job {
    kept: bool,
    key: Option<String>,
    known: Known,
    /// What was sent and not answered: it may have happened.
    sent: Option<Known>,
}

/// What one thread has done.
struct History {
    queue: QueueName,
    jobs: BTreeMap<JobId, Job>,
    /// Submissions that were not answered, by their bodies.
    unanswered: Vec<(String, Job)>,
    submitted: u64,
    random: Random,
}

impl History {
    fn batch(&self) -> String {
        format!("batch-of-{}", self.queue)
    }

    /// Does one random thing. An error means that the server is gone.
    fn step(&mut self, client: &mut Client) -> Result<(), Error> {
        match self.random.below(10) {
            0..4 => self.submit(client),
            4 => self.cancel(client),
            _ => self.work(client),
        }
    }

    fn submit(&mut self, client: &mut Client) -> Result<(), Error> {
        self.submitted += 1;
        let body = format!("job {} of {}", self.submitted, self.queue);
        let kept = self.random.below(3) > 0;
        let key = (kept && self.random.below(2) == 0).then(|| format!("key-{}", self.submitted));
        let mut submission = Submission::new(&body).to(&self.queue).batch(&self.batch()).unwrap();
        submission.options.key = key.as_deref().map(|key| Key::new(key).unwrap());
        if kept {
            submission = submission.keep(Duration::from_secs(3600));
        }
        let job = Job { kept, key, known: Known::Unfinished, sent: None };
        self.unanswered.push((body, job.clone()));
        let accepted = client.submit(submission)?;
        self.unanswered.pop();
        assert_eq!(accepted.duplicate, None);
        self.jobs.insert(accepted.id, job);
        Ok(())
    }

    fn cancel(&mut self, client: &mut Client) -> Result<(), Error> {
        let unfinished = self.jobs.iter().filter(|(_, job)| job.known == Known::Unfinished);
        let ids: Vec<_> = unfinished.map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = ids[self.random.below(ids.len() as u64) as usize];
        let reason = format!("reason {}", self.random.below(1000));
        let cancelled = Known::Cancelled(reason.clone());
        self.jobs.get_mut(&id).unwrap().sent = Some(cancelled.clone());
        assert_eq!(client.cancel(id, Some(&reason))?, JobState::Ready);
        self.answered(id, cancelled);
        Ok(())
    }

    fn work(&mut self, client: &mut Client) -> Result<(), Error> {
        let Some(lease) = client.get(std::slice::from_ref(&self.queue), AT_ONCE)? else { return Ok(()) };
        if let Some(at) = self.unanswered.iter().position(|(body, _)| body.as_bytes() == &*lease.body) {
            let (_, job) = self.unanswered.remove(at);
            self.jobs.insert(lease.id, job);
        }
        let length = self.random.below(2000);
        let result: Vec<u8> = (0..length).map(|_| self.random.below(256) as u8).collect();
        let job = self.jobs.get_mut(&lease.id).expect("it was submitted here");
        assert_eq!(job.known, Known::Unfinished, "job {} runs again", lease.id);
        job.sent = Some(Known::Done(result.clone()));
        client.ack_with(lease.id, &result)?;
        self.answered(lease.id, Known::Done(result));
        Ok(())
    }

    fn answered(&mut self, id: JobId, known: Known) {
        let job = self.jobs.get_mut(&id).unwrap();
        (job.known, job.sent) = (known, None);
    }

    /// Compares all that is known with a server that was started again.
    fn check(&mut self, client: &mut Client) {
        self.find_unanswered(client);
        for (id, job) in &mut self.jobs {
            let found = match client.wait(*id, AT_ONCE).unwrap() {
                None => Known::Unfinished,
                Some(Finished::Done { attempt: 1, result: Some(result), .. }) => Known::Done(result.to_vec()),
                Some(Finished::Cancelled { reason: Some(reason) }) => Known::Cancelled(reason.to_string()),
                Some(Finished::Gone) if !job.kept => match job.sent.as_ref().unwrap_or(&job.known) {
                    done @ Known::Done(_) => done.clone(),
                    other => panic!("job {id} is gone, and not {other:?}"),
                },
                Some(other) => panic!("job {id} is {other:?}, and not {job:?}"),
            };
            assert!(
                found == job.known || Some(&found) == job.sent.as_ref(),
                "job {id} is {found:?}, and not {job:?}"
            );
            (job.known, job.sent) = (found, None);
        }
        let count =
            |wanted: fn(&Known) -> bool| self.jobs.values().filter(|job| wanted(&job.known)).count() as u64;
        let (stats, _) = client.batch(&self.batch().as_str().try_into().unwrap(), 1, AT_ONCE).unwrap();
        assert_eq!(stats.jobs.done, count(|known| matches!(known, Known::Done(_))), "{stats:?}");
        assert_eq!(stats.jobs.cancelled, count(|known| matches!(known, Known::Cancelled(_))), "{stats:?}");
        assert_eq!(stats.jobs.ready, count(|known| *known == Known::Unfinished), "{stats:?}");
        assert_eq!(
            (stats.jobs.dead, stats.deleted, stats.total()),
            (0, 0, self.jobs.len() as u64),
            "{stats:?}"
        );
        self.check_a_key(client);
    }

    /// Submissions without an answer may have been accepted: some job, in any state, has their body or none.
    fn find_unanswered(&mut self, client: &mut Client) {
        let group = Group::Batch(self.batch().as_str().try_into().unwrap());
        let mut after = None;
        loop {
            let page = client.list(group.clone(), None, 1000, after).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for found in page {
                let at = self.unanswered.iter().position(|(body, _)| body.as_bytes() == &*found.body);
                if let Some(at) = at {
                    let (_, job) = self.unanswered.remove(at);
                    self.jobs.insert(found.id, job);
                }
                assert!(self.jobs.contains_key(&found.id), "nobody submitted {found:?}");
            }
        }
        self.unanswered.clear();
    }

    /// A key holds while its job is unfinished or kept, and is free once it is cancelled.
    fn check_a_key(&mut self, client: &mut Client) {
        let with_key = self
            .jobs
            .iter()
            .filter(|(_, job)| job.key.is_some() && !matches!(job.known, Known::Cancelled(_)));
        let with_key: Vec<_> = with_key.map(|(id, job)| (*id, job.clone())).collect();
        if with_key.is_empty() {
            return;
        }
        let (id, job) = &with_key[self.random.below(with_key.len() as u64) as usize];
        let again = Submission::new("again").to(&self.queue).key(job.key.as_ref().unwrap()).unwrap();
        let state = if job.known == Known::Unfinished { JobState::Ready } else { JobState::Done };
        let accepted = client.submit(again).unwrap();
        assert_eq!((accepted.id, accepted.duplicate), (*id, Some(state)));
    }
}

#[test]
fn ends_of_jobs_are_found_again_after_kills() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let cycles = number("DJQS_CRASH_CYCLES").unwrap_or(CYCLES_DEFAULT);
    let seed = number("DJQS_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("{cycles} kills, DJQS_SEED={seed}");
    let mut random = Random(seed);
    let directory = TempDir::new().unwrap();
    let mut histories: Vec<_> = (0..THREADS)
        .map(|n| History {
            queue: QueueName::new(&format!("q{n}")).unwrap(),
            jobs: BTreeMap::new(),
            unanswered: Vec::new(),
            submitted: 0,
            random: Random(seed ^ (n as u64 + 1) << 40),
        })
        .collect();
    let (mut ended, mut resolved) = (0, 0);
    for cycle in 0..cycles {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        // Segments so small that compaction goes round.
        command.args([
            "-p",
            "0",
            "-z",
            "4000",
            "--segment-size",
            "65536",
            "--fsync",
            if cycle % 2 == 0 { "never" } else { "always" },
            "--data",
        ]);
        let mut server = Server::of(command.arg(directory.path()));
        let address = server.address.to_string();
        let mut client = Client::connect(&address).unwrap();
        for history in &mut histories {
            resolved += history.jobs.values().filter(|job| job.sent.is_some()).count();
            history.check(&mut client);
        }
        let steps = Arc::new(AtomicU64::new(0));
        let limit = 1 + random.below(400);
        std::thread::scope(|scope| {
            for history in &mut histories {
                let (address, steps) = (&address, &steps);
                scope.spawn(move || {
                    let mut client = Client::connect(address).unwrap();
                    loop {
                        match history.step(&mut client) {
                            Ok(()) => steps.fetch_add(1, Ordering::Relaxed),
                            Err(Error::Disconnected { .. }) => return,
                            Err(other) => panic!("{other}; DJQS_SEED={seed}"),
                        };
                    }
                });
            }
            common::until("enough has happened", || steps.load(Ordering::Relaxed) >= limit);
            server.child.kill().unwrap();
        });
        server.ended();
    }
    for history in &histories {
        ended += history.jobs.values().filter(|job| job.known != Known::Unfinished).count();
    }
    println!("{ended} jobs have ended; of {resolved} that were cut off it was found how they went");
    assert!(ended as u64 > cycles, "DJQS_SEED={seed}");
}

/// Random numbers that a seed reproduces: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
