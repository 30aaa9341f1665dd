//! Waits for many sockets at once: for clients that disconnect while their connection's thread waits for a
//! job, and for full sockets that take more bytes.
//!
//! Neither is seen by the connection's own thread, which sleeps elsewhere. One thread asks the kernel
//! (epoll(7)) about all of them; nothing polls. It knows sockets by number only, and leaves it to its owner
//! what to do.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// How many events are taken from the kernel at a time.
const EVENTS_AT_ONCE: usize = 256;

/// What happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The client has closed its side of the connection.
    Disconnected,
    /// The socket takes more bytes.
    Writable,
}

/// The watching thread. Dropping this ends it.
pub(super) struct Watcher {
    sets: Arc<Sets>,
    thread: Option<JoinHandle<()>>,
}

/// The sockets that are watched. An entry ends with its event, or when its socket is closed.
pub(super) struct Sets {
    /// Sockets that may be disconnected; also [`END`] and [`SOME_WRITABLE`].
    disconnected: OwnedFd,
    /// Sockets that are full. A set of its own, because a socket can be in a set only once.
    writable: OwnedFd,
    /// Readable when the thread has to return.
    end: OwnedFd,
}

/// The tokens in the first set of what is not a socket. No socket has such a number.
const END: u64 = u64::MAX;
const SOME_WRITABLE: u64 = u64::MAX - 1;

impl Watcher {
    /// Starts the thread. It calls `handle` with the event and the number of a socket. `handle` must not
    /// block.
    ///
    /// # Errors
    /// If the system has no thread or file descriptor left.
    pub(super) fn start(handle: impl Fn(Event, u64) + Send + 'static) -> io::Result<Watcher> {
        let disconnected = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let writable = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let end = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&disconnected, &end, EventData::new_u64(END), EventFlags::IN)?;
        epoll::add(&disconnected, &writable, EventData::new_u64(SOME_WRITABLE), EventFlags::IN)?;
        let sets = Arc::new(Sets { disconnected, writable, end });
        let own = Arc::clone(&sets);
        let thread = std::thread::Builder::new().name("watcher".into()).stack_size(128 * 1024);
        let thread = thread.spawn(move || {
            if let Err(error) = own.run(handle) {
                // Only a mistake of our own can cause this. TCP keepalive still detects clients that are
                // gone.
                log::error!("connections are no longer watched: {error}");
            }
        })?;
        Ok(Watcher { sets, thread: Some(thread) })
    }

    pub(super) fn sets(&self) -> &Arc<Sets> {
        &self.sets
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Can't fail: nothing else is ever written to it, so it is not full.
        let _ = rustix::io::write(&self.sets.end, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported already.
            let _ = thread.join();
        }
    }
}

impl Sets {
    /// Watches a socket for [`Event::Disconnected`], once. To be called once for each socket.
    pub(super) fn watch_disconnected(&self, socket: impl AsFd, number: u64) -> io::Result<()> {
        let flags = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::ONESHOT;
        Ok(epoll::add(&self.disconnected, socket, EventData::new_u64(number), flags)?)
    }

    /// Watches a socket for the next [`Event::Writable`].
    pub(super) fn watch_writable(&self, socket: impl AsFd, number: u64) -> io::Result<()> {
        let flags = EventFlags::OUT | EventFlags::ONESHOT;
        let data = EventData::new_u64(number);
        match epoll::modify(&self.writable, &socket, data, flags) {
            // It was never in the set. If another thread adds it at this moment, that is as good.
            Err(Errno::NOENT) => match epoll::add(&self.writable, &socket, data, flags) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(error.into()),
            },
            done => Ok(done?),
        }
    }

    fn run(&self, handle: impl Fn(Event, u64)) -> rustix::io::Result<()> {
        let mut tokens = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            take_tokens(&self.disconnected, None, &mut tokens)?;
            for &token in &tokens {
                match token {
                    END => return Ok(()),
                    SOME_WRITABLE => {}
                    number => handle(Event::Disconnected, number),
                }
            }
            if tokens.contains(&SOME_WRITABLE) {
                take_tokens(&self.writable, Some(&Timespec::default()), &mut tokens)?;
                tokens.iter().for_each(|&number| handle(Event::Writable, number));
            }
        }
    }
}

fn take_tokens(set: &OwnedFd, timeout: Option<&Timespec>, tokens: &mut Vec<u64>) -> rustix::io::Result<()> {
    let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
    match epoll::wait(set, spare_capacity(&mut events), timeout) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    tokens.clear();
    tokens.extend(events.iter().map(|event| event.data.u64()));
    Ok(())
}
