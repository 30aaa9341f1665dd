//! What is read of the machine and of processes: `/proc`, and the limits that a load of thousands of sockets
//! needs raised.

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The kernel counts processor time in hundredths of a second towards user space, on every common machine.
const TICK: Duration = Duration::from_millis(10);

/// Lets this process open as many files as it may, and be woken on time.
pub(crate) fn prepare() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where either fails the measurement that needs it says so: a socket that can't be opened, a pace that is
    // not kept.
    let _ = setrlimit(Resource::Nofile, limit);
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Keeps this thread, and what it starts from now on, to these cores.
///
/// # Errors
/// Where there is none of them.
pub(crate) fn keep_to_cores(cores: impl IntoIterator<Item = usize>) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.into_iter().for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// Processor time that a process has used, of all its threads; zero where it is gone.
pub(crate) fn cpu_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is a name in parentheses that may hold anything; utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u32 = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// One line a fact, for the report's head.
pub(crate) fn facts(data: &Path) -> Vec<(&'static str, String)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |name: &'static str| cpuinfo.lines().filter(move |line| line.starts_with(name));
    let model =
        named("model name").find_map(|line| line.split_once(": ")).map_or("unknown", |(_, model)| model);
    let cores = named("processor").count();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let memory_kib: f64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let first_line = |program: &str, arguments: &[&str]| {
        let output =
            Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.and_then(|text| Some(text.lines().next()?.trim().to_owned()))
    };
    let none = || "not installed".to_owned();
    let redis = first_line("redis-server", &["--version"]);
    let redis = redis
        .and_then(|text| Some(text.split_whitespace().find_map(|word| word.strip_prefix("v="))?.to_owned()));
    let beanstalkd = first_line("beanstalkd", &["-v"]).map(|text| text.replace("beanstalkd ", ""));
    let data = data.to_string_lossy();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or_default();
    let disk = Command::new("df").args(["--output=fstype", &data]).output().ok();
    let disk =
        disk.and_then(|out| Some(String::from_utf8_lossy(&out.stdout).lines().nth(1)?.trim().to_owned()));
    vec![
        ("date", first_line("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default()),
        ("processor", format!("{model}, {cores} cores")),
        ("memory", format!("{:.0} GiB", memory_kib / f64::from(1 << 20))),
        ("load average at the start", load.into()),
        ("kernel", format!("Linux {}", release.trim())),
        ("file system of the durable rows", disk.unwrap_or_else(|| "unknown".into())),
        (
            "DJQS",
            first_line("git", &["describe", "--always", "--dirty"])
                .unwrap_or_else(|| "unknown commit".into()),
        ),
        ("beanstalkd", beanstalkd.unwrap_or_else(none)),
        ("Redis", redis.unwrap_or_else(none)),
    ]
}
