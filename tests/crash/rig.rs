//! A data directory with the server that is started on it, again and again.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use djqs::protocol::Command;
use djqs::protocol::native::{Answer, read_answer, write_command};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{PATIENCE, Server, start_up_lines};

/// The wall clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// When what is written is synced: the server's flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    Interval,
    Never,
}

impl Policy {
    /// The flag's value.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Policy::Always => "always",
            Policy::Interval => "3ms",
            Policy::Never => "never",
        }
    }
}

/// A directory of its own below the system's for temporary files: `data`, and `log`, what all its servers
/// said.
#[derive(Debug)]
pub(crate) struct Site {
    home: TempDir,
    data: PathBuf,
    flags: Vec<String>,
}

impl Site {
    /// Segments are small, so that they are begun, emptied and removed all the time.
    pub(crate) fn new(policy: Policy, segment_bytes: u64) -> Site {
        let home = tempfile::Builder::new().prefix("djqs-crash-").tempdir().unwrap();
        // Longer jobs would not fit in the smallest segment.
        let (segment, body) = (segment_bytes.to_string(), "1480".to_owned());
        let flags = ["--fsync", policy.flag(), "--segment-size", &segment, "-z", &body].map(String::from);
        Site { data: home.path().join("data"), home, flags: flags.into() }
    }

    /// The same with its data in another place.
    pub(crate) fn with_data(mut self, data: PathBuf) -> Site {
        self.data = data;
        self
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// All that its servers said on standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// The server's command line.
    pub(crate) fn command(&self) -> Process {
        self.under(Process::new(env!("CARGO_BIN_EXE_server")))
    }

    /// The server's command line behind another program's.
    pub(crate) fn command_of(&self, mut program: Process) -> Process {
        program.arg(env!("CARGO_BIN_EXE_server"));
        self.under(program)
    }

    fn under(&self, mut command: Process) -> Process {
        let log = OpenOptions::new().create(true).append(true).open(self.home.path().join("log")).unwrap();
        command.arg("-b").arg(&self.data).args(["-p", "0"]).args(&self.flags);
        command.env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command
    }

    /// Starts the server and waits until it listens.
    pub(crate) fn start(&self) -> Server {
        match start(&mut self.command()) {
            Ok(server) => server,
            Err(status) => panic!("the server does not start ({status}): {}", self.log()),
        }
    }

    /// Keeps the directory, and says where it is.
    pub(crate) fn keep(&mut self) -> &Path {
        self.home.disable_cleanup(true);
        self.home.path()
    }

    /// The journal's segments, those that are ready to be used included, in order.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.data).unwrap().map(|file| file.unwrap().path());
        let mut segments: Vec<PathBuf> =
            files.filter(|file| file.extension().is_some_and(|end| end == "journal")).collect();
        segments.sort_unstable();
        segments
    }

    /// The bytes of the segments' files.
    pub(crate) fn journal_bytes(&self) -> u64 {
        // One may be removed meanwhile.
        self.segments().iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    }

    /// The number of the last segment.
    pub(crate) fn last_segment(&self) -> u64 {
        let last = self.segments().pop();
        last.map_or(0, |file| file.file_stem().unwrap().to_str().unwrap().parse().unwrap())
    }

    /// The segment that is written to, and where in it the next batch will begin, or a few bytes before:
    /// behind the last byte that is not zero, and behind the header's block.
    pub(crate) fn tail(&self) -> (PathBuf, usize) {
        let end_of = |file: &PathBuf| std::fs::read(file).ok()?.iter().rposition(|byte| *byte != 0);
        let mut newest_first = self.segments().into_iter().rev();
        let tail = newest_first.find_map(|file| end_of(&file).map(|end| (file, (end + 1).max(4096))));
        tail.expect("a server has begun a segment")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the files are kept in {}", self.keep().display());
        }
    }
}

/// Starts a server and waits until it listens, or has ended.
pub(crate) fn start(command: &mut Process) -> Result<Server, ExitStatus> {
    let mut child = command.spawn().expect("the program is there");
    let greeting = start_up_lines(child.stdout.take().unwrap());
    match greeting.split_whitespace().find_map(|word| word.trim_end_matches(':').parse().ok()) {
        Some(address) => Ok(Server { child, address, greeting }),
        None => Err(child.wait().unwrap()),
    }
}

/// How a server ended, if it does so by itself in good time.
pub(crate) fn ended(server: &mut Server) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        match server.child.try_wait().unwrap() {
            None if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            status => return status,
        }
    }
}

/// Ends a server at once.
pub(crate) fn kill(mut server: Server) {
    server.signal(Signal::KILL);
    server.ended();
}

/// Copies a flat directory, as it is now.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// All files of a flat directory, by name; but for those that go while they are looked at.
pub(crate) fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let read = files.filter_map(|file| {
        let bytes = std::fs::read(file.path()).ok()?;
        Some((file.file_name().into_string().unwrap(), bytes))
    });
    read.collect()
}

/// The server is no longer there.
#[derive(Debug)]
pub(crate) struct Gone;

/// A connection that sends commands ahead and reads their answers.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Result<Wire, Gone> {
        let stream = TcpStream::connect(address).map_err(|_| Gone)?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Ok(Wire { stream, input: Vec::new() })
    }

    /// Sends commands. Whether the server has got them is seen by the answers.
    pub(crate) fn send(&mut self, commands: &[Command]) {
        let mut text = Vec::new();
        commands.iter().for_each(|command| write_command(command, &mut text));
        let _ = self.stream.write_all(&text);
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Result<Answer, Gone> {
        loop {
            match read_answer(&self.input) {
                Ok(Some((used, answer))) => {
                    self.input.drain(..used);
                    return Ok(answer);
                }
                Ok(None) => {}
                Err(bad) => panic!("{bad}"),
            }
            let mut more = [0; 1 << 16];
            match self.stream.read(&mut more) {
                Ok(0) => return Err(Gone),
                Ok(read) => self.input.extend_from_slice(&more[..read]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    panic!("no answer within {PATIENCE:?}, and the server is there");
                }
                Err(_) => return Err(Gone),
            }
        }
    }
}
