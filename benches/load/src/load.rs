//! The load generator: one thread, non-blocking sockets, epoll.
//!
//! It has to be cheap, since it runs on the same cores as the server under test. So it reads once and writes
//! once for each connection that has something, glues its commands from ready phrases, and looks at the clock
//! once for each read.
//!
//! A connection has a role, which is a round of commands that it goes through again and again, and a depth:
//! how many rounds it has under way at once. Whether a slot may begin its next round is [`Flow`]'s to say;
//! one that may not stands in line.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::dialect::{Answer, Ask, Dialect, Phrases};
use crate::machine::cpu_time;

/// How many events are taken from the kernel at a time.
const EVENTS_AT_ONCE: usize = 1024;

/// One read takes at most this.
const READ_BYTES: usize = 256 * 1024;

/// A server that says nothing for this long is taken to hang.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A body begins with when it was sent, in hexadecimal digits, and a number that makes it unlike any other.
const STAMP_BYTES: usize = 16;
const SERIAL_BYTES: usize = 8;

/// What a connection does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Submits a job.
    Submit,
    /// Takes a job and finishes it.
    Work,
    /// Submits a job, takes the oldest one, finishes it: the number of waiting jobs stays as it is.
    Cycle,
}

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) dialect: Dialect,
    /// How many connections of which role.
    pub(crate) roles: Vec<(Role, usize)>,
    /// Rounds under way at once on each connection.
    pub(crate) depth: usize,
    pub(crate) body_bytes: usize,
    /// Names of queues, used in turn; an empty name is the server's default.
    pub(crate) queues: Vec<String>,
}

/// How long, how much, how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Not counted.
    pub(crate) warm_up: Duration,
    /// Counted.
    pub(crate) time: Duration,
    /// Rounds that may be begun, those of the warm-up included.
    pub(crate) rounds: u64,
    pub(crate) pace: Pace,
}

/// What holds a submitter back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Nothing.
    Free,
    /// So many jobs that wait to be finished.
    Backlog(u64),
    /// The clock: one job in each interval, whether the server keeps up or not. A job's latency counts from
    /// when it was due, so that a server that stalls is charged for all that it kept waiting.
    Every(Duration),
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Rounds ended: jobs finished, or, where nobody finishes any, accepted.
    pub(crate) rounds: u64,
    pub(crate) elapsed: Duration,
    /// In nanoseconds. Where some submit and others work: from submission to receipt. Otherwise: from each
    /// command to its answer.
    pub(crate) latency: Histogram<u64>,
    /// Processor time of the server and of this generator.
    pub(crate) server_cpu: Duration,
    pub(crate) own_cpu: Duration,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.rounds as f64 / self.elapsed.as_secs_f64()
    }
}

/// Connections to one server.
pub(crate) struct Load {
    plan: Plan,
    phrases: Phrases,
    server: u32,
    origin: Instant,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    body: Vec<u8>,
    /// Slots that have nothing under way, by their connection's index.
    idle: VecDeque<usize>,
    flow: Flow,
    outstanding: usize,
}

struct Connection {
    stream: TcpStream,
    role: Role,
    own_word: Vec<u8>,
    /// What is not answered yet, in the order of asking.
    asked: VecDeque<Asked>,
    /// The beginning of an answer.
    input: Vec<u8>,
    /// What the socket did not take yet.
    output: Vec<u8>,
    waits_to_write: bool,
}

#[derive(Clone, Copy)]
struct Asked {
    ask: Ask,
    at: u64,
    queue: u32,
}

/// Who may begin, and the count.
struct Flow {
    bounds: Bounds,
    ending: bool,
    begun: u64,
    submitted: u64,
    accepted: u64,
    finished: u64,
    /// When the next job is due, for [`Pace::Every`].
    due: u64,
    latency: Histogram<u64>,
}

impl Flow {
    fn new(bounds: Bounds, now: u64) -> Flow {
        let latency = Histogram::new_with_bounds(1000, 100_000_000_000, 3).expect("these bounds are right");
        Flow { bounds, ending: false, begun: 0, submitted: 0, accepted: 0, finished: 0, due: now, latency }
    }

    /// Lets a slot begin a round: the moment that its job is stamped with.
    fn begin(&mut self, role: Role, now: u64) -> Option<u64> {
        if self.ending || self.begun >= self.bounds.rounds {
            return None;
        }
        let stamp = match self.bounds.pace {
            _ if role == Role::Work => now,
            Pace::Free => now,
            Pace::Backlog(most) => (self.submitted.saturating_sub(self.finished) < most).then_some(now)?,
            Pace::Every(interval) => {
                let due = (self.due <= now).then_some(self.due)?;
                self.due += interval.as_nanos() as u64;
                due
            }
        };
        self.begun += 1;
        Some(stamp)
    }

    fn note_latency(&mut self, nanos: u64) {
        self.latency.saturating_record(nanos);
    }
}

/// Where a measurement began.
struct Mark {
    at: u64,
    rounds: u64,
    server_cpu: Duration,
    own_cpu: Duration,
}

impl Load {
    /// Connects. `server` is the process whose processor time counts.
    ///
    /// # Errors
    /// Of the sockets.
    pub(crate) fn connect(address: SocketAddr, server: u32, plan: Plan) -> io::Result<Load> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::new();
        let roles = plan.roles.iter().flat_map(|&(role, count)| std::iter::repeat_n(role, count));
        for (number, role) in roles.enumerate() {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            let (words, lines) = plan.dialect.choose(&plan.queues[number % plan.queues.len()]);
            exchange(&mut stream, &words, lines)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, EventData::new_u64(number as u64), EventFlags::IN)?;
            connections.push(Connection {
                stream,
                role,
                own_word: plan.dialect.own_word(number),
                asked: VecDeque::with_capacity(plan.depth),
                input: Vec::new(),
                output: Vec::new(),
                waits_to_write: false,
            });
        }
        let idle =
            (0..connections.len()).flat_map(|number| std::iter::repeat_n(number, plan.depth)).collect();
        let nothing = Bounds { warm_up: Duration::ZERO, time: Duration::ZERO, rounds: 0, pace: Pace::Free };
        Ok(Load {
            phrases: Phrases::new(plan.dialect, &plan.queues, plan.body_bytes),
            body: vec![b'x'; plan.body_bytes.max(STAMP_BYTES + SERIAL_BYTES)],
            plan,
            server,
            origin: Instant::now(),
            epoll,
            connections,
            buffer: vec![0; READ_BYTES],
            idle,
            flow: Flow::new(nothing, 0),
            outstanding: 0,
        })
    }

    /// Runs the load within its bounds.
    ///
    /// Where some submit and others work it returns when the time is up, with commands under way, and the
    /// connections are of no more use; otherwise once all that was begun is answered.
    ///
    /// # Errors
    /// Of the sockets, and where an answer is not the right one or does not come.
    pub(crate) fn run(&mut self, bounds: Bounds) -> io::Result<Measured> {
        let begin = self.now();
        self.flow = Flow::new(bounds, begin);
        let warm_at = begin + nanos(bounds.warm_up);
        let warm_rounds = bounds.rounds / 10;
        let mut mark = None;
        let mut end = None;
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut heard_at = begin;
        loop {
            let now = self.now();
            if mark.is_none() && (now >= warm_at || self.rounds() >= warm_rounds) {
                self.flow.latency.reset();
                mark = Some(self.mark(now));
            }
            if let Some(mark) = &mark
                && now >= mark.at + nanos(bounds.time)
                && !self.flow.ending
            {
                self.flow.ending = true;
                end = Some(self.mark(now));
                if self.is_mixed() {
                    break;
                }
            }
            self.begin_rounds(now)?;
            if self.outstanding == 0 && (self.flow.ending || self.flow.begun >= bounds.rounds) {
                break;
            }
            let wait = self.patience(now, &mark);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !events.is_empty() {
                heard_at = now;
            } else if self.outstanding > 0 && now - heard_at > nanos(SILENCE_MAX) {
                return Err(io::Error::other(format!("no answer for {SILENCE_MAX:?}")));
            }
            for event in events.drain(..) {
                let (number, flags) = (event.data.u64() as usize, event.flags);
                if flags.contains(EventFlags::OUT) {
                    self.flush(number)?;
                }
                if flags.intersects(!EventFlags::OUT) {
                    self.receive(number)?;
                }
            }
        }
        let now = self.now();
        let (mark, end) = (mark.unwrap_or_else(|| self.mark(begin)), end.unwrap_or_else(|| self.mark(now)));
        Ok(Measured {
            rounds: end.rounds - mark.rounds,
            elapsed: Duration::from_nanos(end.at - mark.at),
            latency: self.flow.latency.clone(),
            server_cpu: end.server_cpu.saturating_sub(mark.server_cpu),
            own_cpu: end.own_cpu.saturating_sub(mark.own_cpu),
        })
    }

    /// Jobs that the server has accepted in the last run, those outside the measured time included.
    pub(crate) fn accepted(&self) -> u64 {
        self.flow.accepted
    }

    fn now(&self) -> u64 {
        nanos(self.origin.elapsed())
    }

    /// Whether some submit and others work, so that a job's way from one to the other is what counts.
    fn is_mixed(&self) -> bool {
        self.plan.roles.len() > 1
    }

    fn rounds(&self) -> u64 {
        match self.plan.roles[..] {
            [(Role::Submit, _)] => self.flow.accepted,
            _ => self.flow.finished,
        }
    }

    fn mark(&self, at: u64) -> Mark {
        let [server_cpu, own_cpu] = [self.server, std::process::id()].map(cpu_time);
        Mark { at, rounds: self.rounds(), server_cpu, own_cpu }
    }

    /// How long to wait for an event: until the next thing that comes by the clock.
    fn patience(&self, now: u64, mark: &Option<Mark>) -> Timespec {
        let mut until = now + nanos(Duration::from_secs(1));
        if let Some(mark) = mark {
            until = until.min(mark.at.saturating_add(nanos(self.flow.bounds.time)).max(now + 1_000_000));
        }
        if matches!(self.flow.bounds.pace, Pace::Every(_)) && !self.idle.is_empty() {
            until = until.min(self.flow.due.max(now));
        }
        let wait = until - now;
        Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 }
    }

    /// Lets idle slots begin, first come first served, as many as may.
    fn begin_rounds(&mut self, now: u64) -> io::Result<()> {
        while let Some(&number) = self.idle.front() {
            let Some(stamp) = self.flow.begin(self.connections[number].role, now) else {
                return Ok(());
            };
            self.idle.pop_front();
            self.ask(number, stamp, now);
            // All slots of one connection stand side by side at the start: they go out in one write.
            if self.idle.front() != Some(&number) {
                self.flush(number)?;
            }
        }
        Ok(())
    }

    /// Writes the first command of a round.
    fn ask(&mut self, number: usize, stamp: u64, now: u64) {
        let connection = &mut self.connections[number];
        let queue = (self.flow.begun % self.plan.queues.len() as u64) as u32;
        let ask = match connection.role {
            Role::Submit | Role::Cycle => {
                write_hex(stamp, &mut self.body[..STAMP_BYTES]);
                write_hex(self.flow.begun, &mut self.body[STAMP_BYTES..STAMP_BYTES + SERIAL_BYTES]);
                self.phrases.submit(queue as usize, &self.body, &mut connection.output);
                self.flow.submitted += 1;
                Ask::Submit
            }
            Role::Work => {
                self.phrases.get(queue as usize, &connection.own_word, &mut connection.output);
                Ask::Get
            }
        };
        connection.asked.push_back(Asked { ask, at: now, queue });
        self.outstanding += 1;
    }

    /// Reads what has come and goes on with each round that was answered.
    fn receive(&mut self, number: usize) -> io::Result<()> {
        let now = self.now();
        let mixed = self.is_mixed();
        let mut buffer = std::mem::take(&mut self.buffer);
        let connection = &mut self.connections[number];
        let kept = connection.input.len();
        if buffer.len() < kept + READ_BYTES {
            buffer.resize(kept + READ_BYTES, 0);
        }
        buffer[..kept].copy_from_slice(&connection.input);
        connection.input.clear();
        let read = match connection.stream.read(&mut buffer[kept..]) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..kept + read];
        while let Some(&asked) = self.connections[number].asked.front() {
            let Some((used, answer)) = self.plan.dialect.read(asked.ask, rest).map_err(io::Error::other)?
            else {
                break;
            };
            rest = &rest[used..];
            let connection = &mut self.connections[number];
            connection.asked.pop_front();
            self.outstanding -= 1;
            if !mixed {
                self.flow.note_latency(now - asked.at);
            }
            let next = match answer {
                Answer::Accepted => {
                    self.flow.accepted += 1;
                    if connection.role == Role::Cycle {
                        self.phrases.get(asked.queue as usize, &connection.own_word, &mut connection.output);
                        Some(Ask::Get)
                    } else {
                        None
                    }
                }
                Answer::Job { token, body } => {
                    if mixed {
                        self.flow.note_latency(now.saturating_sub(read_hex(&body[..STAMP_BYTES])?));
                    }
                    self.phrases.finish(&connection.own_word, token, &mut connection.output);
                    Some(Ask::Finish)
                }
                Answer::Finished => {
                    self.flow.finished += 1;
                    None
                }
            };
            if let Some(ask) = next {
                connection.asked.push_back(Asked { ask, at: now, queue: asked.queue });
                self.outstanding += 1;
            } else if let Some(stamp) = self.flow.begin(connection.role, now) {
                self.ask(number, stamp, now);
            } else {
                self.idle.push_back(number);
            }
        }
        self.connections[number].input.extend_from_slice(rest);
        self.buffer = buffer;
        self.flush(number)
    }

    /// Writes what there is to write; what the socket does not take waits until it can.
    fn flush(&mut self, number: usize) -> io::Result<()> {
        let Connection { stream, output, waits_to_write, .. } = &mut self.connections[number];
        if !output.is_empty() {
            match stream.write(output) {
                Ok(sent) if sent == output.len() => output.clear(),
                Ok(sent) => drop(output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if *waits_to_write == output.is_empty() {
            *waits_to_write = !output.is_empty();
            let flags = if *waits_to_write { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, &*stream, EventData::new_u64(number as u64), flags)?;
        }
        Ok(())
    }
}

/// Asks on a blocking socket, and reads as many lines as answer that.
///
/// # Errors
/// Of the socket, and where it closes.
pub(crate) fn exchange(stream: &mut TcpStream, words: &[u8], lines: usize) -> io::Result<Vec<String>> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.write_all(words)?;
    let mut reader = BufReader::new(stream);
    let mut answers = Vec::with_capacity(lines);
    for _ in 0..lines {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answers.push(String::from_utf8_lossy(&line).trim_end().to_owned());
    }
    Ok(answers)
}

/// Opens connections that wait for a job which never comes, as idle workers do.
///
/// # Errors
/// Of the sockets.
pub(crate) fn idle_workers(
    address: SocketAddr,
    dialect: Dialect,
    count: usize,
) -> io::Result<Vec<TcpStream>> {
    let phrases = Phrases::new(dialect, &["idle".into()], 0);
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = TcpStream::connect(address)?;
        let (words, lines) = dialect.choose("idle");
        exchange(&mut stream, &words, lines)?;
        // Once this is answered, the connection is being served.
        exchange(&mut stream, dialect.hello(), 1)?;
        let mut get = Vec::new();
        phrases.get(0, &dialect.own_word(number), &mut get);
        stream.write_all(&get)?;
        streams.push(stream);
    }
    Ok(streams)
}

/// Puts one job into each of the queues, so that they are there.
///
/// # Errors
/// Of the socket.
pub(crate) fn one_job_each(
    address: SocketAddr,
    dialect: Dialect,
    queues: &[String],
    body_bytes: usize,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let phrases = Phrases::new(dialect, queues, body_bytes);
    let mut body = vec![b'x'; body_bytes];
    for (number, queue) in queues.iter().enumerate() {
        let mut words = match dialect {
            Dialect::Beanstalk => format!("use {queue}\r\n").into_bytes(),
            Dialect::Native | Dialect::Redis => Vec::new(),
        };
        let lines = if words.is_empty() { 1 } else { 2 };
        body[..STAMP_BYTES + SERIAL_BYTES].fill(b'0');
        phrases.submit(number, &body, &mut words);
        exchange(&mut stream, &words, lines)?;
    }
    Ok(())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

fn write_hex(mut value: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> io::Result<u64> {
    let value = std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    value.ok_or_else(|| io::Error::other("a job came back with another body"))
}
