//! Paused queues.

use crate::common::engine::*;

#[test]
fn paused_queue_hands_out_nothing() {
    let mut bench = Bench::new();
    let [mut session, waiter] = bench.sessions();
    bench.pause("default", None);
    let id = bench.submit(options());
    let elsewhere = bench.submit_to("other", urgent(u32::MAX));
    assert_eq!(get_of(&mut session, &["default", "other"]).map(|lease| lease.id), Some(elsewhere));
    let waiter = bench.wait(waiter, &["default"]);
    bench.pass(3600 * SECOND);
    assert_eq!(bench.waiting(), 1);
    bench.resume("default");
    assert_eq!(waiter.served().1.id, id);
}

#[test]
fn pause_with_an_end_ends_then() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.submit(options());
    bench.pause("default", Some(SECOND));
    bench.pass(SECOND - MS);
    assert_eq!(get(&mut session), None);
    bench.pass(MS);
    assert_eq!(get(&mut session), Some(id));
}

#[test]
fn later_pause_replaces_the_earlier_one() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    bench.submit(options());
    bench.pause("default", Some(SECOND));
    bench.pause("default", None);
    bench.pass(2 * SECOND);
    assert_eq!(get(&mut session), None);
}

#[test]
fn pause_does_not_touch_what_is_leased() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, options());
    bench.pause("default", None);
    session.ack(id).expect("it is leased");
}

#[test]
fn end_of_a_pause_serves_all_who_wait_in_the_order_of_urgency() {
    let mut bench = Bench::new();
    bench.pause("default", Some(SECOND));
    let (late, soon) = (bench.submit(urgent(9)), bench.submit(urgent(1)));
    let [first, second] = bench.sessions().map(|session| bench.wait(session, &["default"]));
    bench.pass(SECOND);
    let (_first, lease) = first.served();
    assert_eq!(lease.id, soon);
    let (_second, lease) = second.served();
    assert_eq!(lease.id, late);
}

#[test]
fn paused_queue_stays_until_it_is_resumed() {
    let mut bench = Bench::new();
    bench.pause("a", Some(SECOND));
    assert_eq!(bench.queues(), ["a"]);
    bench.pass(SECOND);
    assert_eq!(bench.queues(), [""; 0]);
}
