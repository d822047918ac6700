//! The declarations of all metrics of the monitor but `process_*`.

use std::sync::atomic::Ordering::Relaxed;

use super::text::labels;
use super::{Address, Family, Samples, Scrape};
use crate::metrics::BUILD;
use crate::monitor::buckets::Buckets;
use crate::monitor::figures::{Figures, FlowFigures, OneWayFigures};

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";
const HISTOGRAM: &str = "histogram";

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "udp_echo_monitor_requests_sent_total",
        help: "Total requests sent, failed sends included.",
        kind: COUNTER,
        read: |scrape, samples| samples.add_each(scrape, |figures| figures.sent),
    },
    Family {
        name: "udp_echo_monitor_replies_received_total",
        help: "Total requests that were answered in time.",
        kind: COUNTER,
        read: |scrape, samples| samples.add_each(scrape, |figures| figures.received),
    },
    Family {
        name: "udp_echo_monitor_requests_lost_total",
        help: "Total requests that were not answered in time, failed sends included.",
        kind: COUNTER,
        read: |scrape, samples| samples.add_each(scrape, |figures| figures.lost),
    },
    Family {
        name: "udp_echo_monitor_requests_in_flight",
        help: "Number of requests that may still be answered in time.",
        kind: GAUGE,
        read: |scrape, samples| samples.add_each(scrape, Figures::in_flight),
    },
    Family {
        name: "udp_echo_monitor_duplicates_total",
        help: "Total further replies to requests that were already answered.",
        kind: COUNTER,
        read: |scrape, samples| samples.add_each(scrape, |figures| figures.duplicates),
    },
    Family {
        name: "udp_echo_monitor_reordered_total",
        help: "Total replies that arrived after the reply to a later request of their flow.",
        kind: COUNTER,
        read: |scrape, samples| samples.add_each(scrape, |figures| figures.reordered),
    },
    Family {
        name: "udp_echo_monitor_corrupted_total",
        help: "Total replies that differ from their request.",
        kind: COUNTER,
        read: |scrape, samples| samples.add_each(scrape, |figures| figures.corrupted),
    },
    Family {
        name: "udp_echo_monitor_send_errors_total",
        help: "Total failed sends, by errno name.",
        kind: COUNTER,
        read: |scrape, samples| {
            for address in &scrape.addresses {
                for (error, count) in &address.figures.send_errors {
                    samples.add_part(&address.labels, "error", error, count);
                }
            }
        },
    },
    Family {
        name: "udp_echo_monitor_icmp_errors_total",
        help: "Total ICMP errors about requests, by kind.",
        kind: COUNTER,
        read: |scrape, samples| {
            for address in &scrape.addresses {
                for (kind, count) in &address.figures.icmp_errors {
                    samples.add_part(&address.labels, "kind", kind, count);
                }
            }
        },
    },
    Family {
        name: "udp_echo_monitor_rtt_seconds",
        help: "Round-trip time in seconds.",
        kind: HISTOGRAM,
        read: |scrape, samples| {
            for address in &scrape.addresses {
                samples.add_histogram(&address.labels, &address.figures.rtt);
            }
        },
    },
    Family {
        name: "udp_echo_monitor_jitter_seconds",
        help: "Absolute difference in seconds of the round-trip times of consecutive requests of a \
               flow.",
        kind: HISTOGRAM,
        read: |scrape, samples| {
            for address in &scrape.addresses {
                samples.add_histogram(&address.labels, &address.figures.jitter);
            }
        },
    },
    Family {
        name: "udp_echo_monitor_reply_ttl",
        help: "TTL or hop limit of the last reply; absent before the first.",
        kind: GAUGE,
        read: |scrape, samples| {
            for address in &scrape.addresses {
                if let Some(ttl) = address.figures.reply_ttl {
                    samples.add(&address.labels, ttl);
                }
            }
        },
    },
    Family {
        name: "udp_echo_monitor_last_reply_timestamp_seconds",
        help: "Arrival time of the last reply since unix epoch in seconds; 0 before the first.",
        kind: GAUGE,
        read: |scrape, samples| {
            for address in &scrape.addresses {
                samples.add(&address.labels, address.figures.last_reply.as_secs_f64());
            }
        },
    },
    Family {
        name: "udp_echo_monitor_flow_requests_sent_total",
        help: "Total requests sent, by flow; only with per_flow.",
        kind: COUNTER,
        read: |scrape, samples| add_flows(scrape, samples, |flow| flow.sent),
    },
    Family {
        name: "udp_echo_monitor_flow_requests_lost_total",
        help: "Total requests that were not answered in time, by flow; only with per_flow.",
        kind: COUNTER,
        read: |scrape, samples| add_flows(scrape, samples, |flow| flow.lost),
    },
    Family {
        name: "udp_echo_monitor_one_way_delay_seconds",
        help: "One-way delay in seconds in mode stamp, by direction; right only as far as both \
               clocks are, and negative if they differ by more.",
        kind: HISTOGRAM,
        read: |scrape, samples| {
            add_directions(scrape, samples, |figures| {
                [&figures.forward_delay, &figures.backward_delay]
            });
        },
    },
    Family {
        name: "udp_echo_monitor_delay_variation_seconds",
        help: "Difference in seconds of the one-way delays of consecutive requests of a flow in mode \
               stamp, by direction.",
        kind: HISTOGRAM,
        read: |scrape, samples| {
            add_directions(scrape, samples, |figures| {
                [&figures.forward_variation, &figures.backward_variation]
            });
        },
    },
    Family {
        name: "udp_echo_monitor_lost_by_direction_total",
        help: "Total requests that were not answered in time in mode stamp, by the direction in \
               which they were lost; counted at the next reply, which shows it.",
        kind: COUNTER,
        read: |scrape, samples| {
            for (labels, figures) in scrape.stamp() {
                for (direction, count) in [
                    ("forward", figures.forward_lost),
                    ("backward", figures.backward_lost),
                    ("unknown", figures.unknown_lost),
                ] {
                    samples.add_part(labels, "direction", direction, count);
                }
            }
        },
    },
    Family {
        name: "udp_echo_monitor_target_info",
        help: "Mode of the target as label; the value is always 1.",
        kind: GAUGE,
        read: |scrape, samples| {
            for Address { labels, mode, .. } in &scrape.addresses {
                samples.add_part(labels, "mode", mode, 1);
            }
        },
    },
    Family {
        name: "udp_echo_monitor_target_resolved",
        help: "Whether the name of the target was resolved at the last attempt: 1 or 0.",
        kind: GAUGE,
        read: |scrape, samples| {
            for (target, resolved) in &scrape.snapshot.targets {
                samples.add(&labels(&[("target", target)]), u8::from(*resolved));
            }
        },
    },
    Family {
        name: "udp_echo_monitor_socket_drops_total",
        help: "Total datagrams dropped by the kernel, mostly because a receive buffer was full.",
        kind: COUNTER,
        read: |scrape, samples| samples.add("", scrape.snapshot.engine.socket_drops),
    },
    Family {
        name: "udp_echo_monitor_requests_not_sent_total",
        help: "Total requests that were due and never sent, because the process did not run or was \
               too slow.",
        kind: COUNTER,
        read: |scrape, samples| samples.add("", scrape.snapshot.engine.not_sent),
    },
    Family {
        name: "udp_echo_monitor_schedule_delay_seconds",
        help: "Time in seconds from when a request was due until it was sent.",
        kind: HISTOGRAM,
        read: |scrape, samples| {
            samples.add_histogram("", &scrape.snapshot.engine.schedule_delay);
        },
    },
    Family {
        name: "udp_echo_monitor_config_reload_success",
        help: "Whether the last reload of the configuration succeeded: 1 or 0; 1 before the first.",
        kind: GAUGE,
        read: |scrape, samples| samples.add("", u8::from(scrape.snapshot.reload_succeeded)),
    },
    Family {
        name: "udp_echo_monitor_log_lines_dropped_total",
        help: "Total log lines dropped because the log could not keep up or be written.",
        kind: COUNTER,
        read: |scrape, samples| samples.add("", scrape.dropped_log_lines.load(Relaxed)),
    },
    Family {
        name: "udp_echo_monitor_build_info",
        help: "Build information as labels; the value is always 1.",
        kind: GAUGE,
        read: |_, samples| samples.add(&labels(&BUILD), 1),
    },
];

/// Adds one sample per flow of each address with `per_flow`.
fn add_flows(scrape: &Scrape<'_>, samples: &mut Samples<'_>, count: fn(&FlowFigures) -> u64) {
    for address in &scrape.addresses {
        let flows = address.figures.flows.iter().take(address.flows);
        for (flow, figures) in flows.enumerate() {
            samples.add_part(&address.labels, "flow", flow, count(figures));
        }
    }
}

/// Adds the histograms of both directions of each address in STAMP mode.
fn add_directions(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    histograms: fn(&OneWayFigures) -> [&Buckets; 2],
) {
    for (labels, figures) in scrape.stamp() {
        for (direction, buckets) in ["forward", "backward"].iter().zip(histograms(figures)) {
            let labels = format!("{labels},direction=\"{direction}\"");
            samples.add_histogram(&labels, buckets);
        }
    }
}
