//! The socket that systemd passed to this process, if it did.

use std::io;
use std::os::fd::OwnedFd;

/// The socket that systemd passed to this process, if any (sd_listen_fds(3)).
///
/// # Errors
/// If several were passed, or one that is not a listening stream socket.
pub(super) fn inherited() -> io::Result<Option<OwnedFd>> {
    let mut passed = listenfd::ListenFd::from_env();
    match passed.len() {
        0 => return Ok(None),
        1 => {}
        many => {
            let text = format!("systemd passed {many} sockets: give each its own service");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    if let Ok(Some(listener)) = passed.take_tcp_listener(0) {
        return Ok(Some(listener.into()));
    }
    match passed.take_unix_listener(0) {
        Ok(Some(listener)) => Ok(Some(listener.into())),
        Ok(None) | Err(_) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "systemd passed a socket that is not a listening stream socket: ListenStream= makes one",
        )),
    }
}
