//! The machine: CPU affinity, CPU time and scheduling precedence.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The CPUs that this process may use. The load generator runs on the first.
static CPUS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect()
});

/// The number of CPUs that this process may use.
pub fn cpus() -> usize {
    CPUS.len()
}

/// The CPUs of a server: one per worker, without that of the load generator. All CPUs if there are
/// too few.
pub fn for_server(workers: usize) -> Vec<usize> {
    CPUS.get(1..=workers).unwrap_or(&CPUS).to_vec()
}

/// The CPUs for a load of several threads in this process.
pub fn for_threads() -> &'static [usize] {
    &CPUS
}

/// Pins this thread, and threads and processes that it starts later, to some CPUs.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Pins this thread to the CPU of the load generator.
pub fn pin_load() -> io::Result<()> {
    pin(&CPUS[..1])
}

/// The CPU time of this thread.
pub fn own_cpu() -> io::Result<Duration> {
    task_cpu(Path::new("/proc/thread-self"))
}

/// The CPU time of all threads of a process.
pub fn process_cpu(pid: u32) -> io::Result<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        total += task_cpu(&task?.path())?;
    }
    Ok(total)
}

/// The resident memory of a process in KiB.
pub fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    value
        .and_then(|value| field(value, 0))
        .ok_or_else(|| io::Error::other("no VmRSS in /proc/PID/status"))
}

/// The CPU time of a thread, from its directory in /proc.
pub fn task_cpu(task: &Path) -> io::Result<Duration> {
    // Not every kernel has schedstat.
    let precise = fs::read_to_string(task.join("schedstat"));
    if let Some(nanoseconds) = precise.ok().and_then(|text| field(&text, 0)) {
        return Ok(Duration::from_nanos(nanoseconds));
    }
    let text = fs::read_to_string(task.join("stat"))?;
    // The name, which can have spaces, ends with ") "; utime and stime come after it.
    let text = text.rsplit(") ").next().unwrap_or_default();
    let ticks = field(text, 11).zip(field(text, 12));
    let (user, system) = ticks.ok_or_else(|| io::Error::other(format!("no time in {text}")))?;
    Ok(Duration::from_nanos((user + system) * NANOSECONDS_PER_TICK))
}

/// The unit of /proc/PID/stat is 1 / `USER_HZ`: 10 ms (proc(5)).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// While it exists, the kernel prefers this session over others (sched(7), autogroup: a nice value
/// applies only within a session).
pub struct Precedence(String);

impl Precedence {
    pub fn take() -> io::Result<Self> {
        let before = fs::read_to_string(AUTOGROUP)?;
        let nice = before.trim().rsplit(' ').next().unwrap_or("0").to_owned();
        fs::write(AUTOGROUP, "-20").map_err(|error| {
            io::Error::other(format!(
                "cannot write {AUTOGROUP}: {error}; --precedence needs root"
            ))
        })?;
        Ok(Self(nice))
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if let Err(error) = fs::write(AUTOGROUP, &self.0) {
            eprintln!("cannot restore {AUTOGROUP}: {error}");
        }
    }
}

const AUTOGROUP: &str = "/proc/self/autogroup";

fn field(text: &str, index: usize) -> Option<u64> {
    text.split_whitespace().nth(index)?.parse().ok()
}
