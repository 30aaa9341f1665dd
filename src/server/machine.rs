//! The machine and the process: their names, the processor time used so far, and how the kernel schedules the
//! process.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::stats::Machine;

/// What uname(2) says, and a word that is different in each run.
pub(super) fn machine() -> Machine {
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Machine {
        hostname: text(uname.nodename()),
        os: text(uname.version()),
        platform: text(uname.machine()),
        instance: format!("{:016x}", RandomState::new().hash_one(std::process::id())),
    }
}

/// The processor time that the process has used, in user mode and in the kernel; zero if /proc does not say.
pub(super) fn cpu() -> (Duration, Duration) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses, which may contain anything. utime and stime are the 14th and
    // 15th (proc(5)).
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11);
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let mut next = || {
        let count: u64 = fields.next().and_then(|field| field.parse().ok()).unwrap_or_default();
        Duration::from_nanos(count.saturating_mul(1_000_000_000 / ticks))
    };
    (next(), next())
}

/// Asks the kernel not to preempt other threads when this thread, or one that it starts from now on, wakes
/// (`SCHED_BATCH`, see sched(7)). A client that has just sent a command continues with its next one, and the
/// server switches threads less often: with awaited replies it does 12 to 22 % more work
/// (docs/performance.md).
///
/// To be called at the start of a program that is only a server. A scheduling policy other than the default
/// was chosen by somebody and stays. If the system refuses, the policy stays too.
pub fn schedule_as_batch() {
    let this_thread = 0;
    if uapi::sched_getscheduler(this_thread) != Ok(uapi::c::SCHED_OTHER) {
        return;
    }
    let parameters = uapi::c::sched_param { sched_priority: 0 };
    if let Err(error) = uapi::sched_setscheduler(this_thread, uapi::c::SCHED_BATCH, &parameters) {
        log::debug!("can't set the scheduling policy SCHED_BATCH: {error}");
    }
}
