//! The declarations of the metrics that only STAMP mode has.

use prometheus::proto::MetricType::{COUNTER, GAUGE};

use super::{Family, metric};
use crate::reflect::stamp::{TlvFault, TlvKind};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "udp_echo_stamp_sessions",
        help: "Number of STAMP sessions.",
        kind: GAUGE,
        read: |scrape, series| series.add_stamp(scrape, &[], |stamp| stamp.sessions.get()),
    },
    Family {
        name: "udp_echo_stamp_sessions_unkept_total",
        help: "Total STAMP requests answered without a session, because the table was full.",
        kind: COUNTER,
        read: |scrape, series| series.add_stamp(scrape, &[], |stamp| stamp.unkept.get()),
    },
    Family {
        name: "udp_echo_stamp_sessions_reset_total",
        help: "Total STAMP sessions started again, because their sender started again at 0.",
        kind: COUNTER,
        read: |scrape, series| series.add_stamp(scrape, &[], |stamp| stamp.reset.get()),
    },
    Family {
        name: "udp_echo_stamp_uplink_lost_total",
        help: "Total STAMP requests lost on the way to the reflector, by their sequence numbers.",
        kind: COUNTER,
        read: |scrape, series| series.add_stamp(scrape, &[], |stamp| stamp.lost.get()),
    },
    Family {
        name: "udp_echo_stamp_uplink_reordered_total",
        help: "Total STAMP requests that arrived after a newer one.",
        kind: COUNTER,
        read: |scrape, series| series.add_stamp(scrape, &[], |stamp| stamp.reordered.get()),
    },
    Family {
        name: "udp_echo_stamp_uplink_duplicates_total",
        help: "Total STAMP requests that arrived again.",
        kind: COUNTER,
        read: |scrape, series| series.add_stamp(scrape, &[], |stamp| stamp.duplicates.get()),
    },
    Family {
        name: "udp_echo_stamp_tlvs_total",
        help: "Total STAMP TLVs received, by type.",
        kind: COUNTER,
        read: |scrape, series| {
            for kind in TlvKind::ALL {
                let labels = [("type", kind.name())];
                series.add_stamp(scrape, &labels, |stamp| stamp.tlvs[kind as usize].get());
            }
        },
    },
    Family {
        name: "udp_echo_stamp_tlv_faults_total",
        help: "Total STAMP TLVs returned with a flag, by fault.",
        kind: COUNTER,
        read: |scrape, series| {
            for fault in TlvFault::ALL {
                let labels = [("fault", fault.name())];
                let count = |stamp: &super::StampCounts| stamp.tlv_faults[fault as usize].get();
                series.add_stamp(scrape, &labels, count);
            }
        },
    },
    Family {
        name: "udp_echo_clock_synchronized",
        help: "Whether STAMP packets say that the clock is synchronized to UTC: 1 or 0.",
        kind: GAUGE,
        read: |scrape, series| {
            if let Some(error) = scrape.clock_error {
                series.add(&[], error.is_synchronized().into());
            }
        },
    },
    Family {
        name: "udp_echo_clock_error_seconds",
        help: "Greatest error of the clock in seconds, as STAMP packets say it.",
        kind: GAUGE,
        read: |scrape, series| {
            if let Some(error) = scrape.clock_error {
                series.metrics.push(metric(GAUGE, &[], error.seconds()));
            }
        },
    },
];
