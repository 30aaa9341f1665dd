//! How the kernel schedules the threads of this process.

/// Asks the kernel not to preempt other threads when this thread, or one that it starts from now on, wakes
/// (`SCHED_BATCH`, see sched(7)). A client that has just sent a command continues with its next one, and the
/// server switches threads less often: with awaited replies it does 12 to 22 % more work
/// (docs/performance.md).
///
/// To be called at the start of a program that is only a server. A scheduling policy other than the default
/// was chosen by somebody and stays. If the system refuses, the policy stays too.
pub(super) fn schedule_as_batch() {
    let this_thread = 0;
    if uapi::sched_getscheduler(this_thread) != Ok(uapi::c::SCHED_OTHER) {
        return;
    }
    let parameters = uapi::c::sched_param { sched_priority: 0 };
    if let Err(error) = uapi::sched_setscheduler(this_thread, uapi::c::SCHED_BATCH, &parameters) {
        log::debug!("can't set the scheduling policy SCHED_BATCH: {error}");
    }
}
