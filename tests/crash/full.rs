//! A disk that fills up: a small tmpfs, in a mount namespace of its own, which needs no rights that an
//! ordinary user lacks where user namespaces are allowed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};

use crate::common::until;
use crate::rig::{Policy, Site, kill};

const SEGMENT_BYTES: u64 = 16 << 10;
const DISK_BYTES: u64 = 640 << 10;

/// A process that does nothing but keep the namespace in which the disk is.
struct SmallDisk {
    keeper: Child,
    /// The disk, as seen from here.
    path: PathBuf,
}

impl SmallDisk {
    /// # Errors
    /// Why there can be none here.
    fn new(site: &Site) -> Result<SmallDisk, String> {
        let point = site.home().join("disk");
        std::fs::create_dir(&point).unwrap();
        let script =
            format!("mount -t tmpfs -o size={DISK_BYTES} tmpfs \"$0\" && echo mounted && exec sleep 3600");
        let mut keeper = Process::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(&point)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "mounted\n" {
            let output = keeper.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let path = PathBuf::from(format!("/proc/{}/root{}", keeper.id(), point.display()));
        Ok(SmallDisk { keeper, path })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

#[test]
fn full_disk_refuses_new_jobs_only_and_is_cleared_by_finishing_some() {
    let site = Site::new(Policy::Always, SEGMENT_BYTES);
    let disk = match SmallDisk::new(&site) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: no small tmpfs here: {why}"),
    };
    let data = disk.path.join("data");
    let site = site.with_data(data);
    let server = site.start();
    let mut talk = server.connect();
    let body = "x".repeat(400);
    let task = format!("TASK: {body}");
    let (_, last, refusal) = talk.ask_until_refused(&task);
    assert!(refusal.starts_with("ERR full retry_after="), "{refusal}");
    let free = || {
        let disk = rustix::fs::statvfs(site.data()).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    // Compaction may just have made some room.
    assert!(free() < DISK_BYTES / 4, "the disk has room: {} bytes, after {last} jobs", free());
    println!("full after {last} jobs, {} bytes left: {refusal}", free());

    // Killed while it is full, it starts again, and all is there.
    kill(server);
    let server = site.start();
    assert!(server.greeting.contains(&format!("recovered {last} jobs")), "{}", server.greeting);
    let mut talk = server.connect();

    // All but TASK goes on, for every job that there is, if need be.
    for id in 1..=last {
        assert_eq!(talk.ask("GET wait=0"), format!("JOB {id} queue=default attempt=1 ttr=1m: {body}"));
        assert!(talk.ask(&format!("PEEK {id}")).starts_with(&format!("JOB {id} ")));
        let end = match id % 4 {
            0 => talk.ask(&format!("FAIL {id} dead=yes: no good")),
            1 => talk.ask(&format!("DELETE {id}")),
            _ => talk.ask(&format!("ACK {id}")),
        };
        assert_eq!(end, if id % 4 == 0 { "OK dead=yes" } else { "OK" }, "job {id}");
    }
    until("room for a new job", || talk.ask(&task).starts_with("ACK "));
    let (_, more, _) = talk.ask_until_refused(&task);
    println!("and again after {} more", more - last);
    assert!(more - last > last / 2, "only {} jobs fit now, and {last} did before", more - last);
    let dead = last / 4;
    assert_eq!(talk.ask("PURGE queue=default state=dead"), format!("OK count={dead}"));
    kill(server);
    let count = more - last;
    let greeting = &site.start().greeting;
    assert!(greeting.contains(&format!("recovered {count} jobs")), "{count}: {greeting}");
}
