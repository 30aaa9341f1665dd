//! Hears of clients that went away while their connection's thread sleeps in a wait for a job.
//!
//! That thread reads nothing until it has a job to send, so it would not notice. One thread for all of them
//! asks the kernel (epoll) to be told when the other side closes. Nobody polls, and a wait that ends within half a
//! second never gets here.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::Socket;

use crate::broker::Broker;
use crate::queue::state::SessionId;

/// How many events are taken from the kernel at a time.
const EVENTS_AT_ONCE: usize = 256;

/// Watches connections whose threads wait. Clones are handles to the same watcher.
#[derive(Clone)]
pub(crate) struct Watcher {
    epoll: Arc<OwnedFd>,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    last_token: u64,
    sessions: HashMap<u64, SessionId>,
}

/// Watches one connection until it is dropped.
pub(crate) struct Watch<'a> {
    watcher: &'a Watcher,
    stream: &'a Socket,
    token: u64,
}

impl Watcher {
    /// Starts the watcher's thread; it lives as long as the process.
    pub(crate) fn start(broker: Broker) -> io::Result<Watcher> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let watcher = Watcher { epoll, watched: Arc::default() };
        let own = watcher.clone();
        let thread = std::thread::Builder::new().name("watcher".into()).stack_size(128 * 1024);
        thread.spawn(move || own.run(&broker))?;
        Ok(watcher)
    }

    /// Calls off the session's wait when the stream's other side closes, or has closed already.
    pub(crate) fn watch<'a>(&'a self, stream: &'a Socket, session: SessionId) -> io::Result<Watch<'a>> {
        let token = {
            let mut watched = self.watched.lock();
            watched.last_token += 1;
            let token = watched.last_token;
            watched.sessions.insert(token, session);
            token
        };
        let watch = Watch { watcher: self, stream, token };
        let flags = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::ONESHOT;
        epoll::add(&self.epoll, stream, EventData::new_u64(token), flags)?;
        Ok(watch)
    }

    fn run(&self, broker: &Broker) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // Can't happen with an epoll and a buffer of our own; waits would still end with their connections' keepalive.
                    log::error!("the watcher of waiting connections ends: {error}");
                    return;
                }
            }
            // Called off under the lock, so that no session can end, and its number go to another, in between.
            let watched = self.watched.lock();
            let tokens = events.drain(..).map(|event| event.data.u64());
            let gone: Vec<_> = tokens.filter_map(|token| watched.sessions.get(&token).copied()).collect();
            broker.call_off(&gone);
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.watcher.watched.lock().sessions.remove(&self.token);
        // It fails only where adding failed.
        let _ = epoll::delete(&self.watcher.epoll, self.stream);
    }
}
