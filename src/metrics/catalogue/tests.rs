//! The text of the metrics, from given counters and sockets.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use crate::metrics::{
    Clocks, Count, Counts, Metrics, MetricsSources, SocketReading, WorkerMetrics, testing,
};
use crate::reflect::Refusal;

fn sources(workers: Vec<WorkerMetrics>) -> MetricsSources {
    MetricsSources {
        config_info: vec![("mode", "echo".into()), ("workers", "2".into())],
        dropped_log_lines: Arc::new(AtomicU64::new(12)),
        read_limits: || [Some(1), Some(2)],
        ..testing::sources(workers)
    }
}

/// Two workers of one address and one of another, whose socket cannot be read.
fn workers() -> Vec<WorkerMetrics> {
    let worker = |(listen, worker, number): (&str, &str, Option<u32>)| WorkerMetrics {
        listen: listen.into(),
        worker: worker.into(),
        counts: Arc::default(),
        requested: [number.map(|_| 5), number.map(|_| 6)],
        read_socket: Box::new(move || {
            let number = number.ok_or(io::ErrorKind::Other)?;
            Ok(SocketReading {
                buffers: [10, 20],
                receive_queue: 30 + number,
                drops: 40 + u64::from(number),
            })
        }),
    };
    let three = [("a", "0", Some(1)), ("a", "1", Some(2)), ("b", "0", None)];
    three.map(worker).into()
}

/// Returns a counter of a worker.
type Field = fn(&Counts) -> &Count;

fn assert_lines(metrics: &Metrics, expected: &[String]) {
    let text = metrics.text().unwrap();
    for line in expected {
        let line = format!("udp_echo_{line}");
        assert!(
            text.lines().any(|shown| shown == line),
            "no {line} in {text}"
        );
    }
}

#[test]
fn counters_are_summed_over_the_workers_of_each_address() {
    let shown: [(&str, Field); 16] = [
        ("datagrams_received_total{listen=L}", |c| &c.received),
        ("received_bytes_total{listen=L}", |c| &c.received_bytes),
        ("datagrams_echoed_total{listen=L}", |c| &c.echoed),
        ("echoed_bytes_total{listen=L}", |c| &c.echoed_bytes),
        ("records_decoded_total{listen=L}", |c| &c.decoded),
        ("decode_errors_total{listen=L}", |c| &c.decode_errors),
        ("datagrams_empty_total{listen=L}", |c| &c.empty),
        ("datagrams_truncated_total{listen=L}", |c| &c.truncated),
        (
            "datagrams_refused_total{listen=L,reason=\"source_port\"}",
            |c| &c.refused[Refusal::SourcePort as usize],
        ),
        (
            "datagrams_refused_total{listen=L,reason=\"own_address\"}",
            |c| &c.refused[Refusal::OwnAddress as usize],
        ),
        (
            "datagrams_refused_total{listen=L,reason=\"destination\"}",
            |c| &c.refused[Refusal::Destination as usize],
        ),
        (
            "datagrams_refused_total{listen=L,reason=\"rate_limit\"}",
            |c| &c.refused[Refusal::RateLimit as usize],
        ),
        ("timeouts_total{listen=L,waiting_for=\"echo\"}", |c| {
            &c.idle_timeouts
        }),
        ("timeouts_total{listen=L,waiting_for=\"record\"}", |c| {
            &c.record_timeouts
        }),
        ("peers", |c| &c.peers),
        ("peers_evicted_total", |c| &c.evicted),
    ];
    let workers = workers();
    let mut expected = Vec::new();
    for (number, (series, count)) in (1..).zip(shown) {
        for (worker, add) in workers.iter().zip([1, 20, 300]) {
            count(&worker.counts).add(number * 1000 + add);
        }
        let (a, b) = (number * 2000 + 21, number * 1000 + 300);
        if series.contains('L') {
            expected.push(format!("{} {a}", series.replace('L', "\"a\"")));
            expected.push(format!("{} {b}", series.replace('L', "\"b\"")));
        } else {
            expected.push(format!("{series} {}", a + b));
        }
    }
    let [own, _, other] = [0, 1, 2].map(|worker| Arc::clone(&workers[worker].counts));
    for counts in [&own, &own, &other] {
        counts
            .receive_errors
            .count(&io::Error::from_raw_os_error(libc::ENOMEM));
        counts.send_errors.count(&io::ErrorKind::Other.into());
    }
    for (name, error) in [("receive", "ENOMEM"), ("send", "other")] {
        for (listen, count) in [("a", 2), ("b", 1)] {
            expected.push(format!(
                "{name}_errors_total{{listen=\"{listen}\",error=\"{error}\"}} {count}"
            ));
        }
    }
    let metrics = Metrics::new(sources(workers)).unwrap();
    assert_lines(&metrics, &expected);
    let sum = |number: u64| number * 3000 + 321;
    let summary = metrics.summary();
    let refused = [9, 10, 11, 12].map(sum);
    assert_eq!(summary.refused[..4], refused);
    assert_eq!(summary.refused(), refused.iter().sum::<u64>());
    let others = [
        (summary.received, 1),
        (summary.echoed, 3),
        (summary.decoded, 5),
        (summary.decode_errors, 6),
        (summary.empty, 7),
        (summary.truncated, 8),
        (summary.peers, 15),
    ];
    for (shown, number) in others {
        assert_eq!(shown, sum(number), "number {number}");
    }
    assert_eq!((summary.send_errors(), summary.drops), (3, 41 + 42));
}

#[test]
fn socket_figures_are_shown_for_each_socket_that_can_be_read() {
    let metrics = Metrics::new(sources(workers())).unwrap();
    let mut expected = Vec::new();
    for (worker, queue, drops) in [(0, 31, 41), (1, 32, 42)] {
        for (name, value) in [
            ("receive_buffer_bytes", 10),
            ("send_buffer_bytes", 20),
            ("receive_buffer_requested_bytes", 5),
            ("send_buffer_requested_bytes", 6),
            ("receive_queue_bytes", queue),
            ("drops_total", drops),
        ] {
            let labels = format!("listen=\"a\",worker=\"{worker}\"");
            expected.push(format!("socket_{name}{{{labels}}} {value}"));
        }
    }
    assert_lines(&metrics, &expected);
    let text = metrics.text().unwrap();
    let series = text
        .lines()
        .filter(|line| line.starts_with("udp_echo_socket_"));
    assert_eq!(series.count(), expected.len());
    let sockets = metrics.sockets();
    let shown = sockets.iter().map(|socket| {
        let drops = socket.reading.map(|reading| reading.drops);
        (&*socket.listen, &*socket.worker, socket.requested, drops)
    });
    let requested = [Some(5), Some(6)];
    let expected = [
        ("a", "0", requested, Some(41)),
        ("a", "1", requested, Some(42)),
        ("b", "0", [None; 2], None),
    ];
    assert!(shown.eq(expected), "{sockets:?}");
}

#[test]
fn histograms_are_summed_and_shown_in_their_unit() {
    let workers = workers();
    for (worker, value) in workers.iter().zip([1, 4, 100]) {
        worker.counts.batches.0.count(value, 2);
        worker.counts.residence.0.count(value * 20_000_000, 1);
    }
    let mut sources = sources(workers);
    sources.timestamps = true;
    let metrics = Metrics::new(sources).unwrap();
    let expected = [
        "batch_datagrams_bucket{le=\"1\"} 2",
        "batch_datagrams_bucket{le=\"2\"} 2",
        "batch_datagrams_bucket{le=\"4\"} 4",
        "batch_datagrams_bucket{le=\"64\"} 4",
        "batch_datagrams_bucket{le=\"+Inf\"} 6",
        "batch_datagrams_count 6",
        "batch_datagrams_sum 210",
        "residence_seconds_bucket{le=\"0.01\"} 0",
        "residence_seconds_bucket{le=\"0.02\"} 1",
        "residence_seconds_bucket{le=\"0.1\"} 2",
        "residence_seconds_bucket{le=\"1\"} 2",
        "residence_seconds_bucket{le=\"+Inf\"} 3",
        "residence_seconds_count 3",
        "residence_seconds_sum 2.1",
    ];
    assert_lines(&metrics, &expected.map(str::to_owned));
}

#[test]
fn last_datagram_time_moves_with_each_datagram() {
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    let workers = workers();
    let counts = Arc::clone(&workers[2].counts);
    let mut sources = sources(workers);
    sources.started.monotonic = *EPOCH;
    sources.clocks = || Clocks {
        monotonic: *EPOCH + Duration::from_secs(10),
        since_boot: Duration::ZERO,
        today: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
    };
    let metrics = Metrics::new(sources).unwrap();
    for (milliseconds, shown) in [(1000, "991"), (1500, "991.5")] {
        let at = *EPOCH + Duration::from_millis(milliseconds);
        counts.last_datagram.set(*EPOCH, at);
        assert_lines(
            &metrics,
            &[format!("last_datagram_timestamp_seconds {shown}")],
        );
    }
}

#[test]
fn figures_of_the_daemon_are_shown_under_their_own_names() {
    let metrics = Metrics::new(sources(Vec::new())).unwrap();
    let expected = [
        "receive_buffer_limit_bytes 1",
        "send_buffer_limit_bytes 2",
        "log_lines_dropped_total 12",
        "config_info{mode=\"echo\",workers=\"2\"} 1",
        "last_datagram_timestamp_seconds 0",
    ];
    assert_lines(&metrics, &expected.map(str::to_owned));
    assert!(!metrics.text().unwrap().contains("residence_seconds"));
}
