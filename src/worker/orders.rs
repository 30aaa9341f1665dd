//! Asks the server what this worker should do, on a connection of its own: stop working on a job, take no more
//! jobs, take jobs again, or stop.
//!
//! An order about a job is a hint. The job's slot asks the server whether the lease has ended.

use std::convert::Infallible;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, select};
use log::{debug, info};

use super::Shared;
use super::connection::Event;
use super::link::{Received, Unreachable, connect, receive};
use crate::client::retry::Backoff;
use crate::job::Order;
use crate::protocol::native::Answer;
use crate::protocol::{Command, Wait};

/// Obeys until `ended` is closed, or until a server turns out to be too old to give orders. Begins when
/// `all_linked` is closed: if the server has room for a few connections only, the slots need them more.
pub(super) fn obey(shared: &Shared, all_linked: &Receiver<Infallible>, ended: &Receiver<Infallible>) {
    let _ = all_linked.recv();
    let mut backoff = Backoff::default();
    while let Err(unreachable) = obey_on_one_connection(shared, ended, &mut backoff) {
        debug!("no orders: {}", unreachable.why);
        let wait = backoff.next_wait();
        select! {
            recv(ended) -> _ => return,
            recv(after(unreachable.retry_after.map_or(wait, |asked| asked.max(wait)))) -> _ => {}
        }
    }
}

fn obey_on_one_connection(
    shared: &Shared,
    ended: &Receiver<Infallible>,
    backoff: &mut Backoff,
) -> Result<(), Unreachable> {
    let Some(mut link) = connect(shared, ended, || true)?.filter(|link| link.abilities.orders) else {
        return Ok(());
    };
    // The server notes orders about jobs from the first ORDERS on. What came before is seen by asking about each job.
    let mut wait = Wait::AtMost(Duration::ZERO);
    loop {
        link.connection.send(&Command::Orders { wait });
        match receive(shared, &mut link.connection, ended, None) {
            Received::Event(Event::Answer(Answer::Order(order))) => {
                backoff.reset();
                follow(shared, order);
            }
            Received::Event(Event::Answer(Answer::Empty)) => {
                if wait != Wait::Forever {
                    wait = Wait::Forever;
                    shared.running.check_all();
                }
            }
            Received::Event(Event::Answer(Answer::Refused(refusal))) => return Err(refusal.into()),
            Received::Event(Event::Answer(other)) => {
                return Err(Unreachable::because(format!("it answered ORDERS with {other:?}")));
            }
            Received::Event(Event::Closed(why)) => return Err(Unreachable::because(why)),
            Received::Event(Event::Connected) | Received::Timeout => {}
            Received::Woken => return Ok(()),
        }
    }
}

fn follow(shared: &Shared, order: Order) {
    match order {
        Order::Cancel(id) | Order::Lost(id) => shared.running.check(id),
        Order::Quiet => {
            info!(event = "order", order = "quiet"; "the server says: take no more jobs");
            shared.control.pause();
        }
        Order::Resume => {
            info!(event = "order", order = "resume"; "the server says: take jobs again");
            shared.control.resume();
        }
        Order::Stop => {
            info!(event = "order", order = "stop"; "the server says: stop");
            shared.control.stop();
        }
    }
}
