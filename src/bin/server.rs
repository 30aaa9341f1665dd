//! The broker: accepts jobs, keeps them, hands each to one worker. Flags, then one call into the library.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;
use djqs::journal::storage::DiskStorage;
use djqs::journal::{self, Failure, Fsync, OpenError, Recovered, SEGMENT_BYTES_MIN, Salvaged};
use djqs::protocol::FrameLimits;
use djqs::protocol::native::parse_duration;
use djqs::server::{self, Config, Listen, Server, StopHandle, limits};
use djqs::{Broker, broker};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// The exit code where the server can't start, or fails.
const EXIT_FAILURE: u8 = 1;

const ABOUT: &str = "The job queue server of DJQS: accepts jobs, keeps them, and hands each to one worker";

const LONG_ABOUT: &str = "\
The job queue server of DJQS: accepts jobs, keeps them, and hands each to one
worker. Clients and workers talk to it in lines of text over TCP, so netcat is a
client too:

    $ printf 'TASK: CLEANUP_LOGS: 2s_delay\\nSTATS\\n' | nc -N 127.0.0.1 11300

Every flag can be set in the environment too, under the name beside it.";

#[derive(Parser)]
#[command(name = "server", version, disable_version_flag = true, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
struct Flags {
    /// Address to listen on: an IP address, a host name, or unix:PATH for a Unix socket. There is no authentication:
    /// on any other than a loopback address, everybody who can reach it can submit, take and delete jobs. A socket that
    /// systemd passes on (LISTEN_FDS) is used instead
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1", env = "DJQS_LISTEN")]
    listen: String,

    /// TCP port to listen on; 0 lets the system choose one, which the start-up line tells
    #[arg(short, long, value_name = "PORT", default_value_t = 11300, env = "DJQS_PORT")]
    port: u16,

    /// Largest body of a job, in bytes; a larger one is skipped and answered "ERR too-big"
    #[arg(short = 'z', long, value_name = "BYTES", default_value_t = 65_535, env = "DJQS_MAX_BODY",
          value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    max_body: u32,

    /// Directory of the journal, which keeps the jobs; it is made where there is none
    #[arg(short = 'b', long, value_name = "DIR", default_value = "./djqs-data", env = "DJQS_DATA")]
    data: PathBuf,

    /// When what was written is synced to the disk: "always", before each reply, so that an acknowledged job
    /// survives a power cut; a time such as 50ms, at the latest then; "never", when the system sees fit. Under all three
    /// an acknowledged job survives the end of the server, kill -9 included
    #[arg(long, value_name = "POLICY", default_value = "always", env = "DJQS_FSYNC", value_parser = parse_fsync)]
    fsync: Fsync,

    /// Sync at most every so many milliseconds, as beanstalkd has it; 0 is --fsync always
    #[arg(short = 'f', value_name = "MS", env = "DJQS_FSYNC_MS", conflicts_with_all = ["fsync", "fsync_never"])]
    fsync_ms: Option<u64>,

    /// Never sync, as beanstalkd has it: --fsync never
    #[arg(short = 'F', env = "DJQS_FSYNC_NEVER", value_parser = BoolishValueParser::new(), conflicts_with = "fsync")]
    fsync_never: bool,

    /// Keep jobs in memory only: they are gone when the server ends
    #[arg(long, env = "DJQS_MEMORY", value_parser = BoolishValueParser::new(), conflicts_with_all = ["fsync", "fsync_ms", "fsync_never"])]
    memory: bool,

    /// Size of one of the journal's files, such as 64MiB, at least 8KiB and at most 1GiB; they are made larger where the
    /// longest job (-z) would not fit. The journal takes at most three times what its jobs do, and four such files
    #[arg(long, value_name = "SIZE", default_value = "16MiB", env = "DJQS_SEGMENT_SIZE", value_parser = parse_segment_size)]
    segment_size: u64,

    /// Read the journal in DIR, change nothing, report what is in it, and exit: 0 where a server would start, 1 where
    /// something is damaged. No server may have it open
    #[arg(long, value_name = "DIR", env = "DJQS_VERIFY", conflicts_with_all = ["memory", "salvage"])]
    verify: Option<PathBuf>,

    /// Get what can be read out of a damaged journal, keep the damaged files beside it under names that end in
    /// .damaged, then start. What the damage held is lost, and some finished jobs may come back. Does nothing where
    /// nothing is damaged. In the environment it also decides about damage that is yet to come: better not to leave it there
    #[arg(long, env = "DJQS_SALVAGE", value_parser = BoolishValueParser::new(), conflicts_with = "memory")]
    salvage: bool,

    /// Memory that all jobs together may take, such as 512MiB or 8GiB; beyond it TASK is answered "ERR full", and
    /// everything else goes on [default: three quarters of what the machine or the cgroup has, or a quarter of the
    /// address space where ulimit -v limits that]
    #[arg(long, value_name = "SIZE", env = "DJQS_MAX_MEMORY", value_parser = parse_size)]
    max_memory: Option<u64>,

    /// Most connections served at once; one more is answered "ERR full" and closed [default: what the limits on
    /// open files, threads, memory maps and address space bear]
    #[arg(long, value_name = "N", env = "DJQS_MAX_CONNECTIONS", value_parser = clap::value_parser!(u64).range(1..))]
    max_connections: Option<u64>,

    /// How long one command may take to arrive, from its first byte to its last; a slower client is dropped
    #[arg(long, value_name = "TIME", default_value = "60s", env = "DJQS_FRAME_TIMEOUT", value_parser = positive_duration)]
    frame_timeout: Duration,

    /// How long a client may take to accept its replies; a slower one is dropped
    #[arg(long, value_name = "TIME", default_value = "60s", env = "DJQS_WRITE_TIMEOUT", value_parser = positive_duration)]
    write_timeout: Duration,

    /// Log more: -V also what happens to the server, -VV also what happens to connections. RUST_LOG, if set,
    /// decides instead. In the environment: 1 or 2
    #[arg(short = 'V', long, env = "DJQS_VERBOSE", action = clap::ArgAction::Count)]
    verbose: u8,

    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

const AFTER_HELP: &str = "\
Signals:
  TERM, INT  stop: accept nothing more, answer what has been read, exit within 5 seconds; a second one: at once
  USR1       drain: refuse new jobs, go on with everything else

Logging: RUST_LOG=debug (or info, warn, error; default warn, see -V), on standard error.

Exit codes: 0 stopped as asked, 1 can't start, failed, or could not write what was left, 2 wrong flags.";

fn main() -> ExitCode {
    let flags = Flags::parse();
    let level = ["warn", "info", "debug"][usize::from(flags.verbose.min(2))];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("server: {problem}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn run(flags: Flags) -> Result<(), String> {
    if let Some(directory) = &flags.verify {
        return verify(directory);
    }
    // Before any thread is started: they inherit it.
    server::schedule_as_batch();
    let cap = limits::connection_cap();
    let connections_max = flags.max_connections.unwrap_or(cap.connections);
    if connections_max > cap.connections {
        log::warn!("--max-connections {connections_max} is more than this system bears: {}", cap.because);
    }
    let memory_max = flags.max_memory.unwrap_or_else(limits::default_memory_max);
    let config = broker::Config { memory_max, ..broker::Config::default() };
    let (broker, promise) = if flags.memory {
        (Broker::in_memory(config), "jobs in memory only, a restart forgets them (--memory)".into())
    } else {
        open_journal(&flags, config)?
    };
    let config = Config {
        frames: FrameLimits { body_max: flags.max_body as usize },
        connections_max,
        frame_timeout: flags.frame_timeout,
        write_timeout: flags.write_timeout,
    };
    let (server, named) = listen(&flags, broker.clone(), config)?;
    let can_not_serve = |error: io::Error| format!("can't serve on {named}: {error}");
    let address = server.address_text().map_err(can_not_serve)?;
    let stop = server.stop_handle().map_err(can_not_serve)?;
    handle_signals(stop, broker.clone()).map_err(|error| format!("can't handle signals: {error}"))?;
    if server.local_addr().is_ok_and(|address| !address.ip().is_loopback()) {
        log::warn!(
            "{address} is not a loopback address, and there is no authentication: who reaches it owns the queue"
        );
    }
    // A closed standard output is no reason not to serve.
    let _ = writeln!(
        io::stdout(),
        "djqs-server {} listens on {address}: {promise}; up to {connections_max} connections{}, {} of jobs",
        env!("CARGO_PKG_VERSION"),
        if flags.max_connections.is_none() { format!(" (by {})", cap.because) } else { String::new() },
        format_size(memory_max),
    );
    server.run();
    broker.close().map_err(|error| error.to_string())
}

/// Opens the journal, and says what it promises and what came back from it.
fn open_journal(flags: &Flags, config: broker::Config) -> Result<(Broker, String), String> {
    let fsync = match (flags.fsync_ms, flags.fsync_never) {
        (_, true) => Fsync::Never,
        (Some(0), _) => Fsync::Always,
        (Some(millis), _) => Fsync::Interval(Duration::from_millis(millis)),
        (None, false) => flags.fsync,
    };
    let directory = flags.data.display();
    let options = journal::Options {
        fsync,
        segment_bytes: flags.segment_size.max(broker::segment_bytes_for(u64::from(flags.max_body))),
        on_failure: Some(Arc::new(end_soon)),
        #[cfg(feature = "sabotage")]
        sabotage: sabotage()?,
        ..journal::Options::default()
    };
    let can_not_open = |error: OpenError| {
        let advice = match error {
            OpenError::Damaged(_) | OpenError::Missing { .. } => {
                "\n  nothing was changed; restore a backup, or start with --salvage to keep what can be read (see docs/journal.md)"
            }
            _ => "",
        };
        format!("can't open the journal in {directory}: {error}{advice}")
    };
    let storage = DiskStorage::open(&flags.data).map_err(|error| can_not_open(error.into()))?;
    if flags.salvage {
        report_salvage(&journal::salvage(&storage).map_err(can_not_open)?);
    }
    let (broker, recovered) = Broker::open(config, Arc::new(storage), options).map_err(can_not_open)?;
    if let Some(torn) = &recovered.torn {
        let kept = torn
            .kept
            .as_ref()
            .map_or_else(String::new, |kept| format!("; they are kept in {}", kept.display()));
        log::warn!(
            "the last write before the end was not complete: bytes {} to {} of {}{kept}; nothing acknowledged was in them",
            torn.from,
            torn.to,
            torn.path.display(),
        );
    }
    let jobs = broker.stats().jobs;
    let count = jobs.ready + jobs.delayed + jobs.leased + jobs.dead;
    let promise = match fsync {
        Fsync::Always => "fsync always, an acknowledged job survives a power cut".into(),
        Fsync::Interval(_) => format!("fsync every {fsync}, a power cut takes at most the last {fsync}"),
        Fsync::Never => "fsync never, an acknowledged job survives kill -9 but no power cut".to_string(),
    };
    let Recovered { bytes, duration, clean, .. } = recovered;
    let after = if clean { "" } else { ", the server before did not end in good order" };
    let back = format!("{count} jobs came back from {bytes} bytes in {} ms{after}", duration.as_millis());
    Ok((broker, format!("jobs in {directory}, {promise}; {back}")))
}

/// Looks through a journal offline, and says what is in it.
fn verify(directory: &Path) -> Result<(), String> {
    let can_not_read = |error| format!("can't read the journal in {}: {error}", directory.display());
    let report = journal::verify(&DiskStorage::open_read_only(directory).map_err(can_not_read)?);
    let mut text = format!(
        "jobs: {}\npaused queues: {}\nhighest id: {}\nrecords: {}\nsegments: {}\nfile bytes: {}\nlive bytes: {}\n\
         dead bytes: {}\nclean end: {}\n",
        report.jobs,
        report.paused,
        report.highest_id,
        report.records,
        report.segments,
        report.file_bytes,
        report.live_bytes,
        report.dead_bytes,
        if report.clean { "yes" } else { "no" },
    );
    if let Some(torn) = &report.torn {
        text += &format!("torn last write: bytes {} to {} of {}\n", torn.from, torn.to, torn.path.display());
    }
    let _ = io::stdout().write_all(text.as_bytes());
    report.damage.map_or(Ok(()), |damage| {
        Err(format!("the journal is damaged: {damage}; the figures are of what lies before"))
    })
}

fn report_salvage(salvaged: &Salvaged) {
    if !salvaged.damaged {
        log::warn!("--salvage: nothing is damaged, nothing was changed");
        return;
    }
    for damage in &salvaged.damage {
        log::warn!("--salvage: lost: {damage}");
    }
    for original in &salvaged.originals {
        log::warn!("--salvage: kept the original as {}", original.display());
    }
    log::warn!(
        "--salvage: {} records were kept, {} bytes could not be read",
        salvaged.records,
        salvaged.lost_bytes
    );
}

/// How long clients have to be told, once the journal can no longer be written.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Ends the process: whatever it answered from now on might not be true after a restart.
fn end_soon(failure: &Failure) {
    log::error!("the journal can no longer be written: {failure}; the server stops");
    if exit_after(LAST_WORDS, || {}).is_err() {
        std::process::exit(EXIT_FAILURE.into());
    }
}

/// Ends the process as failed after `time`, whatever else it still does.
fn exit_after(time: Duration, last: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let end = move || {
        std::thread::sleep(time);
        last();
        std::process::exit(EXIT_FAILURE.into());
    };
    std::thread::Builder::new().spawn(end).map(drop)
}

/// The fault that `make crash-check` asks for, to see whether the crash tests find it.
#[cfg(feature = "sabotage")]
fn sabotage() -> Result<journal::Sabotage, String> {
    use journal::Sabotage;
    match std::env::var("DJQS_SABOTAGE").unwrap_or_default().as_str() {
        "" => Ok(Sabotage::None),
        "reply-before-write" => Ok(Sabotage::ReplyBeforeWrite),
        "reply-before-sync" => Ok(Sabotage::ReplyBeforeSync),
        "skip-directory-sync" => Ok(Sabotage::SkipDirectorySync),
        "ignore-sync-error" => Ok(Sabotage::IgnoreSyncError),
        "drop-before-sync" => Ok(Sabotage::DropBeforeSync),
        other => Err(format!("DJQS_SABOTAGE={other} is no fault that is known here")),
    }
}

fn parse_fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "always" => Ok(Fsync::Always),
        "never" => Ok(Fsync::Never),
        _ => positive_duration(text)
            .map(Fsync::Interval)
            .map_err(|_| "a policy is \"always\", \"never\" or a time such as 50ms".into()),
    }
}

/// Starts to listen on the socket that systemd made, or else where the flags say; says also where that is.
fn listen(flags: &Flags, broker: Broker, config: Config) -> Result<(Server, String), String> {
    let inherited = server::inherited().map_err(|error| format!("can't listen: {error}"))?;
    if let Some(socket) = inherited {
        let named = "the socket that systemd passed on".to_owned();
        let server = Server::on(socket, broker, config);
        return server
            .map(|server| (server, named.clone()))
            .map_err(|error| format!("can't serve on {named}: {error}"));
    }
    let (listen, named) = match flags.listen.strip_prefix("unix:") {
        Some(path) => (Listen::Unix(path.into()), flags.listen.clone()),
        None => {
            let address = resolve(&flags.listen, flags.port)?;
            (Listen::Tcp(address), address.to_string())
        }
    };
    let server = Server::listen(&listen, broker, config).map_err(|error| {
        format!(
            "can't listen on {named}: {error}\n  is another server running there? choose another address with -l and -p"
        )
    })?;
    Ok((server, named))
}

/// The first address that the name stands for.
fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("can't find the address {host:?}: {error}"))?;
    found.into_iter().next().ok_or_else(|| format!("the name {host:?} stands for no address"))
}

/// How long the server may take to end once it was told to.
const END_WITHIN: Duration = Duration::from_millis(4900);

/// Ends the process in time: the journal's last write may never come to its end, as where the disk is full. Nobody was told that
/// it would.
fn end_in_time() {
    let give_up =
        || log::error!("the server did not end in time and gives up; all that was acknowledged is safe");
    if let Err(error) = exit_after(END_WITHIN, give_up) {
        log::warn!("can't see to it that the server ends in time: {error}");
    }
}

/// Starts the thread that carries out signals.
fn handle_signals(stop: StopHandle, broker: Broker) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGUSR1 => {
                    log::info!("draining: new jobs are refused");
                    broker.drain();
                }
                _ if stopping => std::process::exit(EXIT_FAILURE.into()),
                _ => {
                    log::info!("stopping");
                    stopping = true;
                    end_in_time();
                    stop.stop();
                }
            }
        }
    })?;
    Ok(())
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// Units of sizes, the largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

fn parse_size(text: &str) -> Result<u64, String> {
    let (unit, factor) = SIZES.into_iter().find(|(unit, _)| text.ends_with(unit)).expect("the last fits all");
    let number = text[..text.len() - unit.len()].trim().parse::<u64>().ok();
    let bytes = number.and_then(|number| number.checked_mul(factor)).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| "a size is a whole number of bytes, or of KiB, MiB or GiB, such as 512MiB".into())
}

/// The longest segment: a file of zeros of its size is written each time that one is begun.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

fn parse_segment_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("must be {} to {}", format_size(SEGMENT_BYTES_MIN), format_size(SEGMENT_BYTES_MAX)))
}

fn format_size(bytes: u64) -> String {
    let (unit, factor) = SIZES.into_iter().find(|&(_, factor)| bytes >= factor).unwrap_or(("", 1));
    match unit {
        "" => format!("{bytes} bytes"),
        _ => format!("{:.1} {unit}", bytes as f64 / factor as f64),
    }
}
