//! The text of any figures, and the time that a large one takes.

use std::time::Instant;

use prometheus::proto::{self, Bucket, Counter, LabelPair, Metric, MetricFamily, MetricType};
use proptest::prelude::*;

use super::*;
use crate::monitor::buckets::Buckets;

/// The text of a metric by the encoder of the prometheus crate.
fn by_crate(kind: MetricType, pairs: &[(&str, &str)], fill: impl Fn(&mut Metric)) -> String {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    let mut metric = Metric::from_label(pairs.iter().map(pair).collect());
    fill(&mut metric);
    let mut family = MetricFamily::default();
    family.set_name("x".into());
    family.set_help("A help.".into());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    TextEncoder::new().encode_to_string(&[family]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The encoder of the prometheus crate is the model, for any label and any number.
    #[test]
    fn text_is_that_of_the_prometheus_crate(
        target in any::<String>(),
        address in "[\\\\\"\n a-zé{},=]{0,12}",
        value in 0..1_u64 << 53,
        times in proptest::collection::vec(any::<i64>(), 0..20),
    ) {
        let pairs = [("target", &*target), ("address", &*address)];
        let mut out = String::new();
        Samples::of(&mut out, "x", "A help.", "counter").add(&labels(&pairs), value);
        #[expect(clippy::cast_precision_loss, reason = "exact to 2^53")]
        let expected = by_crate(MetricType::COUNTER, &pairs, |metric| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        });
        prop_assert_eq!(out, expected);

        let mut buckets = Buckets::of_signed_times();
        for time in times {
            buckets.add(time);
        }
        for pairs in [&pairs[..], &[]] {
            let mut out = String::new();
            let mut samples = Samples::of(&mut out, "x", "A help.", "histogram");
            samples.add_histogram(&labels(pairs), &buckets);
            let expected = by_crate(MetricType::HISTOGRAM, pairs, |metric| {
                let bucket = |(bound, count)| {
                    let mut bucket = Bucket::default();
                    bucket.set_upper_bound(bound);
                    bucket.set_cumulative_count(count);
                    bucket
                };
                let mut data = proto::Histogram::default();
                data.set_sample_count(buckets.count());
                data.set_sample_sum(buckets.sum());
                data.set_bucket(buckets.cumulative().map(bucket).collect());
                metric.set_histogram(data);
            });
            prop_assert_eq!(out, expected);
        }
    }

    /// Whatever the figures are: the sums hold in the text of each address.
    #[test]
    fn sums_hold_in_the_text_of_any_figures(
        all in proptest::collection::vec(
            (0..1_u64 << 40, 0..1_u64 << 40, proptest::collection::vec(0..20_000_000_000_i64, 0..30)),
            1..6,
        ),
    ) {
        let addresses = all.iter().enumerate().map(|(number, (lost, in_flight, times))| {
            let received = times.len() as u64;
            let mut figures = Figures {
                sent: received + lost + in_flight,
                received,
                lost: *lost,
                ..Figures::new(Mode::Stamp)
            };
            for time in times {
                figures.rtt.add(*time);
            }
            series("t", &number.to_string(), Mode::Stamp, 2, figures)
        });
        let text = text(&[], addresses.collect(), EngineFigures::default());
        for number in 0..all.len() {
            let value = |name: &str, more: &str| -> u64 {
                let labels = format!("{{target=\"t\",address=\"{number}\"{more}}} ");
                let start = format!("udp_echo_monitor_{name}{labels}");
                let mut values = text.lines().filter_map(|line| line.strip_prefix(&start));
                let value = values.next().unwrap().parse().unwrap();
                assert_eq!(values.next(), None, "{start} twice");
                value
            };
            let received = value("replies_received_total", "");
            let parts = received + value("requests_lost_total", "") + value("requests_in_flight", "");
            prop_assert_eq!(value("requests_sent_total", ""), parts);
            prop_assert_eq!(value("rtt_seconds_count", ""), received);
            prop_assert_eq!(value("rtt_seconds_bucket", ",le=\"+Inf\""), received);
        }
    }
}

#[test]
#[ignore = "prints the CPU time of a scrape; run it with --release"]
#[expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a measurement"
)]
fn scrape_of_1000_addresses_with_8_flows_takes() {
    for mode in [Mode::Echo, Mode::Stamp] {
        let addresses = (0..1000).map(|number| {
            let mut figures = figures(mode);
            figures.flows = vec![FlowFigures::default(); 8];
            let target = format!("target-{number}.example.org");
            series(&target, &format!("192.0.2.{number}:9999"), mode, 8, figures)
        });
        let addresses: Vec<_> = addresses.collect();
        let snapshot = move || Snapshot {
            targets: Vec::new(),
            series: addresses.clone(),
            engine: EngineFigures::default(),
            reload_succeeded: true,
        };
        let metrics = MonitorMetrics::new(Arc::new(snapshot), Arc::default(), clocks(), clocks);
        let metrics = metrics.unwrap();
        let times = (0..15).map(|_| {
            let start = Instant::now();
            let text = metrics.text().unwrap();
            (start.elapsed(), text.len(), text.lines().count())
        });
        let mut times: Vec<_> = times.collect();
        times.sort();
        eprintln!("{mode:?}: best {:?}, median {:?}", times[0], times[7]);
    }
}
