//! What all connections of a server share, and the configuration that it was made with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use socket2::Socket;

use super::peer::Peers;
use super::{limits, listen, long_replies, threads, watcher};
use crate::broker::Broker;
use crate::clock::Moment;
use crate::protocol::FrameLimits;

/// The configuration of a server. Start from the default and set what is to differ:
///
/// ```
/// let mut config = djqs::server::Config::default();
/// config.connections_max = 100;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// How large a command may be.
    pub frames: FrameLimits,
    /// How many connections are served at once; one more gets `ERR full` and is closed. Default: what the
    /// limits in force allow, see [`limits::connection_cap`]. The soft limit on open files is often 1,024: a
    /// program that serves many clients calls [`limits::raise_open_files`] first.
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

/// What all connections share.
pub(super) struct Shared {
    pub(super) broker: Broker,
    pub(super) config: Config,
    pub(super) watcher: watcher::Watcher,
    stopping: AtomicBool,
    /// Whether a connection's thread is polling for its next command.
    pub(super) polling: AtomicBool,
    pub(super) long_replies: long_replies::LongReplies,
    pub(super) threads: threads::Threads,
    pub(super) peers: Arc<Mutex<Peers>>,
    /// Notified when a connection ends while the server stops, and when it starts to stop.
    pub(super) changed: Condvar,
}

impl Shared {
    /// Starts the watcher.
    ///
    /// # Errors
    /// If the system has no thread or file descriptor left.
    pub(super) fn new(broker: Broker, config: Config) -> std::io::Result<Shared> {
        let peers = Arc::new(Mutex::new(Peers::default()));
        let known = Arc::clone(&peers);
        let watcher = watcher::Watcher::start(move |event, number| {
            let peer = known.lock().get(number);
            if let Some(peer) = peer {
                peer.handle(event);
            }
        })?;
        Ok(Shared {
            broker,
            config,
            watcher,
            stopping: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            long_replies: long_replies::LongReplies::default(),
            threads: threads::Threads::new(),
            peers,
            changed: Condvar::new(),
        })
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Ends all connections, once each has answered what it has read.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let peers = self.peers.lock();
        peers.iter().for_each(|peer| peer.stop());
        drop(peers);
        self.changed.notify_all();
    }

    /// Blocks until all connections have ended, or for `time`.
    pub(super) fn wait_for_the_end(&self, time: Duration) {
        let deadline = self.now().after(time);
        let mut peers = self.peers.lock();
        while peers.len() > 0 {
            let Some(instant) = self.broker.clock().instant_of(deadline) else { return };
            if self.changed.wait_until(&mut peers, instant).timed_out() {
                log::warn!("{} connections did not end in time", peers.len());
                return;
            }
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.broker.clock().now().mono
    }

    /// The client's address, for the log.
    pub(super) fn name_of(&self, stream: &Socket) -> String {
        stream.peer_addr().map_or_else(|_| "a disconnected client".into(), |peer| listen::display(&peer))
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit, setrlimit};

    use super::*;

    #[test]
    fn default_config_leaves_the_limit_on_open_files() {
        let before = getrlimit(Resource::Nofile);
        // Lower than the hard limit, so that there is something to raise.
        let lower = before.maximum.map_or(1 << 20, |hard| hard - 1).min(before.current.unwrap_or(u64::MAX));
        let mut limit = before;
        limit.current = Some(lower);
        setrlimit(Resource::Nofile, limit).expect("a soft limit can always be lowered");
        let _ = Config::default();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(lower));
        setrlimit(Resource::Nofile, before).expect("it may be raised to its old value");
    }
}
