//! The monitor beside the client at the same total rate, and its growth with the number of flows.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::claims::Bound;
use crate::figures::{Judged, Spread, Table};
use crate::machine;
use crate::servers::{DAEMON, Server, Start, address_after, read_until, scrape};
use crate::stamp::{buckets, quantile_of};
use crate::traffic::now;

/// The name for `--load`.
pub const NAME: &str = "monitor";

/// Requests per second of each contender, over all its flows.
const RATE: u32 = 8000;
/// The flows of the client, the most that it has.
const CLIENT_FLOWS: usize = 4096;

/// A contender: the client, or the monitor with a number of targets and flows of each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Client,
    Monitor { targets: u32, flows: u32 },
}

/// The contenders: those of the claims, then the growth with the number of flows.
const CONTENDERS: [Contender; 6] = [
    Contender::Client,
    Contender::Monitor {
        targets: 1000,
        flows: 8,
    },
    Contender::Monitor {
        targets: 1,
        flows: 10,
    },
    Contender::Monitor {
        targets: 10,
        flows: 10,
    },
    Contender::Monitor {
        targets: 100,
        flows: 10,
    },
    Contender::Monitor {
        targets: 1000,
        flows: 10,
    },
];

/// What was measured of one contender in one round.
struct Sample {
    /// CPU time per request in microseconds.
    cpu: f64,
    /// Resident memory in MiB.
    resident: f64,
    /// The part of a CPU that the contender had, in percent.
    on_cpu: f64,
    /// The figures that only the monitor has.
    own: Option<Own>,
}

struct Own {
    /// Median and 99th percentile of the lateness in microseconds.
    late: [f64; 2],
    /// Time of a scrape in milliseconds.
    scrape: f64,
    lost: f64,
    not_sent: f64,
    send_errors: f64,
}

/// Measures all contenders in turn, round after round. Returns the figures and the claims.
pub fn compare(rounds: usize, quick: bool) -> io::Result<(String, Vec<Judged>)> {
    let (warm_up, window) = if quick { (1000, 500) } else { (2000, 2000) };
    let [warm_up, window] = [warm_up, window].map(Duration::from_millis);
    let mut seen = CONTENDERS.map(|_| Vec::new());
    for round in 0..rounds {
        eprintln!("round {} of {rounds}: the monitor", round + 1);
        for turn in 0..CONTENDERS.len() {
            let at = (round + turn) % CONTENDERS.len();
            seen[at].push(CONTENDERS[at].measure(warm_up, window)?);
        }
    }
    let mut table = Table::new(&[
        "8000 requests per second",
        "CPU per request, µs",
        "on CPU, %",
        "resident, MiB",
        "late p50, µs",
        "late p99, µs",
        "scrape, ms",
        "lost",
        "not sent",
    ]);
    let mut missing = String::new();
    for (contender, samples) in CONTENDERS.iter().zip(&seen) {
        table.row(contender.row(samples)?);
        let errors = sum(samples, |own| own.send_errors);
        if errors > 0.0 {
            let name = contender.name();
            let _ = writeln!(
                missing,
                "{name}: {errors} requests could not be sent: raise the limit on open files, or \
                 net.ipv4.ip_local_port_range."
            );
        }
    }
    let text = format!(
        "\n## monitor: `udp-echo monitor` beside `udp-echo probe`\n\n{}{missing}",
        table.show()
    );
    Ok((text, claims(&seen)?))
}

/// The claims about 1000 targets with 8 flows.
fn claims(seen: &[Vec<Sample>]) -> io::Result<Vec<Judged>> {
    let [client, monitor, few, .., many] = seen else {
        return Err(io::Error::other("too few contenders"));
    };
    let ratio = |of: &[Sample], to: &[Sample]| {
        let pairs = of.iter().zip(to);
        spread(pairs.map(|(of, to)| of.cpu / to.cpu))
    };
    let own = |value: fn(&Own) -> f64| {
        let own = monitor.iter().filter_map(|sample| sample.own.as_ref());
        spread(own.map(value))
    };
    let judged = |figure, against, bound, ratio: io::Result<Spread>| -> io::Result<Judged> {
        Ok(Judged {
            title: "`udp-echo monitor`, 1000 targets × 8 flows",
            figure,
            against,
            bound: Bound::AtMost(bound),
            ratio: ratio?,
        })
    };
    let resident = spread(monitor.iter().map(|sample| sample.resident));
    Ok(vec![
        judged(
            "CPU per request",
            "`udp-echo probe`",
            1.5,
            ratio(monitor, client),
        )?,
        judged("resident, MiB", "the aim", 64.0, resident)?,
        judged("scrape, ms", "the aim", 100.0, own(|own| own.scrape))?,
        Judged {
            title: "`udp-echo monitor`, 10 000 flows",
            ..judged("CPU per request", "10 flows", 1.5, ratio(many, few))?
        },
    ])
}

impl Contender {
    fn name(self) -> String {
        match self {
            Self::Client => format!("udp-echo probe, {CLIENT_FLOWS} flows"),
            Self::Monitor { targets, flows } => {
                format!("udp-echo monitor, {targets} × {flows} flows")
            }
        }
    }

    fn row(self, samples: &[Sample]) -> io::Result<Vec<String>> {
        let column = |value: fn(&Sample) -> f64| spread(samples.iter().map(value));
        let own = |value: fn(&Own) -> f64| {
            let own = samples.iter().filter_map(|sample| sample.own.as_ref());
            Spread::of(own.map(value)).map_or_else(String::new, |spread| spread.show())
        };
        let all = |value: fn(&Own) -> f64| match self {
            Self::Client => String::new(),
            Self::Monitor { .. } => sum(samples, value).to_string(),
        };
        Ok(vec![
            self.name(),
            column(|sample| sample.cpu)?.show(),
            format!("{:.0}", column(|sample| sample.on_cpu)?.median),
            format!("{:.1}", column(|sample| sample.resident)?.median),
            own(|own| own.late[0]),
            own(|own| own.late[1]),
            own(|own| own.scrape),
            all(|own| own.lost),
            all(|own| own.not_sent),
        ])
    }

    /// Runs the contender on the CPU of the load, and the daemon on another one.
    fn measure(self, warm_up: Duration, window: Duration) -> io::Result<Sample> {
        let args = vec!["--mode=echo", "--listen=0.0.0.0:0"];
        let daemon = Server::start(&Start::Daemon(args, 1))?;
        let port = daemon.address.port();
        match self {
            Self::Client => {
                let mut command = command();
                command
                    .args(["probe", "--mode=echo", "--quiet", "--wait=0.3"])
                    .args([format!("--rate={RATE}"), format!("--flows={CLIENT_FLOWS}")])
                    .arg(format!("127.0.0.1:{port}"));
                let client = Running(command.stdout(Stdio::null()).spawn()?);
                thread::sleep(warm_up);
                client.measure(window)
            }
            Self::Monitor { targets, flows } => {
                let file = File::write(&document(targets, flows, port))?;
                let mut command = command();
                command
                    .args(["monitor", "--metrics-listen=127.0.0.1:0", "--config"])
                    .arg(&file.0)
                    .stderr(Stdio::piped());
                let mut monitor = Running(command.spawn()?);
                let log = monitor
                    .0
                    .stderr
                    .take()
                    .map(|log| read_until("probing ", log));
                let log = log.unwrap_or_default();
                let http = log
                    .iter()
                    .find_map(|line| address_after(line, "metrics on "));
                let http = http.ok_or_else(|| io::Error::other(format!("no address: {log:#?}")))?;
                thread::sleep(warm_up);
                measure_monitor(&monitor, http, window)
            }
        }
    }
}

/// Measures the monitor. Its own figures are those between two scrapes, which are not in the window.
fn measure_monitor(monitor: &Running, http: SocketAddr, window: Duration) -> io::Result<Sample> {
    const DELAY: &str = "udp_echo_monitor_schedule_delay_seconds";
    let before = scrape(http)?;
    let sample = monitor.measure(window)?;
    let begin = now();
    let after = scrape(http)?;
    let scrape = begin.elapsed();
    let difference = |name: &str| total(&after, name) - total(&before, name);
    let late: Vec<_> = buckets(&before, DELAY)
        .into_iter()
        .zip(buckets(&after, DELAY))
        .map(|((_, before), (bound, after))| (bound, after - before))
        .collect();
    let own = Own {
        late: [0.5, 0.99].map(|quantile| 1e6 * quantile_of(&late, quantile)),
        scrape: 1e3 * scrape.as_secs_f64(),
        lost: difference("requests_lost_total"),
        not_sent: difference("requests_not_sent_total"),
        send_errors: difference("send_errors_total"),
    };
    let own = Some(own);
    Ok(Sample { own, ..sample })
}

/// A running contender. Dropping it kills it.
struct Running(Child);

impl Running {
    fn measure(&self, window: Duration) -> io::Result<Sample> {
        let pid = self.0.id();
        let (begin, before) = (now(), machine::process_cpu(pid)?);
        thread::sleep(window);
        let cpu = machine::process_cpu(pid)?.saturating_sub(before);
        let time = begin.elapsed().as_secs_f64();
        Ok(Sample {
            cpu: 1e6 * cpu.as_secs_f64() / (time * f64::from(RATE)),
            resident: machine::resident(pid)? as f64 / 1024.0,
            on_cpu: 100.0 * cpu.as_secs_f64() / time,
            own: None,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A temporary file, removed when dropped.
struct File(PathBuf);

impl File {
    fn write(text: &str) -> io::Result<Self> {
        let name = format!("udp-echo-bench-{}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text)?;
        Ok(Self(path))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn command() -> Command {
    let mut command = Command::new(DAEMON);
    command.env_clear().stdin(Stdio::null());
    command
}

/// The file of the monitor. Each target has an address of its own; all of 127.0.0.0/8 is this host.
fn document(targets: u32, flows: u32, port: u16) -> String {
    let interval = f64::from(targets) / f64::from(RATE);
    let mut text = format!("[defaults]\nmode = \"echo\"\nflows = {flows}\ninterval = {interval}\n");
    let first = Ipv4Addr::new(127, 1, 0, 1).to_bits();
    for target in 0..targets {
        let address = Ipv4Addr::from_bits(first + target);
        let _ = writeln!(text, "[[target]]\naddress = \"{address}:{port}\"");
    }
    text
}

/// The sum of a metric of the monitor over all its series.
fn total(metrics: &str, name: &str) -> f64 {
    let name = format!("udp_echo_monitor_{name}");
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(&name)?;
        let is_sample = rest.starts_with(['{', ' ']);
        is_sample.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    values.sum()
}

fn sum(samples: &[Sample], value: fn(&Own) -> f64) -> f64 {
    let own = samples.iter().filter_map(|sample| sample.own.as_ref());
    own.map(value).sum()
}

fn spread(numbers: impl Iterator<Item = f64>) -> io::Result<Spread> {
    Spread::of(numbers).ok_or_else(|| io::Error::other("no rounds"))
}
