//! How many connections and how much memory this machine allows.
//!
//! Each connection takes a thread and a file descriptor. Beyond the system's limits a thread can't start, a
//! file can't be opened, or, if memory maps run out, the Rust runtime aborts the process. The limit on
//! connections is therefore below all of these, and a client over it gets an error.

use std::fs;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::threads::IDLE_MAX;

/// Files that the server itself needs: standard streams, the listener, the watcher, and some ten of the
/// journal.
const FILES_KEPT: u64 = 32;

/// Threads that the server itself needs, and those that wait for their next client.
const THREADS_KEPT: u64 = 16 + IDLE_MAX as u64;

/// Memory maps of one thread: its stack, the stack's guard page, the signal stack and its guard page.
const MAPS_PER_THREAD: u64 = 4;

/// Memory maps of the rest of the process: binary, libraries, heap, large allocations.
const MAPS_KEPT: u64 = 2048;

/// Jobs may take one part in this many of a limited address space, and threads another.
const ADDRESSES_PART: u64 = 4;

/// Address space of one thread: its stack, and its buffers if they have grown.
const ADDRESSES_PER_THREAD: u64 = 512 << 10;

/// With less address space than this, what the allocator reserves for each core may leave too little for
/// anything else.
const ADDRESSES_MIN: u64 = 2 << 30;

/// The kernel's default for `vm.max_map_count`, used if it can't be read.
const MAX_MAP_COUNT_DEFAULT: u64 = 65_530;

/// How many connections can be served, and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionCap {
    /// How many.
    pub connections: u64,
    /// The system's limit that allows the fewest, as text.
    pub because: String,
}

/// Computes how many connections can be served within the limits that are now in force. See
/// [`raise_open_files`].
pub fn connection_cap() -> ConnectionCap {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let maps = read_number("/proc/sys/vm/max_map_count").unwrap_or(MAX_MAP_COUNT_DEFAULT);
    let mut limits = vec![
        (files.saturating_sub(FILES_KEPT), format!("open files (ulimit -n) {files}")),
        (maps.saturating_sub(MAPS_KEPT) / MAPS_PER_THREAD, format!("vm.max_map_count {maps}")),
    ];
    let threads = [
        ("threads (ulimit -u)", getrlimit(Resource::Nproc).current),
        ("kernel.threads-max", read_number("/proc/sys/kernel/threads-max")),
        ("the cgroup's pids.max", cgroup_number("pids.max", "pids/pids.max")),
    ];
    for (name, limit) in threads {
        if let Some(limit) = limit {
            limits.push((limit.saturating_sub(THREADS_KEPT), format!("{name} {limit}")));
        }
    }
    if let Some(bytes) = address_space() {
        if bytes < ADDRESSES_MIN {
            log::warn!(
                "the address space is limited to {bytes} bytes (ulimit -v): with less than 2 GiB the server may abort"
            );
        }
        limits.push((
            bytes / ADDRESSES_PART / ADDRESSES_PER_THREAD,
            format!("address space (ulimit -v) {bytes} bytes"),
        ));
    }
    let (connections, because) = limits.into_iter().min().expect("there are at least two limits");
    ConnectionCap { connections: connections.max(1), because }
}

/// Three quarters of the memory of the machine or the cgroup, in bytes (of 1 GiB if neither is known). If the
/// address space is limited, at most a quarter of it: allocators reserve it in large pieces, and the process
/// is aborted if none is left.
pub fn default_memory_max() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let cgroup = cgroup_number("memory.max", "memory/memory.limit_in_bytes");
    let has = [machine, cgroup].into_iter().flatten().min().unwrap_or(1 << 30);
    let addresses = address_space().map_or(u64::MAX, |bytes| bytes / ADDRESSES_PART);
    addresses.min(has / 4 * 3)
}

/// The limit on the process's address space, in bytes, if there is one.
fn address_space() -> Option<u64> {
    getrlimit(Resource::As).current
}

/// Raises the process's soft limit on open files to the hard limit. A server program does so before it asks
/// for the [`connection_cap`]. If the system refuses, the limit stays, and the cap is lower.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // If it is refused, the cap names the limit.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// A limit of this process's cgroups: the lowest of version 2, or else that of version 1.
fn cgroup_number(v2: &str, v1: &str) -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let above = std::path::Path::new(own).ancestors();
    let found = above.filter_map(|group| {
        let group = group.strip_prefix("/").ok()?;
        read_number(std::path::Path::new("/sys/fs/cgroup").join(group).join(v2))
    });
    found.min().or_else(|| read_number(std::path::Path::new("/sys/fs/cgroup").join(v1)))
}

/// The number in a file; `None` if there is no such file or it contains `max`.
fn read_number(path: impl AsRef<std::path::Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
