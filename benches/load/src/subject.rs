//! The servers under test: how each is started with comparable settings, on a free port and fresh data, and
//! ended.

use std::fmt;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::thread::CpuSet;

use crate::dialect::Dialect;
use crate::load::exchange;
use crate::machine::keep_to_cores;

/// How long a server may take until it answers. Recovery is measured by this too, so it is generous.
const START_MAX: Duration = Duration::from_secs(120);

/// How often a starting server is asked whether it is there.
const START_LOOK: Duration = Duration::from_millis(2);

/// A server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Subject {
    /// This project's server, in its own dialect
    Djqs,
    /// The same, spoken to as beanstalkd is
    DjqsBeanstalk,
    /// Another build of this project's server (--rival), to compare with
    Rival,
    /// beanstalkd
    Beanstalkd,
    /// A Redis list
    Redis,
    /// A server of DJQS's shape that does nothing
    Floor,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Djqs => "DJQS",
            Subject::DjqsBeanstalk => "DJQS (beanstalkd dialect)",
            Subject::Rival => "other build",
            Subject::Beanstalkd => "beanstalkd",
            Subject::Redis => "Redis",
            Subject::Floor => "floor",
        })
    }
}

/// How safe an answered job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safety {
    /// In memory only.
    Memory,
    /// On the disk, synced, before the answer.
    Durable,
    /// On its way to the disk: for filling a server whose recovery is measured.
    Unsynced,
}

/// Why there is no figure.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// It can't be had here.
    Skipped(String),
    /// It should have been there.
    Failed(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Failed(error.to_string())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Skipped(why) => write!(f, "skipped: {why}"),
            Trouble::Failed(why) => write!(f, "FAILED: {why}"),
        }
    }
}

/// Where the programs are, and where data may be written.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) server: PathBuf,
    pub(crate) client: PathBuf,
    pub(crate) rival: Option<PathBuf>,
    pub(crate) floor: PathBuf,
    pub(crate) data: PathBuf,
    /// Whether servers keep off the first core, which is the load generator's.
    pub(crate) pin: bool,
}

/// A running server; killed when dropped, and its data with it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Dialect,
}

impl Running {
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Subject {
    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Subject::Djqs | Subject::Rival | Subject::Floor => Dialect::Native,
            Subject::DjqsBeanstalk | Subject::Beanstalkd => Dialect::Beanstalk,
            Subject::Redis => Dialect::Redis,
        }
    }

    /// Starts it with its data in `directory`, and waits until it answers.
    ///
    /// # Errors
    /// [`Trouble::Skipped`] where the program is not there or refuses its flags.
    pub(crate) fn start(
        self,
        places: &Places,
        safety: Safety,
        body_bytes: usize,
        directory: &Path,
    ) -> Result<Running, Trouble> {
        let port = free_port()?;
        let mut command = self.command(places, safety, body_bytes, directory, port)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = spawn(&mut command, places.pin).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Trouble::Skipped(format!("{} is not there", command.get_program().to_string_lossy()))
            }
            _ => error.into(),
        })?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut running = Running { child, address, dialect: self.dialect() };
        let begun = Instant::now();
        loop {
            if let Some(status) = running.child.try_wait()? {
                let mut said = String::new();
                running.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said)).transpose()?;
                let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
                return Err(Trouble::Skipped(format!("{self} ended with {status}: {}", said.trim())));
            }
            match TcpStream::connect(address)
                .and_then(|mut stream| Ok(exchange(&mut stream, running.dialect.hello(), 1)?.remove(0)))
            {
                Ok(answer) if answer.as_bytes().starts_with(running.dialect.hello_answer()) => {
                    return Ok(running);
                }
                // Redis says so while it reads its file.
                Ok(answer) if answer.contains("LOADING") => {}
                Ok(answer) => return Err(Trouble::Skipped(format!("{self} says {answer:?}"))),
                Err(_) if begun.elapsed() < START_MAX => {}
                Err(error) => return Err(error.into()),
            }
            sleep(START_LOOK);
        }
    }

    fn command(
        self,
        places: &Places,
        safety: Safety,
        body_bytes: usize,
        directory: &Path,
        port: u16,
    ) -> Result<Command, Trouble> {
        let port = port.to_string();
        let ours = |program: &Path| {
            let mut command = Command::new(program);
            command.args(["-l", "127.0.0.1", "-p", &port]);
            match safety {
                Safety::Memory => command.arg("--memory"),
                Safety::Durable => command.arg("--data").arg(directory).args(["--fsync", "always"]),
                Safety::Unsynced => command.arg("--data").arg(directory).args(["--fsync", "never"]),
            };
            command
        };
        Ok(match self {
            Subject::Djqs | Subject::DjqsBeanstalk => ours(&places.server),
            Subject::Rival => match &places.rival {
                Some(program) => ours(program),
                None => return Err(Trouble::Skipped("no --rival was named".into())),
            },
            Subject::Beanstalkd => {
                let mut command = Command::new("beanstalkd");
                command.args(["-l", "127.0.0.1", "-p", &port]);
                match safety {
                    Safety::Memory => &mut command,
                    Safety::Durable => command.arg("-b").arg(directory).args(["-f", "0"]),
                    Safety::Unsynced => command.arg("-b").arg(directory).arg("-F"),
                };
                command
            }
            Subject::Redis => {
                let mut command = Command::new("redis-server");
                command
                    .args(["--bind", "127.0.0.1", "--port", &port, "--save", ""])
                    .arg("--dir")
                    .arg(directory);
                command.args(match safety {
                    Safety::Memory => ["--appendonly", "no"].as_slice(),
                    Safety::Durable => &["--appendonly", "yes", "--appendfsync", "always"],
                    Safety::Unsynced => &["--appendonly", "yes", "--appendfsync", "no"],
                });
                command
            }
            Subject::Floor if safety == Safety::Memory => {
                let mut command = Command::new(&places.floor);
                command.args([port, body_bytes.to_string()]);
                command
            }
            Subject::Floor => return Err(Trouble::Skipped("it keeps nothing".into())),
        })
    }
}

/// Starts a server; what it starts itself, its threads too, keeps to the same cores.
fn spawn(command: &mut Command, pin: bool) -> io::Result<Child> {
    if !pin {
        return command.spawn();
    }
    keep_to_cores(1..CpuSet::MAX_CPU)?;
    let child = command.spawn();
    keep_to_cores([0])?;
    child
}

/// A port that was free a moment ago. Another program may take it before the server does; then the server
/// says so.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
