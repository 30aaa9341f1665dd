//! Submits jobs from a Rust program: one, one with a unique key twice, and a batch.
//!
//! With a server running (`cargo run --bin server`): `cargo run --example client [ADDRESS]`

use std::env;
use std::error::Error;
use std::time::Duration;

use djqs::{Client, Submission};

fn main() -> Result<(), Box<dyn Error>> {
    let server = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11300".into());
    // The server may be starting as well: try for a while.
    let mut client = Client::connect_within(&server, Duration::from_secs(5))?;

    let accepted = client.submit(Submission::new("CLEANUP_LOGS: 2s_delay"))?;
    println!("job {} will clean up", accepted.id);

    // With a key, sending again after a broken connection is safe: it can't become a second job.
    let invoice = Submission::new("CALCULATE_FINANCE: 5s_delay")
        .queue("finance")?
        .key("invoice:2024-07")?
        .attempts(3)
        .backoff(Duration::from_secs(30));
    let first = client.submit(invoice.clone())?;
    let second = client.submit(invoice)?;
    assert_eq!(first.id, second.id);
    println!("job {} will calculate; the second submission found it {:?}", first.id, second.duplicate);

    // Many at once: sent ahead of the replies.
    let notifications = (1..=1000).map(|user| Submission::new(format!("SEND_NOTIFICATION: user_{user}")));
    let results = client.submit_all(notifications)?;
    let refused = results.iter().filter(|result| result.is_err()).count();
    println!("{} notifications are accepted, {refused} refused", results.len() - refused);

    client.quit()?;
    Ok(())
}
