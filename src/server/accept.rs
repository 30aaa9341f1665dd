//! Accepting connections: the limit on their number, their sockets' options, a thread for each, and what to
//! do when the system has no more to give.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{SockAddr, Socket, TcpKeepalive};

use super::connection;
use super::listen;
use super::peer::Peer;
use super::shared::{Config, Shared};
use crate::clock::Moment;
use crate::error::Refusal;
use crate::protocol::{Dialect, Reply};

/// How long the kernel waits before it asks an idle client whether it is still there, and between two
/// questions.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// How long sent bytes may stay unacknowledged by the client's kernel before the connection is dropped.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// The pause after an error of accept(2). Each further error doubles it, up to the maximum.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often problems are logged at most.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// The `retry_after` of the reply to a rejected client.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Accepts and serves connections until the server stops.
pub(super) fn accept(listener: &Socket, shared: &Arc<Shared>) {
    let mut problems = Problems { shared, pause: PAUSE, logged: None, unlogged: 0 };
    while !shared.is_stopping() {
        match listener.accept() {
            Ok(_) if shared.is_stopping() => break,
            Ok((stream, address)) => match admit(stream, &address, shared) {
                Ok(Admitted::Served) => problems.pause = PAUSE,
                Ok(Admitted::Rejected) => {
                    problems.log("the limit on connections is reached: rejected a client")
                }
                Err(error) => problems.pause(&format!("can't serve one more connection: {error}")),
            },
            // The client disconnected before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if shared.is_stopping() => break,
            Err(error) => problems.pause(&format!("can't accept a connection: {error}")),
        }
    }
}

enum Admitted {
    Served,
    Rejected,
}

/// Gives a new connection its thread.
fn admit(stream: Socket, address: &SockAddr, shared: &Arc<Shared>) -> io::Result<Admitted> {
    if shared.peers.lock().len() as u64 >= shared.config.connections_max {
        reject(&stream, "all connections are taken (--max-connections): try again later");
        return Ok(Admitted::Rejected);
    }
    if let Err(error) = set_options(&stream, &shared.config) {
        log::debug!("{}: disconnected before it was served: {error}", listen::display(address));
        return Ok(Admitted::Served);
    }
    let session = shared.broker.connect();
    let peer = shared.peers.lock().add(stream, session.canceller(), shared.watcher.sets());
    let open = Open::new(Arc::clone(shared), Arc::clone(&peer));
    log::debug!("{}: connected", listen::display(address));
    let started = shared.threads.run(move || {
        let Open { shared, peer } = &open;
        // If the server was told to stop before the peer was added, nothing would wake its thread.
        if !shared.is_stopping() {
            connection::serve(peer, session, shared);
        }
    });
    if started.is_err() {
        reject(&peer.stream, "the system has no thread left for one more connection: try again later");
    }
    started.map(|()| Admitted::Served)
}

/// An open connection. Dropping this ends it for the list of peers and for STATS.
struct Open {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
}

impl Open {
    fn new(shared: Arc<Shared>, peer: Arc<Peer>) -> Open {
        let gauges = shared.broker.gauges();
        gauges.connections.fetch_add(1, Ordering::Relaxed);
        gauges.connections_total.fetch_add(1, Ordering::Relaxed);
        Open { shared, peer }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.peers.lock().remove(&self.peer);
        self.shared.broker.gauges().connections.fetch_sub(1, Ordering::Relaxed);
        if self.shared.is_stopping() {
            self.shared.changed.notify_all();
        }
    }
}

/// Sets a connection's socket options. See tcp(7) and socket(7).
fn set_options(stream: &Socket, config: &Config) -> io::Result<()> {
    stream.set_write_timeout(Some(config.write_timeout))?;
    if stream.local_addr()?.is_unix() {
        // The client is on this machine: the kernel always knows whether it is there.
        return Ok(());
    }
    stream.set_tcp_nodelay(true)?;
    stream
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY))?;
    stream.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// Tells a client that there is no room for it. It must not block the accepting thread, so it makes one
/// attempt.
fn reject(mut stream: &Socket, why: &'static str) {
    let refusal = Refusal::full(FULL_RETRY_AFTER, why);
    let mut text = Vec::new();
    Dialect::Native.write_reply(&Reply::Refused(refusal), &mut text);
    let _ = stream.set_nonblocking(true);
    let _ = stream.write(&text);
    let _ = stream.shutdown(Shutdown::Write);
    // If a socket is closed with unread bytes in it, the kernel discards the answer.
    let _ = stream.read(&mut [0; 4096]);
}

/// Problems with accepting: they slow it down for a moment, never spin or end it, and are logged now and
/// then.
struct Problems<'a> {
    shared: &'a Shared,
    pause: Duration,
    logged: Option<Moment>,
    unlogged: u64,
}

impl Problems<'_> {
    fn log(&mut self, what: &str) {
        let now = self.shared.now();
        if self.logged.is_none_or(|logged| logged.after(LOG_EVERY) <= now) {
            log::warn!("{what} (and {} times since the last such line)", self.unlogged);
            self.logged = Some(now);
            self.unlogged = 0;
        } else {
            self.unlogged += 1;
        }
    }

    /// Logs, then sleeps until the pause is over or the server stops.
    fn pause(&mut self, what: &str) {
        self.log(what);
        let until = self.shared.broker.clock().instant_of(self.shared.now().after(self.pause));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let mut peers = self.shared.peers.lock();
        if let Some(until) = until
            && !self.shared.is_stopping()
        {
            self.shared.changed.wait_until(&mut peers, until);
        }
    }
}
