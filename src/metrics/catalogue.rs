//! The declarations.

use std::sync::atomic::Ordering::Relaxed;

use prometheus::proto::MetricType::{COUNTER, GAUGE, HISTOGRAM};

use super::{Family, metric};
use crate::reflect::Refusal;

/// Every metric but those of the process.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "udp_echo_datagrams_received_total",
        help: "Datagrams received, whatever became of them.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.received.get()),
    },
    Family {
        name: "udp_echo_received_bytes_total",
        help: "Payload bytes of the datagrams received, before any cut.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.received_bytes.get()),
    },
    Family {
        name: "udp_echo_datagrams_echoed_total",
        help: "Datagrams sent back.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.echoed.get()),
    },
    Family {
        name: "udp_echo_echoed_bytes_total",
        help: "Payload bytes of the datagrams sent back.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.echoed_bytes.get()),
    },
    Family {
        name: "udp_echo_records_decoded_total",
        help: "Records decoded.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.decoded.get()),
    },
    Family {
        name: "udp_echo_decode_errors_total",
        help: "Datagrams that were to be a record and were shorter than 22 bytes.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.decode_errors.get()),
    },
    Family {
        name: "udp_echo_datagrams_empty_total",
        help: "Empty datagrams that were not echoed.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.empty.get()),
    },
    Family {
        name: "udp_echo_datagrams_truncated_total",
        help: "Echo datagrams longer than the most that is echoed. They are counted by what \
               became of them too.",
        kind: COUNTER,
        read: |scrape, series| series.add_listens(scrape, &[], |c| c.truncated.get()),
    },
    Family {
        name: "udp_echo_datagrams_refused_total",
        help: "Datagrams that were refused, by the rule that refused them.",
        kind: COUNTER,
        read: |scrape, series| {
            for refusal in Refusal::ALL {
                let reason = [("reason", refusal.name())];
                series.add_listens(scrape, &reason, |c| c.refused[refusal as usize].get());
            }
        },
    },
    Family {
        name: "udp_echo_timeouts_total",
        help: "Timeouts: records that did not come in time, and times that a socket was quiet \
               for the whole timeout while it waited for nothing but an echo datagram.",
        kind: COUNTER,
        read: |scrape, series| {
            series.add_listens(scrape, &[("waiting_for", "echo")], |c| {
                c.quiet_timeouts.get()
            });
            series.add_listens(scrape, &[("waiting_for", "record")], |c| {
                c.record_timeouts.get()
            });
        },
    },
    Family {
        name: "udp_echo_receive_errors_total",
        help: "Receive calls that failed, by the name of the error.",
        kind: COUNTER,
        read: |scrape, series| series.add_errors(scrape, |c| &c.receive_errors),
    },
    Family {
        name: "udp_echo_send_errors_total",
        help: "Replies that could not be sent, by the name of the error.",
        kind: COUNTER,
        read: |scrape, series| series.add_errors(scrape, |c| &c.send_errors),
    },
    Family {
        name: "udp_echo_peers",
        help: "Peers that owe a record.",
        kind: GAUGE,
        read: |scrape, series| series.add(&[], scrape.sum(|c| c.peers.get())),
    },
    Family {
        name: "udp_echo_peers_evicted_total",
        help: "Peers that owed a record and were forgotten because the table was full.",
        kind: COUNTER,
        read: |scrape, series| series.add(&[], scrape.sum(|c| c.evicted.get())),
    },
    Family {
        name: "udp_echo_socket_receive_buffer_bytes",
        help: "The socket's receive buffer, as the kernel counts it (SO_RCVBUF).",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |_, socket| Some(socket?.buffers[0] as u64));
        },
    },
    Family {
        name: "udp_echo_socket_send_buffer_bytes",
        help: "The socket's send buffer, as the kernel counts it (SO_SNDBUF).",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |_, socket| Some(socket?.buffers[1] as u64));
        },
    },
    Family {
        name: "udp_echo_socket_receive_buffer_requested_bytes",
        help: "The receive buffer asked for. The kernel doubles what it is asked for.",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |worker, _| worker.requested[0].map(|n| n as u64));
        },
    },
    Family {
        name: "udp_echo_socket_send_buffer_requested_bytes",
        help: "The send buffer asked for. The kernel doubles what it is asked for.",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |worker, _| worker.requested[1].map(|n| n as u64));
        },
    },
    Family {
        name: "udp_echo_receive_buffer_limit_bytes",
        help: "The largest receive buffer the system lets anybody ask for (net.core.rmem_max).",
        kind: GAUGE,
        read: |scrape, series| {
            if let Some(limit) = scrape.limits[0] {
                series.add(&[], limit as u64);
            }
        },
    },
    Family {
        name: "udp_echo_send_buffer_limit_bytes",
        help: "The largest send buffer the system lets anybody ask for (net.core.wmem_max).",
        kind: GAUGE,
        read: |scrape, series| {
            if let Some(limit) = scrape.limits[1] {
                series.add(&[], limit as u64);
            }
        },
    },
    Family {
        name: "udp_echo_socket_receive_queue_bytes",
        help: "Memory of the datagrams that wait in the socket's receive buffer, as the kernel \
               counts it.",
        kind: GAUGE,
        read: |scrape, series| {
            series.add_sockets(scrape, |_, socket| Some(socket?.receive_queue.into()));
        },
    },
    Family {
        name: "udp_echo_socket_drops_total",
        help: "Datagrams that the kernel dropped because the socket's receive buffer was full; a \
               burst that it dropped as a whole (--offload auto) counts once.",
        kind: COUNTER,
        read: |scrape, series| series.add_sockets(scrape, |_, socket| Some(socket?.drops)),
    },
    Family {
        name: "udp_echo_batch_datagrams",
        help: "Datagrams that one receive call gave.",
        kind: HISTOGRAM,
        read: |scrape, series| {
            series.add_histogram(scrape, 1.0, |counts| &counts.batches.0);
        },
    },
    Family {
        name: "udp_echo_residence_seconds",
        help: "Time from the kernel's receipt of a datagram until its reply was sent.",
        kind: HISTOGRAM,
        read: |scrape, series| {
            if scrape.sources.timestamps {
                series.add_histogram(scrape, 1e9, |counts| &counts.residence.0);
            }
        },
    },
    Family {
        name: "udp_echo_last_datagram_timestamp_seconds",
        help: "When the last datagram was received, in seconds since 1970; 0 if none was.",
        kind: GAUGE,
        read: |scrape, series| {
            let time = scrape.sources.last_datagram();
            series.metrics.push(metric(GAUGE, &[], time));
        },
    },
    Family {
        name: "udp_echo_log_lines_dropped_total",
        help: "Lines of the log that were lost: more came than were read, or they could not be \
               written.",
        kind: COUNTER,
        read: |scrape, series| {
            series.add(&[], scrape.sources.dropped_log_lines.load(Relaxed));
        },
    },
    Family {
        name: "udp_echo_build_info",
        help: "Which build this is. Always 1.",
        kind: GAUGE,
        read: |_, series| {
            let labels = [
                ("version", env!("CARGO_PKG_VERSION")),
                ("revision", env!("UDP_ECHO_REVISION")),
                ("rustc", env!("UDP_ECHO_RUSTC")),
            ];
            series.add(&labels, 1);
        },
    },
];
