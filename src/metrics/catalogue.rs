//! The declarations of all metrics but `process_*`.

use std::sync::atomic::Ordering::Relaxed;

use prometheus::proto::MetricType::{COUNTER, GAUGE, HISTOGRAM};

use super::{BUILD, Family, metric};
use crate::reflect::Refusal;

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "udp_echo_datagrams_received_total",
        help: "Total datagrams received.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.received.get()),
    },
    Family {
        name: "udp_echo_received_bytes_total",
        help: "Total payload bytes of received datagrams, before truncation.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.received_bytes.get()),
    },
    Family {
        name: "udp_echo_datagrams_echoed_total",
        help: "Total datagrams echoed.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.echoed.get()),
    },
    Family {
        name: "udp_echo_echoed_bytes_total",
        help: "Total payload bytes echoed.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.echoed_bytes.get()),
    },
    Family {
        name: "udp_echo_records_decoded_total",
        help: "Total records decoded.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.decoded.get()),
    },
    Family {
        name: "udp_echo_decode_errors_total",
        help: "Total records that were too short to decode: fewer than 22 bytes.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.decode_errors.get()),
    },
    Family {
        name: "udp_echo_datagrams_empty_total",
        help: "Total empty datagrams that were not echoed.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.empty.get()),
    },
    Family {
        name: "udp_echo_datagrams_truncated_total",
        help: "Total datagrams cut to --max-datagram bytes; each also counts as echoed or as a \
               send error.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.truncated.get()),
    },
    Family {
        name: "udp_echo_datagrams_refused_total",
        help: "Total datagrams refused, by reason.",
        kind: COUNTER,
        read: |scrape, series| {
            let is_stamp = scrape.sources.stamp_clock.is_some();
            let possible = |refusal: &Refusal| is_stamp || !refusal.is_of_stamp();
            for refusal in Refusal::ALL.into_iter().filter(possible) {
                let reason = [("reason", refusal.name())];
                series.add_listens(scrape, &reason, |c| c.refused[refusal as usize].get());
            }
        },
    },
    Family {
        name: "udp_echo_timeouts_total",
        help: "Total timeouts: records that did not arrive in time (record), and times that a socket \
               was idle for --timeout while no record was owed (echo).",
        kind: COUNTER,
        read: |scrape, series| {
            series.add_listens(scrape, &[("waiting_for", "echo")], |c| {
                c.idle_timeouts.get()
            });
            series.add_listens(scrape, &[("waiting_for", "record")], |c| {
                c.record_timeouts.get()
            });
        },
    },
    Family {
        name: "udp_echo_receive_errors_total",
        help: "Total failed receive calls, by errno name.",
        kind: COUNTER,
        read: |scrape, series| series.add_errors(scrape, |c| &c.receive_errors),
    },
    Family {
        name: "udp_echo_send_errors_total",
        help: "Total replies that could not be sent, by errno name.",
        kind: COUNTER,
        read: |scrape, series| series.add_errors(scrape, |c| &c.send_errors),
    },
    Family {
        name: "udp_echo_peers",
        help: "Number of peers that owe a record.",
        kind: GAUGE,
        read: |scrape, series| series.add(&[], scrape.sum(|c| c.peers.get())),
    },
    Family {
        name: "udp_echo_peers_evicted_total",
        help: "Total peers evicted while they owed a record, because the table was full.",
        kind: COUNTER,
        read: |scrape, series| series.add(&[], scrape.sum(|c| c.evicted.get())),
    },
    Family {
        name: "udp_echo_socket_receive_buffer_bytes",
        help: "Receive buffer size in bytes, as the kernel counts it (SO_RCVBUF).",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |_, socket| Some(socket?.buffers[0] as u64));
        },
    },
    Family {
        name: "udp_echo_socket_send_buffer_bytes",
        help: "Send buffer size in bytes, as the kernel counts it (SO_SNDBUF).",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |_, socket| Some(socket?.buffers[1] as u64));
        },
    },
    Family {
        name: "udp_echo_socket_receive_buffer_requested_bytes",
        help: "Requested receive buffer size in bytes, which the kernel doubles.",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |worker, _| worker.requested[0].map(|n| n as u64));
        },
    },
    Family {
        name: "udp_echo_socket_send_buffer_requested_bytes",
        help: "Requested send buffer size in bytes, which the kernel doubles.",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |worker, _| worker.requested[1].map(|n| n as u64));
        },
    },
    Family {
        name: "udp_echo_receive_buffer_limit_bytes",
        help: "Maximum receive buffer size in bytes that a process may request \
               (net.core.rmem_max).",
        kind: GAUGE,
        read: |scrape, series| {
            if let Some(limit) = scrape.limits[0] {
                series.add(&[], limit as u64);
            }
        },
    },
    Family {
        name: "udp_echo_send_buffer_limit_bytes",
        help: "Maximum send buffer size in bytes that a process may request (net.core.wmem_max).",
        kind: GAUGE,
        read: |scrape, series| {
            if let Some(limit) = scrape.limits[1] {
                series.add(&[], limit as u64);
            }
        },
    },
    Family {
        name: "udp_echo_socket_receive_queue_bytes",
        help: "Memory of the queued datagrams in bytes, as the kernel counts it.",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |_, socket| Some(socket?.receive_queue.into()));
        },
    },
    Family {
        name: "udp_echo_socket_drops_total",
        help: "Total datagrams dropped by the kernel, mostly because the receive buffer was full; a \
               dropped GRO batch (--offload auto) counts once.",
        kind: COUNTER,
        read: |scrape, series| series.add_sockets(scrape, |_, socket| Some(socket?.drops)),
    },
    Family {
        name: "udp_echo_batch_datagrams",
        help: "Number of datagrams per receive call.",
        kind: HISTOGRAM,
        read: |scrape, series| {
            series.add_histogram(scrape, 1.0, |counts| &counts.batches.0);
        },
    },
    Family {
        name: "udp_echo_residence_seconds",
        help: "Time in seconds from the kernel's receipt of a datagram until its reply was sent.",
        kind: HISTOGRAM,
        read: |scrape, series| {
            if scrape.sources.timestamps {
                series.add_histogram(scrape, 1e9, |counts| &counts.residence.0);
            }
        },
    },
    Family {
        name: "udp_echo_last_datagram_timestamp_seconds",
        help: "Arrival time of the last datagram since unix epoch in seconds; 0 before the first.",
        kind: GAUGE,
        read: |scrape, series| {
            let time = scrape.sources.last_datagram();
            series.metrics.push(metric(GAUGE, &[], time));
        },
    },
    Family {
        name: "udp_echo_log_lines_dropped_total",
        help: "Total log lines dropped because the log could not keep up or be written.",
        kind: COUNTER,
        read: |scrape, series| {
            series.add(&[], scrape.sources.dropped_log_lines.load(Relaxed));
        },
    },
    Family {
        name: "udp_echo_config_info",
        help: "Options in force as labels, written as --check prints them; the value is always 1.",
        kind: GAUGE,
        read: |scrape, series| {
            let labels = scrape.sources.config_info.iter();
            let labels: Vec<_> = labels.map(|(key, value)| (*key, value.as_str())).collect();
            series.add(&labels, 1);
        },
    },
    Family {
        name: "udp_echo_build_info",
        help: "Build information as labels; the value is always 1.",
        kind: GAUGE,
        read: |_, series| series.add(&BUILD, 1),
    },
];

#[cfg(test)]
mod tests;
