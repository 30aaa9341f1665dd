//! What a server listens on: a TCP address or the path of a Unix socket.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// How many connections may wait to be accepted. The kernel limits it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// What to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// A TCP address; port 0 lets the system choose one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix {
        /// Its path. If the file exists and no process listens on it, it is replaced.
        path: PathBuf,
        /// Who may connect, as the permissions of the file: 0o660 for its owner and group. `None` for what the
        /// process's umask leaves.
        mode: Option<u32>,
    },
}

impl Listen {
    pub(super) fn socket(&self) -> io::Result<Socket> {
        match self {
            Listen::Tcp(address) => tcp(*address),
            Listen::Unix { path, mode } => unix(path, *mode),
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A server that is restarted must not wait for the kernel to forget the old connections.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn unix(path: &Path, mode: Option<u32>) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    remove_stale(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    if let Some(mode) = mode {
        // Before it listens, so that nobody connects who may not.
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Removes the socket of a server that has ended, because bind(2) would not replace it. A socket that a
/// process listens on stays, and so does a file that is not a socket.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        // If it is in the way, bind(2) reports the error.
        Ok(_) | Err(_) => return Ok(()),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // connect(2) would block if a process listens and accepts nothing.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// An address as text: `127.0.0.1:11300`, `unix:/run/djqs.sock`.
pub(super) fn display(address: &SockAddr) -> String {
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => format!("unix:{}", path.display()),
        (None, None) => "unix".into(),
    }
}
