//! The client program at a terminal: what it asks, escapes and says there, and how it is typed into.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Server, until};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

mod common;

/// What of a client is connected to the terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attached {
    All,
    /// All but standard output, which is a pipe.
    NotOutput,
}

/// A client at a terminal of its own.
struct AtTerminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of the screen `sees` has found.
    seen: usize,
}

impl AtTerminal {
    fn start(server: SocketAddr, attached: Attached, arguments: &[&str]) -> AtTerminal {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&controller, size).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let terminal = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let stream = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
        command.env("TERM", "xterm").arg("-s").arg(server.to_string()).args(arguments);
        command.stdin(stream()).stderr(stream());
        let child = match attached {
            Attached::All => command.stdout(stream()),
            Attached::NotOutput => command.stdout(Stdio::piped()),
        }
        .spawn()
        .unwrap();
        let keyboard = File::from(controller);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            // It fails when the client has ended.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                shown.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        AtTerminal { child, keyboard, screen, seen: 0 }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen shows this, after what was seen before.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let (screen, seen) = (Arc::clone(&self.screen), self.seen);
        let mut end = None;
        until(&format!("{text:?} on the screen"), || {
            let screen = screen.lock().unwrap();
            let found = screen[seen..].windows(text.len()).position(|part| part == text.as_bytes());
            end = found.map(|at| seen + at + text.len());
            end.is_some()
        });
        self.seen = end.unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn body_can_not_command_a_terminal() {
    let server = Server::start(&[]);
    server.connect().ask("TASK: \u{1b}]0;title\u{7}\u{9b}2J\u{202e}a");
    let mut client = AtTerminal::start(server.address, Attached::All, &["get"]);
    client.sees(r": \u{1b}]0;title\u{7}\u{9b}2J\u{202e}a");
    assert_eq!(client.code(), Some(0));
    assert!(!client.screen().contains('\u{1b}'), "{:?}", client.screen());
}

#[test]
fn command_that_waits_says_so() {
    let server = Server::start(&[]);
    let mut client = AtTerminal::start(server.address, Attached::All, &["GET"]);
    client.sees("GET waits for its reply; Ctrl-C stops it");
    server.connect().ask("TASK: a");
    client.sees("JOB 1 ");
    assert_eq!(client.code(), Some(0));
}

#[test]
fn purge_is_confirmed_at_a_terminal() {
    let server = Server::start(&[]);
    for _ in 0..3 {
        server.connect().ask("TASK: a");
    }
    let mut client = AtTerminal::start(server.address, Attached::All, &["PURGE", "queue=default"]);
    client.sees("delete 3 jobs of the queue default? [y/N] ");
    client.types("\n");
    client.sees("nothing was deleted");
    assert_eq!(client.code(), Some(1));
    let mut client =
        AtTerminal::start(server.address, Attached::All, &["PURGE", "queue=default", "state=ready"]);
    client.sees("delete 3 ready jobs of the queue default? [y/N] ");
    client.types("yes\n");
    client.sees("OK count=3");
    assert_eq!(client.code(), Some(0));
    server.connect().ask("TASK: a");
    let mut client = AtTerminal::start(server.address, Attached::All, &["-y", "PURGE", "queue=default"]);
    client.sees("OK count=1");
    assert_eq!(client.code(), Some(0));
    assert!(!client.screen().contains("delete"), "{}", client.screen());
}

#[test]
fn session_edits_lines_and_remembers_them() {
    let server = Server::start(&[]);
    let mut client = AtTerminal::start(server.address, Attached::All, &[]);
    client.sees("djqs> ");
    // Two characters are swapped with the help of an arrow.
    client.types("task: ba\u{1b}[D\u{7f}\u{1b}[Cb\r");
    client.sees("ACK 1");
    // Ctrl-C drops the line; Tab completes; the upper arrow repeats. The terminal edits lines only behind a prompt.
    client.sees("djqs> ");
    client.types("DELETE 1\u{3}");
    client.sees("djqs> ");
    client.types("pin\t\r");
    client.sees("PONG");
    client.sees("djqs> ");
    client.types("\u{1b}[A\r");
    client.sees("PONG");
    client.sees("djqs> ");
    client.types("purge queue=default\r");
    client.sees("delete 1 job of the queue default? [y/N] ");
    client.types("n\r");
    client.sees("nothing was deleted");
    client.sees("djqs> ");
    client.types("get\r");
    client.sees("JOB 1 queue=default attempt=1 ttr=1m: ab");
    client.sees("djqs> ");
    client.types("exit\r");
    assert_eq!(client.code(), Some(0), "{:?}", client.screen());
    assert!(server.connect().ask("PEEK 1").contains(" returns=1"));
}

#[test]
fn end_of_input_and_quit_end_a_session() {
    let server = Server::start(&[]);
    for keys in ["\u{4}", "quit\r", "QUIT\r"] {
        let mut client = AtTerminal::start(server.address, Attached::All, &[]);
        client.sees("djqs> ");
        client.types(keys);
        assert_eq!(client.code(), Some(0), "{:?}", client.screen());
    }
}

#[test]
fn session_connects_again() {
    let mut server = Server::start(&[]);
    let mut client = AtTerminal::start(server.address, Attached::All, &[]);
    client.sees("djqs> ");
    client.types("PING\r");
    client.sees("PONG");
    server.child.kill().unwrap();
    server.ended();
    client.sees("djqs> ");
    client.types("PING\r");
    client.sees("nothing was sent");
    client.sees("djqs> ");
    let again = Server::start(&["-p", &server.address.port().to_string()]);
    client.types("TASK: a\r");
    client.sees("connected again");
    client.sees("ACK 1");
    assert_eq!(again.stat("submitted_total"), "1");
}

#[test]
fn key_that_is_no_character_is_refused_where_lines_are_not_edited() {
    let server = Server::start(&[]);
    let mut client = AtTerminal::start(server.address, Attached::NotOutput, &[]);
    client.sees("one a line");
    client.types("TASK: a\u{1b}[D\n");
    client.sees("nothing was sent");
    client.types("ping\nexit\n");
    assert_eq!(client.code(), Some(0));
    let mut replies = String::new();
    client.child.stdout.take().unwrap().read_to_string(&mut replies).unwrap();
    assert_eq!((replies.as_str(), server.stat("submitted_total")), ("PONG\n", "0".into()));
}
