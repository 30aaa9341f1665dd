//! The flags, their environment variables, and the text of `--help`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;
use djqs::broker::Fsync;
use djqs::internal::journal::SEGMENT_BYTES_MIN;
use djqs::protocol::native::parse_duration;

use crate::rules::{self, Rules};

const ABOUT: &str = "The job queue server of DJQS: accepts jobs, keeps them, gives each to a worker";

const MORE: &str = "--help explains more, with the variables of the environment.";

const LONG_ABOUT: &str = "\
The job queue server of DJQS: accepts jobs, keeps them, and gives each to one
worker. Clients and workers talk to it in lines of text over TCP, so netcat is a
client too:

    $ {name} --memory &
    $ printf 'TASK: CLEANUP_LOGS: 2s_delay\\nSTATS\\n' | nc -N 127.0.0.1 11300

Every flag can also be set by the environment variable that is shown with it.";

#[derive(Parser)]
#[command(name = "server", version, disable_version_flag = true, args_override_self = true, about = ABOUT, long_about = LONG_ABOUT, after_help = MORE, after_long_help = AFTER_HELP)]
pub(super) struct Flags {
    /// Where to listen, or unix:PATH
    ///
    /// An IP address, a host name, or unix:PATH for a Unix socket. There is no authentication: anyone who can
    /// connect has full control. A socket passed by systemd (LISTEN_FDS) is used instead
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1", env = "DJQS_LISTEN")]
    pub(super) listen: String,

    /// TCP port to listen on
    ///
    /// 0 lets the system choose one, which the start-up line shows
    #[arg(short, long, value_name = "PORT", default_value_t = 11300, env = "DJQS_PORT")]
    pub(super) port: u16,

    /// Who may connect to a Unix socket
    ///
    /// The permissions of the socket's file, in octal digits: 660 for its owner and group. Without it they are
    /// what the umask leaves
    #[arg(long, value_name = "MODE", env = "DJQS_SOCKET_MODE", value_parser = socket_mode, hide_short_help = true)]
    pub(super) socket_mode: Option<u32>,

    /// Largest body of a job, in bytes
    ///
    /// A larger one is skipped and answered with "ERR too-big"
    #[arg(short = 'z', long, value_name = "BYTES", default_value_t = 65_535, env = "DJQS_MAX_BODY",
          value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    pub(super) max_body: u32,

    /// Where to keep jobs
    ///
    /// The directory of the journal, which keeps the jobs; created if it does not exist
    #[arg(short = 'b', long, value_name = "DIR", default_value = "./djqs-data", env = "DJQS_DATA")]
    pub(super) data: PathBuf,

    /// Sync always, 50ms or never
    ///
    /// When the journal is synced to the disk: "always", before each reply, so that an acknowledged job
    /// survives a power cut; a time such as 50ms, within that time; "never", when the system decides. With
    /// each of them an acknowledged job survives the end of the server, even by kill -9
    #[arg(long, value_name = "POLICY", default_value = "always", env = "DJQS_FSYNC", value_parser = parse_fsync)]
    pub(super) fsync: Fsync,

    /// Sync at most every MS milliseconds, like beanstalkd; 0 is --fsync always
    #[arg(short = 'f', value_name = "MS", env = "DJQS_FSYNC_MS", hide_short_help = true)]
    pub(super) fsync_ms: Option<u64>,

    /// Never sync, like beanstalkd: --fsync never
    #[arg(short = 'F', env = "DJQS_FSYNC_NEVER", hide_short_help = true, value_parser = BoolishValueParser::new())]
    pub(super) fsync_never: bool,

    /// Keep jobs in memory only
    ///
    /// They are lost when the server ends
    #[arg(long, env = "DJQS_MEMORY", value_parser = BoolishValueParser::new())]
    pub(super) memory: bool,

    /// Size of one journal file, such as 64MiB
    ///
    /// From 8KiB to 1GiB; files are larger if the longest job (-z) would not fit. The journal takes at most three times the size of its jobs plus four files; new jobs
    /// leave room for five [default: 16MiB; with -z above 800 KB, room for twenty of the longest jobs, up to
    /// 64MiB]
    #[arg(long, value_name = "SIZE", env = "DJQS_SEGMENT_SIZE", value_parser = parse_segment_size)]
    pub(super) segment_size: Option<u64>,

    /// Check the journal in DIR, and exit
    ///
    /// It reads the journal, changes nothing, and prints what is in it. The exit code is 0 if a server would
    /// start, 1 if something is damaged. No server may have the journal open
    #[arg(long, value_name = "DIR", env = "DJQS_VERIFY")]
    pub(super) verify: Option<PathBuf>,

    /// Recover what can be read from a damaged journal
    ///
    /// It keeps the damaged files beside the journal under names that end in .damaged, then starts. Jobs in the damaged parts are lost, and some finished jobs may come back.
    /// Does nothing if nothing is damaged. Set in the environment, it also applies to damage found at later
    /// starts: better not leave it there
    #[arg(long, env = "DJQS_SALVAGE", value_parser = BoolishValueParser::new())]
    pub(super) salvage: bool,

    /// Memory that all jobs may take, such as 8GiB
    ///
    /// Beyond it TASK is answered with "ERR full", and everything else continues [default: three quarters of the memory of the machine or the
    /// cgroup, or a quarter of the address space if ulimit -v limits it]
    #[arg(long, value_name = "SIZE", env = "DJQS_MAX_MEMORY", value_parser = parse_size)]
    pub(super) max_memory: Option<u64>,

    /// Most connections at once
    ///
    /// One more is answered with "ERR full" and closed [default: what the
    /// limits on open files, threads, memory maps and address space allow]
    #[arg(long, value_name = "N", env = "DJQS_MAX_CONNECTIONS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_connections: Option<u64>,

    /// Time for a command to arrive
    ///
    /// How long one command may take, from its first byte to its last; a slower client is disconnected
    #[arg(long, value_name = "TIME", default_value = "60s", env = "DJQS_FRAME_TIMEOUT", value_parser = positive_duration)]
    pub(super) frame_timeout: Duration,

    /// Time for replies to be read
    ///
    /// How long a client may take to accept its replies; a slower client is disconnected
    #[arg(long, value_name = "TIME", default_value = "60s", env = "DJQS_WRITE_TIMEOUT", value_parser = positive_duration)]
    pub(super) write_timeout: Duration,

    /// Log more; -VV still more
    ///
    /// -V logs what happens to the server, -VV also what happens to connections. RUST_LOG, if set, takes
    /// precedence. In the environment: 1 or 2
    #[arg(short = 'V', long, env = "DJQS_VERBOSE", action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

const RULES: Rules = Rules {
    exclusive: &[
        ["fsync_ms", "fsync"],
        ["fsync_ms", "fsync_never"],
        ["fsync_never", "fsync"],
        ["memory", "fsync"],
        ["memory", "fsync_ms"],
        ["memory", "fsync_never"],
        ["memory", "salvage"],
        ["verify", "memory"],
        ["verify", "salvage"],
    ],
    needs: &[],
};

impl Flags {
    /// The flags that the program was started with.
    pub(super) fn of_this_process() -> Flags {
        rules::parse(&RULES)
    }

    /// The sync policy, whichever of the three flags set it.
    pub(super) fn policy(&self) -> Fsync {
        match (self.fsync_ms, self.fsync_never) {
            (_, true) => Fsync::Never,
            (Some(0), _) => Fsync::Always,
            (Some(millis), _) => Fsync::Interval(Duration::from_millis(millis)),
            (None, false) => self.fsync,
        }
    }
}

const AFTER_HELP: &str = "\
Signals:
  TERM, INT  stop: accept nothing more, answer what was read, exit within 5 seconds;
             a second one exits at once
  USR1       drain: refuse new jobs, continue with everything else

Logging: RUST_LOG=debug (or info, warn, error; default warn, see -V), to standard error.

Exit codes: 0 stopped on request, 1 can't start, failed, or could not write the last
changes, 2 wrong flags.";

fn parse_fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "always" => Ok(Fsync::Always),
        "never" => Ok(Fsync::Never),
        _ => positive_duration(text)
            .map(Fsync::Interval)
            .map_err(|_| "expected \"always\", \"never\" or a time such as 50ms".into()),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than zero".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// Units of sizes, from the largest.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

fn parse_size(text: &str) -> Result<u64, String> {
    let (unit, factor) =
        SIZES.into_iter().find(|(unit, _)| text.ends_with(unit)).expect("every text ends with \"\"");
    let number = text[..text.len() - unit.len()].trim().parse::<u64>().ok();
    let bytes = number.and_then(|number| number.checked_mul(factor)).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| "expected a whole number of bytes, KiB, MiB or GiB, such as 512MiB".into())
}

/// The longest segment. For each segment a file of zeros of this size is written first.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

fn parse_segment_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("must be {} to {}", format_size(SEGMENT_BYTES_MIN), format_size(SEGMENT_BYTES_MAX)))
}

pub(super) fn format_size(bytes: u64) -> String {
    let (unit, factor) = SIZES.into_iter().find(|&(_, factor)| bytes >= factor).unwrap_or(("", 1));
    match unit {
        "" => format!("{bytes} bytes"),
        _ => format!("{:.1} {unit}", bytes as f64 / factor as f64),
    }
}

/// Reads permissions in octal digits.
fn socket_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("it is three octal digits, as in 660".into()),
    }
}
