//! The bar that shows how far a batch is, on a terminal.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use djqs::client::Client;
use djqs::job::BatchName;
use djqs::protocol::Wait;
use djqs::stats::BatchStats;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::Flags;

/// The time between two looks at the batch.
const REDRAW: Duration = Duration::from_millis(250);

/// A bar that a thread redraws. Without a terminal there is none.
pub(super) struct Bar {
    running: Option<(Sender<()>, JoinHandle<()>)>,
    bar: ProgressBar,
    all_submitted: Arc<AtomicBool>,
}

impl Bar {
    pub(super) fn start(flags: &Flags, name: &BatchName) -> Bar {
        let all_submitted = Arc::new(AtomicBool::new(false));
        if flags.quiet || !io::stderr().is_terminal() {
            return Bar { running: None, bar: ProgressBar::hidden(), all_submitted };
        }
        let (end, ended) = mpsc::channel::<()>();
        let (server, name, all) = (flags.server.clone(), name.clone(), Arc::clone(&all_submitted));
        let shown = ProgressBar::new(0).with_style(style(false));
        let bar = shown.clone();
        let drawing = thread::spawn(move || {
            let mut client = None;
            while ended.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                // It has a connection of its own, and tries to connect again at each look.
                let connected = client.take().or_else(|| Client::connect_to(&server).ok());
                let Some(mut connected) = connected else {
                    bar.set_message("the server is away");
                    bar.tick();
                    continue;
                };
                if let Ok((stats, _)) = connected.batch(&name, 1, Wait::AtMost(Duration::ZERO)) {
                    client = Some(connected);
                    bar.set_style(style(all.load(Ordering::Relaxed)));
                    show(&bar, &stats);
                }
            }
            bar.finish_and_clear();
        });
        Bar { running: Some((end, drawing)), bar: shown, all_submitted }
    }

    /// From now on the total does not grow any more, so that the time left can be estimated.
    pub(super) fn all_are_submitted(&self) {
        self.all_submitted.store(true, Ordering::Relaxed);
    }

    /// Prints a line on standard error, above the bar.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| super::say(text));
    }

    /// Removes the bar.
    pub(super) fn end(&mut self) {
        if let Some((end, drawing)) = self.running.take() {
            drop(end);
            // A panic of the thread has been printed, and the jobs are not concerned.
            let _ = drawing.join();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

fn show(bar: &ProgressBar, stats: &BatchStats) {
    let jobs = stats.jobs;
    bar.set_length(stats.total());
    bar.set_position(stats.total() - jobs.unfinished());
    let mut text = format!("{} done", jobs.done);
    let others = [(jobs.dead, "dead"), (jobs.cancelled, "cancelled"), (stats.deleted, "deleted")];
    for (count, what) in others.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {count} {what}");
    }
    text += &format!(", {} running", jobs.leased);
    bar.set_message(text);
}

fn style(total_is_known: bool) -> ProgressStyle {
    let template = match total_is_known {
        true => "{wide_bar} {pos}/{len}  {msg}  {per_sec}  {eta} left",
        false => "{wide_bar} {pos}/{len} so far  {msg}  {per_sec}",
    };
    ProgressStyle::with_template(template).expect("the template is well formed")
}
