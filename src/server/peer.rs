//! Connected clients, as threads other than their connection's own see them: what ends a wait, and what sends
//! replies.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::Arc;

use socket2::Socket;

use super::outbox::{Outbox, Sent};
use super::watcher::{Event, Sets};
use crate::broker::Canceller;
use crate::error::Refusal;

/// One connected client.
pub(super) struct Peer {
    number: u64,
    pub(super) stream: Socket,
    pub(super) outbox: Outbox,
    canceller: Canceller,
    watched: Arc<Sets>,
}

/// All connected clients, by their number.
#[derive(Default)]
pub(super) struct Peers {
    last_number: u64,
    open: HashMap<u64, Arc<Peer>>,
}

impl Peers {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn add(&mut self, stream: Socket, canceller: Canceller, watched: &Arc<Sets>) -> Arc<Peer> {
        self.last_number += 1;
        let number = self.last_number;
        let watched = Arc::clone(watched);
        let peer = Arc::new(Peer { number, stream, outbox: Outbox::default(), canceller, watched });
        self.open.insert(number, Arc::clone(&peer));
        peer
    }

    pub(super) fn remove(&mut self, peer: &Peer) {
        self.open.remove(&peer.number);
    }

    /// The client of this number, if it is still connected.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Peer>> {
        self.open.get(&number).cloned()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.open.values().map(|peer| &**peer)
    }
}

impl Peer {
    /// Has the client's waits cancelled when it disconnects. To be called once.
    pub(super) fn watch_disconnected(&self) -> std::io::Result<()> {
        self.watched.watch_disconnected(&self.stream, self.number)
    }

    /// Sends the replies in the outbox, now that they are durable, or says that they will never be. Does not
    /// block.
    pub(super) fn send_outbox(&self, durable: Result<(), Refusal>) {
        let failed = durable.is_err();
        let sent = self.outbox.send(&self.stream, durable);
        self.send_rest_later(sent);
        if failed {
            // Wakes the connection's thread from its read.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
    }

    /// Acts on what the watcher has seen. Does not block.
    pub(super) fn handle(&self, event: Event) {
        match event {
            Event::Disconnected => self.canceller.cancel(),
            Event::Writable => self.send_rest_later(self.outbox.send_rest(&self.stream)),
        }
    }

    /// Ends the client's waits and what its thread reads, because the server stops.
    pub(super) fn stop(&self) {
        self.canceller.cancel();
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    fn send_rest_later(&self, sent: Sent) {
        if sent == Sent::Partly
            && let Err(error) = self.watched.watch_writable(&self.stream, self.number)
        {
            // The connection's thread sends the rest when it wakes, within two seconds.
            log::warn!("can't watch a full socket: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::super::outbox::Replies;
    use super::super::watcher::Watcher;
    use super::*;
    use crate::broker::{self, Broker};
    use crate::error::Code;
    use crate::job::JobId;
    use crate::protocol::{Dialect, Reply};

    #[test]
    fn replies_that_did_not_fit_into_the_socket_follow_as_the_client_reads() {
        let peers = Arc::new(Mutex::new(Peers::default()));
        let known = Arc::clone(&peers);
        let watcher = Watcher::start(move |event, number| {
            let peer = known.lock().get(number);
            peer.expect("it is connected").handle(event);
        });
        let watcher = watcher.unwrap();
        let (ours, mut theirs) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let session = Broker::in_memory(broker::Config::default()).connect();
        let peer = peers.lock().add(ours, session.canceller(), watcher.sets());

        let mut replies = Replies::default();
        for id in 1..=1_000_000 {
            replies.push(&Reply::Accepted { id: JobId(id), duplicate: None }, Dialect::Native);
        }
        let all = replies.bytes.clone();
        peer.outbox.keep(replies);
        peer.send_outbox(Ok(()));
        // Here is no connection's thread that could send the rest.
        let mut read = vec![0; all.len()];
        theirs.read_exact(&mut read).expect("the rest follows");
        assert!(read == all, "the replies are not what was sent");
        assert!(peer.outbox.join().unsent().is_empty());
    }

    #[test]
    fn a_failed_journal_wakes_the_connections_thread_from_its_read() {
        let watcher = Watcher::start(|_, _| {}).unwrap();
        let (ours, _theirs) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let session = Broker::in_memory(broker::Config::default()).connect();
        let peer = Peers::default().add(ours, session.canceller(), watcher.sets());
        peer.outbox.keep(Replies::default());
        peer.send_outbox(Err(Refusal::new(Code::Unavailable, "broken")));
        assert_eq!((&peer.stream).read(&mut [0; 8]).unwrap(), 0);
    }
}
