//! Where the missing were lost, by what the daemon counted meanwhile.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::exposition::{Sample, samples};

/// What a daemon's metrics say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counters {
    /// Received, echoed, send errors, drops, refused.
    counts: [f64; 5],
    /// The same as long as the daemon runs.
    started: f64,
}

/// A text without the metrics of a daemon, or with some that are no counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MetricsError {
    /// There is no metric that every daemon has.
    #[error("no metrics of a udp-echo there")]
    Missing,
    /// A metric is not a number, or an infinite one.
    #[error("the value of {0} is not a finite number")]
    NotFinite(&'static str),
}

/// What the client itself counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    /// Requests without a reply.
    pub lost: u64,
    /// Datagrams that were sent, requests and records alike.
    pub sent: u64,
    /// Datagrams that came back.
    pub came: u64,
}

/// Where requests were lost, or their replies. All places together are never more than the lost.
///
/// The metrics tell datagrams of all kinds: where a request and the record after it are lost at the
/// same place, or others use the daemon too, they tell more than the lost, and each place has its
/// share of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attribution {
    /// On the way there.
    pub uplink: u64,
    /// Dropped by the daemon's host, as its socket's buffer was full.
    pub server_drops: u64,
    /// Refused by the daemon.
    pub server_refused: u64,
    /// On the way back; those too that the daemon could not send.
    pub downlink: u64,
    /// Of all that the daemon was to send meanwhile, what it could not send.
    pub unsent: u64,
    /// How many more the daemon's host got than were sent from here: others send too, and the
    /// figures are not exact.
    pub of_others: u64,
}

impl Counters {
    /// Reads the text format of Prometheus.
    ///
    /// # Errors
    /// When it does not have what a daemon's has.
    pub(super) fn parse(text: &str) -> Result<Self, MetricsError> {
        let all: Vec<_> = samples(text).collect();
        let sum = |name| sum(name, all.iter().filter(|sample| sample.name == name));
        let needed = |name| sum(name)?.ok_or(MetricsError::Missing);
        // An aggregator adds labels, and may have other processes too. A process is a daemon if it
        // has the labels that were added to a daemon's metrics.
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

    /// What it counted since `before`; `None` if it was started anew meanwhile.
    fn since(&self, before: &Self) -> Option<[f64; 5]> {
        // A daemon computes it from two clocks, which it cannot read at the same moment.
        let same = (self.started - before.started).abs() < 0.1;
        let since = std::array::from_fn(|index| self.counts[index] - before.counts[index]);
        (same && since.iter().all(|value| *value >= 0.0)).then_some(since)
    }
}

impl Attribution {
    /// From the metrics before and after; `None` if the daemon was started anew meanwhile.
    pub(super) fn new(before: &Counters, after: &Counters, own: Own) -> Option<Self> {
        let [received, echoed, unsent, drops, refused] = after.since(before)?.map(whole);
        let got = received.saturating_add(drops);
        let [uplink, server_drops, server_refused, downlink] = shares(
            own.lost,
            [
                own.sent.saturating_sub(got),
                drops,
                refused,
                echoed.saturating_add(unsent).saturating_sub(own.came),
            ],
        );
        Some(Self {
            uplink,
            server_drops,
            server_refused,
            downlink,
            unsent,
            of_others: got.saturating_sub(own.sent),
        })
    }

    /// How many of the lost it tells the place of.
    pub(super) fn told(&self) -> u64 {
        self.uplink + self.server_drops + self.server_refused + self.downlink
    }
}

const RECEIVED: &str = "udp_echo_datagrams_received_total";
const STARTED: &str = "process_start_time_seconds";

/// The sum of a metric's samples, if there are any.
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

/// The counts, or their shares of `whole` if they are more than that together (by the largest
/// remainders).
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
    reason = "counts, and what is none ends at the bounds"
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
    fn each_datagram_that_is_missing_is_missing_somewhere() {
        let (before, after) = (counters(1000, 900, 5, 1), counters(1080, 970, 9, 4));
        let own = |lost, sent, came| Own { lost, sent, came };
        let expected = Attribution {
            uplink: 6,
            server_drops: 4,
            server_refused: 3,
            downlink: 10,
            unsent: 0,
            of_others: 0,
        };
        let attribution = |own| Attribution::new(&before, &after, own).unwrap();
        for lost in [23, 30] {
            assert_eq!(attribution(own(lost, 90, 60)), expected);
        }
        let of_others = attribution(own(17, 80, 60));
        assert_eq!((of_others.uplink, of_others.of_others), (0, 4));
        assert_eq!(Attribution::new(&after, &before, own(0, 0, 0)), None);
    }

    proptest! {
        #[test]
        fn no_more_is_told_than_is_missing(
            lost in 0_u64..1000, counts: [u16; 4]
        ) {
            let counts = counts.map(u64::from);
            let sum: u64 = counts.iter().sum();
            let shares = shares(lost, counts);
            prop_assert_eq!(shares.iter().sum::<u64>(), sum.min(lost));
            for (share, count) in shares.into_iter().zip(counts) {
                // Each has its part, to one.
                let exact = count * lost.min(sum);
                prop_assert!((share * sum).abs_diff(exact) < sum.max(1));
            }
        }
    }

    #[test]
    fn a_page_of_somebody_else_is_no_metrics() {
        assert_eq!(Counters::parse("<html>"), Err(MetricsError::Missing));
        assert_eq!(
            Counters::parse("node_cpu_seconds_total 1\n"),
            Err(MetricsError::Missing)
        );
    }

    /// What a federation of two daemons and another process says.
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
        let told = "the value of process_start_time_seconds is not a finite number";
        assert_eq!(MetricsError::NotFinite(STARTED).to_string(), told);
    }
}
