//! The residence of requests in stamp mode, from the daemon's own histogram.

use std::io;
use std::time::Duration;

use crate::figures::{Spread, Table};
use crate::loads::{self, Shape};
use crate::servers::{Server, Start};
use crate::traffic::{Client, Span};
use crate::wire;

/// The name for `--load`.
pub const NAME: &str = "stamp";

/// A rate of about 100 requests per second, and one of about 50 000: the flows, and the time from a
/// reply to the next request.
const LOADS: [(&str, usize, Duration); 2] = [
    ("idle", 1, Duration::from_millis(10)),
    ("busy", 120, Duration::from_micros(2300)),
];

/// Measures the residence at both rates, round after round.
pub fn residence(client: &mut Client, span: Span, rounds: usize) -> io::Result<String> {
    let mut seen = LOADS.map(|_| Vec::new());
    for _ in 0..rounds {
        for (seen, (_, flows, pause)) in seen.iter_mut().zip(LOADS) {
            seen.push(measure(client, span, flows, pause)?);
        }
    }
    let header = [
        "STAMP",
        "requests per second",
        "residence p50, µs",
        "p99, µs",
    ];
    let mut table = Table::new(&header);
    for (seen, (name, ..)) in seen.iter().zip(LOADS) {
        let column = |column: usize| {
            let spread = Spread::of(seen.iter().map(|figures: &[f64; 3]| figures[column]));
            spread.ok_or_else(|| io::Error::other("no rounds"))
        };
        table.row(vec![
            name.into(),
            format!("{:.0}", column(0)?.median),
            column(1)?.show(),
            column(2)?.show(),
        ]);
    }
    Ok(format!("\n{}", table.show()))
}

/// The requests per second, and the median and the 99th percentile of the residence in
/// microseconds.
fn measure(client: &mut Client, span: Span, flows: usize, pause: Duration) -> io::Result<[f64; 3]> {
    let shape = Shape::Windows {
        flows,
        window: 1,
        bytes: 44,
        pause,
        header_at: wire::IN_STAMP_REPLY,
    };
    let server = Server::start(&Start::Daemon(vec!["--mode=stamp"], 1))?;
    let sample = loads::run(client, &server, shape, span)?;
    let buckets = buckets(&server.metrics()?, "udp_echo_residence_seconds");
    let rate = sample.echoes as f64 / sample.time.as_secs_f64();
    let quantile = |quantile| 1e6 * quantile_of(&buckets, quantile);
    Ok([rate, quantile(0.5), quantile(0.99)])
}

/// The upper bounds in seconds and the cumulative counts of a histogram without other labels.
pub fn buckets(metrics: &str, name: &str) -> Vec<(f64, f64)> {
    let start = format!("{name}_bucket{{le=\"");
    let lines = metrics.lines();
    lines
        .filter_map(|line| {
            let rest = line.strip_prefix(&start)?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.parse().ok()?))
        })
        .collect()
}

/// Interpolates within a bucket, like `histogram_quantile` of Prometheus.
pub fn quantile_of(buckets: &[(f64, f64)], quantile: f64) -> f64 {
    let all = buckets.last().map_or(0.0, |(_, count)| *count);
    let rank = quantile * all;
    let mut before = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && *count > before.1 {
            let part = (rank - before.1) / (count - before.1);
            return before.0 + (bound - before.0) * part;
        }
        before = (*bound, *count);
    }
    f64::NAN
}
