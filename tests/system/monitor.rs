//! The monitor in network namespaces: exact counts with lossy paths, moving addresses, names that
//! change, other reflectors and reloads.

mod losing;
mod moving;
mod names;
mod others;
mod page;
mod reflector;
mod reloads;
mod replies;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::tidy::Folder;
use crate::harness::{Daemon, program, wait_until};
use crate::namespace::Namespace;

/// The name of the target that is left when [`Monitor::settle`] removes the others.
const REST: &str = "rest";

/// A monitor in a namespace, with a configuration file.
struct Monitor<'a> {
    process: Daemon,
    host: &'a Namespace,
    folder: Folder,
    last: RefCell<Scrape>,
}

/// The samples of one scrape that are whole numbers. Names are without the prefix.
#[derive(Clone, Default)]
struct Scrape(BTreeMap<String, u64>);

impl<'a> Monitor<'a> {
    /// Starts a monitor with the text of its file, and waits until it is ready.
    fn start(host: &'a Namespace, file: &str) -> Self {
        let folder = Folder::new();
        fs::write(path(&folder), file).unwrap();
        let mut command = host.command(program().get_program().to_str().unwrap());
        command.args(["monitor", "--config"]).arg(path(&folder));
        command.stdin(Stdio::null());
        let mut process = host.inside(|| Daemon::start_until(command, "probing "));
        process.http = Some("127.0.0.1:9863".parse().unwrap());
        host.inside(|| {
            wait_until("the monitor is ready", || {
                process.get("/-/ready").status == 200
            });
        });
        Self {
            process,
            host,
            folder,
            last: RefCell::default(),
        }
    }

    /// Replaces the file.
    fn write(&self, file: &str) {
        let new = self.folder.join("new");
        fs::write(&new, file).unwrap();
        fs::rename(new, path(&self.folder)).unwrap();
    }

    /// Replaces the file, and waits until the monitor has read it.
    fn reload(&self, file: &str) {
        let before = self.logged("reloaded: ");
        self.write(file);
        self.process.signal(Signal::SIGHUP);
        wait_until("the monitor reloads", || self.logged("reloaded: ") > before);
    }

    /// The number of log lines with this text.
    fn logged(&self, text: &str) -> usize {
        let log = self.process.log();
        log.iter().filter(|line| line.contains(text)).count()
    }

    /// Reads the metrics. Asserts that the requests of each series add up, and that no counter fell
    /// since the last scrape.
    fn scrape(&self) -> Scrape {
        let response = self.host.inside(|| self.process.get("/metrics"));
        assert_eq!(response.status, 200);
        let samples = response.body.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let series = series.strip_prefix("udp_echo_monitor_")?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        let scrape = Scrape(samples.collect());
        scrape.assert_requests_add_up();
        let before = self.last.replace(scrape.clone());
        scrape.assert_no_counter_fell(&before);
        scrape
    }

    /// Scrapes until the metrics meet a condition.
    fn wait_for(&self, what: &str, mut is_met: impl FnMut(&Scrape) -> bool) -> Scrape {
        let mut scrape = self.scrape();
        wait_until(what, || {
            // Scrapes take CPU time from the monitor.
            thread::sleep(Duration::from_millis(20));
            scrape = self.scrape();
            is_met(&scrape)
        });
        scrape
    }

    /// Waits until a target has at least this number of replies.
    fn wait_for_replies(&self, target: &str, number: u64) -> Scrape {
        let what = format!("target {target} has {number} replies");
        self.wait_for(&what, |scrape| scrape.received(target) >= number)
    }

    /// Removes all targets, and waits until no request is in flight.
    fn settle(&self) -> Scrape {
        self.reload(&target(REST, "127.0.0.1:1", "interval = 0.05"));
        self.wait_for("no request is in flight", |scrape| {
            // The new target is added after the others have stopped.
            let in_flight = scrape.count("requests_in_flight");
            scrape.sent(REST) > 0 && in_flight == scrape.in_flight(REST)
        })
    }
}

impl Scrape {
    /// The sum of a metric over all series that have the given labels.
    fn count(&self, series: &str) -> u64 {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
        let all = self.0.iter().filter(|(series, _)| {
            let (own, given) = series.split_once('{').unwrap_or((series, ""));
            own == name && labels.iter().all(|label| given.contains(label))
        });
        all.map(|(_, value)| value).sum()
    }

    /// A metric of a target, over all its addresses.
    fn of(&self, name: &str, target: &str) -> u64 {
        self.count(&format!("{name}{{target=\"{target}\"}}"))
    }

    fn sent(&self, target: &str) -> u64 {
        self.of("requests_sent_total", target)
    }

    fn received(&self, target: &str) -> u64 {
        self.of("replies_received_total", target)
    }

    fn lost(&self, target: &str) -> u64 {
        self.of("requests_lost_total", target)
    }

    fn in_flight(&self, target: &str) -> u64 {
        self.of("requests_in_flight", target)
    }

    /// Asserts sent = received + lost + in flight for each series, and that each received reply is
    /// in the histogram and each request in its flow.
    fn assert_requests_add_up(&self) {
        for (series, sent) in &self.0 {
            let Some(labels) = series.strip_prefix("requests_sent_total{") else {
                continue;
            };
            let get = |name: &str| self.0[&format!("{name}{{{labels}")];
            let [received, lost, in_flight] = [
                "replies_received_total",
                "requests_lost_total",
                "requests_in_flight",
            ]
            .map(get);
            assert_eq!(*sent, received + lost + in_flight, "{labels}");
            assert_eq!(get("rtt_seconds_count"), received, "{labels}");
            let own = labels.trim_end_matches('}');
            let flows = format!("flow_requests_sent_total{{{own},");
            // A reload to fewer flows leaves out the counts of the others.
            let has_all_flows = !own.contains("target=\"changed\"");
            if has_all_flows && self.0.keys().any(|series| series.starts_with(&flows)) {
                assert_eq!(self.count(&flows), *sent, "{labels}");
                let lost_by_flow = self.count(&format!("flow_requests_lost_total{{{own}"));
                assert_eq!(lost_by_flow, lost, "{labels}");
            }
        }
    }

    fn assert_no_counter_fell(&self, before: &Self) {
        for (series, value) in &self.0 {
            let (name, _) = series.split_once('{').unwrap_or((series, ""));
            let is_counter = ["_total", "_count", "_bucket"]
                .iter()
                .any(|end| name.ends_with(end));
            let last = before.0.get(series).copied().unwrap_or_default();
            assert!(!is_counter || *value >= last, "{series}: {last}, {value}");
        }
    }
}

fn path(folder: &Folder) -> PathBuf {
    folder.join("monitor.toml")
}

/// A count, as the daemon's metrics have it.
fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// A target of the file, in echo mode if `settings` does not set it.
fn target(name: &str, address: &str, settings: &str) -> String {
    let mode = if settings.contains("mode = ") {
        ""
    } else {
        "mode = \"echo\"\n"
    };
    format!("[[target]]\nname = \"{name}\"\naddress = \"{address}\"\n{mode}{settings}\n")
}

/// Adds a chain with a rule.
fn rule(host: &Namespace, hook: &str, rule: &str) {
    host.shell("nft add table inet t");
    host.shell(&format!(
        "nft 'add chain inet t {hook} {{ type filter hook {hook} priority 0; }}'"
    ));
    host.shell(&format!("nft 'add rule inet t {hook} {rule}'"));
}
