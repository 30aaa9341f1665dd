//! How the process ends: by a signal or by a failure, and always in time.

use std::io;
use std::time::Duration;

use djqs::Broker;
use djqs::broker::Failure;
use djqs::server::StopHandle;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::EXIT_FAILURE;

/// How long the server has to tell its clients after a failure.
const LAST_REPLIES: Duration = Duration::from_millis(300);

/// Ends the process: what it would answer from now on might not be true after a restart. The library has
/// logged the failure.
pub(super) fn end_soon(_: &Failure) {
    log::error!("the server stops");
    if exit_after(LAST_REPLIES, || {}).is_err() {
        std::process::exit(EXIT_FAILURE.into());
    }
}

/// Ends the process as failed after `time`, whatever it is doing then.
fn exit_after(time: Duration, last: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let end = move || {
        std::thread::sleep(time);
        last();
        std::process::exit(EXIT_FAILURE.into());
    };
    std::thread::Builder::new().spawn(end).map(drop)
}

/// How long the server may take to end after it was told to.
const END_WITHIN: Duration = Duration::from_millis(4900);

/// Ends the process in time, even if the journal's last write never ends, for instance on a full disk. No
/// client was told that it did.
fn end_in_time() {
    let give_up =
        || log::error!("the server did not end in time and gives up; everything acknowledged is durable");
    if let Err(error) = exit_after(END_WITHIN, give_up) {
        log::warn!("can't make sure that the server ends in time: {error}");
    }
}

/// Starts the thread that handles signals.
pub(super) fn handle_signals(stop: StopHandle, broker: Broker) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGUSR1 => {
                    log::info!("draining: new jobs are refused");
                    broker.drain();
                }
                _ if stopping => std::process::exit(EXIT_FAILURE.into()),
                _ => {
                    log::info!("stopping");
                    stopping = true;
                    end_in_time();
                    stop.stop();
                }
            }
        }
    })?;
    Ok(())
}
