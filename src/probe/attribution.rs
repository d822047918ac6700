//! Where requests were lost, by the daemon's counters before and after a run.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::exposition::{Sample, samples};

/// A daemon's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counters {
    /// Datagrams received, echoed, not sent, dropped by the kernel, refused.
    counts: [f64; 5],
    /// Sum of the start times of the daemons, in seconds since 1970. It changes if one restarts.
    started: f64,
}

/// A text that is not the metrics of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MetricsError {
    /// A metric of every daemon is missing.
    #[error("the response has no metrics of udp-echo")]
    Missing,
    /// The value of this metric is not a finite number.
    #[error("the value of {0} is not a finite number")]
    NotFinite(&'static str),
}

/// The client's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientCounts {
    /// Requests without a reply.
    pub lost: u64,
    /// Datagrams sent: requests and records.
    pub sent: u64,
    /// Datagrams received, or dropped by this host's kernel.
    pub received: u64,
}

/// The number of requests lost at each place. The sum is at most the number of lost requests.
///
/// The daemon counts all datagrams. It counts more losses than the client if a request and its
/// record are lost at the same place, or if other clients use the daemon. Each place then gets its
/// proportional share of the lost requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attribution {
    /// Lost on the way to the daemon.
    pub uplink: u64,
    /// Dropped by the daemon's host because the socket's receive buffer was full.
    pub server_drops: u64,
    /// Refused by the daemon.
    pub server_refused: u64,
    /// Lost on the way back, those included that the daemon could not send.
    pub downlink: u64,
    /// Datagrams that the daemon could not send, to any client.
    pub unsent: u64,
    /// Datagrams that the daemon received and neither answered nor refused: records, and requests
    /// that it decoded as records.
    pub decoded: u64,
    /// Datagrams that the daemon's host received beyond those that this client sent. If it is not
    /// 0, the other figures are not exact.
    pub of_others: u64,
}

impl Counters {
    /// Parses the Prometheus text format, as a daemon or an aggregator serves it.
    ///
    /// # Errors
    /// Fails if a metric of every daemon is missing, or a value is not a finite number.
    pub(super) fn parse(text: &str) -> Result<Self, MetricsError> {
        let all: Vec<_> = samples(text).collect();
        let sum = |name| sum(name, all.iter().filter(|sample| sample.name == name));
        let needed = |name| sum(name)?.ok_or(MetricsError::Missing);
        // An aggregator adds labels and may have the metrics of other processes. A process is a
        // daemon if its labels are those that were added to a daemon's metrics.
        let daemons: BTreeSet<Vec<_>> = all
            .iter()
            .filter(|sample| sample.name == RECEIVED)
            .map(|sample| sample.labels.iter())
            .map(|labels| labels.filter(|(name, _)| *name != "listen").collect())
            .collect();
        let is_daemon = |process: &&Sample<'_>| {
            let labels: Vec<_> = process.labels.iter().collect();
            process.name == STARTED && daemons.contains(&labels)
        };
        Ok(Self {
            counts: [
                needed(RECEIVED)?,
                needed("udp_echo_datagrams_echoed_total")?,
                sum("udp_echo_send_errors_total")?.unwrap_or(0.0),
                sum("udp_echo_socket_drops_total")?.unwrap_or(0.0),
                sum("udp_echo_datagrams_refused_total")?.unwrap_or(0.0),
            ],
            started: self::sum(STARTED, all.iter().filter(is_daemon))?.unwrap_or(0.0),
        })
    }

    /// Returns the difference to `before`, or `None` if a daemon restarted.
    fn since(&self, before: &Self) -> Option<[f64; 5]> {
        // A daemon computes its start time from two clocks and cannot read both at once.
        let same = (self.started - before.started).abs() < 0.1;
        let since = std::array::from_fn(|index| self.counts[index] - before.counts[index]);
        (same && since.iter().all(|value| *value >= 0.0)).then_some(since)
    }
}

impl Attribution {
    /// Compares the counters before and after a run. Returns `None` if a daemon restarted.
    pub(super) fn new(before: &Counters, after: &Counters, own: ClientCounts) -> Option<Self> {
        let [received, echoed, unsent, drops, refused] = after.since(before)?.map(whole);
        let got = received.saturating_add(drops);
        let [uplink, server_drops, server_refused, downlink] = shares(
            own.lost,
            [
                own.sent.saturating_sub(got),
                drops,
                refused,
                echoed.saturating_add(unsent).saturating_sub(own.received),
            ],
        );
        Some(Self {
            uplink,
            server_drops,
            server_refused,
            downlink,
            unsent,
            decoded: [echoed, unsent, refused]
                .into_iter()
                .fold(received, u64::saturating_sub),
            of_others: got.saturating_sub(own.sent),
        })
    }

    /// Returns the number of lost requests whose place is known.
    pub(super) fn located(&self) -> u64 {
        self.uplink + self.server_drops + self.server_refused + self.downlink
    }
}

const RECEIVED: &str = "udp_echo_datagrams_received_total";
const STARTED: &str = "process_start_time_seconds";

/// Adds up the samples of a metric. Returns `None` if there are none.
fn sum<'a>(
    name: &'static str,
    samples: impl Iterator<Item = &'a Sample<'a>>,
) -> Result<Option<f64>, MetricsError> {
    let mut sum = None;
    for sample in samples {
        let value = sample.value.parse::<f64>().ok();
        let value = value.filter(|value| value.is_finite());
        let value = value.ok_or(MetricsError::NotFinite(name))?;
        sum = Some(sum.unwrap_or(0.0) + value);
    }
    Ok(sum)
}

/// Returns the counts, or if their sum exceeds `whole`, their proportional shares of it (largest
/// remainder method).
fn shares<const PLACES: usize>(whole: u64, counts: [u64; PLACES]) -> [u64; PLACES] {
    let [whole, sum] = [
        u128::from(whole),
        counts.iter().copied().map(u128::from).sum(),
    ];
    if sum <= whole {
        return counts;
    }
    let product = |place: usize| u128::from(counts[place]) * whole;
    let mut places: [usize; PLACES] = std::array::from_fn(|place| place);
    places.sort_by_key(|place| Reverse(product(*place) % sum));
    let rounded_down: u128 = (0..PLACES).map(|place| product(place) / sum).sum();
    let mut shares = std::array::from_fn(|place| product(place) / sum);
    for place in places.into_iter().take((whole - rounded_down) as usize) {
        shares[place] += 1;
    }
    shares.map(|share| u64::try_from(share).unwrap_or(u64::MAX))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count, and a cast saturates"
)]
fn whole(count: f64) -> u64 {
    count.round() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counters(received: u32, echoed: u32, drops: u32, refused: u32) -> Counters {
        let text = format!(
            "# HELP udp_echo_datagrams_received_total x\n\
             udp_echo_datagrams_received_total {received}\n\
             udp_echo_datagrams_echoed_total {echoed}\n\
             udp_echo_socket_drops_total{{listen=\"a b\",worker=\"0\"}} 1\n\
             udp_echo_socket_drops_total{{listen=\"127.0.0.1:1\",worker=\"1\"}} {drops}\n\
             udp_echo_datagrams_refused_total{{reason=\"rate_limit\"}} {refused}\n\
             udp_echo_send_errors_total{{error=\"EPERM\"}} 7\n\
             process_start_time_seconds 1.7e9\n"
        );
        Counters::parse(&text).unwrap()
    }

    #[test]
    fn attribution_places_every_missing_datagram() {
        let (before, after) = (counters(1000, 900, 5, 1), counters(1080, 970, 9, 4));
        let own = |lost, sent, received| ClientCounts {
            lost,
            sent,
            received,
        };
        let expected = Attribution {
            uplink: 6,
            server_drops: 4,
            server_refused: 3,
            downlink: 10,
            unsent: 0,
            decoded: 7,
            of_others: 0,
        };
        let attribution = |own| Attribution::new(&before, &after, own).unwrap();
        for lost in [23, 30] {
            assert_eq!(attribution(own(lost, 90, 60)), expected);
            assert_eq!(expected.located(), 6 + 4 + 3 + 10);
        }
        let of_others = attribution(own(17, 80, 60));
        assert_eq!((of_others.uplink, of_others.of_others), (0, 4));
        assert_eq!(Attribution::new(&after, &before, own(0, 0, 0)), None);
    }

    proptest! {
        #[test]
        fn shares_never_exceed_the_lost_requests(
            lost in 0_u64..1000, counts: [u16; 4]
        ) {
            let counts = counts.map(u64::from);
            let sum: u64 = counts.iter().sum();
            let shares = shares(lost, counts);
            prop_assert_eq!(shares.iter().sum::<u64>(), sum.min(lost));
            for (share, count) in shares.into_iter().zip(counts) {
                // Each share is exact to one.
                let exact = count * lost.min(sum);
                prop_assert!((share * sum).abs_diff(exact) < sum.max(1));
            }
        }
    }

    #[test]
    fn greatest_remainder_gets_the_request_that_is_left_over() {
        // 5.0, 2.9 and 2.1.
        assert_eq!(shares(10, [50, 29, 21]), [5, 3, 2]);
    }

    #[test]
    fn counters_reject_the_page_of_another_program() {
        assert_eq!(Counters::parse("<html>"), Err(MetricsError::Missing));
        assert_eq!(
            Counters::parse("node_cpu_seconds_total 1\n"),
            Err(MetricsError::Missing)
        );
    }

    /// The metrics of a federation of two daemons and another process.
    fn federated(received: u32, started: u32, other_started: u32) -> String {
        format!(
            "udp_echo_datagrams_received_total{{instance=\"a b\",job=\"udp-echo\"}} {received} 1700000000000\n\
             udp_echo_datagrams_received_total{{instance=\"c\",job=\"udp-echo\",listen=\"[::]:9999\"}} 5 1700000000000\n\
             udp_echo_datagrams_echoed_total{{job=\"udp-echo\",instance=\"a b\"}} {received} 1700000000000\n\
             process_start_time_seconds{{instance=\"a b\",job=\"udp-echo\"}} {started} 1700000000000\n\
             process_start_time_seconds{{instance=\"c\",job=\"udp-echo\"}} 1700000000 1700000000000\n\
             process_start_time_seconds{{instance=\"a b\",job=\"other\"}} {other_started} 1700000000000\n"
        )
    }

    #[test]
    fn counters_are_read_with_timestamps_and_added_labels() {
        let counters = |text: String| Counters::parse(&text).unwrap();
        let before = counters(federated(10, 1_700_000_000, 1_700_000_000));
        assert_eq!(before.counts[..2], [15.0, 10.0]);
        // Another process was restarted.
        let after = counters(federated(12, 1_700_000_000, 1_700_000_009));
        assert_eq!(after.since(&before).unwrap()[..2], [2.0, 2.0]);
        let restarted = counters(federated(12, 1_700_000_009, 1_700_000_000));
        assert_eq!(restarted.since(&before), None);
    }

    #[test]
    fn parsing_names_a_counter_that_is_not_finite() {
        let good = "udp_echo_datagrams_received_total 1\nudp_echo_datagrams_echoed_total 1\n\
                    udp_echo_socket_drops_total 1\nprocess_start_time_seconds 1.7e9\n\
                    go_gc_seconds NaN\n";
        assert!(Counters::parse(good).is_ok());
        for name in [RECEIVED, "udp_echo_socket_drops_total", STARTED] {
            for value in ["NaN", "+Inf", "-inf", "none"] {
                let lines = good.lines().map(|line| match line.split_once(' ') {
                    Some((of, _)) if of == name => format!("{name} {value} 1700000000000\n"),
                    _ => format!("{line}\n"),
                });
                let text: String = lines.collect();
                assert_eq!(Counters::parse(&text), Err(MetricsError::NotFinite(name)));
            }
        }
        let text = "the value of process_start_time_seconds is not a finite number";
        assert_eq!(MetricsError::NotFinite(STARTED).to_string(), text);
    }
}
