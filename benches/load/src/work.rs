//! The work list: what is measured, of whom, and what is asked of DJQS there.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::line::{Asked, Line, Point, Unit, percentiles};
use crate::load::{Bounds, Load, Measured, Pace, Plan, Role, idle_workers, one_job_each};
use crate::machine::resident_bytes;
use crate::subject::{Places, Running, Safety, Subject, Trouble};
use Asked::{Against, Bound};
use Subject::{Beanstalkd, Djqs, DjqsBeanstalk, Floor, Redis, Rival};

const BODY_BYTES: usize = 100;
const LARGE_BODY_BYTES: usize = 60_000;

/// Connections and depth where clients send ahead; also how servers are filled.
const AHEAD: (usize, usize) = (16, 64);

/// Jobs that may wait between producers and workers, so that what is measured is jobs through the server and
/// not how its time falls to the one or the other.
const BACKLOG_MAX: u64 = 1000;

/// What grows with the patience of the person who runs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    /// Jobs for the memory of each, and lines for the client.
    pub(crate) million: u64,
    pub(crate) waiting: u64,
    pub(crate) large_bodies: u64,
}

impl Scale {
    pub(crate) const FULL: Scale = Scale {
        warm_up: Duration::from_millis(300),
        time: Duration::from_secs(2),
        million: 1_000_000,
        waiting: 10_000_000,
        large_bodies: 10_000,
    };
    pub(crate) const QUICK: Scale = Scale {
        warm_up: Duration::from_millis(50),
        time: Duration::from_millis(300),
        million: 100_000,
        waiting: 1_000_000,
        large_bodies: 2_000,
    };
}

/// One kind of work. Its run makes one or more lines of the table.
pub(crate) struct Work {
    /// What `--only` selects.
    pub(crate) name: String,
    pub(crate) about: &'static str,
    /// Who does it, in this order in each round.
    pub(crate) subjects: &'static [Subject],
    pub(crate) run: Run,
}

type Run = Box<dyn Fn(&Trial) -> Result<Vec<Line>, Trouble>>;

/// One subject's turn.
pub(crate) struct Trial {
    pub(crate) subject: Subject,
    pub(crate) places: Places,
    pub(crate) scale: Scale,
}

const ALL: &[Subject] = &[Djqs, DjqsBeanstalk, Rival, Beanstalkd, Redis, Floor];
const QUEUES: &[Subject] = &[Djqs, DjqsBeanstalk, Rival, Beanstalkd, Redis];
const OURS: &[Subject] = &[Djqs, DjqsBeanstalk, Rival];

/// All of it, in the order of the table.
pub(crate) fn list() -> Vec<Work> {
    let mut list = Vec::new();
    let mut add = |name: String, about, subjects, run: Run| list.push(Work { name, about, subjects, run });
    for (connections, least) in [(1, 1.2), (16, 1.2), (200, 1.0), (1000, 1.0)] {
        let asked = vec![Against(Beanstalkd, least), Against(Floor, 0.9)];
        add(
            format!("awaited-{connections}"),
            "Every reply is awaited before the next command. First all connections submit; then the same number, new ones, take \
             and finish what is there.",
            ALL,
            Box::new(move |trial| trial.submit_then_work(connections, 1, [&asked, &asked])),
        );
    }
    add(
        "ahead".into(),
        "The same, but each connection keeps 64 commands outstanding.",
        ALL,
        Box::new(|trial| {
            let submit = [Against(Beanstalkd, 12.0), Against(Redis, 2.0)];
            let work = [Against(Beanstalkd, 15.0), Against(Redis, 2.0)];
            trial.submit_then_work(AHEAD.0, AHEAD.1, [&submit, &work])
        }),
    );
    for connections in [32, 200] {
        add(
            format!("both-{connections}"),
            "Half of the connections submit while the other half takes and finishes, every reply awaited. Producers pause while \
             1,000 jobs wait, so the rate is that of jobs going all the way through. Latency: from submission to receipt, so behind \
             those 1,000 jobs.",
            QUEUES,
            Box::new(move |trial| trial.both(connections)),
        );
    }
    add(
        "receipt".into(),
        "One producer submits a job each millisecond, one worker waits for it; the machine is idle in between. From before the \
         submission is written to after the job is read.",
        QUEUES,
        Box::new(Trial::receipt),
    );
    add(
        "load".into(),
        "The same by load: 16 producers submit so many jobs a second by the clock, whether the server keeps up or not, and 16 workers \
         wait. A job counts from when it was due. No figure: in some round fewer than 98 % of the jobs came through.",
        QUEUES,
        Box::new(Trial::latency_by_load),
    );
    let durable: [(usize, usize, &[Asked]); 3] = [
        (1, 1, &[Against(Beanstalkd, 1.0)]),
        (64, 1, &[Against(Beanstalkd, 10.0), Against(Redis, 1.0)]),
        (AHEAD.0, AHEAD.1, &[Against(Beanstalkd, 30.0), Against(Redis, 1.0)]),
    ];
    for (connections, depth, asked) in durable {
        add(
            format!("durable-{connections}x{depth}"),
            "Submissions answered only once they are synced to the disk: `--fsync always`, `beanstalkd -b DIR -f 0`, `appendfsync \
             always`. The floor of one connection is appending 128 bytes and fdatasync, in a loop.",
            if connections == 1 { ALL } else { QUEUES },
            Box::new(move |trial| trial.durable(connections, depth, asked)),
        );
    }
    add(
        "recovery".into(),
        "Jobs written to disk, the server killed with SIGKILL and started again: from its start to its first answer.",
        QUEUES,
        Box::new(Trial::recovery),
    );
    add(
        "memory".into(),
        "Resident memory with the jobs waiting, less that of the empty server, for each job.",
        QUEUES,
        Box::new(Trial::memory),
    );
    for (name, connections, depth) in [("queues", 16, 1), ("queues-ahead", AHEAD.0, AHEAD.1)] {
        add(
            name.into(),
            "Each connection submits, takes and finishes in turn, in one queue; then with 10,000 queues, each holding one job, \
             used in turn (in beanstalkd's dialect each connection keeps to one of them, since changing it is a command of its own).",
            QUEUES,
            Box::new(move |trial| trial.many_queues(connections, depth)),
        );
    }
    for (name, connections, depth) in [("waiting", 16, 1), ("waiting-ahead", AHEAD.0, AHEAD.1)] {
        add(
            name.into(),
            "Each connection submits, takes the oldest job and finishes it in turn, with 10,000 jobs waiting; then with many.",
            OURS,
            Box::new(move |trial| trial.many_waiting(connections, depth)),
        );
    }
    add(
        "idle-workers".into(),
        "100 connections submit, take and finish in turn, alone; then beside 5,000 more that wait for a job which never comes. \
         The latency is that of a command.",
        QUEUES,
        Box::new(Trial::beside_idle_workers),
    );
    add(
        "bodies".into(),
        "Bodies of 60,000 bytes on 16 connections, every reply awaited; bytes of bodies.",
        ALL,
        Box::new(Trial::large_bodies),
    );
    add(
        "client".into(),
        "The client program with TASK lines on its standard input, from its start to its end.",
        OURS,
        Box::new(Trial::client),
    );
    list
}

/// A server and the directory that goes with it.
struct Fresh {
    running: Running,
    directory: TempDir,
}

impl Trial {
    fn start(&self, safety: Safety, body_bytes: usize) -> Result<Fresh, Trouble> {
        let directory = TempDir::new_in(&self.places.data)?;
        let running = self.subject.start(&self.places, safety, body_bytes, directory.path())?;
        Ok(Fresh { running, directory })
    }

    fn bounds(&self) -> Bounds {
        Bounds { warm_up: self.scale.warm_up, time: self.scale.time, rounds: u64::MAX, pace: Pace::Free }
    }

    fn submit_then_work(
        &self,
        connections: usize,
        depth: usize,
        [submit_asked, work_asked]: [&[Asked]; 2],
    ) -> Result<Vec<Line>, Trouble> {
        let fresh = self.start(Safety::Memory, BODY_BYTES)?;
        let (submit, work) = fresh.submit_then_work(connections, depth, BODY_BYTES, self.bounds())?;
        let among = match (connections, depth) {
            (1, 1) => "1 connection".into(),
            (_, 1) => format!("{connections} connections"),
            _ => format!("{connections} connections, {depth} commands outstanding"),
        };
        let mut lines = vec![
            Line::rate(format!("submit, {among}"), &submit).asked(submit_asked),
            Line::rate(format!("get + ack, {among}"), &work).asked(work_asked),
        ];
        if depth == 1 {
            let connections = connections as f64;
            lines[0].point = Some(Point::Submit { connections });
            lines[1].point = Some(Point::Work { connections });
        }
        Ok(lines)
    }

    fn both(&self, connections: usize) -> Result<Vec<Line>, Trouble> {
        let fresh = self.start(Safety::Memory, BODY_BYTES)?;
        let mut load = fresh.load(fresh.mixed(connections / 2))?;
        let measured = load.run(Bounds { pace: Pace::Backlog(BACKLOG_MAX), ..self.bounds() })?;
        let title = format!("producers and workers at once, {connections} connections");
        Ok(vec![Line::rate(title, &measured).asked(&[Against(Beanstalkd, 1.0)])])
    }

    fn receipt(&self) -> Result<Vec<Line>, Trouble> {
        let measured = self.paced(1, 1000)?;
        let latency = percentiles(&measured);
        let title = "submit to receipt, idle machine";
        let line = |name, value| {
            Line::new(format!("{title}, {name}"), Unit::Micros, value).asked(&[Against(Beanstalkd, 1.0)])
        };
        Ok(vec![line("p50", latency[0]), line("p99", latency[1]), Line::latency(title, Some(latency))])
    }

    fn latency_by_load(&self) -> Result<Vec<Line>, Trouble> {
        let mut lines = Vec::new();
        let mut keeps_up = true;
        for jobs_per_second in [1000, 5000, 10_000, 15_000, 20_000, 25_000, 30_000, 40_000] {
            let mut latency = None;
            if keeps_up {
                let measured = self.paced(16, jobs_per_second)?;
                keeps_up = measured.per_second() >= 0.98 * jobs_per_second as f64;
                latency = keeps_up.then(|| percentiles(&measured));
            }
            let title = format!("submit to receipt, {} jobs/s", grouped(jobs_per_second));
            let point = Point::Load { jobs_per_second: jobs_per_second as f64 };
            lines.push(Line::latency(title, latency).point(point));
        }
        Ok(lines)
    }

    /// So many producers and as many workers, at this pace.
    fn paced(&self, pairs: usize, jobs_per_second: u64) -> Result<Measured, Trouble> {
        let fresh = self.start(Safety::Memory, BODY_BYTES)?;
        let mut load = fresh.load(fresh.mixed(pairs))?;
        let interval = Duration::from_secs(1) / jobs_per_second as u32;
        Ok(load.run(Bounds { pace: Pace::Every(interval), ..self.bounds() })?)
    }

    fn durable(&self, connections: usize, depth: usize, asked: &[Asked]) -> Result<Vec<Line>, Trouble> {
        let title = match (connections, depth) {
            (1, 1) => "durable submit, 1 connection".into(),
            (_, 1) => format!("durable submit, {connections} connections"),
            _ => format!("durable submit, {connections} connections, {depth} commands outstanding"),
        };
        if (self.subject, connections) == (Floor, 1) {
            return Ok(vec![Line::new(title, Unit::PerSecond, self.syncs_per_second()?)]);
        }
        let fresh = self.start(Safety::Durable, BODY_BYTES)?;
        let measured = fresh.load(fresh.plan(Role::Submit, connections, depth))?.run(self.bounds())?;
        Ok(vec![Line::rate(title, &measured).asked(asked)])
    }

    /// How often the disk can be asked to keep a few bytes.
    fn syncs_per_second(&self) -> Result<f64, Trouble> {
        let mut file = tempfile::tempfile_in(&self.places.data)?;
        let begun = Instant::now();
        let mut syncs = 0;
        while begun.elapsed() < self.scale.time {
            file.write_all(&[b'x'; 128])?;
            file.sync_data()?;
            syncs += 1;
        }
        Ok(f64::from(syncs) / begun.elapsed().as_secs_f64())
    }

    fn recovery(&self) -> Result<Vec<Line>, Trouble> {
        let jobs = self.scale.million;
        let fresh = self.start(Safety::Unsynced, BODY_BYTES)?;
        fresh.fill(jobs)?;
        let Fresh { running, directory } = fresh;
        drop(running);
        let begun = Instant::now();
        let running = self.subject.start(&self.places, Safety::Durable, BODY_BYTES, directory.path())?;
        let took = begun.elapsed().as_secs_f64();
        // All of them would take a server that syncs each for itself minutes.
        Fresh { running, directory }.expect(jobs.min(10_000))?;
        let title = format!("recovery of {} jobs", grouped(jobs));
        Ok(vec![Line::new(title, Unit::PerSecond, jobs as f64 / took).asked(&[Against(Beanstalkd, 3.0)])])
    }

    fn memory(&self) -> Result<Vec<Line>, Trouble> {
        let fresh = self.start(Safety::Memory, BODY_BYTES)?;
        let before = resident_bytes(fresh.running.process());
        fresh.fill(self.scale.million)?;
        let each = (resident_bytes(fresh.running.process()) - before) as f64 / self.scale.million as f64;
        let title = format!("memory, {} jobs waiting", grouped(self.scale.million));
        Ok(vec![Line::new(title, Unit::BytesPerJob, each).asked(&[Bound(200.0)])])
    }

    fn many_queues(&self, connections: usize, depth: usize) -> Result<Vec<Line>, Trouble> {
        let cycle = |queues: usize| -> Result<Measured, Trouble> {
            let fresh = self.start(Safety::Memory, BODY_BYTES)?;
            let mut plan = fresh.plan(Role::Cycle, connections, depth);
            plan.queues = (0..queues).map(|number| format!("queue-{number}")).collect();
            one_job_each(fresh.running.address, fresh.running.dialect, &plan.queues, BODY_BYTES)?;
            Ok(fresh.load(plan)?.run(self.bounds())?)
        };
        Ok(two_rates([("1 queue", cycle(1)?), ("10,000 queues", cycle(10_000)?)], connections, depth))
    }

    fn many_waiting(&self, connections: usize, depth: usize) -> Result<Vec<Line>, Trouble> {
        let cycle = |waiting: u64| -> Result<Measured, Trouble> {
            let fresh = self.start(Safety::Memory, BODY_BYTES)?;
            fresh.fill(waiting)?;
            Ok(fresh.load(fresh.plan(Role::Cycle, connections, depth))?.run(self.bounds())?)
        };
        let few = cycle(10_000)?;
        let many = format!("{} jobs waiting", grouped(self.scale.waiting));
        Ok(two_rates([("10,000 jobs waiting", few), (&many, cycle(self.scale.waiting)?)], connections, depth))
    }

    fn beside_idle_workers(&self) -> Result<Vec<Line>, Trouble> {
        let busy = |idle: usize| -> Result<Measured, Trouble> {
            let fresh = self.start(Safety::Memory, BODY_BYTES)?;
            let _idle = idle_workers(fresh.running.address, fresh.running.dialect, idle)?;
            Ok(fresh.load(fresh.plan(Role::Cycle, 100, 1))?.run(self.bounds())?)
        };
        let (alone, beside) = (busy(0)?, busy(5000)?);
        let ratio = percentiles(&beside)[1] / percentiles(&alone)[1];
        Ok(vec![
            Line::rate("100 busy connections alone", &alone),
            Line::rate("100 busy connections beside 5,000 idle workers", &beside),
            Line::new("p99 of the busy, beside / alone", Unit::LatencyRatio, ratio).asked(&[Bound(1.5)]),
        ])
    }

    fn large_bodies(&self) -> Result<Vec<Line>, Trouble> {
        let fresh = self.start(Safety::Memory, LARGE_BODY_BYTES)?;
        let bounds = Bounds { rounds: self.scale.large_bodies, ..self.bounds() };
        let (submit, work) = fresh.submit_then_work(16, 1, LARGE_BODY_BYTES, bounds)?;
        let line = |title, measured: &Measured| Line {
            unit: Unit::MegabytesPerSecond,
            value: Some(measured.per_second() * LARGE_BODY_BYTES as f64 / 1e6),
            ..Line::rate(title, measured).asked(&[Against(Beanstalkd, 1.2)])
        };
        Ok(vec![line("submit, bodies of 60 KB", &submit), line("get + ack, bodies of 60 KB", &work)])
    }

    fn client(&self) -> Result<Vec<Line>, Trouble> {
        let fresh = self.start(Safety::Memory, BODY_BYTES)?;
        let lines = format!("TASK: {}\n", "x".repeat(BODY_BYTES)).repeat(self.scale.million as usize);
        let address = fresh.running.address.to_string();
        let mut command = Command::new(&self.places.client);
        command
            .args(["--server", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn()?;
        // Where the client ends early, its own words say more than the broken pipe.
        let _ = child.stdin.take().expect("it is piped").write_all(lines.as_bytes());
        let output = child.wait_with_output()?;
        let took = begun.elapsed().as_secs_f64();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Trouble::Failed(format!("{}: {}", output.status, said.lines().next().unwrap_or(""))));
        }
        fresh.expect(self.scale.million)?;
        let title = format!("the client, {} piped lines", grouped(self.scale.million));
        Ok(vec![Line::new(title, Unit::Seconds, took).asked(&[Bound(3.0)])])
    }
}

impl Fresh {
    fn plan(&self, role: Role, connections: usize, depth: usize) -> Plan {
        let (dialect, body_bytes) = (self.running.dialect, BODY_BYTES);
        Plan { dialect, roles: vec![(role, connections)], depth, body_bytes, queues: vec![String::new()] }
    }

    /// So many workers, and as many producers. The workers come first, so that they wait when the first job
    /// comes.
    fn mixed(&self, pairs: usize) -> Plan {
        Plan { roles: vec![(Role::Work, pairs), (Role::Submit, pairs)], ..self.plan(Role::Work, pairs, 1) }
    }

    fn load(&self, plan: Plan) -> Result<Load, Trouble> {
        Ok(Load::connect(self.running.address, self.running.process(), plan)?)
    }

    fn submit_then_work(
        &self,
        connections: usize,
        depth: usize,
        body_bytes: usize,
        bounds: Bounds,
    ) -> Result<(Measured, Measured), Trouble> {
        let plan = |role| Plan { body_bytes, ..self.plan(role, connections, depth) };
        let mut load = self.load(plan(Role::Submit))?;
        let submit = load.run(bounds)?;
        let accepted = load.accepted();
        drop(load);
        let work = self.load(plan(Role::Work))?.run(Bounds { rounds: accepted, ..bounds })?;
        Ok((submit, work))
    }

    /// Submits so many jobs, as fast as it goes.
    fn fill(&self, jobs: u64) -> Result<(), Trouble> {
        let bounds = Bounds { warm_up: Duration::ZERO, time: Duration::MAX, rounds: jobs, pace: Pace::Free };
        self.load(self.plan(Role::Submit, AHEAD.0, AHEAD.1))?.run(bounds)?;
        Ok(())
    }

    /// Takes and finishes so many jobs: fails where there are fewer.
    fn expect(&self, jobs: u64) -> Result<(), Trouble> {
        let bounds = Bounds { warm_up: Duration::ZERO, time: Duration::MAX, rounds: jobs, pace: Pace::Free };
        self.load(self.plan(Role::Work, AHEAD.0, AHEAD.1))?.run(bounds)?;
        Ok(())
    }
}

/// The lines of a rate in two settings, and of how little the second is below the first.
fn two_rates(settings: [(&str, Measured); 2], connections: usize, depth: usize) -> Vec<Line> {
    let among = format!("{connections} connections, {depth} outstanding");
    let ratio = settings[1].1.per_second() / settings[0].1.per_second();
    let title = format!("{} / {}, {among}", settings[1].0, settings[0].0);
    let mut lines: Vec<_> = settings
        .iter()
        .map(|(name, measured)| Line::rate(format!("submit, get, ack, {name}, {among}"), measured))
        .collect();
    lines.push(Line::new(title, Unit::RateRatio, ratio).asked(&[Bound(0.9)]));
    lines
}

/// `1,000,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
