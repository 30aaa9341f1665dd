//! The server: listens, accepts, keeps to its limits, and stops in good order.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use socket2::{SockAddr, Socket, TcpKeepalive};

use crate::broker::{Broker, Canceller};
use crate::clock::Moment;
use crate::error::Refusal;
use crate::protocol::{Dialect, FrameLimits, Reply};

mod connection;
mod input;
pub mod limits;
mod listen;
mod long;
mod machine;
mod outbox;
mod output;
mod threads;
mod watcher;

pub use listen::{Listen, inherited};
pub use machine::schedule_as_batch;

/// How long the kernel waits before it asks an idle peer whether it is still there, and between questions.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// How long sent bytes may stay unacknowledged by the peer's kernel before the connection is given up.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// The pause of the acceptor after an error, doubled with each that follows, up to the longest.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often the same trouble is logged at most.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How long [`Server::run`] waits for connections to end once it was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// When a client that is turned away is told to try again.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a server is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// How large a command may be.
    pub frames: FrameLimits,
    /// How many connections are served at once; one more gets `ERR full` and is closed. Default: what the limits in force
    /// allow, see [`limits::connection_cap`]. The soft limit on open files is often 1,024: a program that serves many
    /// clients calls [`limits::raise_open_files`] first.
    pub connections_max: u64,
    /// How long a command may take to arrive, from its first byte to its last. Default 60 s.
    pub frame_timeout: Duration,
    /// How long a client may take to accept its replies. Default 60 s.
    pub write_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            frames: FrameLimits::default(),
            connections_max: limits::connection_cap().connections,
            frame_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
        }
    }
}

/// A listening server.
pub struct Server {
    listener: Socket,
    shared: Arc<Shared>,
}

/// What all connections share.
pub(crate) struct Shared {
    broker: Broker,
    config: Config,
    watcher: watcher::Watcher,
    stopping: AtomicBool,
    /// Whether a connection's thread is polling for its next command.
    polling: AtomicBool,
    long: long::LongReplies,
    threads: threads::Threads,
    connections: Mutex<Connections>,
    /// Notified when a connection ends while the server stops, and when it is told to stop.
    changed: Condvar,
}

#[derive(Default)]
struct Connections {
    last: u64,
    open: HashMap<u64, (Arc<Socket>, Canceller)>,
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
    /// The system's, where the address can't be listened on.
    pub fn bind(address: SocketAddr, broker: Broker, config: Config) -> io::Result<Server> {
        Server::listen(&Listen::Tcp(address), broker, config)
    }

    /// Listens on an address or on a path, for the broker's clients.
    ///
    /// # Errors
    /// The system's, where that can't be listened on.
    pub fn listen(listen: &Listen, broker: Broker, config: Config) -> io::Result<Server> {
        Server::on(listen.socket()?, broker, config)
    }

    /// Serves the broker's clients on a socket that listens already, such as [`inherited`] gives.
    ///
    /// # Errors
    /// The system's, where the server can't be started.
    pub fn on(listener: Socket, broker: Broker, config: Config) -> io::Result<Server> {
        let gauges = broker.gauges();
        gauges.connections_max.store(config.connections_max, Ordering::Relaxed);
        gauges.body_max.store(config.frames.body_max as u64, Ordering::Relaxed);
        gauges.machine.get_or_init(machine::machine);
        gauges.cpu.get_or_init(|| machine::cpu);
        // A socket of somebody else's making may not wait for clients.
        listener.set_nonblocking(false)?;
        let shared = Shared {
            watcher: watcher::Watcher::start()?,
            broker,
            config,
            stopping: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            long: long::LongReplies::default(),
            threads: threads::Threads::new(),
            connections: Mutex::default(),
            changed: Condvar::new(),
        };
        Ok(Server { listener, shared: Arc::new(shared) })
    }

    /// Where it listens: the port that the system chose, where 0 was asked for.
    ///
    /// # Errors
    /// The system's; that it is no TCP address, where it is not.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.listener.local_addr()?.as_socket();
        address.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "it listens on no TCP address"))
    }

    /// Where it listens, for people: `127.0.0.1:11300`, `unix:/run/djqs.sock`.
    ///
    /// # Errors
    /// The system's.
    pub fn address_text(&self) -> io::Result<String> {
        Ok(listen::display(&self.listener.local_addr()?))
    }

    /// A handle to stop it with.
    ///
    /// # Errors
    /// The system's, where the listening socket can't be shared.
    pub fn stop_handle(&self) -> io::Result<StopHandle> {
        Ok(StopHandle { shared: Arc::clone(&self.shared), listener: Arc::new(self.listener.try_clone()?) })
    }

    /// Accepts connections, a thread each, until it is stopped; then lets them end: what has been read is answered,
    /// waiting workers are told. Blocks. Returns at most four seconds after it was told to stop.
    pub fn run(self) {
        let mut trouble = Trouble::new(&self.shared);
        while !self.shared.is_stopping() {
            match self.listener.accept() {
                Ok(_) if self.shared.is_stopping() => break,
                Ok((stream, peer)) => match self.shared.admit(stream, &peer) {
                    Ok(Admitted::Served) => trouble.is_over(),
                    Ok(Admitted::TurnedAway) => {
                        trouble.note("all connections are taken: turned a client away")
                    }
                    Err(error) => trouble.pause(&format!("can't serve one more connection: {error}")),
                },
                // The client had gone before it was accepted: nothing is wrong here.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if self.shared.is_stopping() => break,
                Err(error) => trouble.pause(&format!("can't accept a connection: {error}")),
            }
        }
        self.shared.wait_for_the_last();
    }
}

impl StopHandle {
    /// Stops the server: it accepts nothing more, and each connection ends once it has answered what it has read.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor out of accept(2).
        let _ = self.listener.shutdown(Shutdown::Both);
        let connections = self.shared.connections.lock();
        // Wakes them out of their waits for a job, and out of read(2).
        for (stream, canceller) in connections.open.values() {
            canceller.cancel();
            let _ = stream.shutdown(Shutdown::Read);
        }
        drop(connections);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn now(&self) -> Moment {
        self.broker.clock().now().mono
    }

    /// The client's address, for the log.
    fn name_of(&self, stream: &Socket) -> String {
        stream.peer_addr().map_or_else(|_| "a client that is gone".into(), |peer| listen::display(&peer))
    }

    /// Gives a new connection its thread.
    fn admit(self: &Arc<Shared>, stream: Socket, peer: &SockAddr) -> io::Result<Admitted> {
        if self.connections.lock().open.len() as u64 >= self.config.connections_max {
            turn_away(&stream, "all connections are taken (--max-connections): try again later");
            return Ok(Admitted::TurnedAway);
        }
        if let Err(error) = set_options(&stream, &self.config) {
            log::debug!("{}: gone before it was served: {error}", listen::display(peer));
            return Ok(Admitted::Served);
        }
        let stream = Arc::new(stream);
        let session = self.broker.connect();
        let gauges = self.broker.gauges();
        gauges.connections.fetch_add(1, Ordering::Relaxed);
        gauges.connections_total.fetch_add(1, Ordering::Relaxed);
        let number = {
            let mut connections = self.connections.lock();
            connections.last += 1;
            let number = connections.last;
            connections.open.insert(number, (Arc::clone(&stream), session.canceller()));
            number
        };
        let entry = Entry { shared: Arc::clone(self), number };
        let served = Arc::clone(&stream);
        log::debug!("{}: connected", listen::display(peer));
        let started = self.threads.run(move || {
            let entry = entry;
            // Told to stop between being accepted and being entered: then nobody has woken it.
            if !entry.shared.is_stopping() {
                connection::serve(&served, session, &entry.shared);
            }
        });
        if started.is_err() {
            turn_away(&stream, "the system has no thread left for one more connection: try again later");
        }
        started.map(|()| Admitted::Served)
    }

    fn wait_for_the_last(&self) {
        let deadline = self.now().after(STOP_WITHIN);
        let mut connections = self.connections.lock();
        while !connections.open.is_empty() {
            let Some(instant) = self.broker.clock().instant_of(deadline) else { return };
            if self.changed.wait_until(&mut connections, instant).timed_out() {
                log::warn!("{} connections did not end in time", connections.open.len());
                return;
            }
        }
    }
}

/// What became of a connection that was accepted.
enum Admitted {
    Served,
    TurnedAway,
}

/// A connection's place in the list; its end is the connection's end.
struct Entry {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.connections.lock().open.remove(&self.number);
        self.shared.broker.gauges().connections.fetch_sub(1, Ordering::Relaxed);
        if self.shared.is_stopping() {
            self.shared.changed.notify_all();
        }
    }
}

/// Sets what a connection's socket needs. See tcp(7) and socket(7).
fn set_options(stream: &Socket, config: &Config) -> io::Result<()> {
    stream.set_write_timeout(Some(config.write_timeout))?;
    if stream.local_addr()?.is_unix() {
        // Its other side is on this machine: nothing can be lost or late on the way.
        return Ok(());
    }
    stream.set_tcp_nodelay(true)?;
    stream
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY))?;
    stream.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// Tells a client that there is no room for it. Must not block the acceptor, so it makes one try.
fn turn_away(mut stream: &Socket, why: &'static str) {
    let refusal = Refusal::full(FULL_RETRY_AFTER, why);
    let mut text = Vec::new();
    Dialect::Native.write_reply(&Reply::Refused(refusal), &mut text);
    // Whether it can still be told is the client's matter.
    let _ = stream.set_nonblocking(true);
    let _ = stream.write(&text);
    let _ = stream.shutdown(Shutdown::Write);
    // What it has sent already is read, so that closing does not throw the answer away.
    let _ = io::Read::read(&mut stream, &mut [0; 4096]);
}

/// The acceptor's trouble: slows it down for a moment, never spins it, never ends it, and is logged now and then.
struct Trouble<'a> {
    shared: &'a Shared,
    pause: Duration,
    logged: Option<Moment>,
    unlogged: u64,
}

impl<'a> Trouble<'a> {
    fn new(shared: &'a Shared) -> Trouble<'a> {
        Trouble { shared, pause: ACCEPT_PAUSE, logged: None, unlogged: 0 }
    }

    fn is_over(&mut self) {
        self.pause = ACCEPT_PAUSE;
    }

    fn note(&mut self, what: &str) {
        let now = self.shared.now();
        if self.logged.is_none_or(|logged| logged.after(LOG_EVERY) <= now) {
            log::warn!("{what} (and {} times since the last such line)", self.unlogged);
            self.logged = Some(now);
            self.unlogged = 0;
        } else {
            self.unlogged += 1;
        }
    }

    fn pause(&mut self, what: &str) {
        self.note(what);
        let until = self.shared.broker.clock().instant_of(self.shared.now().after(self.pause));
        self.pause = (self.pause * 2).min(ACCEPT_PAUSE_MAX);
        let mut connections = self.shared.connections.lock();
        if let Some(until) = until
            && !self.shared.is_stopping()
        {
            self.shared.changed.wait_until(&mut connections, until);
        }
    }
}
