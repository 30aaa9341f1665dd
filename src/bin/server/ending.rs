//! How the process ends: by a signal, by a failure of the journal, and in any case in time.

use std::io;
use std::time::Duration;

use djqs::Broker;
use djqs::internal::journal::Failure;
use djqs::server::StopHandle;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::EXIT_FAILURE;

/// How long clients have to be told, once the journal can no longer be written.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Ends the process: whatever it answered from now on might not be true after a restart.
pub(super) fn end_soon(failure: &Failure) {
    log::error!("{failure}; the server stops");
    if exit_after(LAST_WORDS, || {}).is_err() {
        std::process::exit(EXIT_FAILURE.into());
    }
}

/// Ends the process as failed after `time`, whatever else it still does.
fn exit_after(time: Duration, last: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let end = move || {
        std::thread::sleep(time);
        last();
        std::process::exit(EXIT_FAILURE.into());
    };
    std::thread::Builder::new().spawn(end).map(drop)
}

/// How long the server may take to end once it was told to.
const END_WITHIN: Duration = Duration::from_millis(4900);

/// Ends the process in time: the journal's last write may never come to its end, as where the disk is full. Nobody was told that
/// it would.
fn end_in_time() {
    let give_up =
        || log::error!("the server did not end in time and gives up; all that was acknowledged is safe");
    if let Err(error) = exit_after(END_WITHIN, give_up) {
        log::warn!("can't see to it that the server ends in time: {error}");
    }
}

/// Starts the thread that carries out signals.
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
