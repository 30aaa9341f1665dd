//! The server: listens, serves its clients, and stops gracefully.
//!
//! What a command means is the broker's matter, and how it is written the protocol's.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::Socket;

use crate::broker::Broker;
use shared::Shared;

mod accept;
mod connection;
mod input;
pub mod limits;
mod listen;
mod long_replies;
mod machine;
mod outbox;
mod output;
mod peer;
mod polling;
mod shared;
mod threads;
mod watcher;

pub use listen::Listen;
pub use shared::Config;

/// How long [`Server::run`] waits for connections to end after it was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// A listening server.
pub struct Server {
    listener: Socket,
    shared: Arc<Shared>,
}

/// Stops a server from any thread. Clones are handles to the same server.
#[derive(Clone)]
pub struct StopHandle {
    shared: Arc<Shared>,
    listener: Arc<Socket>,
}

impl Server {
    /// Listens on an address, for the broker's clients.
    ///
    /// # Errors
    /// The system's, if it can't listen there.
    pub fn bind(address: SocketAddr, broker: Broker, config: Config) -> io::Result<Server> {
        Server::listen(&Listen::Tcp(address), broker, config)
    }

    /// Listens on an address or on a path, for the broker's clients.
    ///
    /// # Errors
    /// The system's, if it can't listen there.
    pub fn listen(listen: &Listen, broker: Broker, config: Config) -> io::Result<Server> {
        Server::on(listen.socket()?, broker, config)
    }

    /// Serves the broker's clients on a stream socket that is listening already: a `TcpListener`, a
    /// `UnixListener`, or one that systemd passed to this process.
    ///
    /// # Errors
    /// The system's, if it has no thread or file descriptor left.
    pub fn on(listener: impl Into<OwnedFd>, broker: Broker, config: Config) -> io::Result<Server> {
        let listener = Socket::from(listener.into());
        let gauges = broker.gauges();
        gauges.connections_max.store(config.connections_max, Ordering::Relaxed);
        gauges.body_max.store(config.frames.body_max as u64, Ordering::Relaxed);
        gauges.machine.get_or_init(machine::machine);
        gauges.cpu.get_or_init(|| machine::cpu);
        listener.set_nonblocking(false)?;
        Ok(Server { listener, shared: Arc::new(Shared::new(broker, config)?) })
    }

    /// The TCP address that it listens on. If port 0 was asked for, this has the port that the system chose.
    ///
    /// # Errors
    /// The system's; `Unsupported` if the socket is not a TCP socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.listener.local_addr()?.as_socket();
        address.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "it listens on no TCP address"))
    }

    /// The address that it listens on, as text: `127.0.0.1:11300`, `unix:/run/djqs.sock`.
    ///
    /// # Errors
    /// The system's.
    pub fn address_text(&self) -> io::Result<String> {
        Ok(listen::display(&self.listener.local_addr()?))
    }

    /// A handle that stops it.
    ///
    /// # Errors
    /// The system's, if it has no file descriptor left.
    pub fn stop_handle(&self) -> io::Result<StopHandle> {
        Ok(StopHandle { shared: Arc::clone(&self.shared), listener: Arc::new(self.listener.try_clone()?) })
    }

    /// Accepts connections and serves each in a thread of its own until it is stopped. Then it answers what
    /// it has read, tells waiting workers, and lets the connections end. Blocks. Returns at most four seconds
    /// after it was told to stop.
    pub fn run(self) {
        accept::accept(&self.listener, &self.shared);
        self.shared.wait_for_the_end(STOP_WITHIN);
    }
}

impl StopHandle {
    /// Stops the server: it accepts nothing more, and each connection ends once it has answered what it has
    /// read.
    pub fn stop(&self) {
        self.shared.stop();
        // Wakes the accepting thread.
        let _ = self.listener.shutdown(Shutdown::Both);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHandle").field("listener", &self.listener).finish_non_exhaustive()
    }
}
