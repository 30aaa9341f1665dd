//! Hears of clients that went away while their connection's thread sleeps in a wait for a job.
//!
//! That thread reads nothing until it has a job to send, so it would not notice. One thread for all of them
//! asks the kernel (epoll) to be told when the other side closes. Nobody polls. A connection is made known here once, when
//! it waits for the first time, not for each wait.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use socket2::Socket;

use crate::broker::Canceller;

/// How many events are taken from the kernel at a time.
const EVENTS_AT_ONCE: usize = 256;

/// Watches connections whose threads have waited, until it is dropped.
pub(crate) struct Watcher {
    known: Arc<Known>,
    thread: Option<JoinHandle<()>>,
}

/// What the watcher's thread shares with those that make connections known to it.
struct Known {
    epoll: OwnedFd,
    /// Readable once the thread shall return; its token is [`END`].
    end: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    last_token: u64,
    sessions: HashMap<u64, Canceller>,
}

/// The token of what tells the thread to return; connections have those above.
const END: u64 = 0;

/// Watches one connection until it is dropped.
pub(crate) struct Watch<'a> {
    watcher: &'a Watcher,
    stream: &'a Socket,
    token: u64,
}

impl Watcher {
    /// Starts the watcher's thread.
    pub(crate) fn start() -> io::Result<Watcher> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let end = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &end, EventData::new_u64(END), EventFlags::IN)?;
        let known = Arc::new(Known { epoll, end, watched: Mutex::default() });
        let own = Arc::clone(&known);
        let thread = std::thread::Builder::new().name("watcher".into()).stack_size(128 * 1024);
        let thread = Some(thread.spawn(move || own.run())?);
        Ok(Watcher { known, thread })
    }

    /// Cancels the session's waits when the stream's other side closes, or has closed already.
    pub(crate) fn watch<'a>(&'a self, stream: &'a Socket, canceller: Canceller) -> io::Result<Watch<'a>> {
        let token = {
            let mut watched = self.known.watched.lock();
            watched.last_token += 1;
            let token = watched.last_token;
            watched.sessions.insert(token, canceller);
            token
        };
        let watch = Watch { watcher: self, stream, token };
        let flags = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::ONESHOT;
        epoll::add(&self.known.epoll, stream, EventData::new_u64(token), flags)?;
        Ok(watch)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // An eventfd takes it unless it is full, and this is all that is ever written to it.
        let _ = rustix::io::write(&self.known.end, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It only ever panics with a mistake of our own, which it has reported already.
            let _ = thread.join();
        }
    }
}

impl Known {
    fn run(&self) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // Can't happen with an epoll and a buffer of our own; waits would still end with their connections' keepalive.
                    log::error!("the watcher of connections ends: {error}");
                    return;
                }
            }
            if events.iter().any(|event| event.data.u64() == END) {
                return;
            }
            let watched = self.watched.lock();
            let tokens = events.drain(..).map(|event| event.data.u64());
            tokens.filter_map(|token| watched.sessions.get(&token)).for_each(Canceller::cancel);
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.watcher.known.watched.lock().sessions.remove(&self.token);
        // It fails only where adding failed.
        let _ = epoll::delete(&self.watcher.known.epoll, self.stream);
    }
}
