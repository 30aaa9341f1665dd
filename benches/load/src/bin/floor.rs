//! The floor: a server of DJQS's shape that does no work, to tell how far from the limit DJQS is.
//!
//! One thread a connection, a blocking read, and one write of a canned reply for every line that came with
//! it. It reads the native dialect only as far as each line's first letter. Whatever is measured against it
//! is what the kernel, the loopback and the load generator take; the difference to it is what a queue costs.
//!
//! Usage: `floor PORT BODY_BYTES`.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

/// As the server has it.
const STACK_BYTES: usize = 256 * 1024;

/// The server's buffer grows to this where a client sends ahead.
const BUFFER_BYTES: usize = 64 * 1024;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<usize>());
    let (Some(Ok(port)), Some(Ok(body_bytes))) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: floor PORT BODY_BYTES");
        std::process::exit(2);
    };
    // The stamp that the load generator looks for, then the rest.
    let body = format!("{:016x}{:08x}{}", 0, 0, "x".repeat(body_bytes.saturating_sub(24)));
    let job: &[u8] = format!("JOB 1 queue=default attempt=1 ttr=60s: {body}\n").leak().as_bytes();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port as u16)).expect("the port is free");
    for stream in listener.incoming() {
        let stream = stream.expect("accepting works");
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn(move || serve(stream, job)).expect("a thread starts");
    }
}

fn serve(mut stream: TcpStream, job: &[u8]) {
    let _ = stream.set_nodelay(true);
    let mut input = vec![0; BUFFER_BYTES];
    let mut replies = Vec::new();
    // The first letter of the line that is being read, once it is there.
    let mut verb = None;
    while let Ok(read @ 1..) = stream.read(&mut input) {
        let mut rest = &input[..read];
        while let Some(&first) = rest.first() {
            let letter = *verb.get_or_insert(first);
            let Some(end) = memchr::memchr(b'\n', rest) else {
                break;
            };
            replies.extend_from_slice(match letter {
                b'T' => b"ACK 1000000\n",
                b'G' => job,
                b'P' => b"PONG\n",
                _ => b"OK\n",
            });
            verb = None;
            rest = &rest[end + 1..];
        }
        if !replies.is_empty() && stream.write_all(&replies).is_err() {
            return;
        }
        replies.clear();
    }
}
