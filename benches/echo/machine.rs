//! The machine: who runs on which CPU, for how long, and who goes first.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The CPUs that this process may use, as it was started. The load generator has the first.
static CPUS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect()
});

/// How many CPUs there are.
pub fn cpus() -> usize {
    CPUS.len()
}

/// Where a server runs: one for each worker beside the load generator's, or all if there are not as many.
pub fn for_server(workers: usize) -> Vec<usize> {
    CPUS.get(1..=workers).unwrap_or(&CPUS).to_vec()
}

/// Where threads of this process run that are all of the load.
pub fn for_threads() -> &'static [usize] {
    &CPUS
}

/// Keeps this thread, and what it starts from now on, on some CPUs.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Keeps this thread on the load's CPU.
pub fn pin_load() -> io::Result<()> {
    pin(&CPUS[..1])
}

/// The CPU time that this thread has used.
pub fn own_cpu() -> io::Result<Duration> {
    task_cpu(Path::new("/proc/thread-self"))
}

/// The CPU time that a thread has used, by its folder in /proc.
pub fn task_cpu(task: &Path) -> io::Result<Duration> {
    // Not every kernel has it.
    let precise = fs::read_to_string(task.join("schedstat"));
    if let Some(nanoseconds) = precise.ok().and_then(|text| field(&text, 0)) {
        return Ok(Duration::from_nanos(nanoseconds));
    }
    let text = fs::read_to_string(task.join("stat"))?;
    // What follows the name, which may have spaces: utime and stime.
    let text = text.rsplit(") ").next().unwrap_or_default();
    let ticks = field(text, 11).zip(field(text, 12));
    let (user, system) = ticks.ok_or_else(|| io::Error::other(format!("no time in {text}")))?;
    Ok(Duration::from_nanos((user + system) * NANOSECONDS_PER_TICK))
}

/// `USER_HZ`, the unit of /proc/PID/stat, is 100 a second.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// While there is one, the kernel prefers this session to other sessions (sched(7), the autogroup
/// feature; a nice value counts only within a session).
pub struct Precedence(String);

impl Precedence {
    pub fn take() -> io::Result<Self> {
        let before = fs::read_to_string(AUTOGROUP)?;
        let nice = before.trim().rsplit(' ').next().unwrap_or("0").to_owned();
        fs::write(AUTOGROUP, "-20").map_err(|error| {
            io::Error::other(format!("cannot take precedence, {AUTOGROUP}: {error}"))
        })?;
        Ok(Self(nice))
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if let Err(error) = fs::write(AUTOGROUP, &self.0) {
            eprintln!("cannot give back precedence: {error}");
        }
    }
}

const AUTOGROUP: &str = "/proc/self/autogroup";

fn field(text: &str, index: usize) -> Option<u64> {
    text.split_whitespace().nth(index)?.parse().ok()
}
