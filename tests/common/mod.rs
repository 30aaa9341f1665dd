//! What the tests share: the real server on a free port, and plain connections that send and read lines.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub(crate) mod engine;
pub(crate) mod worker;

/// How long a test waits for what must come. It only passes if something is wrong, so it is generous.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A running server process; killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    /// What it printed when it started.
    pub(crate) greeting: String,
}

impl Server {
    /// A server that keeps its jobs in memory.
    pub(crate) fn start(flags: &[&str]) -> Server {
        Server::of(Command::new(env!("CARGO_BIN_EXE_server")).args(["--memory", "-p", "0"]).args(flags))
    }

    /// A server under a limit of the shell's `ulimit`, such as `-n 64` for open files. Its log is discarded.
    pub(crate) fn limited(limit: &str, flags: &[&str]) -> Server {
        let script = format!("ulimit {limit}; exec \"$0\" -p 0 \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_server")]).args(flags);
        Server::of(command.stderr(Stdio::null()))
    }

    /// Starts a prepared command and waits for its start-up lines.
    pub(crate) fn of(command: &mut Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let greeting = start_up_lines(child.stdout.take().unwrap());
        let address = greeting
            .split_whitespace()
            .find_map(|word| word.trim_end_matches(':').parse().ok())
            .unwrap_or_else(|| panic!("no address in {greeting:?}"));
        Server { child, address, greeting }
    }

    pub(crate) fn connect(&self) -> Talk {
        Talk::to(self.address)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the process ends.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// One figure of STATS.
    pub(crate) fn stat(&self, name: &str) -> String {
        let prefix = format!("{name}: ");
        let lines = self.connect().ask_lines("STATS");
        let found = lines.iter().find_map(|line| line.strip_prefix(&prefix));
        found.unwrap_or_else(|| panic!("no {name} in {lines:#?}")).into()
    }

    /// One figure of STATS that is a number.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.stat(name).parse().unwrap()
    }

    /// Waits until this many connections wait for something.
    pub(crate) fn until_waiting(&self, connections: u64) {
        until(&format!("{connections} connections wait"), || self.number("waiting") == connections);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// A figure of /proc/PID/status, such as `VmRSS` (in KiB) or `Threads`.
    pub(crate) fn process_figure(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// What a server prints when it starts, up to the last line of that, or to the end if it does not start.
pub(crate) fn start_up_lines(stdout: impl Read) -> String {
    let (mut reader, mut text) = (BufReader::new(stdout), String::new());
    while !text.contains("\nroom for ") && reader.read_line(&mut text).unwrap() > 0 {}
    text
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A plain connection.
pub(crate) struct Talk {
    pub(crate) stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Talk {
    pub(crate) fn to(address: SocketAddr) -> Talk {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Talk { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, without its LF; `None` at the end of the stream.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        if line.is_empty() {
            return None;
        }
        assert_eq!(line.pop(), Some(b'\n'), "cut off: {}", line.escape_ascii());
        Some(String::from_utf8(line).unwrap())
    }

    /// The next `count` bytes.
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut have = 0;
        while have < count {
            match self.reader.read(&mut bytes[have..]).unwrap() {
                0 => panic!("closed after {:?}", bytes[..have].escape_ascii().to_string()),
                more => have += more,
            }
        }
        bytes
    }

    /// Sends a line and reads the line that answers it.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n"));
        self.line().unwrap_or_else(|| panic!("closed instead of an answer to {line:?}"))
    }

    /// Sends a TASK line again and again until it is refused; returns how often it was accepted, the id of
    /// the last job accepted (0 for none), and the refusal.
    pub(crate) fn ask_until_refused(&mut self, task: &str) -> (u64, u64, String) {
        let (mut accepted, mut last) = (0, 0);
        loop {
            let answer = self.ask(task);
            let Some(id) = answer.strip_prefix("ACK ") else { return (accepted, last, answer) };
            (accepted, last) = (accepted + 1, id.parse().unwrap());
            assert!(accepted < 100_000, "it is never refused");
        }
    }

    /// Sends a line and reads the `OK lines=N` and the lines that answer it.
    pub(crate) fn ask_lines(&mut self, line: &str) -> Vec<String> {
        let head = self.ask(line);
        let count =
            head.strip_prefix("OK lines=").unwrap_or_else(|| panic!("{line:?} was answered {head:?}"));
        (0..count.parse().unwrap()).map(|_| self.line().unwrap()).collect()
    }

    /// Shuts the sending side down.
    pub(crate) fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Everything up to the end of the stream. A reset counts as the end.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into()
    }

    /// Replays a dialogue: lines beginning with `> ` are sent, lines beginning with `< ` must come back
    /// exactly.
    pub(crate) fn dialogue(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(sent) = line.strip_prefix('>') {
                self.send(format!("{}\n", sent.strip_prefix(' ').unwrap_or(sent)));
            } else if let Some(expected) = line.strip_prefix('<') {
                let expected = expected.strip_prefix(' ').unwrap_or(expected);
                assert_eq!(self.line().as_deref(), Some(expected), "in the dialogue\n{text}");
            } else {
                panic!("neither > nor <: {line:?}");
            }
        }
    }
}

/// Runs `work` in a thread of its own; the receiver gets its result.
pub(crate) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver
}

/// Checks again and again until `found` returns true: for what has no event to wait for.
pub(crate) fn until(what: &str, mut found: impl FnMut() -> bool) {
    #[allow(clippy::disallowed_methods, reason = "a test's patience is not the server's time")]
    let begun = std::time::Instant::now();
    while !found() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
