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
