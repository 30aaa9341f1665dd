//! A session at a terminal: one command at a time, on a connection that is made again when it is lost.

use std::io::{self, IsTerminal};

use djqs::client::feed::{FeedError, Sink, Tally};
use djqs::client::{Address, Client};
use djqs::error::Error;
use djqs::protocol::native::Answer;

use super::lines::Lines;
use super::purge;
use super::typed::{has_control_character, upper_case_verb, verb};
use super::waiting::Waiting;

/// Whether a PURGE is confirmed first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purge {
    Ask,
    Obey,
}

/// Reads commands from the terminal until its end, or `QUIT` or `exit`, and passes the replies to the sink.
pub(super) fn run(server: &Address, purge: Purge, sink: &mut impl Sink) -> Result<Tally, FeedError> {
    let mut client = Client::connect_to(server).map_err(FeedError::Unreachable)?;
    let mut tally = Tally::default();
    let input = |source, tally| FeedError::Input { source, tally };
    let mut lines = Lines::of_terminal(&help(&mut client)).map_err(|error| input(error, tally))?;
    if io::stderr().is_terminal() {
        eprintln!("commands for {server}, one a line; HELP lists them, Ctrl-D ends");
    }
    let mut number = 0;
    while let Some(line) = lines.next("djqs> ").map_err(|error| input(error, tally))? {
        number += 1;
        let command = upper_case_verb(line);
        match verb(&command) {
            b"" => continue,
            [b'#', ..] => continue,
            _ if has_control_character(&command) => {
                eprintln!("this line has a control character, such as an arrow key sends: nothing was sent");
                continue;
            }
            b"QUIT" | b"EXIT" => break,
            _ => {}
        }
        if !is_connected(&mut client) {
            continue;
        }
        if purge == Purge::Ask
            && io::stdout().is_terminal()
            && let Some(question) = purge::question(&command, &mut client)
            && !lines.confirm(&question).map_err(|error| input(error, tally))?
        {
            eprintln!("nothing was deleted");
            continue;
        }
        let waiting = Waiting::start(verb(&command));
        let outcome = client.call_text(&command);
        drop(waiting);
        match outcome {
            Ok((raw, answer)) => {
                tally.answered += 1;
                tally.refused += u64::from(matches!(answer, Answer::Refused(_)));
                let shown = sink.reply(number, &raw, &answer).and_then(|()| sink.pause(&tally));
                shown.map_err(FeedError::Output)?;
            }
            Err(Error::Refused(refusal)) => eprintln!("{}", refusal.text),
            Err(error) => eprintln!("{error}: the command may or may not have been executed"),
        }
    }
    // Returns what is leased here. If the connection is gone, the server has done that.
    let _ = client.quit();
    Ok(tally)
}

/// Connects again if the connection is lost. Says so, and whether the server can be reached.
fn is_connected(client: &mut Client) -> bool {
    if !client.is_closed() {
        return true;
    }
    match client.reconnect() {
        Ok(()) => eprintln!("the connection was lost: connected again; nothing is leased here any more"),
        Err(error) => {
            eprintln!("{error}: nothing was sent; enter the command again when the server is back");
            return false;
        }
    }
    true
}

/// The lines of HELP; none if there is no such list.
fn help(client: &mut Client) -> Vec<String> {
    let Ok((_, Answer::Lines(lines))) = client.call_text(b"HELP") else { return Vec::new() };
    lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}
