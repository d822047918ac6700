//! The standard `process_*` metrics, read from `/proc/self`.
//!
//! The collector of the prometheus crate rounds CPU time to whole seconds and adds a second version
//! of a dependency. The start time comes from the daemon's clocks: a sandbox may hide `/proc/stat`,
//! which has the boot time.

use std::fs;
use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::{Clocks, family, metric, steady};

/// `USER_HZ`, the unit of CPU time in `/proc`: 100 on every architecture that Rust supports
/// (include/asm-generic/param.h).
const TICKS_PER_SECOND: f64 = 100.0;

const FAMILIES: [(&str, &str, MetricType); 7] = [
    (
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        MetricType::COUNTER,
    ),
    (
        "process_open_fds",
        "Number of open file descriptors.",
        MetricType::GAUGE,
    ),
    (
        "process_max_fds",
        "Maximum number of open file descriptors.",
        MetricType::GAUGE,
    ),
    (
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        MetricType::GAUGE,
    ),
    (
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        MetricType::GAUGE,
    ),
    (
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        MetricType::GAUGE,
    ),
    (
        "process_threads",
        "Number of OS threads in the process.",
        MetricType::GAUGE,
    ),
];

/// The collector of the standard metrics.
#[derive(Debug)]
pub(crate) struct Process {
    descriptions: Vec<Desc>,
    started: Clocks,
    clocks: fn() -> Clocks,
    /// The start time of the last scrape.
    shown: Mutex<f64>,
}

impl Process {
    /// The metrics of a process that started at `started` and reads the time with `clocks`.
    ///
    /// # Errors
    /// If a metric has no valid name.
    pub(crate) fn new(started: Clocks, clocks: fn() -> Clocks) -> prometheus::Result<Self> {
        let describe = |(name, help, _): &(&str, &str, MetricType)| {
            let labels = std::collections::HashMap::new();
            Desc::new((*name).into(), (*help).into(), Vec::new(), labels)
        };
        Ok(Self {
            descriptions: FAMILIES.iter().map(describe).collect::<Result<_, _>>()?,
            started,
            clocks,
            shown: Mutex::new(f64::NEG_INFINITY),
        })
    }

    /// The start of the process in seconds since the UNIX epoch, by the clock as it is set now.
    fn started(&self) -> f64 {
        let now = (self.clocks)();
        let time = now.time_of_day(now.uptime(self.started));
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = steady(*shown, time);
        *shown
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let status = read("/proc/self/status");
        let values = [
            cpu_seconds(&read("/proc/self/stat")),
            open_files(),
            max_files(&read("/proc/self/limits")),
            field(&status, "VmSize:").map(|kibibytes| kibibytes * 1024.0),
            field(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024.0),
            Some(self.started()),
            field(&status, "Threads:"),
        ];
        FAMILIES
            .iter()
            .zip(values)
            .filter_map(|((name, help, kind), value)| {
                let metrics = vec![metric(*kind, &[], value?)];
                Some(family(name, help, *kind, metrics))
            })
            .collect()
    }
}

/// Fields 14 and 15, user and system time (proc(5)). Field 2, the name, ends at the last
/// parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11);
    let mut next = || times.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS_PER_SECOND)
}

fn open_files() -> Option<f64> {
    // Less the descriptor that reads the directory.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().checked_sub(1)?;
    u32::try_from(count).ok().map(f64::from)
}

/// The soft limit; "unlimited" is infinity.
fn max_files(limits: &str) -> Option<f64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

/// The number after a name.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_after_any_process_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 13 14";
        assert_eq!(cpu_seconds(stat), Some(1.75));
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(cpu_seconds("1 (x) S 1"), None);
    }

    #[test]
    fn file_limit_is_the_soft_one_or_infinity() {
        let limits = |soft| {
            let other = "Max processes             1                    2      processes\n";
            format!("{other}Max open files            {soft}              1048576    files\n")
        };
        assert_eq!(max_files(&limits("1024")), Some(1024.0));
        assert_eq!(max_files(&limits("unlimited")), Some(f64::INFINITY));
        assert_eq!(max_files(""), None);
    }

    #[test]
    fn status_field_is_the_number_after_its_name() {
        let status = "Name:\tVmRSS: 7\nVmSize:\t  2000 kB\nVmRSS:\t  30 kB\nThreads:\t4\n";
        let shown = ["VmSize:", "VmRSS:", "Threads:", "Name:", "VmSwap:"];
        let numbers = [Some(2000.0), Some(30.0), Some(4.0), None, None];
        assert_eq!(shown.map(|name| field(status, name)), numbers);
    }
}
