//! A server on a Unix socket, with the three that connect to it: the client program, the library and the
//! worker program.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use djqs::client::BadAddress;
use djqs::protocol::Wait;
use djqs::{Client, Error, Submission};
use tempfile::TempDir;

const AT_ONCE: Wait = Wait::AtMost(Duration::ZERO);

/// A running server, and the directory of its socket.
struct Server {
    child: Child,
    directory: TempDir,
}

impl Server {
    fn start() -> Server {
        let directory = TempDir::new().unwrap();
        Server { child: serve(&directory), directory }
    }

    fn address(&self) -> String {
        address(&self.directory)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(directory: &TempDir) -> String {
    let path: PathBuf = directory.path().join("djqs.sock");
    format!("unix:{}", path.display())
}

/// Starts a server and waits until it listens.
fn serve(directory: &TempDir) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.args(["--memory", "-l", &address(directory)]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut greeting = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
    assert!(greeting.contains(&address(directory)), "{greeting:?}");
    child
}

/// On a Unix socket, because a TCP port that is free for now may be another test's before the server has it.
#[test]
fn client_waits_for_a_server_that_is_still_starting() {
    let directory = TempDir::new().unwrap();
    let server = address(&directory);
    let error = Client::connect_within(&server, Duration::ZERO).unwrap_err();
    assert!(matches!(&error, Error::Connect { server: named, .. } if *named == server), "{error}");
    let waiting = std::thread::spawn(move || Client::connect_within(&server, Duration::from_secs(300)));
    let _server = Server { child: serve(&directory), directory };
    waiting.join().unwrap().unwrap().ping().unwrap();
}

#[test]
fn client_program_sends_commands() {
    let server = Server::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.args(["-s", &server.address()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"TASK: a\nTASK: b\nGET\nPING\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let replies = "ACK 1\nACK 2\nJOB 1 queue=default attempt=1 ttr=1m: a\nPONG\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), replies);
}

#[test]
fn library_submits_one_and_many_and_works() {
    let server = Server::start();
    let mut client = Client::connect(&server.address()).unwrap();
    assert_eq!(client.server().as_str(), server.address());
    assert_eq!(client.submit(Submission::new("a")).unwrap().id.0, 1);
    let many = client.submit_all((0..5_000).map(|n| Submission::new(n.to_string()))).unwrap();
    assert!(many.len() == 5_000 && many.iter().all(Result::is_ok));
    let lease = client.get(&[], AT_ONCE).unwrap().unwrap();
    client.ack(lease.id).unwrap();
    client.quit().unwrap();
}

#[test]
fn client_that_waits_notices_the_end_of_the_server_and_connects_again() {
    let mut server = Server::start();
    let mut client = Client::connect(&server.address()).unwrap();
    client.ping().unwrap();
    server.kill();
    assert!(matches!(client.get(&[], Wait::Forever), Err(Error::Disconnected { .. })));
    assert!(
        matches!(client.reconnect(), Err(Error::Connect { server: named, .. }) if named == server.address())
    );
    server.child = serve(&server.directory);
    client.reconnect().unwrap();
    client.ping().unwrap();
}

#[test]
fn worker_program_works_and_comes_back_after_the_server_was_away() {
    let mut server = Server::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.env_remove("RUST_LOG").args(["-s", &server.address(), "-n", "1", "--", "cat"]);
    let mut worker = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines().map(Result::unwrap);
    let connected = format!("connected to {}", server.address());
    assert!(log.any(|line| line.ends_with(&connected)));
    server.kill();
    assert!(log.any(|line| line.contains("no connection to unix:")));
    server.child = serve(&server.directory);
    assert!(log.any(|line| line.ends_with(&format!("{connected} again"))));
    Client::connect(&server.address()).unwrap().submit(Submission::new("the body")).unwrap();
    assert!(log.any(|line| line.contains("1 done")));
    let output = worker.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"the body");
}

#[test]
fn address_that_is_none_is_an_error_and_not_an_attempt_to_connect() {
    let Err(Error::Connect { source, .. }) = Client::connect("tls://queue:11300") else {
        panic!("connected")
    };
    let bad = source.get_ref().and_then(|inner| inner.downcast_ref::<BadAddress>());
    assert_eq!(bad, Some(&BadAddress::Tls));
    let patient = Client::connect_within("tls://queue:11300", Duration::MAX);
    assert!(matches!(patient, Err(Error::Connect { .. })), "{patient:?}");
    let error = djqs::Worker::new("tls://queue:11300").run().unwrap_err();
    assert!(error.to_string().contains("TLS is not supported"), "{error}");
}

#[test]
fn mode_of_the_socket_says_who_may_connect() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    let serve = |mode: &str, listen: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command.args(["--memory", "-l", listen, "--socket-mode", mode]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for mode in ["600", "660"] {
        let mut child = serve(mode, &address(&directory));
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        let found = std::fs::metadata(directory.path().join("djqs.sock")).unwrap().permissions().mode();
        assert_eq!(format!("{:o}", found & 0o777), mode);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for (mode, listen) in [("888", &*address(&directory)), ("660", "127.0.0.1")] {
        let output = serve(mode, listen).wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains("--socket-mode"), "{errors}");
    }
}
