//! What is known of each command beside its parameters: one line a command.

use super::{Cancel, Command, Compat, Retry, Wait};
use crate::job::JobState;
use crate::stats::Counted;

/// A lease that names, or watches, at most this many queues is brief.
pub(crate) const FEW_QUEUES: usize = 8;

/// What is known of a command. See [`Command::spec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spec {
    /// Whether it takes a microsecond or so, with a reply that is short apart from a body. Brief commands
    /// that are sent ahead share the queue's lock.
    pub brief: bool,
    /// Whether its reply may be as long as there are jobs or queues.
    pub long_reply: bool,
    /// Whether sending it twice does no harm, so that a client may repeat it when it has not seen the reply.
    pub repeatable: bool,
    /// What it is counted as.
    pub counted: Option<Counted>,
}

impl Spec {
    /// A command with a short reply that others are not held up by.
    const BRIEF: Spec = Spec { brief: true, long_reply: false, repeatable: false, counted: None };
    /// A command with a short reply.
    const SHORT: Spec = Spec { brief: false, ..Spec::BRIEF };
    /// A command with a reply of any length.
    const LONG: Spec = Spec { long_reply: true, ..Spec::SHORT };

    const fn counted(self, counted: Counted) -> Spec {
        Spec { counted: Some(counted), ..self }
    }

    const fn repeatable(self) -> Spec {
        Spec { repeatable: true, ..self }
    }

    /// Brief or not; repeatable or not.
    fn only_if(self, brief: bool, repeatable: bool) -> Spec {
        Spec { brief: self.brief && brief, repeatable: self.repeatable && repeatable, ..self }
    }
}

impl Command {
    /// What is known of this command.
    ///
    /// A client may repeat it without having seen the reply if the second time changes nothing: a TASK with a
    /// key while its job is unfinished; GET, since the lease of the broken connection has ended, at the price
    /// of one attempt; whatever only looks. It may not repeat ACK, FAIL, RETURN and TOUCH, since the lease
    /// has ended with its connection; nor DELETE, RETRY and PURGE, which may answer that there was nothing to
    /// do, or take what came since.
    pub fn spec(&self) -> Spec {
        use Counted as C;
        match self {
            Command::Submit(job) => {
                Spec::BRIEF.counted(C::Submit).repeatable().only_if(true, job.options.key.is_some())
            }
            Command::Lease { queues, wait, .. } => {
                let counted = if *wait == Wait::Forever { C::LeaseForever } else { C::LeaseWithin };
                Spec::BRIEF.counted(counted).repeatable().only_if(queues.len() <= FEW_QUEUES, true)
            }
            Command::Ack { .. } => Spec::BRIEF.counted(C::Finish),
            Command::Fail { .. } => Spec::BRIEF,
            Command::Return { .. } => Spec::BRIEF.counted(C::Return),
            Command::Touch { .. } => Spec::BRIEF.counted(C::Touch),
            Command::Delete { .. } => Spec::BRIEF.counted(C::Finish),
            Command::Peek { .. } => Spec::SHORT.counted(C::Peek).repeatable(),
            Command::List { .. } => Spec::LONG.repeatable(),
            Command::Show { .. } => Spec::SHORT.counted(C::Peek).repeatable(),
            Command::Why { .. } => Spec::SHORT.repeatable(),
            Command::Wait { .. } => Spec::SHORT.repeatable(),
            Command::Batch { .. } => Spec::SHORT.repeatable(),
            Command::Cancel { what: Cancel::Job(_) | Cancel::All { .. }, .. } => Spec::SHORT.repeatable(),
            Command::Search { .. } => Spec::LONG.repeatable(),
            Command::Several { .. } => Spec::SHORT,
            Command::Retry(Retry::Job(_) | Retry::All { .. }) => Spec::SHORT,
            Command::Purge { .. } => Spec::SHORT,
            Command::Pause { .. } => Spec::SHORT.counted(C::Pause).repeatable(),
            Command::Resume { .. } => Spec::SHORT.repeatable(),
            Command::Hello(_) => Spec::SHORT.repeatable(),
            Command::Hold { .. } => Spec::SHORT,
            Command::Beat { .. } => Spec::SHORT.repeatable(),
            Command::Orders { .. } => Spec::SHORT.repeatable(),
            Command::Wish { .. } => Spec::SHORT.repeatable(),
            Command::Workers => Spec::LONG.repeatable(),
            Command::Stats { queue: None } => Spec::SHORT.counted(C::ServerStats).repeatable(),
            Command::Stats { queue: Some(_) } => Spec::SHORT.counted(C::QueueStats).repeatable(),
            Command::Queues => Spec::LONG.counted(C::QueueNames).repeatable(),
            Command::Ping => Spec::BRIEF.repeatable(),
            Command::Help => Spec::SHORT.repeatable(),
            Command::Quit => Spec::SHORT,
            Command::Compat(compat) => compat.spec(),
        }
    }
}

impl Compat {
    /// No client of ours sends these, so none is called repeatable.
    fn spec(&self) -> Spec {
        use Counted as C;
        match self {
            Compat::SubmitHere(..) => Spec::BRIEF.counted(C::Submit),
            Compat::LeaseWatched { wait: Wait::Forever } => Spec::BRIEF.counted(C::LeaseForever),
            Compat::LeaseWatched { .. } => Spec::BRIEF.counted(C::LeaseWithin),
            Compat::LeaseJob { .. } => Spec::SHORT.counted(C::LeaseJob),
            Compat::Finish { .. } => Spec::BRIEF.counted(C::Finish),
            Compat::ReturnAs { .. } => Spec::BRIEF.counted(C::Return),
            Compat::Bury { .. } => Spec::BRIEF.counted(C::Bury),
            Compat::Kick { .. } => Spec::SHORT.counted(C::Kick),
            Compat::KickJob { .. } => Spec::SHORT,
            Compat::PeekNext { state: JobState::Ready } => Spec::SHORT.counted(C::PeekReady),
            Compat::PeekNext { state: JobState::Delayed } => Spec::SHORT.counted(C::PeekDelayed),
            Compat::PeekNext { state: JobState::Dead } => Spec::SHORT.counted(C::PeekDead),
            Compat::PeekNext { state: JobState::Leased | JobState::Done | JobState::Cancelled } => {
                Spec::SHORT
            }
            Compat::Use { .. } => Spec::SHORT.counted(C::Use),
            Compat::Used => Spec::SHORT.counted(C::Used),
            Compat::Watch { .. } => Spec::SHORT.counted(C::Watch),
            Compat::Ignore { .. } => Spec::SHORT.counted(C::Ignore),
            Compat::Watched => Spec::SHORT.counted(C::Watched),
            Compat::PauseExisting { .. } => Spec::SHORT.counted(C::Pause),
            Compat::JobStats { .. } => Spec::SHORT.counted(C::JobStats),
            Compat::QueueDetails { .. } => Spec::SHORT.counted(C::QueueStats),
            Compat::ServerDetails => Spec::SHORT.counted(C::ServerStats),
            Compat::QueueNames => Spec::LONG.counted(C::QueueNames),
        }
    }
}
