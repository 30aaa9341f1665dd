//! Every call of beanstalkc (crates.io), against the server on DJQS_PORT.

use std::time::Duration;

use beanstalkc::Beanstalkc;

fn main() {
    let port = std::env::var("DJQS_PORT").expect("DJQS_PORT").parse().expect("a port");
    let timeout = Some(Duration::from_secs(10));
    let client = Beanstalkc::new().host("127.0.0.1").port(port).connection_timeout(timeout);
    let mut client = client.connect().unwrap();
    assert_eq!(client.using().unwrap(), "default");
    assert_eq!(client.use_tube("mail").unwrap(), "mail");
    assert_eq!(client.watch("mail").unwrap(), 2);
    assert_eq!(client.ignore("default").unwrap(), 1);
    assert!(client.ignore("mail").is_err());
    assert_eq!(client.watching().unwrap(), ["mail"]);
    assert_eq!(client.tubes().unwrap(), ["default", "mail"]);

    let now = Duration::ZERO;
    let minute = Duration::from_secs(60);
    assert_eq!(client.put(b"first", 5, now, minute).unwrap(), 1);
    assert_eq!(client.put_default(b"second\r\n\0").unwrap(), 2);
    assert_eq!(client.put(b"third", 5, minute, minute).unwrap(), 3);
    assert!(client.put(&[b'x'; 65_536], 5, now, minute).is_err());

    // What a job can do itself.
    let mut job = client.reserve().unwrap();
    assert_eq!((job.id(), job.body(), job.reserved()), (1, &b"first"[..], true));
    job.touch().unwrap();
    let stats = job.stats().unwrap();
    assert_eq!([&stats["pri"], &stats["state"], &stats["tube"]], ["5", "reserved", "mail"]);
    job.release_default().unwrap();
    let mut job = client.reserve_with_timeout(minute).unwrap();
    job.release(7, now).unwrap();
    let mut job = client.reserve().unwrap();
    assert_eq!(job.id(), 1);
    job.bury_default().unwrap();
    job.kick().unwrap();
    let mut job = client.reserve().unwrap();
    job.bury(3).unwrap();
    assert_eq!(client.peek_buried().unwrap().id(), 1);
    assert_eq!(client.kick(10).unwrap(), 1);
    client.reserve().unwrap().delete().unwrap();
    assert!(client.peek(1).is_err());

    // And what the connection can do with its number.
    assert_eq!(client.peek_ready().unwrap().body(), b"second\r\n\0");
    assert_eq!(client.peek_delayed().unwrap().id(), 3);
    client.kick_job(3).unwrap();
    assert!(client.kick_job(3).is_err());
    assert_eq!(client.reserve().unwrap().id(), 3);
    client.touch(3).unwrap();
    client.release_default(3).unwrap();
    let ids = [client.reserve().unwrap().id(), client.reserve().unwrap().id()];
    assert_eq!(ids, [2, 3]);
    client.release(3, 1, minute).unwrap();
    assert_eq!(client.stats_job(3).unwrap()["state"], "delayed");
    client.bury_default(2).unwrap();
    assert!(client.bury(2, 1).is_err());
    client.delete(2).unwrap();
    assert!(client.delete(2).is_err());

    assert_eq!(client.stats_tube("mail").unwrap()["current-jobs-delayed"], "1");
    assert!(client.stats_tube("nothing").is_err());
    assert_eq!(client.stats().unwrap()["total-jobs"], "3");
    client.kick(1).unwrap();
    client.pause_tube("mail", minute).unwrap();
    assert!(client.reserve_with_timeout(now).is_err());
    client.pause_tube("mail", now).unwrap();
    assert_eq!(client.reserve_with_timeout(now).unwrap().id(), 3);

    let mut client = client.reconnect().unwrap();
    assert_eq!(client.using().unwrap(), "default");
    client.watch("mail").unwrap();
    assert_eq!(client.reserve().unwrap().id(), 3);
    println!("beanstalkc: every call");
}
