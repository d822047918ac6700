//! The figures of STAMP mode, which tell the way there from the way back, as text and as JSON.

use std::fmt::{self, Display, Formatter};

use serde_json::{Value, json};

use super::stamp::{DelaySummary, Delays, Stamp, StampFaults, StampFigures};
use crate::reflect::stamp::ErrorEstimate;

/// The figures of a run in STAMP mode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directions<'a> {
    /// The measurement.
    pub stamp: &'a Stamp,
    /// Error of this host's clock.
    pub local: ErrorEstimate,
    /// DSCP of requests.
    pub dscp_sent: u8,
    /// Lost requests.
    pub lost: u64,
}

/// Nanoseconds as milliseconds with three decimals, without the unit.
struct Milliseconds(f64);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0 / 1e6)
    }
}

/// How far TAI is ahead of UTC since 2017, in nanoseconds, and how far a clock can be from that.
const TAI: f64 = 37e9;
const NEAR_TAI: f64 = 0.5e9;

/// The lines after the round-trip times.
impl Display for Directions<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let figures = self.stamp.figures();
        for (name, delays, variation) in [
            ("forward in ms:", &figures.forward, &figures.ipdv_forward),
            ("backward in ms:", &figures.backward, &figures.ipdv_backward),
        ] {
            let Some(summary) = delays.summary() else {
                continue;
            };
            let [min, mean, max, stddev] = [
                ms(summary.min),
                Milliseconds(summary.mean),
                ms(summary.max),
                Milliseconds(summary.stddev),
            ];
            let [p50, p90, p99] = [summary.p50, summary.p90, summary.p99].map(ms);
            write!(
                f,
                "\n{name:17} min {min}, mean {mean}, max {max}, stddev {stddev}\
                 \n                  p50 {p50}, p90 {p90}, p99 {p99}"
            )?;
            if let Some(jitter) = variation.mean_absolute() {
                write!(f, ", jitter {}", Milliseconds(jitter))?;
            }
        }
        Ok(())
    }
}

impl Directions<'_> {
    /// Returns the sentences of the summary.
    pub(super) fn sentences(&self) -> Vec<String> {
        let figures = self.stamp.figures();
        let mut sentences = Vec::from_iter(self.place_of_loss());
        if let Some(remote) = figures.remote_clock {
            sentences.push(self.validity(remote));
            sentences.extend(self.offset());
            sentences.push(self.path());
        }
        sentences.extend(faults(&figures.faults));
        sentences
    }

    /// Adds the members of `--json`.
    pub(super) fn add_to(&self, object: &mut Value) {
        let figures = self.stamp.figures();
        let lost = self.stamp.lost();
        let remote = figures.remote_clock;
        let settings = self.stamp.settings();
        let members = json!({
            "one_way_seconds": {
                "forward": distribution(&figures.forward),
                "backward": distribution(&figures.backward),
            },
            "ipdv_seconds": {
                "forward": distribution(&figures.ipdv_forward),
                "backward": distribution(&figures.ipdv_backward),
                "round_trip": distribution(&figures.ipdv_round_trip),
            },
            "reflector_seconds": distribution(&figures.reflector),
            "lost_by_direction": {
                "forward": lost.forward,
                "backward": lost.backward,
                "unknown": lost.unknown,
            },
            "clocks": {
                "local_synchronized": self.local.is_synchronized(),
                "local_error_seconds": self.local.seconds(),
                "remote_synchronized": remote.map(ErrorEstimate::is_synchronized),
                "remote_error_seconds": remote.map(ErrorEstimate::seconds),
                "one_way_valid": remote.map(|remote| self.is_valid(remote)),
                "stepped": figures.is_stepped,
            },
            "path": {
                "forward_ttl": figures.forward_ttl,
                "backward_ttl": figures.backward_ttl,
                "dscp_sent": self.dscp_sent,
                "dscp_received_there": figures.dscp_received_there,
                "dscp_returned": figures.dscp_returned,
            },
            "reflector": {
                "stateful": self.stamp.is_stateful(),
                "ssid": figures.ssid.filter(|_| settings.size >= settings.base()),
                "timestamp_format": remote.map(timestamp_format),
            },
        });
        if let (Value::Object(object), Value::Object(members)) = (object, members) {
            object.extend(members);
        }
    }

    /// The directions in which requests were lost.
    fn place_of_loss(&self) -> Option<String> {
        let has_replies = self.stamp.figures().remote_clock.is_some();
        if self.lost == 0 || !has_replies {
            return None;
        }
        let lost = self.stamp.lost();
        if self.stamp.is_stateful().is_none() {
            return Some(
                "direction of loss unknown: all replies have the numbers of their requests, so \
                 the reflector copies them, or no request was lost on the way there"
                    .into(),
            );
        }
        let unknown = match lost.unknown {
            0 => String::new(),
            count => format!(", in an unknown direction: {count}"),
        };
        Some(format!(
            "lost on the way there: {}, on the way back: {}{unknown}",
            lost.forward, lost.backward
        ))
    }

    fn is_valid(&self, remote: ErrorEstimate) -> bool {
        self.doubts(remote).is_empty()
    }

    /// The reasons why one-way times are not valid.
    fn doubts(&self, remote: ErrorEstimate) -> Vec<&'static str> {
        let figures = self.stamp.figures();
        let error = (self.local.seconds() + remote.seconds()) * 1e9;
        let reports_no_error = remote.seconds() == 0.0;
        let local = self.local.is_synchronized();
        let remote = remote.is_synchronized();
        // No delay is negative but by the errors of the clocks.
        let delays = [&figures.forward, &figures.backward].map(Delays::summary);
        let mut delays = delays.into_iter().flatten();
        let is_negative = delays.any(|delays| exact(delays.min) < -error);
        let is_explained =
            figures.is_stepped || is_tai(figures) || figures.faults.impossible_times > 0;
        let doubts = [
            (!local && !remote, "neither clock is synchronized"),
            (!local && remote, "this host's clock is not synchronized"),
            (
                local && !remote,
                "the reflector's clock is not synchronized",
            ),
            (
                figures.is_stepped,
                "this host's clock was stepped during the run",
            ),
            (
                is_tai(figures),
                "the clocks differ by 37 s, as TAI and UTC do",
            ),
            (
                figures.faults.impossible_times > 0,
                "the reflector's times are impossible",
            ),
            (
                local && remote && is_negative && !is_explained,
                "the clocks differ by more than they report",
            ),
            (
                local && remote && reports_no_error,
                "the reflector reports no error of its clock",
            ),
        ];
        let doubts = doubts.into_iter().filter(|(is_true, _)| *is_true);
        doubts.map(|(_, doubt)| doubt).collect()
    }

    /// Whether the one-way times can be believed.
    fn validity(&self, remote: ErrorEstimate) -> String {
        let doubts = self.doubts(remote);
        if !doubts.is_empty() {
            return format!("one-way times are not valid: {}", doubts.join("; "));
        }
        let error = Milliseconds((self.local.seconds() + remote.seconds()) * 1e9);
        format!("one-way times are right to {error} ms: both clocks are synchronized")
    }

    /// How far the clocks differ.
    fn offset(&self) -> Option<String> {
        let DelaySummary { p50, .. } = self.stamp.figures().offset.summary()?;
        let direction = if p50 < 0 { "behind" } else { "ahead" };
        let difference = ms(p50.saturating_abs());
        Some(format!(
            "the reflector's clock is {difference} ms {direction}, if both ways take the same time"
        ))
    }

    fn path(&self) -> String {
        let figures = self.stamp.figures();
        let number = |number: Option<u8>| number.map_or("-".into(), |number| number.to_string());
        let received = match figures.dscp_received_there {
            Some(dscp) => format!(", {dscp} there"),
            None => String::new(),
        };
        format!(
            "TTL {} there, {} back; DSCP {} sent{received}, {} back",
            number(figures.forward_ttl),
            number(figures.backward_ttl),
            self.dscp_sent,
            number(figures.dscp_returned),
        )
    }
}

/// Sentences about faults of the reflector.
fn faults(faults: &StampFaults) -> Vec<String> {
    let rows = [
        (
            faults.echoed,
            "requests that came back unchanged",
            "the target echoes and is no STAMP reflector: use --mode echo",
        ),
        (
            faults.unverified,
            "replies with a wrong HMAC",
            "they count as lost; check the key, and whether the reflector has one",
        ),
        (
            faults.ssid,
            "replies with another SSID",
            "the reflector does not return it (RFC 8972)",
        ),
        (
            faults.changed_t1,
            "replies with another T1",
            "the reflector changes it; the client uses its own",
        ),
        (
            faults.equal_times,
            "replies whose T2 and T3 are equal",
            "the reflector reads its clock once, so its own time counts as network",
        ),
        (
            faults.impossible_times,
            "replies with impossible times in the reflector",
            "their round trip includes it",
        ),
        (
            faults.cut,
            "replies shorter than their request",
            "the reflector cuts padding or TLVs",
        ),
        (
            faults.unrecognized,
            "replies with a TLV that the reflector does not know",
            "it supports fewer TLVs",
        ),
        (
            faults.malformed,
            "replies with a TLV that the reflector calls malformed",
            "a device on the path may change packets",
        ),
        (
            faults.refused_hmac,
            "replies whose TLVs the reflector could not verify",
            "check the key",
        ),
        (
            faults.refused_dscp,
            "replies without the DSCP of --cos",
            "the policy of the reflector does not permit it",
        ),
    ];
    let rows = rows.into_iter().filter(|(count, ..)| *count > 0);
    rows.map(|(count, what, why)| format!("{what}: {count}; {why}"))
        .collect()
}

fn timestamp_format(error: ErrorEstimate) -> &'static str {
    if error.is_ptp() { "ptp" } else { "ntp" }
}

/// Whether the clocks differ as TAI and UTC do.
fn is_tai(figures: &StampFigures) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "seconds count")]
    let offset = figures.offset.summary().map(|offset| offset.p50 as f64);
    offset.is_some_and(|offset| (offset.abs() - TAI).abs() < NEAR_TAI)
}

fn distribution(delays: &Delays) -> Value {
    let summary = delays.summary();
    let seconds =
        |time: fn(&DelaySummary) -> f64| summary.as_ref().map(|delays| time(delays).round() / 1e9);
    json!({
        "min": seconds(|delays| exact(delays.min)),
        "mean": seconds(|delays| delays.mean),
        "stddev": seconds(|delays| delays.stddev),
        "p50": seconds(|delays| exact(delays.p50)),
        "p90": seconds(|delays| exact(delays.p90)),
        "p99": seconds(|delays| exact(delays.p99)),
        "max": seconds(|delays| exact(delays.max)),
    })
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 104 days")]
fn exact(nanoseconds: i64) -> f64 {
    nanoseconds as f64
}

fn ms(nanoseconds: i64) -> Milliseconds {
    Milliseconds(exact(nanoseconds))
}

#[cfg(test)]
mod tests;
