//! The checker is itself checked: each test tells it a story in which one thing is wrong, and it must say so.
//!
//! `make crash-check` does the same with faults that are built into the server.

use std::time::Duration;

use djqs::protocol::native::Answer;
use djqs::protocol::{Command, OnDrained, Retry, Wait};
use djqs::{Code, JobId, JobState, Key, Lease, Options, Refusal, Submission};

use crate::history::{Connection, History};
use crate::load::{queue, submission};
use crate::look::{Body, Listed, Look};
use crate::rig::now_ms;

/// A conversation, made up.
struct Story {
    history: History,
    connection: Connection,
    last_id: u64,
}

impl Story {
    fn new() -> Story {
        let mut history = History::default();
        let connection = history.new_connection();
        Story { history, connection, last_id: 0 }
    }

    fn say(&mut self, command: &Command, answer: Answer) {
        let asked = self.history.sent(command);
        self.history.answered(self.connection, asked, answer);
    }

    /// Sends a command whose answer never comes.
    fn say_unheard(&mut self, command: &Command) {
        self.history.sent(command);
    }

    /// Submits a job and returns its id.
    fn submit(&mut self, options: Options) -> (JobId, Submission) {
        let submission = submission(&mut self.history, queue("work"), options, 10);
        self.last_id += 1;
        let id = JobId(self.last_id);
        self.say(&Command::Submit(Box::new(submission.clone())), Answer::Accepted { id, duplicate: None });
        (id, submission)
    }

    fn lease(&mut self, id: JobId, job: &Submission, attempt: u32) {
        let Submission { queue, options, body, .. } = job.clone();
        let mut lease = Lease::new(id, body);
        (lease.queue, lease.attempt, lease.ttr) = (queue.clone(), attempt, options.ttr);
        self.say(
            &Command::Lease { queues: vec![queue], wait: Wait::Forever, on_drained: OnDrained::Wait },
            Answer::Leased(lease),
        );
    }

    fn fail(&mut self, id: JobId, dead: bool, reason: &str, answer: Answer) {
        self.say(&Command::Fail { id, delay: None, dead, reason: Some(reason.into()) }, answer);
    }

    /// Restarts a server that then shows these jobs; returns the first complaint.
    fn restart(&mut self, jobs: Vec<Listed>) -> Option<String> {
        self.restart_to(Look { from_ms: now_ms(), to_ms: now_ms(), jobs, ..Look::default() })
    }

    fn restart_to(&mut self, look: Look) -> Option<String> {
        self.history.server_was_killed();
        self.history.judge(&look);
        self.history.complaints().into_iter().next()
    }
}

/// A job as a sound server shows it, if nothing was done to it.
fn shown(id: JobId, job: &Submission) -> Listed {
    let Submission { queue, options, body, .. } = job;
    let delay_ms = options.delay.as_millis() as u64;
    Listed {
        id: id.0,
        queue: queue.to_string(),
        state: if delay_ms > 0 { "delayed" } else { "ready" }.into(),
        priority: options.priority.0.into(),
        ttr_ms: options.ttr.as_millis() as u64,
        attempts: options.attempts.into(),
        backoff_ms: options.backoff.as_millis() as u64,
        key: options.key.as_ref().map(|key| key.as_str().into()),
        remaining_ms: (delay_ms > 0).then_some(delay_ms),
        body: Body(body.to_vec()),
        ..Listed::default()
    }
}

#[track_caller]
fn complains(complaint: Option<String>, of: &str) {
    let complaint = complaint.unwrap_or_else(|| panic!("nothing was found wrong, and {of:?} was expected"));
    assert!(complaint.contains(of), "{complaint}\n  has no {of:?}");
}

#[track_caller]
fn is_content(complaint: Option<String>) {
    assert_eq!(complaint, None);
}

fn keyed() -> Options {
    Options::default().key(Some(Key::new("k").unwrap()))
}

#[test]
fn sound_server_is_not_complained_of() {
    let mut story = Story::new();
    let (first, job) = story.submit(Options::default());
    let (second, keyed) = story.submit(keyed());
    let (third, delayed) = story.submit(Options::default().delay(Duration::from_secs(9)));
    story.lease(first, &job, 1);
    story.say(&Command::Ack { id: first, result: None }, Answer::Done);
    story.lease(second, &keyed, 1);
    story.fail(second, true, "no good", Answer::Dead);
    let dead = || Listed {
        state: "dead".into(),
        failures: 1,
        reason: Some("no good".into()),
        ..shown(second, &keyed)
    };
    is_content(story.restart(vec![dead(), shown(third, &delayed)]));
    story.say(&Command::Retry(Retry::Job(second)), Answer::Count(1));
    let ready = Listed { state: "ready".into(), failures: 0, ..dead() };
    is_content(story.restart(vec![ready, shown(third, &delayed)]));
}

#[test]
fn acknowledged_job_that_is_lost_is_found() {
    let mut story = Story::new();
    story.submit(Options::default());
    complains(story.restart(vec![]), "was acknowledged and is lost");
}

#[test]
fn job_that_a_worker_was_shown_must_not_be_lost_even_if_its_submitter_heard_nothing() {
    let mut story = Story::new();
    let job = submission(&mut story.history, queue("work"), Options::default(), 10);
    story.say_unheard(&Command::Submit(Box::new(job.clone())));
    story.lease(JobId(1), &job, 1);
    complains(story.restart(vec![]), "was acknowledged and is lost");
}

#[test]
fn submission_without_an_answer_may_be_there_or_not() {
    for there in [true, false] {
        let mut story = Story::new();
        let job = submission(&mut story.history, queue("work"), Options::default(), 10);
        story.say_unheard(&Command::Submit(Box::new(job.clone())));
        is_content(story.restart(if there { vec![shown(JobId(1), &job)] } else { vec![] }));
    }
}

#[test]
fn finished_job_that_is_back_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    story.lease(id, &job, 1);
    story.say(&Command::Ack { id, result: None }, Answer::Done);
    complains(story.restart(vec![shown(id, &job)]), "had ended and is back");
}

#[test]
fn finished_job_that_is_back_after_another_restart_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    story.say(&Command::Delete { id }, Answer::Done);
    is_content(story.restart(vec![]));
    complains(story.restart(vec![shown(id, &job)]), "had ended before, and is back");
}

#[test]
fn finished_job_that_is_handed_out_again_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    story.lease(id, &job, 1);
    story.say(&Command::Ack { id, result: None }, Answer::Done);
    story.lease(id, &job, 1);
    complains(story.restart(vec![]), "which had ended before: it is back");
}

#[test]
fn acknowledgement_without_an_answer_may_have_been_heard_or_not() {
    for there in [true, false] {
        let mut story = Story::new();
        let (id, job) = story.submit(Options::default());
        story.lease(id, &job, 1);
        story.say_unheard(&Command::Ack { id, result: None });
        is_content(story.restart(if there { vec![shown(id, &job)] } else { vec![] }));
    }
}

#[test]
fn purged_job_must_go_and_one_that_was_submitted_later_must_stay() {
    for wrong in [true, false] {
        let mut story = Story::new();
        let (id, job) = story.submit(Options::default());
        story.say(&Command::Purge { of: queue("work").into(), state: None }, Answer::Count(1));
        let (later, stays) = story.submit(Options::default());
        let complaint = story.restart(if wrong { vec![shown(id, &job)] } else { vec![shown(later, &stays)] });
        if wrong { complains(complaint, "had ended and is back") } else { is_content(complaint) }
    }
}

#[test]
fn id_that_is_given_again_is_found() {
    let mut story = Story::new();
    let (id, _) = story.submit(Options::default());
    story.say(&Command::Delete { id }, Answer::Done);
    is_content(story.restart(vec![]));
    story.last_id = 0;
    let (id, job) = story.submit(Options::default());
    complains(story.restart(vec![shown(id, &job)]), "had ended before the restart");
}

#[test]
fn id_below_one_that_was_given_before_the_restart_is_found() {
    let mut story = Story::new();
    story.last_id = 9;
    let (id, job) = story.submit(Options::default());
    is_content(story.restart(vec![shown(id, &job)]));
    story.last_id = 4;
    let (other, next) = story.submit(Options::default());
    complains(story.restart(vec![shown(id, &job), shown(other, &next)]), "had been given before the restart");
}

#[test]
fn wrong_counts_states_and_reasons_are_found() {
    type Change = fn(&mut Listed);
    let changes: [(&str, Change); 5] = [
        ("a failure forgotten", |job| job.failures = 0),
        ("a failure counted twice", |job| job.failures = 2),
        ("a lease counted as a crash", |job| job.crashes = 1),
        ("dead, and ready again", |job| job.state = "ready".into()),
        ("a reason lost", |job| job.reason = None),
    ];
    for (what, change) in changes {
        let mut story = Story::new();
        let (id, job) = story.submit(Options::default());
        story.lease(id, &job, 1);
        story.fail(id, true, "no good", Answer::Dead);
        let mut listed =
            Listed { state: "dead".into(), failures: 1, reason: Some("no good".into()), ..shown(id, &job) };
        change(&mut listed);
        let complaint = story.restart(vec![listed]);
        complains(complaint.map(|complaint| format!("{what}: {complaint}")), "and may be one of");
    }
}

#[test]
fn leased_job_must_be_ready_after_a_restart() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    story.lease(id, &job, 1);
    let leased = Listed { state: "leased".into(), remaining_ms: Some(1000), ..shown(id, &job) };
    complains(story.restart(vec![leased]), "and may be one of");
}

#[test]
fn delay_that_a_restart_shortened_or_lengthened_is_found() {
    for (left, good) in [(9000, true), (8000, false), (10_000, false)] {
        let mut story = Story::new();
        let (id, job) = story.submit(Options::default().delay(Duration::from_secs(9)));
        let complaint = story.restart(vec![Listed { remaining_ms: Some(left), ..shown(id, &job) }]);
        if good { is_content(complaint) } else { complains(complaint, "and may be one of") }
    }
}

#[test]
fn delayed_job_that_is_handed_out_early_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default().delay(Duration::from_secs(9)));
    story.lease(id, &job, 1);
    complains(story.restart(vec![]), "does not fit together");
}

#[test]
fn job_that_two_workers_have_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    story.lease(id, &job, 1);
    story.lease(id, &job, 1);
    complains(story.restart(vec![]), "does not fit together");
}

#[test]
fn attempt_that_is_counted_wrong_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    story.lease(id, &job, 1);
    story.fail(id, false, "try again", Answer::RetryIn(Duration::from_secs(1)));
    complains(story.restart(vec![Listed { failures: 1, ..shown(id, &job) }]), "and may be one of");
}

#[test]
fn changed_body_or_option_is_found() {
    let changes: [fn(&mut Listed); 4] = [
        |job| job.body.0.push(b'!'),
        |job| job.priority += 1,
        |job| job.attempts += 1,
        |job| job.queue = "other".into(),
    ];
    for change in changes {
        let mut story = Story::new();
        let (id, job) = story.submit(Options::default());
        let mut listed = shown(id, &job);
        change(&mut listed);
        complains(story.restart(vec![listed]), "was submitted otherwise");
    }
}

#[test]
fn job_that_nobody_submitted_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    let strange = Listed { id: 77, body: Body(b"t77:who".to_vec()), ..shown(id, &job) };
    complains(story.restart(vec![shown(id, &job), strange]), "never was a job");
}

#[test]
fn key_that_two_jobs_have_is_found() {
    let mut story = Story::new();
    let (first, job) = story.submit(keyed());
    let (second, rival) = story.submit(keyed());
    complains(story.restart(vec![shown(first, &job), shown(second, &rival)]), "which is there yet");
}

#[test]
fn key_is_free_when_its_job_may_have_ended() {
    let mut story = Story::new();
    let (first, job) = story.submit(keyed());
    story.lease(first, &job, 1);
    story.say_unheard(&Command::Ack { id: first, result: None });
    let (second, next) = story.submit(keyed());
    is_content(story.restart(vec![shown(second, &next)]));
}

#[test]
fn pause_that_a_restart_forgot_or_made_up_is_found() {
    for (pauses, shown, good) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut story = Story::new();
        if pauses {
            story.say(&Command::Pause { queue: queue("work"), time: None }, Answer::Done);
        }
        let paused = shown.then(|| (queue("work"), None)).into_iter().collect();
        let complaint = story.restart_to(Look { paused, ..Look::default() });
        if good { is_content(complaint) } else { complains(complaint, "the queue work is paused") }
    }
}

#[test]
fn job_of_a_paused_queue_that_is_handed_out_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    story.say(&Command::Pause { queue: queue("work"), time: None }, Answer::Done);
    story.lease(id, &job, 1);
    complains(story.restart(vec![]), "which is paused");
}

#[test]
fn success_after_the_journal_has_failed_is_found() {
    let mut story = Story::new();
    story.history.allowed.unavailable = true;
    let unavailable = || Answer::Refused(Refusal::new(Code::Unavailable, "no more"));
    story.say(&Command::Ping, unavailable());
    story.submit(Options::default());
    complains(story.restart(vec![]), "after the journal had failed");
}

#[test]
fn refusal_without_a_reason_is_found() {
    let mut story = Story::new();
    let (id, job) = story.submit(Options::default());
    story.lease(id, &job, 1);
    story
        .say(&Command::Ack { id, result: None }, Answer::Refused(Refusal::new(Code::NotLeased, "not yours")));
    complains(story.restart(vec![shown(id, &job)]), "was refused");
    let (id, job) = story.submit(Options::default());
    let dead = Command::Purge { of: queue("work").into(), state: Some(JobState::Dead) };
    story.say(&dead, Answer::Count(1));
    complains(story.restart(vec![shown(id, &job)]), "1 jobs were changed instead of 0");
}
