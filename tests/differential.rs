//! The beanstalkd dialect against Debian's beanstalkd 1.12: the same random commands to both, the replies
//! compared.
//!
//! It runs where `beanstalkd` is installed, and says so where it is not. A failure prints the seed and the
//! last commands:
//!
//! ```text
//! DJQS_SEED=1234 cargo test --test differential
//! make differential
//! ```
//! What may differ stands in [`DIFFERENCES`], each with a dialogue that shows it, and in docs/beanstalkd.md.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use common::{PATIENCE, Server, until};

mod common;

/// Commands of a run, unless DJQS_DIFFERENTIAL_COMMANDS says otherwise.
const COMMANDS_DEFAULT: u64 = 4_000;

/// After so many commands both servers begin anew.
const COMMANDS_A_LIFE: u64 = 5_000;

/// The limit on bodies of both servers here.
const BODY_MAX: usize = 100;

/// How many of the last commands a failure prints.
const COMMANDS_PRINTED: usize = 30;

/// A documented difference: its heading in docs/beanstalkd.md, what shows it, and what each server answers.
struct Difference {
    heading: &'static str,
    sent: &'static str,
    /// Empty where it does not answer at all.
    beanstalkd: &'static str,
    here: &'static str,
}

const DIFFERENCES: [Difference; 15] = [
    Difference {
        heading: "Body of a bad put line",
        sent: "put 0 -1 60 7\r\nuse bad\r\nlist-tube-used\r\n",
        beanstalkd: "BAD_FORMAT\r\nUSING bad\r\nUSING bad\r\n",
        here: "BAD_FORMAT\r\nUSING default\r\n",
    },
    Difference {
        heading: "Numbers of kick",
        sent: "kick 1abc\r\nkick -1\r\nkick +1\r\nkick 1 \r\n",
        beanstalkd: "KICKED 0\r\nKICKED 0\r\nKICKED 0\r\nKICKED 0\r\n",
        here: "BAD_FORMAT\r\nBAD_FORMAT\r\nBAD_FORMAT\r\nBAD_FORMAT\r\n",
    },
    Difference {
        heading: "Numbers of reserve-with-timeout",
        sent: "reserve-with-timeout 0x\r\nreserve-with-timeout \r\n",
        beanstalkd: "TIMED_OUT\r\nTIMED_OUT\r\n",
        here: "BAD_FORMAT\r\nBAD_FORMAT\r\n",
    },
    Difference {
        heading: "Verbs that only begin so",
        sent: "pause-tubedefault 0\r\n",
        beanstalkd: "PAUSED\r\n",
        here: "UNKNOWN_COMMAND\r\n",
    },
    Difference {
        heading: "Bodies one byte too long",
        sent: "put 0 0 60 3\r\nabcd\r\nuse a\r\nlist-tube-used\r\n",
        beanstalkd: "EXPECTED_CRLF\r\nUNKNOWN_COMMAND\r\nUSING default\r\n",
        here: "EXPECTED_CRLF\r\nUSING a\r\nUSING a\r\n",
    },
    Difference {
        heading: "What is no verb, in the first line",
        sent: "1\r\nlist-tube-used\r\n1\r\n",
        beanstalkd: "UNKNOWN_COMMAND\r\nUSING default\r\nUNKNOWN_COMMAND\r\n",
        here: "ERR unknown-verb \"1\" is no verb; HELP lists the verbs\nUSING default\r\nUNKNOWN_COMMAND\r\n",
    },
    Difference {
        heading: "Verbs that only begin so",
        sent: "quitx\r\n",
        beanstalkd: "",
        here: "BAD_FORMAT\r\n",
    },
    Difference {
        heading: "Lines that end in LF alone",
        sent: "use a\nlist-tube-used\r\n",
        beanstalkd: "BAD_FORMAT\r\n",
        here: "USING a\r\nUSING a\r\n",
    },
    Difference {
        heading: "Verbs in upper case",
        sent: "PING\r\n",
        beanstalkd: "UNKNOWN_COMMAND\r\n",
        here: "PONG\n",
    },
    Difference {
        heading: "HTTP",
        sent: "use HTTP/1.1\r\n",
        beanstalkd: "USING HTTP/1.1\r\n",
        here: "HTTP/1.1 400 Bad Request\r\n",
    },
    Difference {
        heading: "Ids of refused puts",
        sent: "put 0 0 60 1\r\nxyzput 0 0 60 1\r\nx\r\n",
        beanstalkd: "EXPECTED_CRLF\r\nINSERTED 2\r\n",
        here: "EXPECTED_CRLF\r\nINSERTED 1\r\n",
    },
    Difference {
        heading: "Order of tubes in lists",
        sent: "watch a\r\nwatch b\r\nignore default\r\nlist-tubes-watched\r\n",
        beanstalkd: "WATCHING 2\r\nWATCHING 3\r\nWATCHING 2\r\nOK 12\r\n---\n- b\n- a\n\r\n",
        here: "WATCHING 2\r\nWATCHING 3\r\nWATCHING 2\r\nOK 12\r\n---\n- a\n- b\n\r\n",
    },
    Difference {
        heading: "Paused tubes that nobody uses",
        sent: "use a\r\npause-tube a 99\r\nuse default\r\npause-tube a 0\r\n",
        beanstalkd: "USING a\r\nPAUSED\r\nUSING default\r\nNOT_FOUND\r\n",
        here: "USING a\r\nPAUSED\r\nUSING default\r\nPAUSED\r\n",
    },
    Difference {
        heading: "Strings in YAML",
        sent: "put 0 0 60 1\r\nx\r\nstats-job 1\r\n",
        beanstalkd: "INSERTED 1\r\nOK 144\r\n---\nid: 1\ntube: default\n",
        here: "INSERTED 1\r\nOK 146\r\n---\nid: 1\ntube: \"default\"\n",
    },
    Difference {
        heading: "The delay in stats-job",
        sent: "put 0 77 60 1\r\nx\r\nkick 1\r\nstats-job 1\r\n",
        beanstalkd: "INSERTED 1\r\nKICKED 1\r\nOK 145\r\n---\nid: 1\ntube: default\nstate: ready\npri: 0\nage: 0\ndelay: 77\n",
        here: "INSERTED 1\r\nKICKED 1\r\nOK 146\r\n---\nid: 1\ntube: \"default\"\nstate: ready\npri: 0\nage: 0\ndelay: 0\n",
    },
];

/// Keys whose values are times that go on: they may be a little apart.
const TIMES: [&str; 4] = ["age", "time-left", "pause-time-left", "uptime"];

/// Keys whose values are each server's own.
const OWN: [&str; 15] = [
    "pid",
    "version",
    "rusage-utime",
    "rusage-stime",
    "id",
    "hostname",
    "os",
    "platform",
    "binlog-max-size",
    // A put whose body is refused counts there, and makes the connection a producer if its size is good.
    "cmd-put",
    "current-producers",
    // A reserve-job that finds nothing makes no worker there.
    "current-workers",
    // A connection that is lost counts as a timeout here, and a quit as a release: see `lost`.
    "job-timeouts",
    "total-connections",
    // Closing is noticed at leisure.
    "current-connections",
];

#[test]
fn same_commands_get_same_replies() {
    let wanted = number_of("DJQS_DIFFERENTIAL_COMMANDS");
    if !is_installed() {
        assert!(wanted.is_none(), "beanstalkd is not installed: apt-get install beanstalkd");
        return eprintln!(
            "SKIPPED: beanstalkd is not installed; apt-get install beanstalkd to compare with it"
        );
    }
    let seed = number_of("DJQS_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let commands = wanted.unwrap_or(COMMANDS_DEFAULT);
    println!("comparing {commands} commands, seed {seed}");
    let (mut sent, mut number) = (0, 0);
    let mut replies = HashMap::new();
    while sent < commands {
        number += 1;
        let mut life = Life::new(seed, number);
        while life.sent < COMMANDS_A_LIFE.min(commands - sent) {
            life.step();
        }
        sent += life.sent;
        for (reply, count) in &life.replies {
            *replies.entry(reply.clone()).or_insert(0) += count;
        }
    }
    let mut replies: Vec<_> = replies.into_iter().collect();
    replies.sort();
    println!("{sent} commands, the replies alike: {replies:?}");
    for reply in
        ["INSERTED", "RESERVED", "TIMED_OUT", "KICKED", "BURIED", "RELEASED", "NOT_IGNORED", "EXPECTED_CRLF"]
    {
        assert!(replies.iter().any(|(seen, _)| seen == reply), "nothing was answered {reply}");
    }
}

#[test]
fn documented_differences_are_as_documented() {
    if !is_installed() {
        return eprintln!(
            "SKIPPED: beanstalkd is not installed; apt-get install beanstalkd to compare with it"
        );
    }
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/beanstalkd.md")).unwrap();
    for Difference { heading, sent, beanstalkd, here } in DIFFERENCES {
        assert!(docs.contains(&format!("| {heading} |")), "{heading} is not in docs/beanstalkd.md");
        for (side, expected) in [Side::Theirs, Side::Ours].into_iter().zip([beanstalkd, here]) {
            let server = Started::new(side);
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(sent.as_bytes()).unwrap();
            if expected.is_empty() {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let mut got = vec![0; expected.len()];
            let read = stream.read_exact(&mut got);
            let got = got.escape_ascii().to_string();
            assert!(
                read.is_ok() && got == expected.as_bytes().escape_ascii().to_string(),
                "{heading}: {side:?}: {got}"
            );
            if expected.is_empty() {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{heading}");
            }
        }
    }
}

fn is_installed() -> bool {
    Command::new("beanstalkd").arg("-v").stdout(Stdio::null()).status().is_ok()
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number from 0 to 2^64-1")))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Theirs,
    Ours,
}

const SIDES: [Side; 2] = [Side::Theirs, Side::Ours];

/// A server of either kind; killed when dropped.
struct Started {
    address: SocketAddr,
    _ours: Option<Server>,
    theirs: Option<Child>,
}

impl Started {
    fn new(side: Side) -> Started {
        if side == Side::Ours {
            let server = Server::start(&["-z", &BODY_MAX.to_string()]);
            return Started { address: server.address, _ours: Some(server), theirs: None };
        }
        loop {
            // It can't choose a port itself. Should another process take this one in between, it ends, and
            // another is tried.
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut child = Command::new("beanstalkd")
                .args(["-l", "127.0.0.1", "-p", &address.port().to_string(), "-z", &BODY_MAX.to_string()])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut ended = false;
            until("beanstalkd listens", || {
                ended = child.try_wait().unwrap().is_some();
                ended || TcpStream::connect(address).is_ok()
            });
            if !ended {
                return Started { address, _ours: None, theirs: Some(child) };
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.theirs {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Random numbers that a seed reproduces (Steele, Lea and Flood's SplitMix).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// One client's connection to one server.
struct Line {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Line {
    fn to(address: SocketAddr) -> Line {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Line { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    /// A reply: its words, and what comes behind its line.
    fn reply(&mut self) -> Reply {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        let line = String::from_utf8(line).unwrap();
        let Some(line) = line.strip_suffix("\r\n") else { panic!("cut off: {line:?}") };
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let size = match words[0].as_str() {
            "RESERVED" | "FOUND" => Some(&words[2]),
            "OK" => Some(&words[1]),
            _ => None,
        };
        let mut body = vec![0; size.map_or(0, |size| size.parse::<usize>().unwrap() + 2)];
        self.reader.read_exact(&mut body).unwrap();
        Reply { words, body }
    }
}

#[derive(Debug)]
struct Reply {
    words: Vec<String>,
    body: Vec<u8>,
}

/// A job's number, the same for both servers: the how manieth it was.
type JobNo = usize;

/// What is sent, with a job's number where each server has its own id.
#[derive(Clone, Debug)]
enum Part {
    Bytes(Vec<u8>),
    Id(JobNo),
}

#[derive(Clone, Debug)]
struct Ask {
    parts: Vec<Part>,
    /// The job that it names, if it does.
    job: Option<JobNo>,
}

/// Both servers, side by side.
struct Life {
    origin: (u64, u64),
    random: Random,
    sent: u64,
    servers: [Started; 2],
    /// Three clients that come and go, and one that watches, so that its tube does not go.
    clients: Vec<[Line; 2]>,
    /// Each server's id of each job.
    ids: Vec<[u64; 2]>,
    /// What each client has reserved, as far as it was told.
    held: Vec<BTreeSet<JobNo>>,
    /// Jobs whose connection was lost: what counts as a timeout or as a release differs from then on.
    lost: BTreeSet<JobNo>,
    delays: u64,
    recent: VecDeque<String>,
    replies: HashMap<String, u64>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\nthe last commands:");
            self.recent.iter().for_each(|line| eprintln!("  {line}"));
            eprintln!("life {} of DJQS_SEED={}, after {} commands", self.origin.1, self.origin.0, self.sent);
        }
    }
}

/// The tube that is never empty of clients, so that it may be paused.
const KEPT: &str = "kept";
const TUBES: [&str; 5] = ["default", KEPT, "a", "b", "c"];
const CLIENTS: usize = 3;

impl Life {
    fn new(seed: u64, number: u64) -> Life {
        let servers = SIDES.map(Started::new);
        let connect = || [Line::to(servers[0].address), Line::to(servers[1].address)];
        let clients = (0..=CLIENTS).map(|_| connect()).collect();
        let mut life = Life {
            origin: (seed, number),
            random: Random(seed.wrapping_add(number)),
            sent: 0,
            clients,
            servers,
            ids: Vec::new(),
            held: vec![BTreeSet::new(); CLIENTS],
            lost: BTreeSet::new(),
            delays: 0,
            recent: VecDeque::new(),
            replies: HashMap::new(),
        };
        life.ask(CLIENTS, &[text(format!("watch {KEPT}\r\n"))]);
        life
    }

    fn step(&mut self) {
        let client = self.random.below(CLIENTS as u64) as usize;
        match self.random.below(100) {
            0 => self.reconnect(client),
            1..4 => self.wait_and_be_served(client),
            _ => {
                let count = if self.random.percent(30) { 1 + self.random.below(6) } else { 1 };
                let asks: Vec<Ask> = (0..count).map(|_| self.random_ask(client)).collect();
                self.ask(client, &asks);
            }
        }
    }

    // ---- what is asked ----

    fn random_ask(&mut self, client: usize) -> Ask {
        match self.random.below(100) {
            0..20 => self.put(),
            20..32 => text("reserve-with-timeout 0\r\n"),
            32..42 => self.about_a_job("delete", client, ""),
            42..48 => {
                let rest = format!(" {} {}", self.priority(), self.delay());
                self.about_a_job("release", client, &rest)
            }
            48..54 => {
                let rest = format!(" {}", self.priority());
                self.about_a_job("bury", client, &rest)
            }
            54..57 => text(format!("kick {}\r\n", self.random.below(4))),
            57..59 => self.about_a_job("kick-job", client, ""),
            59..61 => self.about_a_job("touch", client, ""),
            61..64 => self.about_a_job("reserve-job", client, ""),
            64..66 => self.about_a_job("peek", client, ""),
            66..70 => text(self.random.pick(&["peek-ready\r\n", "peek-delayed\r\n", "peek-buried\r\n"])),
            70..75 => text(format!("use {}\r\n", self.tube())),
            75..79 => text(format!("watch {}\r\n", self.tube())),
            79..83 => text(format!("ignore {}\r\n", self.tube())),
            83..85 => text(format!("stats-tube {}\r\n", self.tube())),
            85..89 => self.about_a_job("stats-job", client, ""),
            89 => text("stats\r\n"),
            90 => text("list-tubes\r\n"),
            91 => text(self.random.pick(&["list-tube-used\r\n", "list-tubes-watched\r\n"])),
            92 => {
                let tube = self.random.pick(&["default", KEPT, "nothing"]);
                let time = self.random.pick(&[0, 0, 0, 1_000]);
                text(format!("pause-tube {tube} {time}\r\n"))
            }
            _ => self.nonsense(),
        }
    }

    fn put(&mut self) -> Ask {
        let size = self.random.pick(&[0, 1, 2, 5, BODY_MAX - 1, BODY_MAX, BODY_MAX + 1, 1_000]);
        let mut body: Vec<u8> = (0..size).map(|_| self.random.next() as u8).collect();
        body.extend_from_slice(if self.random.percent(90) { b"\r\n" } else { b"\n\r" });
        let ttr = 10_000 + self.random.below(10);
        let mut bytes = format!("put {} {} {ttr} {size}\r\n", self.priority(), self.delay()).into_bytes();
        bytes.extend_from_slice(&body);
        Ask { parts: vec![Part::Bytes(bytes)], job: None }
    }

    fn priority(&mut self) -> u64 {
        self.random.pick(&[0, 1, 1, 1023, 1024, u64::from(u32::MAX)])
    }

    /// No two alike, nor so close that the order of the commands matters.
    fn delay(&mut self) -> u64 {
        if self.random.percent(70) {
            return 0;
        }
        self.delays += 1;
        // Up and down, so that the soonest is not always the oldest.
        100_000 + 1_000 * if self.random.percent(50) { 100_000 + self.delays } else { 90_000 - self.delays }
    }

    fn tube(&mut self) -> &'static str {
        self.random.pick(&TUBES)
    }

    fn about_a_job(&mut self, verb: &str, client: usize, rest: &str) -> Ask {
        let held: Vec<JobNo> = self.held[client].iter().copied().collect();
        let job = if !held.is_empty() && self.random.percent(70) {
            self.random.pick(&held)
        } else if !self.ids.is_empty() && self.random.percent(95) {
            // One of the last, since most others are gone.
            let count = self.ids.len() as u64;
            (count - 1 - self.random.below(count.min(60))) as usize
        } else {
            return text(format!("{verb} 18446744073709551615{rest}\r\n"));
        };
        let parts = vec![
            Part::Bytes(format!("{verb} ").into_bytes()),
            Part::Id(job),
            Part::Bytes(format!("{rest}\r\n").into_bytes()),
        ];
        Ask { parts, job: Some(job) }
    }

    /// What is no command, or not quite. What the two take differently is left out: see [`DIFFERENCES`].
    fn nonsense(&mut self) -> Ask {
        let known = [
            "",
            "put",
            "put ",
            "put 1 2 3",
            "put a b c d",
            "put 0 0 1 -1",
            "put 0 0 1 4294967296",
            "delete",
            "delete ",
            "delete x",
            "delete 1 ",
            "delete -1",
            "delete 18446744073709551616",
            "release 1",
            "release 1 2",
            "release 1 2 3 4",
            "release 1 4294967296 1",
            "bury 1",
            "bury 1 x",
            "bury 1 2 3",
            "touch ",
            "touch 1x",
            "kick",
            "kick ",
            "kick x",
            "kick 99999999999999999999999",
            "kick-job",
            "kick-job x",
            "peek",
            "peek ",
            "peek x",
            "peek-ready ",
            "peek-readyx",
            "peek-buried 1",
            "peek-delayedx",
            "reserve ",
            "reserve x",
            "reserved",
            "reserve-job",
            "reserve-job ",
            "reserve-job x",
            "reserve-with-timeout",
            "use",
            "use ",
            "use -a",
            "use a b",
            "use  a",
            "use a,b",
            "watch ",
            "watch -",
            "ignore ",
            "ignore *",
            "stats ",
            "statsx",
            "stats-job ",
            "stats-job x",
            "stats-tube ",
            "stats-tube -a",
            "stats-tube nothing",
            "list-tubes ",
            "list-tubesx",
            "list-tube",
            "list-tube-usedx",
            "list-tubes-watchedx",
            "pause-tube ",
            "pause-tube a",
            "pause-tube a x",
            "pause-tube a 4294967296",
            "foo",
            "foo bar",
            "putx 1 2 3 4",
            "x\0y",
            "use a\0",
        ];
        if self.random.percent(60) {
            let line = self.random.pick(&known[1..]);
            return text(format!("{line}\r\n"));
        }
        if self.random.percent(30) {
            // Longer than a line may be. At 225 bytes beanstalkd does not see the line's end.
            let length = 226 + self.random.below(200) as usize;
            let verb = self.random.pick(&["touch", "use", "foo", "delete"]);
            return text(format!("{verb} {}\r\n", "1".repeat(length - verb.len() - 3)));
        }
        if self.random.percent(30) {
            let length = self.random.pick(&[199, 200, 201, 210]);
            return text(format!("use {}\r\nuse default\r\n", "n".repeat(length))).twice();
        }
        let mut line = vec![self.random.pick(b"adefghijlmnostvwxyz")];
        for _ in 0..self.random.below(40) {
            line.push(match self.random.next() as u8 {
                b'\r' | b'\n' => b' ',
                byte => byte,
            });
        }
        line.extend_from_slice(b"\r\n");
        Ask { parts: vec![Part::Bytes(line)], job: None }
    }

    // ---- what happens ----

    /// Sends commands in one piece to both, and compares the replies.
    fn ask(&mut self, client: usize, asks: &[Ask]) {
        for (at, _) in SIDES.iter().enumerate() {
            let mut bytes = Vec::new();
            for part in asks.iter().flat_map(|ask| &ask.parts) {
                match part {
                    Part::Bytes(more) => bytes.extend_from_slice(more),
                    Part::Id(job) => bytes.extend_from_slice(self.ids[*job][at].to_string().as_bytes()),
                }
            }
            self.clients[client][at].stream.write_all(&bytes).unwrap();
        }
        for ask in asks {
            self.note(client, ask);
            self.sent += 1;
            for _ in 0..ask.replies() {
                self.compare(client, ask);
            }
        }
    }

    fn note(&mut self, client: usize, ask: &Ask) {
        if self.recent.len() == COMMANDS_PRINTED {
            self.recent.pop_front();
        }
        let shown = ask.parts.iter().map(|part| match part {
            Part::Bytes(bytes) => bytes[..bytes.len().min(80)].escape_ascii().to_string(),
            Part::Id(job) => format!("<job {job}: {:?}>", self.ids[*job]),
        });
        self.recent.push_back(format!("client {client}: {}", shown.collect::<String>()));
    }

    /// Reads a reply from both, and holds one against the other. Returns the first word.
    fn compare(&mut self, client: usize, ask: &Ask) -> String {
        let [mut theirs, mut ours] = [0, 1].map(|at| self.clients[client][at].reply());
        let word = theirs.words[0].clone();
        self.recent.back_mut().unwrap().push_str(&format!(
            " -> {} | {}",
            theirs.words.join(" "),
            ours.words.join(" ")
        ));
        *self.replies.entry(word.clone()).or_insert(0) += 1;
        assert_eq!(word, ours.words[0]);
        match word.as_str() {
            "INSERTED" => {
                self.ids.push([&theirs, &ours].map(|reply| reply.words[1].parse().unwrap()));
                return word;
            }
            "RESERVED" | "FOUND" => {
                let jobs = [0, 1].map(|at| self.job_of(at, [&theirs, &ours][at].words[1].parse().unwrap()));
                assert_eq!(jobs[0], jobs[1], "the same job");
                if word == "RESERVED" {
                    self.held[client].insert(jobs[0]);
                }
                (theirs.words[1], ours.words[1]) = (String::new(), String::new());
            }
            "OK" => return self.compare_documents(&theirs.body, &ours.body, ask, word),
            "DELETED" | "RELEASED" | "BURIED" => {
                self.held[client].remove(&ask.job.unwrap());
            }
            _ => {}
        }
        assert_eq!((theirs.words, theirs.body), (ours.words, ours.body));
        word
    }

    fn job_of(&self, at: usize, id: u64) -> JobNo {
        self.ids.iter().rposition(|ids| ids[at] == id).expect("an id that was given")
    }

    fn compare_documents(&self, theirs: &[u8], ours: &[u8], ask: &Ask, word: String) -> String {
        let [theirs, ours] = [theirs, ours].map(|text| std::str::from_utf8(text).unwrap());
        assert!(theirs.starts_with("---\n") && ours.starts_with("---\n"));
        let [a, b] = [theirs, ours].map(|text| text.trim_end().lines().skip(1).collect::<Vec<_>>());
        if theirs.contains("\n- ") {
            // Lists: the order is not the same where a tube went.
            let [a, b] = [a, b].map(BTreeSet::from_iter);
            assert_eq!(a, b);
            return word;
        }
        let [a, b] =
            [a, b].map(|lines| lines.iter().map(|line| line.split_once(": ").unwrap()).collect::<Vec<_>>());
        assert!(a.iter().map(|(key, _)| key).eq(b.iter().map(|(key, _)| key)), "{theirs}\n{ours}");
        let is_lost = ask.job.is_some_and(|job| self.lost.contains(&job));
        let is_delayed = a.contains(&("state", "delayed"));
        for ((key, theirs_value), (_, ours_value)) in a.into_iter().zip(b) {
            let number = |value: &str| value.parse::<i64>().unwrap_or_else(|_| panic!("{key}: {value}"));
            let alike = match key {
                _ if OWN.contains(&key) => true,
                _ if TIMES.contains(&key) => (number(theirs_value) - number(ours_value)).abs() <= 3,
                "timeouts" | "releases" if is_lost => true,
                "delay" if !is_delayed => true,
                "name" | "tube" => format!("\"{theirs_value}\"") == ours_value,
                _ => theirs_value == ours_value,
            };
            assert!(alike, "{key}: {theirs_value} there, {ours_value} here\n{theirs}\n{ours}");
        }
        word
    }

    /// One client waits for a job, and another one puts it.
    fn wait_and_be_served(&mut self, client: usize) {
        let other = (client + 1) % CLIENTS;
        let tube = self.tube();
        // So that it waits, and for nothing else.
        self.ask(client, &[text(format!("watch {tube}\r\n"))]);
        for unwatched in TUBES.into_iter().filter(|name| *name != tube) {
            self.ask(client, &[text(format!("ignore {unwatched}\r\n"))]);
        }
        self.ask(other, &[text(format!("use {tube}\r\n")), text(format!("pause-tube {tube} 0\r\n"))]);
        while self.ask_for_word(client, "reserve-with-timeout 0\r\n") == "RESERVED" {}
        let wait = text(self.random.pick(&["reserve\r\n", "reserve-with-timeout 1000\r\n"]));
        for at in 0..2 {
            let Part::Bytes(bytes) = &wait.parts[0] else { panic!("there is nothing else in it") };
            self.clients[client][at].stream.write_all(bytes).unwrap();
            until("the client waits", || {
                let line = &mut self.clients[other][at];
                line.stream.write_all(format!("stats-tube {tube}\r\n").as_bytes()).unwrap();
                String::from_utf8(line.reply().body).unwrap().contains("current-waiting: 1\n")
            });
        }
        self.ask(other, &[text("put 5 0 10000 3\r\nabc\r\n")]);
        self.note(client, &wait);
        self.sent += 1;
        assert_eq!(self.compare(client, &wait), "RESERVED");
        // How often it was asked whether the client waits is not the same for both.
        self.even_out(other);
    }

    /// Makes the counts of stats-tube alike again.
    fn even_out(&mut self, client: usize) {
        let count = |line: &mut Line| -> u64 {
            line.stream.write_all(b"stats\r\n").unwrap();
            let text = String::from_utf8(line.reply().body).unwrap();
            let found = text.lines().find_map(|line| line.strip_prefix("cmd-stats-tube: "));
            found.unwrap().parse().unwrap()
        };
        let [theirs, ours] = [0, 1].map(|at| count(&mut self.clients[client][at]));
        let behind = if theirs < ours { 0 } else { 1 };
        for _ in 0..theirs.abs_diff(ours) {
            let line = &mut self.clients[client][behind];
            line.stream.write_all(b"stats-tube nothing\r\n").unwrap();
            assert_eq!(line.reply().words, ["NOT_FOUND"]);
        }
    }

    fn ask_for_word(&mut self, client: usize, line: &str) -> String {
        let ask = text(line);
        for at in 0..2 {
            self.clients[client][at].stream.write_all(line.as_bytes()).unwrap();
        }
        self.note(client, &ask);
        self.sent += 1;
        self.compare(client, &ask)
    }

    /// A client goes, with or without a word, and another one comes.
    fn reconnect(&mut self, client: usize) {
        self.lost.append(&mut self.held[client]);
        let quits = self.random.percent(50);
        for at in 0..2 {
            let mut line = Line::to(self.servers[at].address);
            // So that it is counted before the old one is looked for.
            line.stream.write_all(b"list-tube-used\r\n").unwrap();
            assert_eq!(line.reply().words, ["USING", "default"]);
            let mut old = std::mem::replace(&mut self.clients[client][at], line);
            if quits {
                old.stream.write_all(b"quit\r\n").unwrap();
                let mut rest = Vec::new();
                old.reader.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, b"");
            }
            drop(old);
            let keeper = &mut self.clients[CLIENTS][at];
            until("the old connection is gone", || {
                keeper.stream.write_all(b"list-tubes\r\nstats\r\n").unwrap();
                keeper.reply();
                let stats = String::from_utf8(keeper.reply().body).unwrap();
                stats.contains(&format!("current-connections: {}\n", CLIENTS + 1))
            });
        }
        let label = if quits { "quit" } else { "close" };
        self.note(client, &text(label));
        self.level_counters();
    }

    /// How often it was asked whether a connection is gone is not the same for both.
    fn level_counters(&mut self) {
        for (key, command) in [("cmd-list-tubes: ", "list-tubes\r\n"), ("cmd-stats: ", "stats\r\n")] {
            let counts = [0, 1].map(|at| {
                let keeper = &mut self.clients[CLIENTS][at];
                keeper.stream.write_all(b"stats\r\n").unwrap();
                let text = String::from_utf8(keeper.reply().body).unwrap();
                text.lines().find_map(|line| line.strip_prefix(key)).unwrap().parse::<u64>().unwrap()
            });
            let behind = if counts[0] < counts[1] { 0 } else { 1 };
            for _ in 0..counts[0].abs_diff(counts[1]) {
                let keeper = &mut self.clients[CLIENTS][behind];
                keeper.stream.write_all(command.as_bytes()).unwrap();
                keeper.reply();
            }
        }
    }
}

fn text(line: impl Into<String>) -> Ask {
    Ask { parts: vec![Part::Bytes(line.into().into_bytes())], job: None }
}

impl Ask {
    /// Says that it is two commands.
    fn twice(mut self) -> Ask {
        self.parts.push(Part::Bytes(Vec::new()));
        self
    }

    fn replies(&self) -> usize {
        if self.job.is_none() { self.parts.len() } else { 1 }
    }
}
