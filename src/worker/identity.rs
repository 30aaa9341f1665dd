//! How a worker introduces itself to the server: its name, and the secret that identifies the process.

use std::fs::File;
use std::io::{self, Read};

use crate::job::{Hello, Secret, WorkerName};

/// What this process says on each of its connections. Without a name it has that of its host.
///
/// # Errors
/// There are no random bits to be read.
pub(super) fn introduction(name: Option<WorkerName>, slots: usize) -> io::Result<Hello> {
    let mut secret = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let system = rustix::system::uname();
    let host = fitting_name(&system.nodename().to_string_lossy());
    let mut hello = Hello::new(name.unwrap_or_else(|| host.clone()), Secret(u128::from_ne_bytes(secret)));
    hello.host = Some(host.as_str().into());
    hello.pid = Some(std::process::id());
    hello.slots = u32::try_from(slots).ok();
    hello.version = Some(env!("CARGO_PKG_VERSION").into());
    Ok(hello)
}

/// A name that is like the host's: what a name can't contain becomes `-`.
fn fitting_name(host: &str) -> WorkerName {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '-' };
    let name: String = host.chars().map(fits).skip_while(|c| *c == '-').take(200).collect();
    WorkerName::new(&name).unwrap_or_else(|_| WorkerName::new("worker").expect("it is a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_gives_a_name() {
        for (host, name) in [
            ("web-1.example.org", "web-1.example.org"),
            ("-a b\u{e4}", "a-b-"),
            ("", "worker"),
            ("--", "worker"),
        ] {
            assert_eq!(fitting_name(host).as_str(), name);
        }
        assert_eq!(fitting_name(&"x".repeat(300)).as_str().len(), 200);
    }

    #[test]
    fn each_process_has_its_own_secret() {
        let secret = || introduction(None, 1).unwrap().secret;
        assert_ne!(secret(), secret());
    }
}
