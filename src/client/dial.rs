//! Makes the connection: finds the server's addresses, tries each, and sets what the socket needs.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::error::Error;

/// How long one address of the server may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the kernel waits before it asks a silent server's kernel whether it is still there, and between
/// questions: a wait for a job may be silent for hours, and must notice that the machine is gone.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// How long sent bytes may stay unacknowledged by the server's kernel before the connection counts as broken.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Connects to `server`, which is HOST:PORT: the name is resolved, and all of its addresses are tried in
/// turn.
pub(crate) fn dial(server: &str) -> Result<TcpStream, Error> {
    connect(server).map_err(|source| Error::Connect { server: server.into(), source })
}

fn connect(server: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    for address in server.to_socket_addrs()? {
        match connect_to(&address) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
    // A connection attempt to a free port of this machine may be given that very port as its own, and then
    // meets itself (TCP's simultaneous open). There is no server there.
    if stream.local_addr()? == *address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(stream)
}
