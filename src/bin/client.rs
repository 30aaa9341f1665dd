//! The client program: reads its flags, sends commands to a server and prints the replies. The library does
//! the work.

use std::ffi::OsString;
use std::io::{self, Cursor, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};
use djqs::client::feed::{FeedError, Sink, Tally, feed};
use djqs::client::print::{Format, Printer, Refusals};
use djqs::client::{Address, Client};
use djqs::job::BatchName;
use djqs::protocol::native::{Answer, parse_duration, write_text};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lines::Lines;
use name::named;
use session::Purge;
use typed::{upper_case_verb, verb};
use waiting::Waiting;

#[path = "client/follow.rs"]
mod follow;
#[path = "client/lines.rs"]
mod lines;
#[path = "common/name.rs"]
mod name;
#[path = "client/purge.rs"]
mod purge;
#[path = "client/session.rs"]
mod session;
#[path = "client/typed.rs"]
mod typed;
#[path = "client/waiting.rs"]
mod waiting;
#[path = "client/watch.rs"]
mod watch;

/// The server refused a command, or the input ended inside one.
const EXIT_REFUSED: u8 = 1;
/// The server can't be reached or does not speak the protocol, or the connection broke. EX_UNAVAILABLE of
/// sysexits.h.
const EXIT_UNAVAILABLE: u8 = 69;
/// The commands can't be read, or the replies can't be written. EX_IOERR of sysexits.h.
const EXIT_IO: u8 = 74;

/// After this many bytes of input a progress bar is shown.
const LONG_INPUT_BYTES: u64 = 1 << 20;

#[derive(Parser)]
#[command(name = "client", version, args_override_self = true, about = "Sends commands to a DJQS server and prints its replies.", long_about = ABOUT, after_help = EXAMPLES, after_long_help = AFTER_HELP)]
struct Flags {
    /// The server: HOST, HOST:PORT or unix:PATH
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:11300", env = "DJQS_SERVER")]
    server: Address,

    /// Print each reply as a JSON object on one line
    ///
    /// An object always has line (the line number of the command), ok (true or false) and reply (the reply's
    /// first word: ACK, JOB, EMPTY, OK, PONG or ERR). Then come the parts of the reply: id, duplicate, state;
    /// queue, attempt, ttr_ms, body (or body_base64 if it is not UTF-8), and what PEEK shows; retry_ms, dead,
    /// drained, paused (an array of names), count; the figures of STATS, by their names; lines (an array of strings,
    /// or of objects for LIST and QUEUES); for ERR code, text and retry_after_ms
    #[arg(long, conflicts_with = "quiet")]
    json: bool,

    /// Print only refusals, not the other replies
    #[arg(short, long)]
    quiet: bool,

    /// Do not ask before a PURGE. Only a terminal is asked
    #[arg(short, long)]
    yes: bool,

    /// Submit TASKs and wait until the jobs have ended
    ///
    /// With one TASK as arguments, its result is printed to standard output, and the reason of a failure to standard
    /// error. TASK lines from standard input are submitted as one batch; on a terminal a bar shows its progress. Jobs
    /// that have no keep= are kept for 5 minutes once they are done, and those that have no key= get one, so that none
    /// runs twice if the connection breaks. Ctrl-C leaves the jobs running and says how to go on waiting
    #[arg(long, conflicts_with = "json")]
    wait: bool,

    /// With --wait: print a JSON line for each job
    ///
    /// The lines have the order of the TASK lines. An object has line (the line number of the TASK), id and state: done
    /// (then attempt, seconds, and result, or result_base64 if it is not UTF-8, or result_dropped), dead (failures,
    /// reason), cancelled (reason), or gone (deleted, or not kept for long enough). Jobs that have no keep= are kept for
    /// an hour once they are done
    #[arg(long, requires = "wait")]
    results: bool,

    /// With --wait: the name of the batch. Default: a new one
    #[arg(long, requires = "wait", value_name = "NAME", hide_short_help = true, value_parser = batch_name)]
    batch: Option<BatchName>,

    /// With --wait: how long to try to reach a server that went away
    #[arg(long, requires = "wait", value_name = "TIME", default_value = "1m", hide_short_help = true, value_parser = parse_duration)]
    connect_timeout: Duration,

    /// One command, joined by spaces. Put the options before it
    ///
    /// The arguments are joined by spaces. Its body may contain line feeds
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  {name} < tasks.txt
  {name} TASK: CALCULATE_FINANCE: 5s_delay
  {name} STATS

{name} HELP lists the commands; --help explains more.";

const ABOUT: &str = "\
Sends commands to a DJQS server and prints its replies. It reads commands from
standard input, one a line, or takes one command from its arguments:

  $ {name} < tasks.txt
  $ {name} TASK: CALCULATE_FINANCE: 5s_delay
  $ {name} TASK: CLEANUP_LOGS: 2s_delay
  $ {name} TASK: SEND_NOTIFICATION: 1s_delay
  $ {name} STATS";

const AFTER_HELP: &str = "\
Commands ({name} HELP shows all of them):
  TASK [queue=Q] [priority=N] [delay=D] [ttr=D] [attempts=N] [backoff=D]
       [key=K]: body                    submit a job: ACK id
  GET [queue=Q[,Q...]] [wait=D] [drain=yes]
                                        lease a job: JOB, or EMPTY if none
  ACK id, RETURN id, TOUCH id, FAIL id [dead=yes][: reason]
                                        report on a leased job
  WAIT id, BATCH name [total=N]         follow a job, or many
  CANCEL id, CANCEL queue=Q             take back jobs that are not done
  PEEK id, WHY id, LIST queue=Q         look at jobs
  RETRY id, DELETE id, PURGE queue=Q    change jobs
  STATS [queue=Q], QUEUES, PAUSE queue=Q, RESUME queue=Q
  WORKERS, QUIET worker=W, STOP worker=W, RESUME worker=W
                                        look at workers and stop them
  HELLO, HOLD, BEAT, ORDERS             for the connections of workers
  PING, HELP, QUIT

  {name} watch [queue=Q | batch=B] is the client's own: as an argument only, it
  shows the counts of a queue, a batch or the server, every second if they
  change, until the batch is complete or Ctrl-C. On a terminal it is a screen
  that follows. Exit code 1 if some jobs of the batch are not done.

Input:
  Blank lines and lines that begin with # are ignored. If a line has len=N, its
  body is the N bytes after it, followed by a line feed. QUIT ends the input.
  When the client ends, jobs that GET leased are returned to their queues.

At a terminal:
  Verbs may be in lower case, also as arguments. Lines are edited and completed
  (Tab), and the arrow keys recall earlier ones, which no file keeps. A body must
  be in its line. Ctrl-C clears the line, or stops the client while a command
  waits. exit, QUIT and Ctrl-D leave. PURGE asks first, unless --yes is given.
  If the connection is lost, the next command connects again.

Output:
  Replies are printed in order. Refusals are also printed to standard error,
  with the line number of the command. The refusal of a command that is given
  as arguments is printed to standard error only, or with --json to standard
  output only. On a terminal, control characters are escaped. If standard output
  is closed early, as head does, the client stops silently.

Exit codes:
  0 all accepted   1 some refused   2 wrong usage   74 input or output failed
  69 server unreachable, or connection lost: standard error says which lines
     were answered, and from which line to go on
  With --wait: 0 all jobs are done   1 some are not, or some lines were refused
  75 the server went away: standard error says how to go on waiting";

fn main() -> ExitCode {
    let mut matches = named(Flags::command()).get_matches();
    let flags = Flags::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
    let at_terminal = io::stdin().is_terminal();
    if flags.wait {
        return follow::run(&flags);
    }
    if let Some(arguments) = watch::arguments(&flags.command) {
        return match watch::parse(arguments) {
            Ok(of) => watch::run(&flags.server, of.as_ref()),
            Err(why) => named(Flags::command()).error(ErrorKind::InvalidValue, why).exit(),
        };
    }
    let typed = flags.command.is_empty() && at_terminal;
    let mut terminal = Terminal::new(&flags, flags.command.is_empty() && !typed);
    let outcome = if typed {
        session::run(&flags.server, if flags.yes { Purge::Obey } else { Purge::Ask }, &mut terminal)
    } else if flags.command.is_empty() {
        feed(&flags.server, io::stdin(), &mut terminal)
    } else {
        let (command, encoded) = one_command(&flags.command);
        let ask = !flags.yes && at_terminal && io::stdout().is_terminal();
        if ask && !may_run(&flags.server, &command) {
            eprintln!("nothing was deleted");
            return EXIT_REFUSED.into();
        }
        if io::stderr().is_terminal() {
            terminal.waiting = Some(Waiting::start(verb(&command)));
        }
        feed(&flags.server, Cursor::new(encoded), &mut terminal)
    };
    terminal.bar.finish_and_clear();
    exit_code(outcome)
}

fn batch_name(text: &str) -> Result<BatchName, String> {
    BatchName::new(text).map_err(|bad| bad.to_string())
}

/// Whether a command need not be confirmed, or is. If the server can't be reached, sending it says so.
fn may_run(server: &Address, command: &[u8]) -> bool {
    let question = match verb(command) {
        b"PURGE" => {
            Client::connect_to(server).ok().and_then(|mut client| purge::question(command, &mut client))
        }
        _ => None,
    };
    question.is_none_or(|question| Lines::plain().confirm(&question).unwrap_or(false))
}

fn exit_code(outcome: Result<Tally, FeedError>) -> ExitCode {
    let code = match &outcome {
        Ok(Tally { refused: 0, .. }) => return ExitCode::SUCCESS,
        Ok(_) => return EXIT_REFUSED.into(),
        // The reader of the replies wants no more of them, as head does.
        Err(FeedError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(FeedError::Unreachable(_) | FeedError::Lost(_)) => EXIT_UNAVAILABLE,
        Err(FeedError::InsideBody { .. }) => EXIT_REFUSED,
        // Input and output; another kind would be neither the server's refusal nor its absence.
        Err(_) => EXIT_IO,
    };
    if let Err(error) = outcome {
        // If standard error is closed, the exit code still reports the failure.
        let _ = writeln!(io::stderr(), "client: {error}");
    }
    code.into()
}

/// The arguments as one command, and as it is sent. Exits if they are not one.
fn one_command(words: &[OsString]) -> (Vec<u8>, Vec<u8>) {
    let wrong = |why: &str| -> ! { named(Flags::command()).error(ErrorKind::InvalidValue, why).exit() };
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let text = words.join(&b' ');
    if text.trim_ascii().is_empty() || text[0] == b'#' {
        wrong("no command: the arguments are blank or a comment");
    }
    let (command, mut encoded) = (upper_case_verb(text), Vec::new());
    match write_text(&command, &mut encoded) {
        Ok(()) => (command, encoded),
        Err(bad) => wrong(&bad.to_string()),
    }
}

/// Prints the replies and refusals, and a progress bar for long input.
struct Terminal {
    printer: Printer<io::Stdout, BesideBar>,
    /// Hidden until the input proves to be long.
    bar: ProgressBar,
    may_show_bar: bool,
    /// For the reply to the only command.
    waiting: Option<Waiting>,
}

impl Terminal {
    fn new(flags: &Flags, piped: bool) -> Terminal {
        let terminal = io::stdout().is_terminal();
        let format = match (flags.json, flags.quiet) {
            (true, _) => Format::Json,
            (_, true) => Format::Nothing,
            _ if terminal => Format::Terminal,
            _ => Format::Wire,
        };
        let bar = progress_bar(if piped { input_size() } else { None });
        let refusals = match (flags.command.is_empty(), piped) {
            (false, _) => Refusals::OnlyCommand,
            (true, false) if terminal && !flags.quiet => Refusals::Once,
            _ => Refusals::WithLine,
        };
        // Replies on the terminal show the progress, and would mix with the bar.
        let may_show_bar = piped && io::stderr().is_terminal() && (flags.quiet || !terminal);
        let printer = Printer::new(format, refusals, io::stdout(), BesideBar(bar.clone()));
        Terminal { printer, bar, may_show_bar, waiting: None }
    }
}

impl Sink for Terminal {
    fn reply(&mut self, line: u64, raw: &[u8], answer: &Answer) -> io::Result<()> {
        self.waiting = None;
        self.printer.reply(line, raw, answer)
    }

    fn pause(&mut self, tally: &Tally) -> io::Result<()> {
        if self.may_show_bar && tally.bytes_sent >= LONG_INPUT_BYTES {
            if self.bar.is_hidden() {
                self.bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            self.bar.set_position(tally.bytes_sent);
            self.bar.set_message(format!("{} answered, {} refused", tally.answered, tally.refused));
        }
        self.printer.pause(tally)
    }
}

/// A hidden progress bar over the bytes that are sent, or a spinner if the size of the input is not known.
fn progress_bar(size: Option<u64>) -> ProgressBar {
    let template = match size {
        Some(_) => "{wide_bar} {percent:>3}%  {msg}  {eta} left",
        None => "{spinner} {bytes} sent  {msg}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    ProgressBar::with_draw_target(size, ProgressDrawTarget::hidden()).with_style(style)
}

/// The size of standard input if it is a file.
fn input_size() -> Option<u64> {
    let status = rustix::fs::fstat(io::stdin()).ok()?;
    let is_file = rustix::fs::FileType::from_raw_mode(status.st_mode).is_file();
    is_file.then_some(status.st_size as u64)
}

/// Standard error. It hides the progress bar while it writes.
struct BesideBar(ProgressBar);

impl Write for BesideBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
